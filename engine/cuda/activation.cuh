// Elementwise functions and their derivatives, as engine/src/kernels/activation.rs has them. What is not a number stays
// so: a broken network must not look sound.
#pragma once
#include "common.cuh"

/// An activation; `slope` is LeakyReLU's.
struct Applied {
    u32 code;
    float slope;
};

enum : u32 { NONE, RELU, RELU6, LEAKY_RELU, SILU, HARD_SWISH, HARD_SIGMOID, SIGMOID };

__device__ __forceinline__ float relu6(float x) { return x <= 0.0f ? 0.0f : x >= 6.0f ? 6.0f : x; }
__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// Calls `f` on all elements; the switch around it is taken once for a vector.
#define MAP(expression)            \
    _Pragma("unroll") for (int i = 0; i < W; ++i) { \
        const float x = v[i];      \
        v[i] = (expression);       \
    }                              \
    break;

/// `v = activation(v)`
template <int W>
__device__ __forceinline__ void activate(Applied f, float (&v)[W]) {
    switch (f.code) {
        case NONE: break;
        case RELU: MAP(x <= 0.0f ? 0.0f : x)
        case RELU6: MAP(relu6(x))
        case LEAKY_RELU: MAP(x > 0.0f ? x : x * f.slope)
        case SILU: MAP(x * sigmoid(x))
        case HARD_SWISH: MAP(x * relu6(x + 3.0f) * (1.0f / 6.0f))
        case HARD_SIGMOID: MAP(relu6(x + 3.0f) * (1.0f / 6.0f))
        default: MAP(sigmoid(x))
    }
}

__device__ __forceinline__ float silu_derivative(float x) {
    const float s = sigmoid(x);
    return s * fmaf(x, 1.0f - s, 1.0f);
}
__device__ __forceinline__ float hard_swish_derivative(float x) {
    return x > -3.0f ? (x < 3.0f ? fmaf(x, 1.0f / 3.0f, 0.5f) : 1.0f) : 0.0f;
}
__device__ __forceinline__ float sigmoid_derivative(float x) {
    const float s = sigmoid(x);
    return s * (1.0f - s);
}

/// `v = activation'(v)`
template <int W>
__device__ __forceinline__ void derivative(Applied f, float (&v)[W]) {
    switch (f.code) {
        case NONE: MAP((void(x), 1.0f))
        case RELU: MAP(x > 0.0f ? 1.0f : 0.0f)
        case RELU6: MAP(x > 0.0f && x < 6.0f ? 1.0f : 0.0f)
        case LEAKY_RELU: MAP(x > 0.0f ? 1.0f : f.slope)
        case SILU: MAP(silu_derivative(x))
        case HARD_SWISH: MAP(hard_swish_derivative(x))
        case HARD_SIGMOID: MAP(x > -3.0f && x < 3.0f ? 1.0f / 6.0f : 0.0f)
        default: MAP(sigmoid_derivative(x))
    }
}

/// `v = activation'` where the activation's value is `v`; only for functions whose derivative follows from it.
template <int W>
__device__ __forceinline__ void derivative_at_value(Applied f, float (&v)[W]) {
    switch (f.code) {
        case HARD_SIGMOID: MAP(x > 0.0f && x < 1.0f ? 1.0f / 6.0f : 0.0f)
        case SIGMOID: MAP(x * (1.0f - x))
        default: derivative<W>(f, v);
    }
}
#undef MAP
