// What all kernels share: number formats and places of threads. Compiles with nvcc, and as C++ against the emulator's
// header of the same names.
#pragma once
#ifdef DISTILL_EMULATED
#include "emulated_cuda.h"
#else
#include <cuda_bf16.h>
#endif
