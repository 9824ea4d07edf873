// CUDA's language as C++17: lets the engine's kernels compile with a host compiler and run on the processor, thread by
// thread. Speaks only of what kernels see; who runs them is runtime.h.
//
// Included first by common.cuh when DISTILL_EMULATED is set. Not here: dynamic shared memory (`extern __shared__`),
// cooperative groups, textures, tensor core instructions, `__device__` variables (they would be taken for shared memory). What CUDA does not offer is not offered here either, so that a
// kernel that compiles here has a chance with nvcc; arithmetic on __nv_bfloat16 is left out on purpose.
//
// Every thread of a block is a fiber: __syncthreads and the warp's exchanges are true rendezvous. Threads of a block run
// in ascending order in one launch and in descending order in the next, so that a missing barrier shows.
#pragma once

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>

// The scan for kernels' names reads the sources with these left as they are; see build.sh.
#ifndef DISTILL_EMULATOR_SCAN
#define __global__ __attribute__((visibility("hidden")))
#define __launch_bounds__(...)
#endif
#define __device__
#define __host__
#define __constant__ static const
#define __managed__ static
// One block runs at a time, so a block's memory is the program's. Every launch finds it full of ones (NaNs).
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __grid_constant__

// ---------------------------------------------------------------------------------------------------- vector types
struct uint3 { unsigned x, y, z; };
struct int3 { int x, y, z; };
struct float3 { float x, y, z; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(2) uchar2 { unsigned char x, y; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int3 make_int3(int x, int y, int z) { return {x, y, z}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
inline ushort2 make_ushort2(unsigned short x, unsigned short y) { return {x, y}; }
inline ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) {
    return {x, y, z, w};
}

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ------------------------------------------------------------------------------------------------- place of a thread
extern "C" {
extern __attribute__((visibility("hidden"))) uint3 emulated_thread_index, emulated_block_index;
extern __attribute__((visibility("hidden"))) dim3 emulated_block_size, emulated_grid_size;
}
// Constant where a kernel looks: assigning to them does not compile, as with nvcc.
#define threadIdx (static_cast<const uint3 &>(emulated_thread_index))
#define blockIdx (static_cast<const uint3 &>(emulated_block_index))
#define blockDim (static_cast<const dim3 &>(emulated_block_size))
#define gridDim (static_cast<const dim3 &>(emulated_grid_size))
constexpr int warpSize = 32;

// ------------------------------------------------------------------------------------------------------- rendezvous
namespace emulated {
/// What brings threads together; all that meet must have come for the same.
enum class Meeting { None, Barrier, BarrierCount, BarrierAnd, BarrierOr, Warp, Shuffle, Ballot };
/// Waits until all living threads of the block (or those of the warp that `mask` names) are here, and returns what the
/// meeting comes to for this thread. `bits` is what it brings, `source` the lane whose bits it takes.
__attribute__((visibility("hidden"))) unsigned long long meet(
    Meeting kind, unsigned mask, unsigned long long bits, int source, const char *file, int line);
__attribute__((visibility("hidden"))) int lane();
[[noreturn]] __attribute__((visibility("hidden"))) void complain(const char *what, const char *file, int line);

template <typename T>
T exchange(unsigned mask, T value, int source, const char *file, int line) {
    static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8),
                  "shuffles take int, unsigned, long long, float and double");
    unsigned long long bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = meet(Meeting::Shuffle, mask, bits, source, file, line);
    memcpy(&value, &bits, sizeof value);
    return value;
}

inline void check_width(int width, const char *file, int line) {
    if (width < 1 || width > 32 || (width & (width - 1))) complain("a shuffle's width is no power of two up to 32", file, line);
}
}  // namespace emulated

