//! Fuzzer of the parser `ferplus`.
#![no_main]

fuzz::fuzzer!(read_ferplus);
