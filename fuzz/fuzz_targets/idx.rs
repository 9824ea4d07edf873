//! Fuzzer of the parser `idx`.
#![no_main]

fuzz::fuzzer!(read_idx);
