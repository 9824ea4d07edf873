"""NVIDIA's client against the Open Inference Protocol: every kind of input, JSON and bytes, outputs by name, errors,
several models and versions, many requests at once. Answers are compared with the networks' own."""

import base64
import json
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

URL, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])
HOST = URL.removeprefix("http://")
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def files(case):
    return [(FOLDER / picture["file"]).read_bytes() for picture in case["pictures"]]


def pixels(case):
    return np.array([picture["pixels"] for picture in case["pictures"]], np.uint8).reshape(-1, *case["shape"])


def logits(case):
    return np.array([picture["logits"] for picture in case["pictures"]], np.float32)


def given(name, datatype, array, binary):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def inputs_of(case):
    """The same pictures in every way that they can be sent."""
    images = pixels(case)
    values = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / 255
    in_base64 = np.array([base64.b64encode(file) for file in files(case)], np.object_)
    return {
        "image as bytes": given("image", "UINT8", images, True),
        "image as JSON": given("image", "UINT8", images, False),
        "input as bytes": given("input", "FP32", values, True),
        "input as JSON": given("input", "FP32", values, False),
        "encoded as bytes": given("encoded", "BYTES", np.array(files(case), np.object_), True),
        "encoded as JSON": given("encoded", "BYTES", in_base64, False),
    }


def probabilities(of):
    powers = np.exp(of - of.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def close(found, expected, what):
    assert found.shape == expected.shape, (what, found.shape, expected.shape)
    assert np.abs(found - expected).max() < 1e-4, (what, found, expected)


def check_answer(case, answer, what):
    expected = logits(case)
    close(answer.as_numpy("logits"), expected, what)
    close(answer.as_numpy("probabilities"), probabilities(expected), what)
    names = [case["labels"][index] for index in expected.argmax(axis=1)]
    found = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")]
    assert found == names, (what, found, names)
    response = answer.get_response()
    assert (response["model_name"], response["model_version"]) == (case["model"], case["version"]), what


def check_inputs(client, case):
    for what, tensor in inputs_of(case).items():
        for binary in (True, False):
            wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "probabilities", "label")]
            answer = client.infer(case["model"], [tensor], case["version"], wanted, request_id=what)
            check_answer(case, answer, f"{what}, outputs as bytes: {binary}")
            assert answer.get_response()["id"] == what
    everything = client.infer(case["model"], [inputs_of(case)["image as bytes"]], case["version"])
    check_answer(case, everything, "no outputs named")


def check_outputs(client, case):
    tensor = inputs_of(case)["image as bytes"]
    alone = client.infer(case["model"], [tensor], case["version"], [triton.InferRequestedOutput("label")])
    assert [output["name"] for output in alone.get_response()["outputs"]] == ["label"]
    for binary in (True, False):
        best = triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)
        found = client.infer(case["model"], [tensor], case["version"], [best]).as_numpy("logits")
        assert found.shape == (len(case["pictures"]), 2), found
        for row, expected in zip(found, logits(case)):
            for text, index in zip(row, np.argsort(-expected)):
                value, number, label = (text.decode() if isinstance(text, bytes) else text).split(":")
                assert (int(number), label) == (index, case["labels"][index]), (text, expected)
                assert abs(float(value) - expected[index]) < 1e-4


def check_metadata(client, case):
    height, width, channels = case["shape"]
    metadata = client.get_model_metadata(case["model"], case["version"])
    assert metadata["name"] == case["model"] and case["version"] in metadata["versions"], metadata
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
    assert inputs["image"] == ("UINT8", [-1, height, width, channels]), inputs
    assert inputs["input"] == ("FP32", [-1, channels, height, width]), inputs
    assert inputs["encoded"] == ("BYTES", [-1]), inputs
    outputs = {tensor["name"]: tensor["shape"] for tensor in metadata["outputs"]}
    assert outputs["logits"] == [-1, len(case["labels"])], outputs
    assert client.is_model_ready(case["model"], case["version"])


def refused(work, status, *words):
    try:
        work()
    except InferenceServerException as error:
        assert error.status() == str(status), (error.status(), error.message())
        for word in words:
            assert word in error.message(), (word, error.message())
        return
    raise AssertionError(f"expected {status}, was answered")


