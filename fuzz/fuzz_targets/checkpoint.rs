//! Fuzzer of the parser `checkpoint`.
#![no_main]

fuzz::fuzzer!(read_checkpoint);
