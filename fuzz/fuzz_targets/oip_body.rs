//! Fuzzer of the parser `oip_body`.
#![no_main]

fuzz::fuzzer!(read_oip_body);
