// One update of theta from its gradient: engine/src/optimizer.rs. A block for each piece of theta.
#pragma once
#include "common.cuh"

struct Piece {
    u32 offset, len, flags;
};
enum : u32 { ACTIVE = 1, DECAYS = 2 };

/// The numbers of an update; see engine/src/cuda/kernels/optimizer.rs.
struct Scalars {
    float lr, weight_decay, scale, clip_norm, first_decay, second_decay, eps, step_size, second_scale, average_decay;
    u32 nesterov, skip;
};

struct SquareSum {
    double sum;
    u32 finite, unused;
};

struct Vectors {
    float *theta;
    const float *gradient;
    float *first, *second, *average;
    bf16 *shadow;
};

namespace run {

/// torch's SGD: `g += decay * w; m = momentum * m + g; w -= lr * (nesterov ? g + momentum * m : m)`.
struct Sgd {
    Scalars s;
    float scale, decay;

    __device__ __forceinline__ Sgd(const Scalars &s, float scale, bool decays)
        : s(s), scale(scale), decay(decays ? s.weight_decay : 0.0f) {}

    static constexpr bool SECOND = false;

    __device__ __forceinline__ float move(float weight, float gradient, float &first, float &) const {
        gradient = fmaf(weight, decay, gradient * scale);
        first = fmaf(first, s.first_decay, gradient);
        const float direction = s.nesterov ? fmaf(first, s.first_decay, gradient) : first;
        return fmaf(direction, -s.lr, weight);
    }
};

/// torch's AdamW: `w *= 1 - lr * decay`, then `w -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
struct Adam {
    Scalars s;
    float scale, shrink;

    __device__ __forceinline__ Adam(const Scalars &s, float scale, bool decays)
        : s(s), scale(scale), shrink(1.0f - s.lr * (decays ? s.weight_decay : 0.0f)) {}

    static constexpr bool SECOND = true;

    __device__ __forceinline__ float move(float weight, float gradient, float &first, float &second) const {
        gradient *= scale;
        first = first * s.first_decay + gradient * (1.0f - s.first_decay);
        second = second * s.second_decay + gradient * gradient * (1.0f - s.second_decay);
        const float size = fmaf(sqrtf(second), s.second_scale, s.eps);
        return weight * shrink - s.step_size * first / size;
    }
};

/// W floats of every vector from `at` on.
template <int W, typename Rule>
__device__ __forceinline__ void update_at(const Rule &rule, const Vectors &vectors, u64 at, bool active, float keep) {
    float theta[W];
    load<W>(vectors.theta + at, theta);
    if (active) {
        float gradient[W], first[W], second[W] = {};
        load<W>(vectors.gradient + at, gradient);
        load<W>(vectors.first + at, first);
        if constexpr (Rule::SECOND) load<W>(vectors.second + at, second);
#pragma unroll
        for (int i = 0; i < W; ++i) theta[i] = rule.move(theta[i], gradient[i], first[i], second[i]);
        store<W>(vectors.first + at, first);
        if constexpr (Rule::SECOND) store<W>(vectors.second + at, second);
        store<W>(vectors.theta + at, theta);
        if (vectors.shadow) store<W>(vectors.shadow + at, theta);
    }
    if (vectors.average) {
        float average[W];
        load<W>(vectors.average + at, average);
#pragma unroll
        for (int i = 0; i < W; ++i) average[i] = average[i] * keep + theta[i] * (1.0f - keep);
        store<W>(vectors.average + at, average);
    }
}

/// Whether 16 bytes may be read from each vector at once.
__device__ __forceinline__ bool aligned(const Vectors &vectors, u32 offset) {
    const u64 all = u64(vectors.theta) | u64(vectors.gradient) | u64(vectors.first) | u64(vectors.second) |
                    u64(vectors.average) | u64(vectors.shadow);
    return all % 16 == 0 && offset % 4 == 0;
}

template <typename Rule>
__device__ __forceinline__ void update(const Piece *pieces, const Vectors &vectors, const Scalars *scalars,
                                       const SquareSum *squares) {
    const Piece piece = pieces[blockIdx.x];
    const Scalars s = *scalars;
    float scale = s.scale;
    if (squares) {
        if (s.skip && !squares->finite) return;
        const double norm = sqrt(squares->sum) * double(scale);
        scale *= float(fmin(double(s.clip_norm) / (norm + 1e-6), 1.0));
    }
    const bool active = piece.flags & ACTIVE;
    if (!active && !vectors.average) return;
    const Rule rule(s, scale, piece.flags & DECAYS);
    u32 done = 0;
    if (aligned(vectors, piece.offset)) {
        done = piece.len / 4 * 4;
        for (u32 i = 4 * threadIdx.x; i < done; i += 4 * THREADS) {
            update_at<4>(rule, vectors, u64(piece.offset) + i, active, s.average_decay);
        }
    }
    for (u32 i = done + threadIdx.x; i < piece.len; i += THREADS) {
        update_at<1>(rule, vectors, u64(piece.offset) + i, active, s.average_decay);
    }
}

__device__ __forceinline__ void sgd(const Piece *pieces, const Vectors &vectors, const Scalars *scalars,
                                    const SquareSum *squares) {
    update<Sgd>(pieces, vectors, scalars, squares);
}
__device__ __forceinline__ void adamw(const Piece *pieces, const Vectors &vectors, const Scalars *scalars,
                                      const SquareSum *squares) {
    update<Adam>(pieces, vectors, scalars, squares);
}

/// The sum of what the block's threads hold, for thread 0.
__device__ __forceinline__ double block_sum(double sum) {
    __shared__ double shared[THREADS];
    shared[threadIdx.x] = sum;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    return shared[0];
}

/// The sum of squares of each active piece, in f64; zero of the others.
__device__ __forceinline__ void square_parts(const Piece *pieces, const float *gradient, double *parts) {
    const Piece piece = pieces[blockIdx.x];
    double sum = 0.0;
    if (piece.flags & ACTIVE) {
#pragma unroll 4
        for (u32 i = threadIdx.x; i < piece.len; i += THREADS) {
            const double value = gradient[u64(piece.offset) + i];
            sum = fma(value, value, sum);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

/// A square of an f32 number is finite in f64 if the number is, and so is the sum of any number of them.
__device__ __forceinline__ void square_total(const double *parts, u32 count, SquareSum *squares) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < count; i += THREADS) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        squares->sum = sum;
        squares->finite = sum - sum == 0.0 ? 1 : 0;
    }
}

}  // namespace run

ONE(sgd, (const Piece *pieces, Vectors vectors, const Scalars *scalars, const SquareSum *squares),
    (pieces, vectors, scalars, squares))
ONE(adamw, (const Piece *pieces, Vectors vectors, const Scalars *scalars, const SquareSum *squares),
    (pieces, vectors, scalars, squares))
ONE(square_parts, (const Piece *pieces, const float *gradient, double *parts), (pieces, gradient, parts))
ONE(square_total, (const double *parts, u32 count, SquareSum *squares), (parts, count, squares))
