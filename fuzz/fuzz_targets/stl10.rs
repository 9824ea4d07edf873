//! Fuzzer of the parser `stl10`.
#![no_main]

fuzz::fuzzer!(read_stl10);
