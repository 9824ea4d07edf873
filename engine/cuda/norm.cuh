// Batch normalization with what follows it in one pass: engine/src/kernels/norm.rs.
//
// `y = activation(factor * (a z + b) + residual)`; `factor` is stochastic depth's, one per sample. Sums over the batch
// are taken by parts in f32, of differences from a typical value, and added in f64.
#pragma once
#include "activation.cuh"

namespace run {

/// Sums of `z - origin` and of its square for each part, `[part][2][channel]`; the origin is the first row.
template <typename T>
__device__ void moments(const T *z, float *parts, u32 rows, u32 part, u32 columns, u32 lanes, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Tile tile(blockIdx.x, lanes, columns);
        const u32 first = blockIdx.y * part, end = min(rows, first + part);
        float sums[2][W] = {};
        if (tile.active) {
            float origin[W];
            load<W>(z + tile.column * W, origin);
#pragma unroll 4
            for (u32 row = first + tile.slot; row < end; row += tile.slots) {
                float v[W];
                load<W>(z + (u64(row) * columns + tile.column) * W, v);
#pragma unroll
                for (int i = 0; i < W; ++i) {
                    const float difference = v[i] - origin[i];
                    sums[0][i] += difference;
                    sums[1][i] = fmaf(difference, difference, sums[1][i]);
                }
            }
        }
        sum_slots<2, W>(tile, sums);
        if (tile.active && tile.slot == 0) {
            float *to = parts + (u64(blockIdx.y) * 2 * columns + tile.column) * W;
            store_part<W>(to, sums[0]);
            store_part<W>(to + u64(columns) * W, sums[1]);
        }
    });
}

/// What forward keeps of a channel.
struct Kept {
    float *mean, *inverse, *a, *b;

    __device__ __forceinline__ void keep(u32 channel, float average, float variance, float eps, float scale, float shift) {
        const float deviation = float(1.0 / sqrt(double(variance) + double(eps)));
        const float factor = scale * deviation;
        mean[channel] = average;
        inverse[channel] = deviation;
        a[channel] = factor;
        b[channel] = shift - factor * average;
    }
};

/// Mean and biased variance from the parts of `moments`, and what follows from them. `z` gives the origin.
__device__ __forceinline__ void norm_settle(const float *parts, u32 count, u32 channels, u32 rows, const void *z, u32 is_bf16,
                                            float eps, const float *scale, const float *shift, Kept kept,
                                            float *running_mean, float *running_variance, float momentum, float unbiased) {
    double sums[2];
    const u32 channel = total<2>(parts, count, channels, sums);
    if (channel >= channels) return;
    const double origin = is_bf16 ? value(static_cast<const bf16 *>(z)[channel]) : static_cast<const float *>(z)[channel];
    const double offset = sums[0] / rows;
    const float mean = float(origin + offset);
    const float variance = float(fmax(sums[1] / rows - offset * offset, 0.0));
    kept.keep(channel, mean, variance, eps, scale[channel], shift[channel]);
    if (running_mean) {
        running_mean[channel] = (1.0f - momentum) * running_mean[channel] + momentum * mean;
        running_variance[channel] = (1.0f - momentum) * running_variance[channel] + momentum * variance * unbiased;
    }
}

__device__ __forceinline__ void norm_prepare(const float *mean, const float *variance, u32 channels, float eps,
                                             const float *scale, const float *shift, Kept kept) {
    each_item(channels, [&](u32 channel) {
        kept.keep(channel, mean[channel], variance[channel], eps, scale[channel], shift[channel]);
    });
}

/// `len` counts vectors.
template <typename T>
__device__ void normalize(Applied f, const T *z, const float *a, const float *b, const float *factors, const T *residual,
                          T *y, u64 len, u32 columns, u32 positions, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        Column thread(columns);
        float scale[W], shift[W];
        load<W>(a + thread.column * W, scale);
        load<W>(b + thread.column * W, shift);
        thread.each(len, [&](u64 vector, u32 row) {
            float v[W];
            load<W>(z + vector * W, v);
#pragma unroll
            for (int i = 0; i < W; ++i) v[i] = fmaf(v[i], scale[i], shift[i]);
            if (factors) {
                const float factor = factors[row / positions];
#pragma unroll
                for (int i = 0; i < W; ++i) v[i] *= factor;
            }
            if (residual) {
                float more[W];
                load<W>(residual + vector * W, more);
#pragma unroll
                for (int i = 0; i < W; ++i) v[i] += more[i];
            }
            activate<W>(f, v);
            store<W>(y + vector * W, v);
        });
    });
}

