//! Fuzzer of the parser `bundle`.
#![no_main]

fuzz::fuzzer!(read_bundle);
