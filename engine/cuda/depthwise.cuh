// Depthwise convolution of NHWC maps with weights f32 `[kh][kw][channel]`: engine/src/kernels/conv/depthwise.rs, for any
// kernel, step and padding.
#pragma once
#include "pooling.cuh"

/// Neighboring results of a thread, so that it reads each weight once for all of them.
constexpr int TOGETHER = 4;

/// Whether `place` is a multiple of the step that lies in the map, and which.
__device__ __forceinline__ bool divides(int place, int step, int size, int &quotient) {
    if (place < 0) return false;
    quotient = place;
    if (step != 1) {
        quotient = place / step;
        if (quotient * step != place) return false;
    }
    return quotient < size;
}

namespace run {

template <typename T>
__device__ void depthwise_forward(Window window, const T *x, const float *weight, T *y, u32 items, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const u32 groups = (window.out_width + TOGETHER - 1) / TOGETHER;
        each_item(items, [&](u32 item) {
            const Position at(item, window.columns, groups, window.out_height);
            const Range rows = taps_of(window, 0, at.y);
            const int top = int(at.y * window.stride[0]) - int(window.padding[0]);
            const int step = int(window.stride[1]);
            const int left = int(at.x) * TOGETHER * step - int(window.padding[1]);
            float sums[TOGETHER][W] = {};
            for (int row = rows.first; row < rows.end; ++row) {
                const T *line = x + ((u64(at.picture) * window.height + u32(top + row)) * window.width * window.columns + at.column) * W;
                for (int column = 0; column < int(window.kernel[1]); ++column) {
                    float factor[W];
                    load<W>(weight + ((u32(row) * window.kernel[1] + u32(column)) * window.columns + at.column) * W, factor);
#pragma unroll
                    for (int j = 0; j < TOGETHER; ++j) {
                        const int place = left + j * step + column;
                        if (place < 0 || place >= int(window.width)) continue;
                        float v[W];
                        load<W>(line + u64(u32(place)) * window.columns * W, v);
#pragma unroll
                        for (int i = 0; i < W; ++i) sums[j][i] = fmaf(v[i], factor[i], sums[j][i]);
                    }
                }
            }
            const u64 line = (u64(at.picture) * window.out_height + at.y) * window.out_width;
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                const u32 place = at.x * TOGETHER + j;
                if (place < window.out_width) store<W>(y + ((line + place) * window.columns + at.column) * W, sums[j]);
            }
        });
    });
}

template <typename T>
__device__ void depthwise_backward_input(Window window, const T *dy, const float *weight, T *dx, u32 add, u32 items,
                                         u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const u32 groups = (window.width + TOGETHER - 1) / TOGETHER;
        each_item(items, [&](u32 item) {
            const Position at(item, window.columns, groups, window.height);
            const int down = int(at.y + window.padding[0]), across = int(at.x * TOGETHER + window.padding[1]);
            float sums[TOGETHER][W] = {};
            for (int row = 0; row < int(window.kernel[0]); ++row) {
                int output;
                if (!divides(down - row, int(window.stride[0]), int(window.out_height), output)) continue;
                const T *line = dy + ((u64(at.picture) * window.out_height + u32(output)) * window.out_width * window.columns + at.column) * W;
                for (int column = 0; column < int(window.kernel[1]); ++column) {
                    float factor[W];
                    load<W>(weight + ((u32(row) * window.kernel[1] + u32(column)) * window.columns + at.column) * W, factor);
#pragma unroll
                    for (int j = 0; j < TOGETHER; ++j) {
                        int place;
                        if (!divides(across + j - column, int(window.stride[1]), int(window.out_width), place)) continue;
                        float v[W];
                        load<W>(line + u64(u32(place)) * window.columns * W, v);
#pragma unroll
                        for (int i = 0; i < W; ++i) sums[j][i] = fmaf(v[i], factor[i], sums[j][i]);
                    }
                }
            }
            const u64 line = (u64(at.picture) * window.height + at.y) * window.width;
#pragma unroll
            for (int j = 0; j < TOGETHER; ++j) {
                const u32 place = at.x * TOGETHER + j;
                if (place < window.width) put<W>(dx + ((line + place) * window.columns + at.column) * W, sums[j], add);
            }
        });
    });
}

/// Sums of `x * dy` over a part of the outputs for up to TAPS taps of a row of the kernel, from `start` on.
template <int TAPS, int W, typename T>
__device__ __forceinline__ void weight_parts(const Window &window, const T *x, const T *dy, float *parts, u32 rows,
                                             u32 part, u32 lanes, u32 start) {
    const Tile tile(blockIdx.x, lanes, window.columns);
    const u32 first = blockIdx.y * part, end = min(rows, first + part), kernel_row = blockIdx.z;
    float sums[TAPS][W] = {};
    if (tile.active) {
        for (u32 row = first + tile.slot; row < end; row += tile.slots) {
            const u32 column = row % window.out_width, rest = row / window.out_width;
            const u32 line = rest % window.out_height, picture = rest / window.out_height;
            const int down = int(line * window.stride[0] + kernel_row) - int(window.padding[0]);
            if (down < 0 || down >= int(window.height)) continue;
            const int across = int(column * window.stride[1] + start) - int(window.padding[1]);
            const u64 from = (u64(picture) * window.height + u32(down)) * window.width;
            float gradient[W];
            load<W>(dy + (u64(row) * window.columns + tile.column) * W, gradient);
#pragma unroll
            for (int tap = 0; tap < TAPS; ++tap) {
                const int place = across + tap;
                if (start + tap >= window.kernel[1] || place < 0 || place >= int(window.width)) continue;
                float v[W];
                load<W>(x + ((from + u32(place)) * window.columns + tile.column) * W, v);
#pragma unroll
                for (int i = 0; i < W; ++i) sums[tap][i] = fmaf(v[i], gradient[i], sums[tap][i]);
            }
        }
    }
    const u32 taps = window.kernel[0] * window.kernel[1];
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
        if (start + tap >= window.kernel[1]) break;
        float found[1][W];
#pragma unroll
        for (int i = 0; i < W; ++i) found[0][i] = sums[tap][i];
        sum_slots<1, W>(tile, found);
        const u32 number = kernel_row * window.kernel[1] + start + tap;
        if (tile.active && tile.slot == 0) {
            store_part<W>(parts + ((u64(blockIdx.y) * taps + number) * window.columns + tile.column) * W, found[0]);
        }
    }
}

/// The weights' gradient of each part of the outputs, `[part][kh][kw][channel]`; a block for a row of the kernel.
template <typename T>
__device__ void depthwise_weight_parts(Window window, const T *x, const T *dy, float *parts, u32 rows, u32 part, u32 lanes,
                                       u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        if (window.kernel[1] <= 3) return weight_parts<3, W>(window, x, dy, parts, rows, part, lanes, 0);
        for (u32 start = 0; start < window.kernel[1]; start += 5) {
            weight_parts<5, W>(window, x, dy, parts, rows, part, lanes, start);
        }
    });
}

}  // namespace run

BOTH(depthwise_forward, (Window window, Any x, const float *weight, Any y, u32 items, u32 wide),
     (window, x, weight, y, items, wide))
BOTH(depthwise_backward_input, (Window window, Any dy, const float *weight, Any dx, u32 add, u32 items, u32 wide),
     (window, dy, weight, dx, add, items, wide))
BOTH(depthwise_weight_parts, (Window window, Any x, Any dy, float *parts, u32 rows, u32 part, u32 lanes, u32 wide),
     (window, x, dy, parts, rows, part, lanes, wide))
