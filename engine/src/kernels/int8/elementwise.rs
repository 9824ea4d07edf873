//! Elementwise kernels over bytes: quantization and its inverse, tables, sums, products and gates.
//!
//! They are plain loops that the compiler turns into vectors of the instruction set at hand; every step is an operation
//! of integers or one rounded operation of f32, so all give the same bytes.
//!
//! Never here: the choice of scales.
#![allow(clippy::extra_unused_type_parameters)] // a kernel's vector type names the instance, loops do without it

use crate::pool::{Disjoint, Pool};
use crate::simd::{Simd, dispatch};

use super::{Output, Quantization, Table};

/// Elements that a thread is worth waking for.
const PER_TASK: usize = 32 << 10;

/// `round(value) + zero_point` as a byte, ties to even; 0 for what is not a number.
#[inline(always)]
pub(super) fn byte(value: f32, zero_point: u8) -> u8 {
    let zero_point = f32::from(zero_point);
    let (low, high) = (0.0 - zero_point, 255.0 - zero_point);
    let value = value.round_ties_even();
    let value = if value > low { value } else { low };
    let value = if value < high { value } else { high };
    (value + zero_point) as i32 as u8
}

/// Calls `part` with ranges that cover `len`, a multiple of `unit` each, on all threads.
fn in_parts(pool: &Pool, len: usize, unit: usize, part: &(dyn Fn(usize, usize) + Sync)) {
    let each = (len.div_ceil(pool.threads() * 2)).max(PER_TASK).next_multiple_of(unit.max(1));
    pool.run(len.div_ceil(each), &|task| part(task * each, each.min(len - task * each)));
}

/// `y = quantization.quantize(x)`
///
/// Source: ONNX's `QuantizeLinear`.
///
/// # Panics
/// If the lengths differ.
pub fn quantize(pool: &Pool, quantization: Quantization, x: &[f32], y: &mut [u8]) {
    assert_eq!(x.len(), y.len(), "quantized map");
    let to = Disjoint::new(y);
    in_parts(pool, x.len(), 1, &|start, len| {
        // SAFETY: parts do not overlap.
        let (x, y) = (&x[start..][..len], unsafe { to.part(start, len) });
        dispatch!(pool.isa(), quantize_kernel(quantization: Quantization, x: &[f32], y: &mut [u8]));
    });
}

#[inline(always)]
fn quantize_kernel<V: Simd>(quantization: Quantization, x: &[f32], y: &mut [u8]) {
    for (x, y) in x.iter().zip(y) {
        *y = byte(x / quantization.scale, quantization.zero_point);
    }
}

/// `y = quantization.dequantize(x)`
///
/// Source: ONNX's `DequantizeLinear`.
///
/// # Panics
/// If the lengths differ.
pub fn dequantize(pool: &Pool, quantization: Quantization, x: &[u8], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "real map");
    let to = Disjoint::new(y);
    in_parts(pool, x.len(), 1, &|start, len| {
        // SAFETY: parts do not overlap.
        let (x, y) = (&x[start..][..len], unsafe { to.part(start, len) });
        dispatch!(pool.isa(), dequantize_kernel(quantization: Quantization, x: &[u8], y: &mut [f32]));
    });
}

#[inline(always)]
fn dequantize_kernel<V: Simd>(quantization: Quantization, x: &[u8], y: &mut [f32]) {
    let zero_point = f32::from(quantization.zero_point);
    for (x, y) in x.iter().zip(y) {
        *y = (f32::from(*x) - zero_point) * quantization.scale;
    }
}

/// Maps of bytes, channels innermost, through a table per channel: how the pixels of a picture become the first layer's
/// input, with normalization in the tables.
///
/// # Panics
/// If the lengths differ.
pub fn map_channels(pool: &Pool, tables: &[Table], x: &[u8], y: &mut [u8]) {
    assert_eq!(x.len(), y.len(), "map of channels");
    let to = Disjoint::new(y);
    in_parts(pool, x.len(), tables.len(), &|start, len| {
        // SAFETY: parts do not overlap.
        let y = unsafe { to.part(start, len) };
        for (x, y) in x[start..][..len].chunks(tables.len()).zip(y.chunks_mut(tables.len())) {
            for ((x, y), table) in x.iter().zip(y).zip(tables) {
                *y = table[usize::from(*x)];
            }
        }
    });
}

/// Signed bytes as the unsigned ones 128 larger, and back: `x ^ 0x80`.
pub fn flip_sign(pool: &Pool, x: &mut [u8]) {
    let (len, x) = (x.len(), Disjoint::new(x));
    in_parts(pool, len, 1, &|start, len| {
        // SAFETY: parts do not overlap.
        unsafe { x.part(start, len) }.iter_mut().for_each(|byte| *byte ^= 0x80);
    });
}

/// Replaces every byte by that of the table.
pub fn map(pool: &Pool, table: &Table, x: &mut [u8]) {
    let (len, x) = (x.len(), Disjoint::new(x));
    in_parts(pool, len, 1, &|start, len| {
        // SAFETY: parts do not overlap.
        replace(table, unsafe { x.part(start, len) });
    });
}

/// See [`map`]; on this thread.
pub(super) fn replace(table: &Table, x: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512bw") {
        // SAFETY: this machine has the instructions.
        return unsafe { replace_by_permutation(table, x) };
    }
    x.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

