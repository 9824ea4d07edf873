//! Fuzzer of the parser `onnx`.
#![no_main]

fuzz::fuzzer!(read_onnx);
