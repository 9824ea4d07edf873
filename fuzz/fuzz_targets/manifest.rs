//! Fuzzer of the parser `manifest`.
#![no_main]

fuzz::fuzzer!(read_manifest);
