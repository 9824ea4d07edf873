//! Fuzzer of the parser `state_dict`.
#![no_main]

fuzz::fuzzer!(read_state_dict);
