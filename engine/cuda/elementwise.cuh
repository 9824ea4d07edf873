// Kernels that touch each value alone or join two: engine/src/kernels/mixing.rs.
#pragma once
#include "activation.cuh"

namespace run {

/// `y = table[byte][channel]`
template <typename T>
__device__ void look_up(const u8 *bytes, const float *table, T *y, u64 len, u32 channels, u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        u32 x[W];
        float v[W];
        load<W>(bytes + at, x);
        u32 channel = u32(at % channels);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            v[i] = table[x[i] * channels + channel];
            if (++channel == channels) channel = 0;
        }
        store<W>(y + at, v);
    });
}

/// `y = x * scale + shift`; `x` is f32 if `floats`.
template <typename T>
__device__ void affine(const void *x, u32 floats, const float *scale, const float *shift, T *y, u64 len, u32 channels,
                       u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W];
        if (floats) load<W>(static_cast<const float *>(x) + at, v);
        else load<W>(static_cast<const T *>(x) + at, v);
        u32 channel = u32(at % channels);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            v[i] = v[i] * scale[channel] + shift[channel];
            if (++channel == channels) channel = 0;
        }
        store<W>(y + at, v);
    });
}

/// `dx = dy * scale`; `dx` is f32 if `floats`.
template <typename T>
__device__ void scale_channels(const T *dy, const float *scale, void *dx, u32 floats, u32 add, u64 len, u32 channels,
                               u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load<W>(dy + at, v);
        u32 channel = u32(at % channels);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            v[i] *= scale[channel];
            if (++channel == channels) channel = 0;
        }
        if (floats) put<W>(static_cast<float *>(dx) + at, v, add);
        else put<W>(static_cast<T *>(dx) + at, v, add);
    });
}

template <typename T>
__device__ void activation_forward(Applied f, const T *x, T *y, u64 len, u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load<W>(x + at, v);
        activate<W>(f, v);
        store<W>(y + at, v);
    });
}

/// `dx = dy * activation'`, from the argument or from the value.
template <bool VALUE, typename T>
__device__ __forceinline__ void activation_back(Applied f, const T *kept, const T *dy, T *dx, u32 add, u64 len, u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W], gradient[W];
        load<W>(kept + at, v);
        load<W>(dy + at, gradient);
        if constexpr (VALUE) derivative_at_value<W>(f, v);
        else derivative<W>(f, v);
#pragma unroll
        for (int i = 0; i < W; ++i) gradient[i] *= v[i];
        put<W>(dx + at, gradient, add);
    });
}
template <typename T>
__device__ void activation_from_input(Applied f, const T *x, const T *dy, T *dx, u32 add, u64 len, u32 wide) {
    activation_back<false, T>(f, x, dy, dx, add, len, wide);
}
template <typename T>
__device__ void activation_from_output(Applied f, const T *y, const T *dy, T *dx, u32 add, u64 len, u32 wide) {
    activation_back<true, T>(f, y, dy, dx, add, len, wide);
}

/// `y = activation(y + bias + residual)`; `len` counts vectors.
template <typename T>
__device__ void finish(Applied f, const float *bias, const T *residual, T *y, u64 len, u32 columns, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        Column thread(columns);
        float added[W] = {};
        if (bias) load<W>(bias + thread.column * W, added);
        thread.each(len, [&](u64 vector, u32) {
            const u64 at = vector * W;
            float v[W];
            load<W>(y + at, v);
#pragma unroll
            for (int i = 0; i < W; ++i) v[i] += added[i];
            if (residual) {
                float more[W];
                load<W>(residual + at, more);
#pragma unroll
                for (int i = 0; i < W; ++i) v[i] += more[i];
            }
            activate<W>(f, v);
            store<W>(y + at, v);
        });
    });
}

/// Sums of the columns of each part, `[part][channel]`.
template <typename T>
__device__ void column_parts(const T *x, float *parts, u32 rows, u32 part, u32 columns, u32 lanes, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Tile tile(blockIdx.x, lanes, columns);
        const u32 first = blockIdx.y * part, end = min(rows, first + part);
        float sums[1][W] = {};
        if (tile.active) {
#pragma unroll 4
            for (u32 row = first + tile.slot; row < end; row += tile.slots) {
                float v[W];
                load<W>(x + (u64(row) * columns + tile.column) * W, v);
#pragma unroll
                for (int i = 0; i < W; ++i) sums[0][i] += v[i];
            }
        }
        sum_slots<1, W>(tile, sums);
        if (tile.active && tile.slot == 0) store_part<W>(parts + (u64(blockIdx.y) * columns + tile.column) * W, sums[0]);
    });
}

__device__ __forceinline__ void column_total(const float *parts, float *sums, u32 add, u32 count, u32 channels) {
    double found[1];
    const u32 channel = total<1>(parts, count, channels, found);
    if (channel < channels) sums[channel] = add ? sums[channel] + float(found[0]) : float(found[0]);
}

