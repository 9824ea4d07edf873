//! Fuzzer of the parser `model_file`.
#![no_main]

fuzz::fuzzer!(read_model_file);
