//! Pooling of NHWC maps of bytes: the largest and the mean of each window, and the mean over all positions.
//!
//! Work is divided by rows of the output, or by picture.
//!
//! Never here: gradients.
#![allow(clippy::needless_range_loop)] // indices count registers
#![allow(clippy::extra_unused_type_parameters)] // a kernel's vector type names the instance, loops do without it

use crate::kernels::conv::scratch;
use crate::kernels::pooling::PoolShape;
use crate::pool::{Disjoint, Pool};
use crate::simd::{ByteIsa, Simd, dispatch};

use super::lanes::{Lanes, Rounding, byte, dispatch_lanes};
use super::{Output, Quantization, elementwise};

/// Elements below which waking a thread costs more than it saves.
const SMALL: usize = 32 << 10;

/// Largest byte of each window; padding takes no part. The output has the input's quantization.
///
/// # Panics
/// If a slice has not the length that the shape says.
pub fn largest(pool: &Pool, shape: &PoolShape, x: &[u8], y: &mut [u8]) {
    by_line(pool, shape, x, y, &|row, x, y| {
        dispatch!(pool.isa(), largest_kernel(shape: &PoolShape, row: usize, x: &[u8], y: &mut [u8]));
    });
}

/// Pools a row of the output, given its number, its picture and where it goes.
type PoolLine<'a> = dyn Fn(usize, &[u8], &mut [u8]) + Sync + 'a;

/// Calls `line` with a row's number, its picture and where it goes, for every row of the output.
fn by_line(pool: &Pool, shape: &PoolShape, x: &[u8], y: &mut [u8], line: &PoolLine<'_>) {
    let [height, width] = shape.out();
    let (picture, len) = (shape.height * shape.width * shape.channels, width * shape.channels);
    assert_eq!(x.len(), shape.batch * picture, "input of {shape:?}");
    assert_eq!(y.len(), shape.batch * height * len, "output of {shape:?}");
    let lines = shape.batch * height;
    let per_task = if x.len() < SMALL { lines } else { lines.div_ceil(pool.threads() * 4) }.max(1);
    let to = Disjoint::new(y);
    pool.run(lines.div_ceil(per_task), &|task| {
        for index in task * per_task..lines.min((task + 1) * per_task) {
            // SAFETY: every line is a part of its own.
            let y = unsafe { to.part(index * len, len) };
            line(index % height, &x[index / height * picture..][..picture], y);
        }
    });
}

#[inline(always)]
fn largest_kernel<V: Simd>(shape: &PoolShape, row: usize, x: &[u8], y: &mut [u8]) {
    let channels = shape.channels;
    for (column, y) in y.chunks_exact_mut(channels).enumerate() {
        y.fill(0);
        for row in taps(shape, 0, row) {
            for column in taps(shape, 1, column) {
                let x = &x[(row * shape.width + column) * channels..][..channels];
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (*y).max(*x));
            }
        }
    }
}

/// Mean of each window, where padding counts as real zeros: `round(sum of (x - zx) * (sx / (window * sy))) + zy`, clamped.
///
/// # Panics
/// If a slice has not the length that the shape says, or a window has more than 2^16 positions.
pub fn average(pool: &Pool, shape: &PoolShape, x: &[u8], from: Quantization, output: &Output, y: &mut [u8]) {
    let window = shape.window.kernel[0] * shape.window.kernel[1];
    assert!(window <= MOST_POSITIONS, "a window of {window} positions, at most {MOST_POSITIONS} are exact");
    let mean = Mean {
        zero_points: f32::from(from.zero_point),
        factor: from.scale / (window as f32 * output.quantization.scale),
        rounding: output.rounding(),
    };
    by_line(pool, shape, x, y, &|row, x, y| {
        scratch::with(shape.channels, |sums| {
            dispatch!(
                pool.isa(),
                average_kernel(shape: &PoolShape, mean: Mean, row: usize, x: &[u8], sums: &mut [f32], y: &mut [u8])
            );
        });
        if let Some(table) = &output.table {
            elementwise::replace(table, y);
        }
    });
}

