// Pooling of NHWC maps: engine/src/kernels/pooling.rs. A thread computes a vector of channels at one position; backward
// gathers from the windows that hold it.
#pragma once
#include "common.cuh"

/// A window over a batch of maps. Columns are vectors of channels.
struct Window {
    u32 batch, height, width, out_height, out_width, columns, kernel[2], stride[2], padding[2];
};

/// A position of a map.
struct Position {
    u32 column, x, y, picture;

    __device__ __forceinline__ Position(u32 item, u32 columns, u32 width, u32 height) {
        column = item % columns, item /= columns;
        x = item % width, item /= width;
        y = item % height, picture = item / height;
    }
};

/// Taps or outputs along an axis: `first..end`.
struct Range {
    int first, end;
};

/// The taps of an output that lie within the input.
__device__ __forceinline__ Range taps_of(const Window &window, int axis, u32 output) {
    const int size = int(axis ? window.width : window.height), start = int(output * window.stride[axis]) - int(window.padding[axis]);
    return {max(0, -start), min(int(window.kernel[axis]), size - start)};
}

/// The outputs whose windows hold an input.
__device__ __forceinline__ Range outputs_of(const Window &window, int axis, u32 input) {
    const int place = int(input + window.padding[axis]), step = int(window.stride[axis]), kernel = int(window.kernel[axis]);
    const int size = int(axis ? window.out_width : window.out_height);
    return {place < kernel ? 0 : (place - kernel) / step + 1, min(size, place / step + 1)};
}

namespace run {

template <typename T>
__device__ void max_forward(Window window, const T *x, T *y, u16 *taps, u32 items, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        each_item(items, [&](u32 item) {
            const Position at(item, window.columns, window.out_width, window.out_height);
            const Range rows = taps_of(window, 0, at.y), columns = taps_of(window, 1, at.x);
            const int top = int(at.y * window.stride[0]) - int(window.padding[0]);
            const int left = int(at.x * window.stride[1]) - int(window.padding[1]);
            float best[W];
            u32 noted[W];
            bool first = true;
            for (int row = rows.first; row < rows.end; ++row) {
                const u64 line = (u64(at.picture) * window.height + u32(top + row)) * window.width;
                for (int column = columns.first; column < columns.end; ++column) {
                    const u32 number = u32(row) * window.kernel[1] + u32(column);
                    float v[W];
                    load<W>(x + ((line + u32(left + column)) * window.columns + at.column) * W, v);
#pragma unroll
                    for (int i = 0; i < W; ++i) {
                        if (first || v[i] > best[i]) best[i] = v[i], noted[i] = number;
                    }
                    first = false;
                }
            }
            store<W>(y + u64(item) * W, best);
            if (taps) store<W>(taps + u64(item) * W, noted);
        });
    });
}

template <typename T>
__device__ void max_backward(Window window, const T *dy, const u16 *taps, T *dx, u32 add, u32 items, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        each_item(items, [&](u32 item) {
            const Position at(item, window.columns, window.width, window.height);
            const Range rows = outputs_of(window, 0, at.y), columns = outputs_of(window, 1, at.x);
            float sums[W] = {};
            for (int row = rows.first; row < rows.end; ++row) {
                const u32 tap_row = at.y + window.padding[0] - u32(row) * window.stride[0];
                const u64 line = (u64(at.picture) * window.out_height + u32(row)) * window.out_width;
                for (int column = columns.first; column < columns.end; ++column) {
                    const u32 tap_column = at.x + window.padding[1] - u32(column) * window.stride[1];
                    const u32 number = tap_row * window.kernel[1] + tap_column;
                    const u64 from = ((line + u32(column)) * window.columns + at.column) * W;
                    float gradient[W];
                    u32 noted[W];
                    load<W>(dy + from, gradient);
                    load<W>(taps + from, noted);
#pragma unroll
                    for (int i = 0; i < W; ++i) {
                        if (noted[i] == number) sums[i] += gradient[i];
                    }
                }
            }
            put<W>(dx + u64(item) * W, sums, add);
        });
    });
}

/// Adds what lies at rows and columns of a map of this size.
template <int W, typename T>
__device__ __forceinline__ void sum_range(const T *from, u32 picture, u32 height, u32 width, u32 columns, u32 column, Range down,
                                          Range across, float (&sums)[W]) {
    for (int row = down.first; row < down.end; ++row) {
        const u64 line = (u64(picture) * height + u32(row)) * width;
        for (int place = across.first; place < across.end; ++place) {
            float v[W];
            load<W>(from + ((line + u32(place)) * columns + column) * W, v);
#pragma unroll
            for (int i = 0; i < W; ++i) sums[i] += v[i];
        }
    }
}

