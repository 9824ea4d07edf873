// What all kernels share: number formats, how threads find their elements, sums over rows. Compiles with nvcc, and as
// C++ against the emulator's header of the same names.
//
// Kernels are templates over the format of maps, `T`, either float or __nv_bfloat16 (rounded to nearest even), and read
// 16 bytes at once where the caller found everything aligned (`wide`), else element by element. All arithmetic is in f32.
// Entry points are named NAME_f32 and NAME_bf16, and take the types that engine/src/cuda/kernels passes. No kernel adds
// by atomics, so that a result is the same every time. Pointers that may be equal carry no __restrict__.
#pragma once
#ifdef DISTILL_EMULATED
#include "emulated_cuda.h"
#else
#include <cuda_bf16.h>
#endif

typedef __nv_bfloat16 bf16;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/// Threads of a block, in every kernel.
constexpr int THREADS = 256;

/// A map's address as an entry point takes it; becomes a pointer of the template's format.
struct Any {
    void *at;
    template <typename U>
    __device__ __forceinline__ operator U *() const { return static_cast<U *>(at); }
};

/// Defines NAME_f32 and NAME_bf16 that run the template NAME of namespace `run`.
#define BOTH(name, parameters, arguments)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_f32 parameters { run::name<float> arguments; } \
    extern "C" __global__ void __launch_bounds__(THREADS) name##_bf16 parameters { run::name<bf16> arguments; }
/// Defines a kernel that knows no maps.
#define ONE(name, parameters, arguments) \
    extern "C" __global__ void __launch_bounds__(THREADS) name parameters { run::name arguments; }

// ------------------------------------------------------------------------------------------------------------- widths

/// How many elements a thread takes at once, as a type.
template <int W>
struct Width {
    static constexpr int value = W;
};

/// Elements in 16 bytes.
template <typename T>
constexpr int WIDE = 16 / int(sizeof(T));

/// Calls `body` with the width.
template <typename T, typename Body>
__device__ __forceinline__ void with_width(u32 wide, Body body) {
    if (wide) body(Width<WIDE<T>>{});
    else body(Width<1>{});
}

// ---------------------------------------------------------------------------------------------------- loads and stores

__device__ __forceinline__ float value(float x) { return x; }
__device__ __forceinline__ float value(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void set(float *to, float x) { *to = x; }
__device__ __forceinline__ void set(bf16 *to, float x) { *to = __float2bfloat16_rn(x); }

/// W elements from an address that is aligned to them, or to 16 bytes.
template <int W>
__device__ __forceinline__ void load(const float *from, float (&to)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            const float4 four = *reinterpret_cast<const float4 *>(from + i);
            to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) to[i] = from[i];
    }
}

__device__ __forceinline__ void unpack(u32 pair, float &low, float &high) {
    low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ u32 pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    u32 bits;
    memcpy(&bits, &pair, sizeof bits);
    return bits;
}

template <int W>
__device__ __forceinline__ void load(const bf16 *from, float (&to)[W]) {
    if constexpr (W == 8) {
        const uint4 bits = *reinterpret_cast<const uint4 *>(from);
        unpack(bits.x, to[0], to[1]), unpack(bits.y, to[2], to[3]);
        unpack(bits.z, to[4], to[5]), unpack(bits.w, to[6], to[7]);
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) to[i] = __bfloat162float(from[i]);
    }
}

template <int W>
__device__ __forceinline__ void store(float *to, const float (&from)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            *reinterpret_cast<float4 *>(to + i) = make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) to[i] = from[i];
    }
}

template <int W>
__device__ __forceinline__ void store(bf16 *to, const float (&from)[W]) {
    if constexpr (W == 8) {
        *reinterpret_cast<uint4 *>(to) = make_uint4(pack(from[0], from[1]), pack(from[2], from[3]),
                                                    pack(from[4], from[5]), pack(from[6], from[7]));
    } else if constexpr (W == 4) {
        *reinterpret_cast<uint2 *>(to) = make_uint2(pack(from[0], from[1]), pack(from[2], from[3]));
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) set(to + i, from[i]);
    }
}

/// Bytes, and numbers of taps.
template <int W>
__device__ __forceinline__ void load(const u8 *from, u32 (&to)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            const u32 four = *reinterpret_cast<const u32 *>(from + i);
#pragma unroll
            for (int byte = 0; byte < 4; ++byte) to[i + byte] = four >> (8 * byte) & 255u;
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) to[i] = from[i];
    }
}

template <int W>
__device__ __forceinline__ void load(const u16 *from, u32 (&to)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            const uint2 four = *reinterpret_cast<const uint2 *>(from + i);
            to[i] = four.x & 0xffffu, to[i + 1] = four.x >> 16, to[i + 2] = four.y & 0xffffu, to[i + 3] = four.y >> 16;
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) to[i] = from[i];
    }
}

template <int W>
__device__ __forceinline__ void store(u16 *to, const u32 (&from)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W; i += 4) {
            *reinterpret_cast<uint2 *>(to + i) =
                make_uint2(from[i] | from[i + 1] << 16, from[i + 2] | from[i + 3] << 16);
        }
    } else {
#pragma unroll
        for (int i = 0; i < W; ++i) to[i] = u16(from[i]);
    }
}

