//! Fuzzer of the parser `parquet`.
#![no_main]

fuzz::fuzzer!(read_parquet);
