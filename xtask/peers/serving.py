"""The Python side of `cargo xtask peers serving`: a picture's class by FastAPI, uvicorn with uvloop and httptools, Pillow
and ONNX Runtime, as fast as these go.

`serving.py serve MODEL PORT WORKERS` answers POST /v1/classify; `serving.py picture FILE CHANNELS SIDE` writes the PNG file
that both sides are asked about. Needs fastapi, uvicorn[standard], onnxruntime, pillow and numpy.

What makes it fast: the raw body instead of a form, an asynchronous endpoint that computes at once instead of handing a
millisecond of work to a thread, a bare Response instead of a model that is validated, one thread of ONNX Runtime for each
worker, which does not spin, and no access log.
"""
import io
import json
import os
import sys

import numpy
from PIL import Image


def picture(path, channels, side):
    """Soft shapes with the grain of a camera: a file about as large as a photograph's of that size."""
    random = numpy.random.default_rng(0)
    coarse = random.integers(0, 256, (side // 8 + 1, side // 8 + 1, channels), numpy.uint8)
    planes = [Image.fromarray(coarse[:, :, channel]).resize((side, side), Image.Resampling.BICUBIC) for channel in range(channels)]
    pixels = numpy.stack([numpy.asarray(plane) for plane in planes], 2) + random.normal(0, 4, (side, side, channels))
    pixels = pixels.clip(0, 255).astype(numpy.uint8)
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(path)


def application():
    """Made in each worker: its own session."""
    import onnxruntime
    from fastapi import FastAPI, Request, Response

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    _, channels, height, width = value.shape
    mode = "L" if channels == 1 else "RGB"
    app = FastAPI(openapi_url=None)

    def prepared(body):
        image = Image.open(io.BytesIO(body))
        if image.mode != mode:
            image = image.convert(mode)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = numpy.asarray(image, numpy.float32) * numpy.float32(1 / 255)
        if channels == 1:
            return pixels[None, None]
        return numpy.ascontiguousarray(pixels.transpose(2, 0, 1))[None]

    @app.post("/v1/classify")
    async def classify(request: Request):
        logits = session.run(None, {value.name: prepared(await request.body())})[0][0]
        powers = numpy.exp(logits - logits.max())
        index = int(powers.argmax())
        answer = {"predictions": [{"top": [{"index": index, "probability": float(powers[index] / powers.sum())}]}]}
        return Response(json.dumps(answer), media_type="application/json")

    return app


def serve(model, port, workers):
    import uvicorn

    os.environ["MODEL"] = model
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.environ["PYTHONPATH"] = sys.path[0]
    uvicorn.run(
        "serving:application", factory=True, host="127.0.0.1", port=port, workers=workers, loop="uvloop",
        http="httptools", log_level="warning", access_log=False,
    )


if __name__ == "__main__":
    if sys.argv[1] == "picture":
        picture(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