/// Writes, or adds to what is there.
template <int W, typename T>
__device__ __forceinline__ void put(T *to, float (&values)[W], u32 add) {
    if (add) {
        float there[W];
        load<W>(to, there);
#pragma unroll
        for (int i = 0; i < W; ++i) values[i] += there[i];
    }
    store<W>(to, values);
}

// ----------------------------------------------------------------------------------------------- threads and elements

/// Calls `body(width, index)` for all elements, vectors first: 16 bytes of T where `wide` says so.
template <typename T, typename Body>
__device__ __forceinline__ void each(u64 len, u32 wide, Body body) {
    const u64 first = u64(blockIdx.x) * THREADS + threadIdx.x, step = u64(gridDim.x) * THREADS;
    u64 done = 0;
    if (wide) {
        constexpr int W = WIDE<T>;
        const u64 vectors = len / W;
        for (u64 i = first; i < vectors; i += step) body(Width<W>{}, i * W);
        done = vectors * W;
    }
    for (u64 i = done + first; i < len; i += step) body(Width<1>{}, i);
}

/// Calls `body(index)` for numbers below `count`.
template <typename Body>
__device__ __forceinline__ void each_item(u32 count, Body body) {
    const u32 step = gridDim.x * THREADS;
    for (u32 i = blockIdx.x * THREADS + threadIdx.x; i < count; i += step) body(i);
}

/// A thread that stays in one column of a matrix, so that it reads the column's numbers once.
struct Column {
    u32 column, row, rows, columns;

    /// The grid has at least `columns` threads, and fewer than 2^32.
    __device__ __forceinline__ explicit Column(u32 columns) : columns(columns) {
        const u32 thread = blockIdx.x * THREADS + threadIdx.x;
        rows = gridDim.x * THREADS / columns;
        row = thread / columns;
        column = thread - row * columns;
    }

    /// Calls `body(vector, row)` for this thread's part of `len` vectors.
    template <typename Body>
    __device__ __forceinline__ void each(u64 len, Body body) {
        if (row >= rows) return;  // threads that make no whole row have nothing to do
        const u64 step = u64(rows) * columns;
        u32 at = row;
        for (u64 i = u64(row) * columns + column; i < len; i += step, at += rows) body(i, at);
    }
};

// -------------------------------------------------------------------------------------------------------- sums of rows

/// A thread of a block that covers `lanes` columns next to each other and as many rows at once as threads remain for.
struct Tile {
    u32 lanes, slot, slots, column;
    bool active;

    __device__ __forceinline__ Tile(u32 tile, u32 lanes, u32 columns) : lanes(lanes) {
        slots = THREADS / lanes;
        slot = threadIdx.x / lanes;
        column = tile * lanes + threadIdx.x % lanes;
        active = slot < slots && column < columns;
    }
};

/// Adds what the slots of a block hold, in an order that depends on the sizes alone; slot 0 has the sums. All threads of
/// the block call it, idle ones with zeros.
template <int K, int W>
__device__ __forceinline__ void sum_slots(const Tile &tile, float (&sums)[K][W]) {
    __shared__ float shared[K * W][THREADS];
    const u32 thread = threadIdx.x;
    __syncthreads();  // an earlier sum may be read still
#pragma unroll
    for (int i = 0; i < K * W; ++i) shared[i][thread] = sums[i / W][i % W];
    for (u32 live = tile.slots; live > 1;) {
        const u32 half = (live + 1) / 2;
        __syncthreads();
        if (tile.slot + half < live) {
#pragma unroll
            for (int i = 0; i < K * W; ++i) {
                sums[i / W][i % W] += shared[i][thread + half * tile.lanes];
                shared[i][thread] = sums[i / W][i % W];
            }
        }
        live = half;
    }
}

/// Columns of a block that adds parts: 32 bytes of each, which is what memory is read in.
constexpr u32 TOTALED = 8;

/// Sums over all parts, `[count][K][channels]`, in f64, for the column that the thread returns; only threads that return
/// a column below `channels` have them.
template <int K>
__device__ __forceinline__ u32 total(const float *parts, u32 count, u32 channels, double (&sums)[K]) {
    constexpr u32 SLOTS = THREADS / TOTALED;
    __shared__ double shared[K][SLOTS][TOTALED];
    const u32 lane = threadIdx.x % TOTALED, slot = threadIdx.x / TOTALED, channel = blockIdx.x * TOTALED + lane;
#pragma unroll
    for (int k = 0; k < K; ++k) sums[k] = 0.0;
    if (channel < channels) {
#pragma unroll 4
        for (u32 part = slot; part < count; part += SLOTS) {
#pragma unroll
            for (int k = 0; k < K; ++k) sums[k] += double(parts[(u64(part) * K + k) * channels + channel]);
        }
    }
#pragma unroll
    for (int k = 0; k < K; ++k) shared[k][slot][lane] = sums[k];
    __syncthreads();
    if (slot != 0 || channel >= channels) return ~0u;
#pragma unroll
    for (int k = 0; k < K; ++k) {
        for (u32 other = 1; other < SLOTS; ++other) sums[k] += shared[k][other][lane];
    }
    return channel;
}

/// Writes a vector's sums.
template <int W>
__device__ __forceinline__ void store_part(float *to, const float (&sums)[W]) {
#pragma unroll
    for (int i = 0; i < W; ++i) to[i] = sums[i];
}
