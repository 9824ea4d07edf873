//! The linear maps of Winograd's convolution: weights and source to coefficients, products to targets.
//!
//! F(4x4, 3x3) uses the points 0, 5/8, -5/8, 3/2, -3/2 and infinity: they are exact in f32, and the error stays within
//! one and a half times that of the direct sum, where the textbook's 0, 1, -1, 2, -2 make it six times as large
//! (Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, 2020, on the choice of points).
//!
//! Never here: where patches lie in a map, or products.
#![allow(clippy::needless_range_loop)] // indices count registers; iterators would hide that

use models::Activation;

use crate::simd::{self, Simd};

use super::super::BLOCK;

/// Most coefficients along a side.
pub const MOST_SIDE: usize = 6;
/// Most coefficients of a patch.
pub const MOST: usize = MOST_SIDE * MOST_SIDE;
/// Most targets of a patch.
pub const MOST_TARGETS: usize = 16;

/// The points of F(4x4, 3x3) besides 0 and infinity are `±NEAR` and `±FAR`; their squares.
const NEAR: f32 = 0.625;
const FAR: f32 = 1.5;
const NEAR2: f32 = NEAR * NEAR;
const FAR2: f32 = FAR * FAR;

/// `B' d` of a line of source pixels, for `M` targets along a side.
#[inline(always)]
fn source_line<V: Simd, const M: usize>(d: [V; MOST_SIDE]) -> [V; MOST_SIDE] {
    if M == 2 {
        let zero = V::zero();
        return [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3]), zero, zero];
    }
    let (product, sum) = (V::splat(NEAR2 * FAR2), V::splat(-(NEAR2 + FAR2)));
    let pair = |point: f32, other2: f32| {
        let other2 = V::splat(-other2);
        let even = d[2].mul_add(other2, d[4]);
        let odd = d[1].mul_add(other2, d[3]).mul(V::splat(point));
        [even.add(odd), even.sub(odd)]
    };
    let ([near, minus_near], [far, minus_far]) = (pair(NEAR, FAR2), pair(FAR, NEAR2));
    let first = d[0].mul_add(product, d[2].mul_add(sum, d[4]));
    let last = d[1].mul_add(product, d[3].mul_add(sum, d[5]));
    [first, near, minus_near, far, minus_far, last]
}

/// `A' m` of a line of products.
#[inline(always)]
fn target_line<V: Simd, const M: usize>(m: [V; MOST_SIDE]) -> [V; 4] {
    if M == 2 {
        let zero = V::zero();
        return [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3]), zero, zero];
    }
    let (near, near_odd) = (m[1].add(m[2]), m[1].sub(m[2]));
    let (far, far_odd) = (m[3].add(m[4]), m[3].sub(m[4]));
    let mix = |a: f32, near: V, b: f32, far: V| near.mul_add(V::splat(a), far.mul(V::splat(b)));
    [
        m[0].add(near).add(far),
        mix(NEAR, near_odd, FAR, far_odd),
        mix(NEAR2, near, FAR2, far),
        mix(NEAR * NEAR2, near_odd, FAR * FAR2, far_odd).add(m[5]),
    ]
}

/// `G w` of a line of the kernel.
#[inline(always)]
fn weight_line<V: Simd, const M: usize>(w: [V; 3]) -> [V; MOST_SIDE] {
    if M == 2 {
        let (half, zero) = (V::splat(0.5), V::zero());
        let outer = w[0].add(w[2]).mul(half);
        return [w[0], w[1].mul_add(half, outer), outer.sub(w[1].mul(half)), w[2], zero, zero];
    }
    let pair = |point: f32, other2: f32| {
        let (point2, factor) = (point * point, 1.0 / (2.0 * point * point * (point * point - other2)));
        let even = w[2].mul_add(V::splat(point2), w[0]).mul(V::splat(factor));
        let odd = w[1].mul(V::splat(point * factor));
        [even.add(odd), even.sub(odd)]
    };
    let ([near, minus_near], [far, minus_far]) = (pair(NEAR, FAR2), pair(FAR, NEAR2));
    [w[0].mul(V::splat(1.0 / (NEAR2 * FAR2))), near, minus_near, far, minus_far, w[2]]
}

