"""ONNX Runtime's side of `cargo xtask peers`: median milliseconds of a call with one picture.

Arguments: ONNX file, threads, calls. Answers each line of its input with a figure. Needs onnxruntime and numpy.
"""
import statistics
import sys
import time

import numpy
import onnxruntime


def main():
    path, threads, calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    value = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in value.shape]
    feed = {value.name: numpy.random.default_rng(0).random(shape, numpy.float32)}
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
