#!/usr/bin/env bash
# Builds the emulator with kernels of its own test, and runs that: run.sh OUTDIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd -P)
"$here/../build.sh" "$1" "$here/kernels.cu"
checked=$(ldd "$1/libcuda.so.1" | grep -q libubsan && echo -DCHECKED || true)
"${CXX:-g++}" -std=c++17 -O1 -g1 -DDISTILL_EMULATED $checked -o "$1/selftest" "$here/main.cpp" -L "$1" -lcuda -Wl,-rpath,"$1"
"$1/selftest" 2> "$1/selftest.log" || { cat "$1/selftest.log" >&2; exit 1; }
tail -n 1 "$1/selftest.log"