/// The inputs of an output.
__device__ __forceinline__ Range inputs_of(const Window &window, int axis, u32 output) {
    const Range taps = taps_of(window, axis, output);
    const int start = int(output * window.stride[axis]) - int(window.padding[axis]);
    return {start + taps.first, start + taps.end};
}

template <typename T>
__device__ void average_forward(Window window, const T *x, T *y, u32 items, u32 wide) {
    const float share = 1.0f / float(window.kernel[0] * window.kernel[1]);
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        each_item(items, [&](u32 item) {
            const Position at(item, window.columns, window.out_width, window.out_height);
            float sums[W] = {};
            sum_range<W>(x, at.picture, window.height, window.width, window.columns, at.column,
                         inputs_of(window, 0, at.y), inputs_of(window, 1, at.x), sums);
#pragma unroll
            for (int i = 0; i < W; ++i) sums[i] *= share;
            store<W>(y + u64(item) * W, sums);
        });
    });
}

template <typename T>
__device__ void average_backward(Window window, const T *dy, T *dx, u32 add, u32 items, u32 wide) {
    const float share = 1.0f / float(window.kernel[0] * window.kernel[1]);
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        each_item(items, [&](u32 item) {
            const Position at(item, window.columns, window.width, window.height);
            float sums[W] = {};
            sum_range<W>(dy, at.picture, window.out_height, window.out_width, window.columns, at.column,
                         outputs_of(window, 0, at.y), outputs_of(window, 1, at.x), sums);
#pragma unroll
            for (int i = 0; i < W; ++i) sums[i] *= share;
            put<W>(dx + u64(item) * W, sums, add);
        });
    });
}

/// A block for a sample and a tile of channels.
template <typename T>
__device__ void global_forward(const T *x, T *y, u32 positions, u32 columns, u32 lanes, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Tile tile(blockIdx.y, lanes, columns);
        const u64 sample = blockIdx.x;
        float sums[1][W] = {};
        if (tile.active) {
#pragma unroll 4
            for (u32 row = tile.slot; row < positions; row += tile.slots) {
                float v[W];
                load<W>(x + ((sample * positions + row) * columns + tile.column) * W, v);
#pragma unroll
                for (int i = 0; i < W; ++i) sums[0][i] += v[i];
            }
        }
        sum_slots<1, W>(tile, sums);
        if (tile.active && tile.slot == 0) {
#pragma unroll
            for (int i = 0; i < W; ++i) sums[0][i] *= 1.0f / float(positions);
            store<W>(y + (sample * columns + tile.column) * W, sums[0]);
        }
    });
}

/// `len` counts vectors.
template <typename T>
__device__ void global_backward(const T *dy, T *dx, u32 add, u64 len, u32 columns, u32 positions, u32 wide) {
    const float share = 1.0f / float(positions);
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        Column thread(columns);
        thread.each(len, [&](u64 vector, u32 row) {
            float v[W];
            load<W>(dy + (u64(row / positions) * columns + thread.column) * W, v);
#pragma unroll
            for (int i = 0; i < W; ++i) v[i] *= share;
            put<W>(dx + vector * W, v, add);
        });
    });
}

}  // namespace run

BOTH(max_forward, (Window window, Any x, Any y, u16 *taps, u32 items, u32 wide), (window, x, y, taps, items, wide))
BOTH(max_backward, (Window window, Any dy, const u16 *taps, Any dx, u32 add, u32 items, u32 wide),
     (window, dy, taps, dx, add, items, wide))
BOTH(average_forward, (Window window, Any x, Any y, u32 items, u32 wide), (window, x, y, items, wide))
BOTH(average_backward, (Window window, Any dy, Any dx, u32 add, u32 items, u32 wide), (window, dy, dx, add, items, wide))
BOTH(global_forward, (Any x, Any y, u32 positions, u32 columns, u32 lanes, u32 wide),
     (x, y, positions, columns, lanes, wide))
BOTH(global_backward, (Any dy, Any dx, u32 add, u64 len, u32 columns, u32 positions, u32 wide),
     (dy, dx, add, len, columns, positions, wide))