/// Sixty-four bytes at a time: two permutations of half a table each, and the byte's highest bit chooses.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn replace_by_permutation(table: &Table, x: &mut [u8]) {
    use std::arch::x86_64::*;
    // SAFETY: the table has four times 64 bytes; masks keep every access to `x` within its length.
    unsafe {
        let part = |index: usize| _mm512_loadu_si512(table.as_ptr().add(64 * index).cast());
        let (a, b, c, d) = (part(0), part(1), part(2), part(3));
        for bytes in x.chunks_mut(64) {
            let mask = u64::MAX >> (64 - bytes.len());
            let from = _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast());
            let low = _mm512_permutex2var_epi8(a, from, b);
            let high = _mm512_permutex2var_epi8(c, from, d);
            let result = _mm512_mask_blend_epi8(_mm512_movepi8_mask(from), low, high);
            _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask, result);
        }
    }
}

/// A map with its quantization.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What they stand for.
    pub quantization: Quantization,
}

/// `y = a + b`, each factor rounded by itself: `round((a - za) * sa / sy + (b - zb) * sb / sy) + zy`, clamped.
///
/// # Panics
/// If the lengths differ.
pub fn sum(pool: &Pool, a: Map<'_>, b: Map<'_>, output: &Output, y: &mut [u8]) {
    assert!(a.bytes.len() == y.len() && b.bytes.len() == y.len(), "terms of a sum");
    let to = Disjoint::new(y);
    in_parts(pool, a.bytes.len(), 1, &|start, len| {
        let part = |map: Map<'_>| Term {
            zero_point: f32::from(map.quantization.zero_point),
            factor: map.quantization.scale / output.quantization.scale,
        };
        let (terms, bounds) = ([part(a), part(b)], Bounds::of(output));
        let (a, b) = (&a.bytes[start..][..len], &b.bytes[start..][..len]);
        // SAFETY: parts do not overlap.
        let y = unsafe { to.part(start, len) };
        dispatch!(pool.isa(), sum_kernel(terms: [Term; 2], a: &[u8], b: &[u8], bounds: Bounds, y: &mut [u8]));
        finish(output, unsafe { to.part(start, len) });
    });
}

/// Zero point of a term, and its scale in units of the result's.
#[derive(Clone, Copy)]
struct Term {
    zero_point: f32,
    factor: f32,
}

/// Range and zero point of a result.
#[derive(Clone, Copy)]
struct Bounds {
    zero_point: u8,
    low: u8,
    high: u8,
}

impl Bounds {
    fn of(output: &Output) -> Self {
        Self { zero_point: output.quantization.zero_point, low: output.low, high: output.high }
    }

    #[inline(always)]
    fn byte(self, value: f32) -> u8 {
        byte(value, self.zero_point).max(self.low).min(self.high)
    }
}

fn finish(output: &Output, y: &mut [u8]) {
    if let Some(table) = &output.table {
        replace(table, y);
    }
}

#[inline(always)]
fn sum_kernel<V: Simd>(terms: [Term; 2], a: &[u8], b: &[u8], bounds: Bounds, y: &mut [u8]) {
    let real = |byte: u8, term: Term| (f32::from(byte) - term.zero_point) * term.factor;
    for ((a, b), y) in a.iter().zip(b).zip(y) {
        *y = bounds.byte(real(*a, terms[0]) + real(*b, terms[1]));
    }
}

/// `y = a * b` elementwise, where `b` has one element per channel and picture (a gate over `positions` pixels) or, with one
/// position, as many as `a`: `round((a - za) * (b - zb) * (sa * sb / sy)) + zy`, clamped.
///
/// # Panics
/// If the lengths do not fit: `a` and `y` are `[batch][positions][channels]`, `b` is `[batch][channels]`.
pub fn product(
    pool: &Pool,
    [positions, channels]: [usize; 2],
    a: Map<'_>,
    b: Map<'_>,
    output: &Output,
    y: &mut [u8],
) {
    let picture = positions * channels;
    let batch = y.len() / picture.max(1);
    assert!(a.bytes.len() == y.len() && y.len() == batch * picture, "first factor of a product");
    assert_eq!(b.bytes.len(), batch * channels, "second factor of a product");
    let zero_points = [a, b].map(|map| i32::from(map.quantization.zero_point));
    let factor = a.quantization.scale * b.quantization.scale / output.quantization.scale;
    let (to, bounds) = (Disjoint::new(y), Bounds::of(output));
    in_parts(pool, batch * picture, channels, &|start, len| {
        // SAFETY: parts do not overlap.
        let part = unsafe { to.part(start, len) };
        for (index, y) in part.chunks_exact_mut(channels).enumerate() {
            let start = start + index * channels;
            let a = &a.bytes[start..][..channels];
            let b = &b.bytes[start / picture * channels..][..channels];
            dispatch!(pool.isa(), product_kernel(zero_points: [i32; 2], factor: f32, a: &[u8], b: &[u8], bounds: Bounds, y: &mut [u8]));
        }
        finish(output, part);
    });
}

#[inline(always)]
fn product_kernel<V: Simd>(
    zero_points: [i32; 2],
    factor: f32,
    a: &[u8],
    b: &[u8],
    bounds: Bounds,
    y: &mut [u8],
) {
    for ((a, b), y) in a.iter().zip(b).zip(y) {
        let product = (i32::from(*a) - zero_points[0]) * (i32::from(*b) - zero_points[1]);
        *y = bounds.byte(product as f32 * factor);
    }
}