/// `G w G'` of a block of columns: from `[tap][channel][16]` to `[channel][16]` of every coefficient, `step` floats apart.
#[inline(always)]
pub fn weights_kernel<V: Simd, const M: usize>(from: &[f32], to: *mut f32, step: usize) {
    let (side, len) = (M + 2, from.len() / 9);
    for start in (0..len).step_by(V::LANES) {
        let mut rows = [[V::zero(); 3]; MOST_SIDE];
        // SAFETY: nine taps of `len` floats, a whole number of vectors, and as many in every coefficient.
        unsafe {
            for column in 0..3 {
                let w = [0, 1, 2].map(|row| V::load(from.as_ptr().add((row * 3 + column) * len + start)));
                let line = weight_line::<V, M>(w);
                for row in 0..side {
                    rows[row][column] = line[row];
                }
            }
            for row in 0..side {
                let line = weight_line::<V, M>(rows[row]);
                for column in 0..side {
                    line[column].store(to.add((row * side + column) * step + start));
                }
            }
        }
    }
}

/// `B' d B` of a patch's pixels: `channels` floats of every coefficient, `step` floats apart; the last vector is filled
/// up with zeros.
#[inline(always)]
pub fn source_kernel<V: Simd, const M: usize>(
    pixels: &[*const f32; MOST],
    channels: usize,
    to: *mut f32,
    step: usize,
) {
    let side = M + 2;
    for channel in (0..channels).step_by(V::LANES) {
        let count = V::LANES.min(channels - channel);
        let mut rows = [[V::zero(); MOST_SIDE]; MOST_SIDE];
        // SAFETY: every pixel has `channels` floats; `to` has room for whole vectors of every coefficient.
        unsafe {
            for column in 0..side {
                let mut d = [V::zero(); MOST_SIDE];
                for row in 0..side {
                    let pixel = pixels[row * side + column].add(channel);
                    d[row] = if count == V::LANES { V::load(pixel) } else { V::load_partial(pixel, count) };
                }
                let line = source_line::<V, M>(d);
                for row in 0..side {
                    rows[row][column] = line[row];
                }
            }
            for row in 0..side {
                let line = source_line::<V, M>(rows[row]);
                for column in 0..side {
                    line[column].store(to.add((row * side + column) * step + channel));
                }
            }
        }
    }
}

/// Where targets go, and what happens to them on the way.
#[derive(Clone, Copy)]
pub struct Targets {
    pub out: *mut f32,
    /// Null if there is none.
    pub residual: *const f32,
    /// Null if there is none.
    pub bias: *const f32,
    pub activation: Option<Activation>,
    pub accumulate: bool,
    pub columns: usize,
    /// Where each target's columns begin in `out` and `residual`; none beyond the map.
    pub places: [Option<usize>; MOST_TARGETS],
}

/// `A y` of a line of output gradients.
#[inline(always)]
fn gradient_line<V: Simd, const M: usize>(y: [V; 4]) -> [V; MOST_SIDE] {
    let zero = V::zero();
    if M == 2 {
        return [y[0], y[0].add(y[1]), y[0].sub(y[1]), zero.sub(y[1]), zero, zero];
    }
    let pair = |point: f32| {
        let point2 = V::splat(point * point);
        let even = y[2].mul_add(point2, y[0]);
        let odd = y[3].mul_add(point2, y[1]).mul(V::splat(point));
        [even.add(odd), even.sub(odd)]
    };
    let ([near, minus_near], [far, minus_far]) = (pair(NEAR), pair(FAR));
    [y[0], near, minus_near, far, minus_far, y[3]]
}

/// `G' u` of a line of sums.
#[inline(always)]
fn weight_gradient_line<V: Simd, const M: usize>(u: [V; MOST_SIDE]) -> [V; 3] {
    if M == 2 {
        let half = V::splat(0.5);
        let (even, odd) = (u[1].add(u[2]).mul(half), u[1].sub(u[2]).mul(half));
        return [u[0].add(even), odd, even.add(u[3])];
    }
    let pair = |point: f32, other2: f32, plus: V, minus: V| {
        let factor = 1.0 / (2.0 * point * point * (point * point - other2));
        let even = plus.add(minus).mul(V::splat(factor));
        let odd = plus.sub(minus).mul(V::splat(factor * point));
        [even, odd, even.mul(V::splat(point * point))]
    };
    let (near, far) = (pair(NEAR, FAR2, u[1], u[2]), pair(FAR, NEAR2, u[3], u[4]));
    let first = u[0].mul_add(V::splat(1.0 / (NEAR2 * FAR2)), near[0].add(far[0]));
    [first, near[1].add(far[1]), near[2].add(far[2]).add(u[5])]
}

