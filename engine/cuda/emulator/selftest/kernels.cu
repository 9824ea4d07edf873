// Kernels that the emulator's own test runs: some right, some wrong in one way each.
#include "../emulated_cuda.h"

// clang-format off
#define PAIR(name, type) \
    extern "C" __global__ void name##_##type(type *to, const type *from, int count) { \
        int at = blockIdx.x * blockDim.x + threadIdx.x; \
        if (at < count) to[at] = from[at] * 2; \
    }
PAIR(twice, float)
PAIR(twice, int)
// clang-format on

constexpr int THREADS = 96;

__device__ __forceinline__ float warp_sum(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffff, value, step);
    return value;
}

// The sum of a row by one block: shuffles, shared memory, barriers.
extern "C" __global__ void __launch_bounds__(THREADS) row_sum(float *to, const float *from, int columns) {
    __shared__ float parts[THREADS / 32];
    float sum = 0;
    for (int at = threadIdx.x; at < columns; at += blockDim.x) sum += from[blockIdx.x * columns + at];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) to[blockIdx.x] = parts[0] + parts[1] + parts[2];
}

// Turns every block of 64 around in place through shared memory; `barrier` 0 leaves the barrier out.
extern "C" __global__ void turn(int *data, int barrier) {
    __shared__ int tile[64];
    int at = threadIdx.x;
    tile[at] = data[blockIdx.x * 64 + at];
    if (barrier) __syncthreads();
    data[blockIdx.x * 64 + at] = tile[63 - at];
}

extern "C" __global__ void places(unsigned *to) {
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    to[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}

extern "C" __global__ void shuffles(int *to) {
    int lane = threadIdx.x;
    to[lane] = __shfl_down_sync(~0u, lane, 3);
    to[32 + lane] = __shfl_up_sync(~0u, lane, 3);
    to[64 + lane] = __shfl_sync(~0u, lane, 5, 8);
    to[96 + lane] = int(__ballot_sync(~0u, lane % 2));
    to[128 + lane] = __shfl_xor_sync(~0u, lane, 9, 8);
    to[160 + lane] = __syncthreads_count(lane < 7);
}

// ------------------------------------------------------------------------------------------------------------- wrong
extern "C" __global__ void past_the_end(float *to, int count) { to[count] = 1; }
extern "C" __global__ void far_past_the_end(float *to) { to[1 << 20] = 1; }
extern "C" __global__ void lonely_barrier() {
    if (threadIdx.x == 3) return;
    if (threadIdx.x < 40) __syncthreads();
    else __syncwarp();
    if (threadIdx.x == 5) __syncthreads();
}
extern "C" __global__ void two_barriers() {
    if (threadIdx.x < 40) __syncthreads();
    else __syncthreads();
}
extern "C" __global__ void misaligned(float *to, int by) { *reinterpret_cast<float4 *>(to + by) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void shared_overrun(float *to, int at) {
    __shared__ float values[8];
    values[at] = 1;
    to[0] = values[at];
}
extern "C" __global__ void writes_through(unsigned long long to) { *reinterpret_cast<float *>(to) = 1; }