/// `y = activation(a + b)`
template <typename T>
__device__ void add(Applied f, const T *a, const T *b, T *y, u64 len, u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W], other[W];
        load<W>(a + at, v);
        load<W>(b + at, other);
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] += other[i];
        activate<W>(f, v);
        store<W>(y + at, v);
    });
}

template <typename T>
__device__ void multiply(const T *a, const T *b, T *y, u32 add, u64 len, u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W], other[W];
        load<W>(a + at, v);
        load<W>(b + at, other);
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] *= other[i];
        put<W>(y + at, v, add);
    });
}

/// From one format to another, written or added.
template <typename T, typename From, typename To>
__device__ __forceinline__ void copy(const From *x, To *y, u32 add, u64 len, u32 wide) {
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load<W>(x + at, v);
        put<W>(y + at, v, add);
    });
}
template <typename T>
__device__ void pass_on(const T *x, T *y, u32 add, u64 len, u32 wide) {
    copy<T>(x, y, add, len, wide);
}
template <typename T>
__device__ void convert(const float *x, T *y, u64 len, u32 wide) {
    copy<T>(x, y, 0, len, wide);
}
template <typename T>
__device__ void accumulate(const T *dw, float *gradient, u32 add, u64 len, u32 wide) {
    copy<T>(dw, gradient, add, len, wide);
}

/// `y = x * gate`, the gate `[sample][channel]`; `len` counts vectors.
template <typename T>
__device__ void gate_forward(const T *x, const T *gate, T *y, u32 add, u64 len, u32 columns, u32 positions, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        Column thread(columns);
        thread.each(len, [&](u64 vector, u32 row) {
            float v[W], factor[W];
            load<W>(x + vector * W, v);
            load<W>(gate + (u64(row / positions) * columns + thread.column) * W, factor);
#pragma unroll
            for (int i = 0; i < W; ++i) v[i] *= factor[i];
            put<W>(y + vector * W, v, add);
        });
    });
}

/// Sums of `x * dy` over a sample's positions; a block for a sample and a tile of channels.
template <typename T>
__device__ void gate_backward(const T *x, const T *dy, T *dgate, u32 add, u32 positions, u32 columns, u32 lanes,
                              u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Tile tile(blockIdx.y, lanes, columns);
        const u64 sample = blockIdx.x;
        float sums[1][W] = {};
        if (tile.active) {
#pragma unroll 4
            for (u32 row = tile.slot; row < positions; row += tile.slots) {
                const u64 at = ((sample * positions + row) * columns + tile.column) * W;
                float v[W], gradient[W];
                load<W>(x + at, v);
                load<W>(dy + at, gradient);
#pragma unroll
                for (int i = 0; i < W; ++i) sums[0][i] = fmaf(v[i], gradient[i], sums[0][i]);
            }
        }
        sum_slots<1, W>(tile, sums);
        if (tile.active && tile.slot == 0) put<W>(dgate + (sample * columns + tile.column) * W, sums[0], add);
    });
}

// ------------------------------------------------------------------------------------------------------ random numbers
// engine/src/random.rs: a stream is its key, splitmix64 its finalizer.

__device__ __forceinline__ u64 mix(u64 z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}
__device__ __forceinline__ u64 stream_with(u64 stream, u64 key) {
    return mix(stream + mix(key + 0x632be59bd9b4e019ull));
}
__device__ __forceinline__ u64 stream_bits(u64 stream, u64 position) {
    return mix(stream + position * 0x9e3779b97f4a7c15ull);
}

/// Elements that share a key: spans.rs.
constexpr u64 CHUNK = 1 << 14;

/// mixing.rs, `draw`.
__device__ __forceinline__ u32 draw(u64 key, u32 place) {
    u32 x = place * 0x9e3779b9u + u32(key);
    x = (x ^ x >> 16) * 0x7feb352du;
    x ^= u32(key >> 32);
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

template <typename T>
__device__ void dropout(u32 threshold, float kept, const u64 *key, u64 node, const T *x, T *y, u32 add, u64 len,
                        u32 wide) {
    const u64 stream = stream_with(*key, node);
    each<T>(len, wide, [&](auto width, u64 at) {
        constexpr int W = decltype(width)::value;
        float v[W];
        load<W>(x + at, v);
        const u64 chunk = stream_bits(stream, at / CHUNK);
        const u32 place = u32(at % CHUNK);
#pragma unroll
        for (int i = 0; i < W; ++i) v[i] *= draw(chunk, place + i) < threshold ? 0.0f : kept;
        put<W>(y + at, v, add);
    });
}

__device__ __forceinline__ void depth_factors(float p, float kept, const u64 *key, u64 node, float *factors, u32 samples) {
    const u64 stream = stream_with(*key, node);
    each_item(samples, [&](u32 sample) {
        const float uniform = float(u32(stream_bits(stream, sample) >> 40)) * (1.0f / 16777216.0f);
        factors[sample] = uniform < p ? 0.0f : kept;
    });
}

/// `y = x * factor of the sample`; `len` and `sample` count vectors.
template <typename T>
__device__ void scale_samples(const float *factors, const T *x, T *y, u32 add, u32 len, u32 sample, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        each_item(len, [&](u32 vector) {
            const float factor = factors[vector / sample];
            const u64 at = u64(vector) * W;
            float v[W];
            load<W>(x + at, v);
#pragma unroll
            for (int i = 0; i < W; ++i) v[i] *= factor;
            put<W>(y + at, v, add);
        });
    });
}

