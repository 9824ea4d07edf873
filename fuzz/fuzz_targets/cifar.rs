//! Fuzzer of the parser `cifar`.
#![no_main]

fuzz::fuzzer!(read_cifar);