/// What `norm_sums` reads and writes besides its sizes. `output` is there if the derivative follows from the result,
/// `added` if what was added is needed for the argument, `onward` if the residual takes a gradient.
template <typename T>
struct Back {
    const T *z;
    const float *mean, *a, *b;
    const T *output, *added;
    const float *factors;
    T *dy, *onward;
    u32 add_onward;
};

/// Passes `dy` back through the activation, in place; sums of it, times the factor, and of that times `z - mean`, for
/// each part: `[part][2][channel]`.
template <typename T>
__device__ void norm_sums(Applied f, Back<T> back, float *parts, u32 rows, u32 part, u32 positions, u32 columns,
                          u32 lanes, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        const Tile tile(blockIdx.x, lanes, columns);
        const u32 first = blockIdx.y * part, end = min(rows, first + part);
        float sums[2][W] = {};
        if (tile.active) {
            float mean[W], a[W] = {}, b[W] = {};
            load<W>(back.mean + tile.column * W, mean);
            const bool recomputed = f.code != NONE && !back.output;
            if (recomputed) {
                load<W>(back.a + tile.column * W, a);
                load<W>(back.b + tile.column * W, b);
            }
            for (u32 row = first + tile.slot; row < end; row += tile.slots) {
                const u64 at = (u64(row) * columns + tile.column) * W;
                const float factor = back.factors ? back.factors[row / positions] : 1.0f;
                float z[W], gradient[W];
                load<W>(back.z + at, z);
                load<W>(back.dy + at, gradient);
                if (f.code != NONE) {
                    float slope[W];
                    if (recomputed) {
#pragma unroll
                        for (int i = 0; i < W; ++i) slope[i] = fmaf(z[i], a[i], b[i]) * factor;
                        if (back.added) {
                            float more[W];
                            load<W>(back.added + at, more);
#pragma unroll
                            for (int i = 0; i < W; ++i) slope[i] += more[i];
                        }
                        derivative<W>(f, slope);
                    } else {
                        load<W>(back.output + at, slope);
                        derivative_at_value<W>(f, slope);
                    }
#pragma unroll
                    for (int i = 0; i < W; ++i) gradient[i] *= slope[i];
                    store<W>(back.dy + at, gradient);
                }
#pragma unroll
                for (int i = 0; i < W; ++i) {
                    const float branch = gradient[i] * factor;
                    sums[0][i] += branch;
                    sums[1][i] = fmaf(branch, z[i] - mean[i], sums[1][i]);
                }
                if (back.onward) put<W>(back.onward + at, gradient, back.add_onward);
            }
        }
        sum_slots<2, W>(tile, sums);
        if (tile.active && tile.slot == 0) {
            float *to = parts + (u64(blockIdx.y) * 2 * columns + tile.column) * W;
            store_part<W>(to, sums[0]);
            store_part<W>(to + u64(columns) * W, sums[1]);
        }
    });
}

/// Gradients of scale and shift, and the three numbers of every channel that `norm_apply` reads, `line` floats apart.
__device__ __forceinline__ void norm_parameters(const float *parts, u32 count, u32 channels, u32 rows, u32 batch,
                                                const float *inverse, const float *scale, float *dscale, u32 add_dscale,
                                                float *dshift, u32 add_dshift, float *coefficients, u32 line) {
    double sums[2];
    const u32 channel = total<2>(parts, count, channels, sums);
    if (channel >= channels) return;
    const double deviation = inverse[channel], slope = double(scale[channel]) * deviation;
    const double share = batch ? 1.0 / rows : 0.0;
    if (dscale) {
        const float found = float(sums[1] * deviation);
        dscale[channel] = add_dscale ? dscale[channel] + found : found;
    }
    if (dshift) {
        const float found = float(sums[0]);
        dshift[channel] = add_dshift ? dshift[channel] + found : found;
    }
    coefficients[channel] = float(slope);
    coefficients[line + channel] = float(-slope * deviation * deviation * sums[1] * share);
    coefficients[2 * line + channel] = float(-slope * sums[0] * share);
}

