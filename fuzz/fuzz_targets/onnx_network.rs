//! Fuzzer of the parser `onnx_network`.
#![no_main]

fuzz::fuzzer!(read_onnx_network);
