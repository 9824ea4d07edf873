//! Fuzzer of the parser `picture`.
#![no_main]

fuzz::fuzzer!(read_picture);