def check_errors(client, case):
    model, height, width, channels = case["model"], *case["shape"]
    image = pixels(case)

    def infer(name, datatype, array, model=model, version="1", outputs=None, binary=True):
        return lambda: client.infer(model, [given(name, datatype, array, binary)], version, outputs)

    for binary in (True, False):
        refused(infer("image", "UINT8", image[:, :-1], binary=binary), 400, "`image`", f"[n, {height}, {width}, {channels}]", f"{height - 1}")
        refused(infer("image", "FP32", image.astype(np.float32), binary=binary), 400, "`image`", "UINT8", "FP32")
        refused(infer("image", "INT64", image.astype(np.int64), binary=binary), 400, "INT64")
        refused(infer("picture", "UINT8", image, binary=binary), 400, "`picture`", "`encoded`")
        values = image.transpose(0, 3, 1, 2).astype(np.float32)
        refused(infer("input", "FP32", values, binary=binary), 400, "0..1")
    refused(infer("encoded", "BYTES", np.array([b"no picture"], np.object_)), 415, "picture 0")
    refused(infer("encoded", "BYTES", np.array([files(case)[0][:60]], np.object_)), 422, "picture 0")
    refused(infer("image", "UINT8", np.repeat(image, 40, axis=0)), 413, "240")
    refused(infer("image", "UINT8", image, outputs=[triton.InferRequestedOutput("boxes")]), 400, "`boxes`", "`logits`")
    refused(infer("image", "UINT8", image, model="puppies"), 404, "puppies", "kittens")
    refused(infer("image", "UINT8", image, version="9"), 404, "`9`", "1")
    refused(lambda: client.get_model_metadata("puppies"), 404, "puppies")
    assert not client.is_model_ready("puppies")
    assert not client.is_model_ready(model, "9")
    # And the server goes on.
    check_inputs(client, case)


def check_many(case):
    """Requests of one picture each from many clients: every answer is the picture's own."""
    expected, image = logits(case), pixels(case)

    def work(seed):
        with triton.InferenceServerClient(HOST) as client:
            for step in range(25):
                index = (seed * 7 + step) % len(image)
                picture = image[index : index + 1]
                wanted = [triton.InferRequestedOutput("logits")]
                answer = client.infer(case["model"], [given("image", "UINT8", picture, True)], case["version"], wanted)
                close(answer.as_numpy("logits"), expected[index : index + 1], f"picture {index} of client {seed}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def check_raw(case):
    """A picture file as the whole body, as curl sends it."""
    from urllib.request import Request, urlopen

    url = f"{URL}/v2/models/{case['model']}/versions/{case['version']}/infer"
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    answer = json.load(urlopen(Request(url, files(case)[2], headers)))
    outputs = {output["name"]: output for output in answer["outputs"]}
    close(np.array([outputs["logits"]["data"]], np.float32), logits(case)[2:3], "a raw picture")


def check_statistics(client, case):
    before = client.get_inference_statistics(case["model"], case["version"])["model_stats"][0]
    client.infer(case["model"], [inputs_of(case)["encoded as bytes"]], case["version"])
    after = client.get_inference_statistics(case["model"], case["version"])["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == len(case["pictures"]), (before, after)
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    for stage in ("compute_input", "compute_infer"):
        assert after["inference_stats"][stage]["ns"] > before["inference_stats"][stage]["ns"], (stage, before, after)


def main():
    with triton.InferenceServerClient(HOST, connection_timeout=30, network_timeout=30) as client:
        assert client.is_server_live() and client.is_server_ready()
        metadata = client.get_server_metadata()
        assert metadata["name"] == "distill" and "binary_tensor_data" in metadata["extensions"], metadata
        for case in EXPECTED:
            check_metadata(client, case)
            check_inputs(client, case)
            check_outputs(client, case)
            check_raw(case)
            check_statistics(client, case)
        check_errors(client, EXPECTED[0])
        # Without a version the highest one answers.
        latest = client.infer("kittens", [inputs_of(EXPECTED[1])["image as bytes"]])
        check_answer(EXPECTED[1], latest, "no version named")
    for case in EXPECTED:
        check_many(case)
    print("all is well")


main()
