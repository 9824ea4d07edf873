//! Fuzzer of the parser `keys`.
#![no_main]

fuzz::fuzzer!(read_keys);
