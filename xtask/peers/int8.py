"""ONNX Runtime's side of the bench `int8`: milliseconds of a quantized layer with ReLU, one thread, the shortest call.

    cargo bench -p distill-engine --bench int8 -- --layers | python xtask/peers/int8.py [SECONDS PER LAYER]

Each line of the input names a layer: name, map, inputs, outputs, kernel, stride, depthwise. The layer is a static
QuantizeLinear/DequantizeLinear graph of u8 activations and i8 weights per channel whose input and output are bytes, which
the runtime fuses into one QLinearConv. Needs onnx, onnxruntime and numpy.
"""
import sys
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def model(side, inputs, outputs, kernel, stride, depthwise):
    random = numpy.random.default_rng(0)
    group = inputs if depthwise else 1
    shape = (outputs, inputs // group, kernel, kernel)
    constants = {
        "x_scale": numpy.float32(0.02),
        "x_zero": numpy.uint8(128),
        "w": random.integers(-127, 128, shape, numpy.int8),
        "w_scale": numpy.full(outputs, 0.01, numpy.float32),
        "w_zero": numpy.zeros(outputs, numpy.int8),
        "b": random.integers(-999, 999, outputs, numpy.int32),
        "b_scale": numpy.full(outputs, 0.0002, numpy.float32),
        "b_zero": numpy.zeros(outputs, numpy.int32),
        "y_scale": numpy.float32(0.5),
        "y_zero": numpy.uint8(0),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bf"], axis=0),
        helper.make_node(
            "Conv", ["xf", "wf", "bf"], ["c"], group=group, kernel_shape=[kernel] * 2,
            strides=[stride] * 2, pads=[kernel // 2] * 4,
        ),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "y_scale", "y_zero"], ["y"]),
    ]
    out = (side + 2 * (kernel // 2) - kernel) // stride + 1
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, inputs, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, outputs, out, out])],
        [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shortest(layer, seconds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model(*layer).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = numpy.random.default_rng(1).integers(0, 256, (1, layer[1], layer[0], layer[0]), numpy.uint8)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu")
    call = lambda: session.run_with_iobinding(binding)
    for _ in range(10):
        call()
    best, end = 1e9, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.3
    print("ONNX Runtime", onnxruntime.__version__)
    for line in sys.stdin:
        name, *numbers = line.strip().split(",")
        if not numbers:
            continue
        print(f"{name:28} {shortest([int(number) for number in numbers], seconds) * 1e3:9.4f}", flush=True)


main()