/// The input's gradient from what `norm_sums` left in `dy`; `len` counts vectors.
template <typename T>
__device__ void norm_apply(const T *z, const float *mean, const float *coefficients, u32 line, const float *factors,
                           const T *dy, T *dz, u32 add, u64 len, u32 columns, u32 positions, u32 wide) {
    with_width<T>(wide, [&](auto width) {
        constexpr int W = decltype(width)::value;
        Column thread(columns);
        float center[W], of_gradient[W], of_input[W], constant[W];
        load<W>(mean + thread.column * W, center);
        load<W>(coefficients + thread.column * W, of_gradient);
        load<W>(coefficients + line + thread.column * W, of_input);
        load<W>(coefficients + 2 * line + thread.column * W, constant);
        thread.each(len, [&](u64 vector, u32 row) {
            const float factor = factors ? factors[row / positions] : 1.0f;
            float v[W], gradient[W];
            load<W>(z + vector * W, v);
            load<W>(dy + vector * W, gradient);
#pragma unroll
            for (int i = 0; i < W; ++i) {
                const float rest = fmaf(v[i] - center[i], of_input[i], constant[i]);
                v[i] = fmaf(gradient[i] * factor, of_gradient[i], rest);
            }
            put<W>(dz + vector * W, v, add);
        });
    });
}

}  // namespace run

BOTH(moments, (Any z, float *parts, u32 rows, u32 part, u32 columns, u32 lanes, u32 wide),
     (z, parts, rows, part, columns, lanes, wide))
ONE(norm_settle,
    (const float *parts, u32 count, u32 channels, u32 rows, const void *z, u32 is_bf16, float eps, const float *scale,
     const float *shift, float *mean, float *inverse, float *a, float *b, float *running_mean, float *running_variance,
     float momentum, float unbiased),
    (parts, count, channels, rows, z, is_bf16, eps, scale, shift, run::Kept{mean, inverse, a, b}, running_mean,
     running_variance, momentum, unbiased))
ONE(norm_prepare,
    (const float *mean, const float *variance, u32 channels, float eps, const float *scale, const float *shift,
     float *kept_mean, float *inverse, float *a, float *b),
    (mean, variance, channels, eps, scale, shift, run::Kept{kept_mean, inverse, a, b}))
BOTH(normalize,
     (Applied f, Any z, const float *a, const float *b, const float *factors, Any residual, Any y, u64 len, u32 columns,
      u32 positions, u32 wide),
     (f, z, a, b, factors, residual, y, len, columns, positions, wide))
BOTH(norm_sums,
     (Applied f, Any z, const float *mean, const float *a, const float *b, Any output, Any added, const float *factors,
      Any dy, Any onward, u32 add_onward, float *parts, u32 rows, u32 part, u32 positions, u32 columns, u32 lanes,
      u32 wide),
     (f, {z, mean, a, b, output, added, factors, dy, onward, add_onward}, parts, rows, part, positions, columns, lanes,
      wide))
ONE(norm_parameters,
    (const float *parts, u32 count, u32 channels, u32 rows, u32 batch, const float *inverse, const float *scale,
     float *dscale, u32 add_dscale, float *dshift, u32 add_dshift, float *coefficients, u32 line),
    (parts, count, channels, rows, batch, inverse, scale, dscale, add_dscale, dshift, add_dshift, coefficients, line))
BOTH(norm_apply,
     (Any z, const float *mean, const float *coefficients, u32 line, const float *factors, Any dy, Any dz, u32 add,
      u64 len, u32 columns, u32 positions, u32 wide),
     (z, mean, coefficients, line, factors, dy, dz, add, len, columns, positions, wide))
