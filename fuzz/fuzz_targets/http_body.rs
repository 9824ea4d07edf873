//! Fuzzer of the parser `http_body`.
#![no_main]

fuzz::fuzzer!(read_http_body);