// ---------------------------------------------------------------------------------------------------- flattened maps

/// Transposes blocks of `outer` x `inner` elements; 1 x 1 copies.
template <typename From, typename To>
__device__ __forceinline__ void reordered(const From *x, To *y, u32 add, u64 len, u32 outer, u32 inner) {
    const u64 size = u64(outer) * inner, step = u64(gridDim.x) * THREADS;
    for (u64 at = u64(blockIdx.x) * THREADS + threadIdx.x; at < len; at += step) {
        const u64 block = at / size;
        const u32 place = u32(at - block * size), row = place % outer, column = place / outer;
        float v[1] = {value(x[block * size + u64(row) * inner + column])};
        put<1>(y + at, v, add);
    }
}
template <typename T>
__device__ void outputs(const T *x, float *y, u64 len, u32 outer, u32 inner) {
    reordered(x, y, 0, len, outer, inner);
}
template <typename T>
__device__ void seeds(const float *x, T *y, u32 add, u64 len, u32 outer, u32 inner) {
    reordered(x, y, add, len, outer, inner);
}
template <typename T>
__device__ void reorder(const T *x, T *y, u32 add, u64 len, u32 outer, u32 inner) {
    reordered(x, y, add, len, outer, inner);
}

}  // namespace run

BOTH(look_up, (const u8 *bytes, const float *table, Any y, u64 len, u32 channels, u32 wide),
     (bytes, table, y, len, channels, wide))
BOTH(affine, (Any x, u32 floats, const float *scale, const float *shift, Any y, u64 len, u32 channels, u32 wide),
     (x, floats, scale, shift, y, len, channels, wide))
BOTH(scale_channels, (Any dy, const float *scale, Any dx, u32 floats, u32 add, u64 len, u32 channels, u32 wide),
     (dy, scale, dx, floats, add, len, channels, wide))
BOTH(activation_forward, (Applied f, Any x, Any y, u64 len, u32 wide), (f, x, y, len, wide))
BOTH(activation_from_input, (Applied f, Any x, Any dy, Any dx, u32 add, u64 len, u32 wide), (f, x, dy, dx, add, len, wide))
BOTH(activation_from_output, (Applied f, Any y, Any dy, Any dx, u32 add, u64 len, u32 wide), (f, y, dy, dx, add, len, wide))
BOTH(finish, (Applied f, const float *bias, Any residual, Any y, u64 len, u32 columns, u32 wide),
     (f, bias, residual, y, len, columns, wide))
BOTH(column_parts, (Any x, float *parts, u32 rows, u32 part, u32 columns, u32 lanes, u32 wide),
     (x, parts, rows, part, columns, lanes, wide))
ONE(column_total, (const float *parts, float *sums, u32 add, u32 count, u32 channels), (parts, sums, add, count, channels))
BOTH(add, (Applied f, Any a, Any b, Any y, u64 len, u32 wide), (f, a, b, y, len, wide))
BOTH(multiply, (Any a, Any b, Any y, u32 add, u64 len, u32 wide), (a, b, y, add, len, wide))
BOTH(pass_on, (Any x, Any y, u32 add, u64 len, u32 wide), (x, y, add, len, wide))
BOTH(convert, (const float *x, Any y, u64 len, u32 wide), (x, y, len, wide))
BOTH(accumulate, (Any dw, float *gradient, u32 add, u64 len, u32 wide), (dw, gradient, add, len, wide))
BOTH(gate_forward, (Any x, Any gate, Any y, u32 add, u64 len, u32 columns, u32 positions, u32 wide),
     (x, gate, y, add, len, columns, positions, wide))
BOTH(gate_backward, (Any x, Any dy, Any dgate, u32 add, u32 positions, u32 columns, u32 lanes, u32 wide),
     (x, dy, dgate, add, positions, columns, lanes, wide))
BOTH(dropout, (u32 threshold, float kept, const u64 *key, u64 node, Any x, Any y, u32 add, u64 len, u32 wide),
     (threshold, kept, key, node, x, y, add, len, wide))
ONE(depth_factors, (float p, float kept, const u64 *key, u64 node, float *factors, u32 samples),
    (p, kept, key, node, factors, samples))
BOTH(scale_samples, (const float *factors, Any x, Any y, u32 add, u32 len, u32 sample, u32 wide),
     (factors, x, y, add, len, sample, wide))
BOTH(outputs, (Any x, float *y, u64 len, u32 outer, u32 inner), (x, y, len, outer, inner))
BOTH(seeds, (const float *x, Any y, u32 add, u64 len, u32 outer, u32 inner), (x, y, add, len, outer, inner))
BOTH(reorder, (Any x, Any y, u32 add, u64 len, u32 outer, u32 inner), (x, y, add, len, outer, inner))
