//! Fuzzer of the parser `config`.
#![no_main]

fuzz::fuzzer!(read_config);
