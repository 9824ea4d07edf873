"""ONNX Runtime's side of `cargo xtask peers`: median milliseconds of a call with one picture.

Arguments: ONNX file, threads, calls, and `int8` for the network quantized by ONNX Runtime's own tool. Answers each line of
its input with a figure. Needs onnxruntime and numpy, for int8 onnx too.
"""
import statistics
import sys
import tempfile
import time

import numpy
import onnxruntime


def pictures(path):
    """Shape and name of the input, and random pictures for it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in value.shape]
    random = numpy.random.default_rng(0)
    return [{value.name: random.random(shape, numpy.float32)} for _ in range(8)]


def quantized(path, folder):
    """Static quantization: u8 activations per tensor by their range, i8 weights per channel, as QuantizeLinear pairs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.pictures = iter(pictures(path))

        def get_next(self):
            return next(self.pictures, None)

    prepared, result = f"{folder}/prepared.onnx", f"{folder}/int8.onnx"
    quant_pre_process(path, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, result, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )
    return result


def main():
    path, threads, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    feed = pictures(path)[0]
    with tempfile.TemporaryDirectory() as folder:
        path = quantized(path, folder) if sys.argv[4:] == ["int8"] else path
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    for _ in range(20):
        session.run(None, feed)
    for _ in sys.stdin:
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        print(statistics.median(times) * 1e3, flush=True)


main()