/// `A dy A'` of a patch's output gradients: as [`source_kernel`], filled up to a whole block.
#[inline(always)]
pub fn gradient_kernel<V: Simd, const M: usize>(
    pixels: &[*const f32; MOST_TARGETS],
    columns: usize,
    to: *mut f32,
    step: usize,
) {
    let side = M + 2;
    for column in (0..columns.next_multiple_of(BLOCK)).step_by(V::LANES) {
        let count = V::LANES.min(columns.saturating_sub(column));
        let mut rows = [[V::zero(); 4]; MOST_SIDE];
        // SAFETY: every pixel has `columns` floats; `to` has room for whole vectors of every coefficient.
        unsafe {
            for across in 0..M {
                let mut y = [V::zero(); 4];
                for down in 0..M {
                    let pixel = pixels[down * M + across].wrapping_add(column);
                    y[down] = if count == V::LANES { V::load(pixel) } else { V::load_partial(pixel, count) };
                }
                let line = gradient_line::<V, M>(y);
                for row in 0..side {
                    rows[row][across] = line[row];
                }
            }
            for row in 0..side {
                let line = gradient_line::<V, M>(rows[row]);
                for across in 0..side {
                    line[across].store(to.add((row * side + across) * step + column));
                }
            }
        }
    }
}

/// `G' u G` of a block of columns, `u` being the sum of `parts` sums, `part_len` floats apart, each with coefficients `step`
/// floats apart; to `[tap][channel][16]`.
#[inline(always)]
pub fn weight_gradient_kernel<V: Simd, const M: usize>(
    sums: &[f32],
    part_len: usize,
    parts: usize,
    step: usize,
    to: &mut [f32],
    accumulate: bool,
) {
    let (side, len) = (M + 2, to.len() / 9);
    for start in (0..len).step_by(V::LANES) {
        let mut rows = [[V::zero(); MOST_SIDE]; 3];
        // SAFETY: `len` floats of every coefficient of every part, and of every tap: whole vectors.
        unsafe {
            for column in 0..side {
                let mut u = [V::zero(); MOST_SIDE];
                for row in 0..side {
                    let from = sums.as_ptr().add((row * side + column) * step + start);
                    u[row] = V::load(from);
                    for part in 1..parts {
                        u[row] = u[row].add(V::load(from.add(part * part_len)));
                    }
                }
                let line = weight_gradient_line::<V, M>(u);
                for row in 0..3 {
                    rows[row][column] = line[row];
                }
            }
            for row in 0..3 {
                let line = weight_gradient_line::<V, M>(rows[row]);
                for column in 0..3 {
                    let to = to.as_mut_ptr().add((row * 3 + column) * len + start);
                    let value = if accumulate { line[column].add(V::load(to)) } else { line[column] };
                    value.store(to);
                }
            }
        }
    }
}

/// `A' m A` of a patch's products, `step` floats apart in `from`, to its targets.
#[inline(always)]
pub fn target_kernel<V: Simd, const M: usize>(from: *const f32, step: usize, targets: &Targets) {
    let side = M + 2;
    for column in (0..targets.columns).step_by(V::LANES) {
        let mut rows = [[V::zero(); MOST_SIDE]; 4];
        // SAFETY: `from` has whole vectors of every product; every target has `columns` floats, as has the bias.
        unsafe {
            for across in 0..side {
                let mut m = [V::zero(); MOST_SIDE];
                for down in 0..side {
                    m[down] = V::load(from.add((down * side + across) * step + column));
                }
                let line = target_line::<V, M>(m);
                for row in 0..M {
                    rows[row][across] = line[row];
                }
            }
            for row in 0..M {
                let line = target_line::<V, M>(rows[row]);
                for across in 0..M {
                    if let Some(place) = targets.places[row * M + across] {
                        put(targets, line[across], place, column);
                    }
                }
            }
        }
    }
}

/// # Safety
/// The target has columns from `column`.
#[inline(always)]
unsafe fn put<V: Simd>(targets: &Targets, mut value: V, place: usize, column: usize) {
    let count = V::LANES.min(targets.columns - column);
    // SAFETY: `count` columns remain in the target, the residual and the bias.
    unsafe {
        let to = targets.out.add(place + column);
        if targets.accumulate {
            value = value.add(V::load_partial(to, count));
        }
        if !targets.bias.is_null() {
            value = value.add(V::load_partial(targets.bias.add(column), count));
        }
        if !targets.residual.is_null() {
            value = value.add(V::load_partial(targets.residual.add(place + column), count));
        }
        if let Some(activation) = targets.activation {
            value = simd::activate(activation, value);
        }
        if count == V::LANES { value.store(to) } else { value.store_partial(to, count) }
    }
}

/// Floats of a block's weights under a coefficient.
pub fn block_len(channels: usize) -> usize {
    channels * BLOCK
}