/// Here the zero points of `mean` are one tap's: windows at the edge have fewer.
#[inline(always)]
fn average_kernel<V: Simd>(
    shape: &PoolShape,
    mean: Mean,
    row: usize,
    x: &[u8],
    sums: &mut [f32],
    y: &mut [u8],
) {
    let channels = shape.channels;
    for (column, y) in y.chunks_exact_mut(channels).enumerate() {
        sums.fill(0.0);
        for row in taps(shape, 0, row) {
            for column in taps(shape, 1, column) {
                let x = &x[(row * shape.width + column) * channels..][..channels];
                sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f32::from(x) - mean.zero_points);
            }
        }
        y.iter_mut().zip(&*sums).for_each(|(y, sum)| *y = byte(sum * mean.factor, mean.rounding));
    }
}

/// Rows (axis 0) or columns (axis 1) of the input that a window has.
#[inline(always)]
fn taps(shape: &PoolShape, axis: usize, out: usize) -> std::ops::Range<usize> {
    let window = shape.window;
    let start = out * window.stride[axis];
    let end = (start + window.kernel[axis]).saturating_sub(window.padding[axis]);
    start.saturating_sub(window.padding[axis])..end.min([shape.height, shape.width][axis])
}

/// Most positions of a mean: sums of so many bytes are exact in f32.
const MOST_POSITIONS: usize = 1 << 16;
/// Vectors of channels that are summed side by side.
const WIDE: usize = 4;

/// Mean over the positions of each picture: `round(sum of (x - zx) * (sx / (positions * sy))) + zy`, clamped.
///
/// # Panics
/// If `x` is not `[batch][positions][channels]` where `y` is `[batch][channels]`, or there are more than 2^16 positions.
pub fn mean(pool: &Pool, channels: usize, x: &[u8], from: Quantization, output: &Output, y: &mut [u8]) {
    let batch = y.len() / channels.max(1);
    let positions = x.len() / y.len().max(1);
    assert!(y.len() == batch * channels && x.len() == y.len() * positions, "maps of {channels} channels");
    assert!(positions <= MOST_POSITIONS, "{positions} positions, at most {MOST_POSITIONS} are exact");
    let (to, isa) = (Disjoint::new(y), pool.byte_isa());
    let mean = Mean {
        zero_points: positions as f32 * f32::from(from.zero_point),
        factor: from.scale / (positions as f32 * output.quantization.scale),
        rounding: output.rounding(),
    };
    pool.run(batch, &|picture| {
        // SAFETY: every picture is a part of its own.
        let y = unsafe { to.part(picture * channels, channels) };
        mean_picture(isa, mean, &x[picture * positions * channels..][..positions * channels], y);
        if let Some(table) = &output.table {
            elementwise::replace(table, y);
        }
    });
}

/// How sums over positions become bytes.
#[derive(Clone, Copy)]
struct Mean {
    /// Zero points of all positions together.
    zero_points: f32,
    factor: f32,
    rounding: Rounding,
}

fn mean_picture(isa: ByteIsa, mean: Mean, x: &[u8], y: &mut [u8]) {
    dispatch_lanes!(isa, mean_kernel(mean: Mean, x: &[u8], y: &mut [u8]));
}

#[inline(always)]
fn mean_kernel<V: Lanes>(mean: Mean, x: &[u8], y: &mut [u8]) {
    let mut start = 0;
    while start < y.len() {
        // SAFETY: the channels taken remain.
        unsafe {
            if y.len() - start >= WIDE * V::LANES {
                mean_channels::<V, WIDE>(mean, x, start, V::LANES, y);
                start += WIDE * V::LANES;
            } else {
                mean_channels::<V, 1>(mean, x, start, V::LANES.min(y.len() - start), y);
                start += V::LANES;
            }
        }
    }
}

/// `C` vectors of `count` channels each from `start`.
#[inline(always)]
unsafe fn mean_channels<V: Lanes, const C: usize>(
    mean: Mean,
    x: &[u8],
    start: usize,
    count: usize,
    y: &mut [u8],
) {
    let mut sums = [V::Floats::splat(-mean.zero_points); C];
    for pixel in x.chunks_exact(y.len()) {
        for c in 0..C {
            // SAFETY: the caller's promise.
            sums[c] = sums[c].add(unsafe { V::load_bytes(pixel.as_ptr().add(start + c * V::LANES), count) });
        }
    }
    for c in 0..C {
        let real = sums[c].mul(V::Floats::splat(mean.factor));
        // SAFETY: the caller's promise.
        unsafe { V::store_bytes(real, mean.rounding, y.as_mut_ptr().add(start + c * V::LANES), count) };
    }
}