#define EMULATED_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
inline void __syncthreads(EMULATED_PLACE) { emulated::meet(emulated::Meeting::Barrier, ~0u, 0, 0, file, line); }
inline int __syncthreads_count(int predicate, EMULATED_PLACE) {
    return int(emulated::meet(emulated::Meeting::BarrierCount, ~0u, predicate != 0, 0, file, line));
}
inline int __syncthreads_and(int predicate, EMULATED_PLACE) {
    return int(emulated::meet(emulated::Meeting::BarrierAnd, ~0u, predicate != 0, 0, file, line));
}
inline int __syncthreads_or(int predicate, EMULATED_PLACE) {
    return int(emulated::meet(emulated::Meeting::BarrierOr, ~0u, predicate != 0, 0, file, line));
}
inline void __syncwarp(unsigned mask = ~0u, EMULATED_PLACE) {
    emulated::meet(emulated::Meeting::Warp, mask, 0, 0, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATED_PLACE) {
    return unsigned(emulated::meet(emulated::Meeting::Ballot, mask, predicate != 0, 0, file, line));
}
inline int __any_sync(unsigned mask, int predicate, EMULATED_PLACE) {
    return emulated::meet(emulated::Meeting::Ballot, mask, predicate != 0, 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMULATED_PLACE) {
    return emulated::meet(emulated::Meeting::Ballot, mask, predicate == 0, 0, file, line) == 0;
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, EMULATED_PLACE) {
    emulated::check_width(width, file, line);
    int lane = emulated::lane();
    return emulated::exchange(mask, value, (lane & ~(width - 1)) + (from & (width - 1)), file, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_PLACE) {
    emulated::check_width(width, file, line);
    int lane = emulated::lane();
    bool inside = (lane & (width - 1)) + int(delta) < width;
    return emulated::exchange(mask, value, inside ? lane + int(delta) : lane, file, line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_PLACE) {
    emulated::check_width(width, file, line);
    int lane = emulated::lane();
    bool inside = (lane & (width - 1)) >= int(delta);
    return emulated::exchange(mask, value, inside ? lane - int(delta) : lane, file, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32, EMULATED_PLACE) {
    emulated::check_width(width, file, line);
    int lane = emulated::lane(), from = lane ^ other;
    // As CUDA says: earlier groups of `width` lanes may be read, later ones give the own value.
    bool inside = from / width <= lane / width;
    return emulated::exchange(mask, value, inside ? from : lane, file, line);
}
#undef EMULATED_PLACE
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---------------------------------------------------------------------------------------------------- loads, atomics
template <typename T> T __ldg(const T *from) { return *from; }
template <typename T> T __ldcg(const T *from) { return *from; }
template <typename T> T __ldca(const T *from) { return *from; }
template <typename T> T __ldcs(const T *from) { return *from; }
template <typename T> void __stcg(T *to, T value) { *to = value; }
template <typename T> void __stcs(T *to, T value) { *to = value; }

// One thread runs at a time.
template <typename T> T atomicAdd(T *at, T value) { T old = *at; *at = old + value; return old; }
template <typename T> T atomicSub(T *at, T value) { T old = *at; *at = old - value; return old; }
template <typename T> T atomicMax(T *at, T value) { T old = *at; *at = old < value ? value : old; return old; }
template <typename T> T atomicMin(T *at, T value) { T old = *at; *at = value < old ? value : old; return old; }
template <typename T> T atomicAnd(T *at, T value) { T old = *at; *at = old & value; return old; }
template <typename T> T atomicOr(T *at, T value) { T old = *at; *at = old | value; return old; }
template <typename T> T atomicXor(T *at, T value) { T old = *at; *at = old ^ value; return old; }
template <typename T> T atomicExch(T *at, T value) { T old = *at; *at = value; return old; }
template <typename T> T atomicCAS(T *at, T expected, T value) { T old = *at; if (old == expected) *at = value; return old; }
inline unsigned atomicInc(unsigned *at, unsigned last) { unsigned old = *at; *at = old >= last ? 0 : old + 1; return old; }

// -------------------------------------------------------------------------------------------------------- arithmetic
inline int min(int a, int b) { return b < a ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
inline long min(long a, long b) { return b < a ? b : a; }
inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
inline long max(long a, long b) { return a < b ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float rsqrtf(float x) { return float(1.0 / sqrt(double(x))); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return float(pow(10.0, double(x))); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }

inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_ru(float x) { return int(ceilf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline unsigned __float2uint_rn(float x) { return unsigned(nearbyintf(x)); }
inline unsigned __float2uint_rz(float x) { return unsigned(x); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)(((unsigned __int128)x * y) >> 64);
}

// ------------------------------------------------------------------------------------------------------------ bfloat16
// Bits alone: 2 bytes, no arithmetic, no implicit conversion.
struct alignas(2) __nv_bfloat16 {
    unsigned short __x;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

/// To nearest, ties to even; a NaN is 0x7fff, as on the device.
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(unsigned short)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float value) { return __float2bfloat16_rn(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(unsigned(value.__x) << 16); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.__x; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 value) { return __floats2bfloat162_rn(value.x, value.y); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 x, __nv_bfloat16 y) { return {x, y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 value) { return {__bfloat162float(value.x), __bfloat162float(value.y)}; }
inline float __low2float(__nv_bfloat162 value) { return __bfloat162float(value.x); }
inline float __high2float(__nv_bfloat162 value) { return __bfloat162float(value.y); }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 value) { return value.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 value) { return value.y; }
