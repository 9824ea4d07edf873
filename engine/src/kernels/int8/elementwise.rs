//! Elementwise kernels over bytes: quantization and its inverse, tables, sums, products and gates.
//!
//! Every step is an operation of integers or one rounded operation of f32, so all instruction sets give the same bytes.
//!
//! Never here: the choice of scales.
#![allow(clippy::extra_unused_type_parameters)] // a kernel's vector type names the instance, loops do without it

use crate::pool::{Disjoint, Pool};
use crate::simd::{ByteIsa, Simd, dispatch};

use super::lanes::{Lanes, Rounding, dispatch_lanes};
use super::{Addition, Output, Quantization, Table};

/// Elements that a thread is worth waking for.
const PER_TASK: usize = 32 << 10;

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
        *y = quantization.quantize(*x);
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
    for (x, y) in x.iter().zip(y) {
        *y = quantization.dequantize(*x);
    }
}

/// Maps of bytes, channels innermost, through a table per channel: how the pixels of a picture become the first layer's
/// input, with normalization in the tables.
///
/// # Panics
/// If the lengths differ, or are no whole number of pixels.
pub fn map_channels(pool: &Pool, tables: &[Table], x: &[u8], y: &mut [u8]) {
    assert!(x.len() == y.len() && x.len().is_multiple_of(tables.len()), "map of {} channels", tables.len());
    let to = Disjoint::new(y);
    in_parts(pool, x.len(), tables.len(), &|start, len| {
        // SAFETY: parts do not overlap.
        let y = unsafe { to.part(start, len) };
        let x = &x[start..][..len];
        match tables {
            // A picture's usual three, written out.
            [a, b, c] => {
                for (x, y) in x.chunks_exact(3).zip(y.chunks_exact_mut(3)) {
                    y[0] = a[usize::from(x[0])];
                    y[1] = b[usize::from(x[1])];
                    y[2] = c[usize::from(x[2])];
                }
            }
            _ => {
                for (x, y) in x.chunks(tables.len()).zip(y.chunks_mut(tables.len())) {
                    x.iter().zip(y).zip(tables).for_each(|((x, y), table)| *y = table[usize::from(*x)]);
                }
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

/// `y = a + b`, each operation rounded by itself: `round((a * (sa / sy) + offset) + b * (sb / sy))`, clamped, where the
/// offset holds all zero points.
///
/// # Panics
/// If the lengths differ.
pub fn sum(pool: &Pool, a: Map<'_>, b: Map<'_>, output: &Output, y: &mut [u8]) {
    assert!(a.bytes.len() == y.len() && b.bytes.len() == y.len(), "terms of a sum");
    let addition = output.addition([a.quantization, b.quantization]);
    let (to, rounding, isa) = (Disjoint::new(y), output.rounding_of_sum(), pool.byte_isa());
    in_parts(pool, a.bytes.len(), 1, &|start, len| {
        let (a, b) = (&a.bytes[start..][..len], &b.bytes[start..][..len]);
        // SAFETY: parts do not overlap.
        let y = unsafe { to.part(start, len) };
        sum_part(isa, addition, a, b, rounding, y);
        if let Some(table) = &output.table {
            replace(table, y);
        }
    });
}

fn sum_part(isa: ByteIsa, addition: Addition, a: &[u8], b: &[u8], rounding: Rounding, y: &mut [u8]) {
    dispatch_lanes!(isa, sum_kernel(addition: Addition, a: &[u8], b: &[u8], rounding: Rounding, y: &mut [u8]));
}

#[inline(always)]
fn sum_kernel<V: Lanes>(addition: Addition, a: &[u8], b: &[u8], rounding: Rounding, y: &mut [u8]) {
    for start in (0..y.len()).step_by(V::LANES) {
        let count = V::LANES.min(y.len() - start);
        // SAFETY: `count` elements remain in all three, which are equally long.
        unsafe {
            let a = V::load_bytes(a.as_ptr().add(start), count);
            let b = V::load_bytes(b.as_ptr().add(start), count);
            V::store_bytes(addition.of(a, b), rounding, y.as_mut_ptr().add(start), count);
        }
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
    let scale = Scale {
        zero_points: [a, b].map(|map| f32::from(map.quantization.zero_point)),
        factor: a.quantization.scale * b.quantization.scale / output.quantization.scale,
        rounding: output.rounding(),
    };
    let isa = pool.byte_isa();
    let to = Disjoint::new(y);
    // Parts of a picture, as many as threads want and whole pixels allow.
    let parts = (picture / PER_TASK).clamp(1, positions.clamp(1, pool.threads() * 2));
    pool.run(batch * parts, &|task| {
        let (index, part) = (task / parts, task % parts);
        let [first, end] = [part, part + 1].map(|part| index * positions + part * positions / parts);
        let a = &a.bytes[first * channels..end * channels];
        let b = &b.bytes[index * channels..][..channels];
        // SAFETY: parts do not overlap.
        let y = unsafe { to.part(first * channels, (end - first) * channels) };
        product_part(isa, scale, a, b, y);
        if let Some(table) = &output.table {
            replace(table, y);
        }
    });
}

/// How a product becomes a byte.
#[derive(Clone, Copy)]
struct Scale {
    zero_points: [f32; 2],
    factor: f32,
    rounding: Rounding,
}

fn product_part(isa: ByteIsa, scale: Scale, a: &[u8], b: &[u8], y: &mut [u8]) {
    dispatch_lanes!(isa, product_kernel(scale: Scale, a: &[u8], b: &[u8], y: &mut [u8]));
}

/// The product of two bytes is below 2^24 and therefore exact in f32.
#[inline(always)]
fn product_kernel<V: Lanes>(scale: Scale, a: &[u8], b: &[u8], y: &mut [u8]) {
    for (a, y) in a.chunks_exact(b.len()).zip(y.chunks_exact_mut(b.len())) {
        for start in (0..b.len()).step_by(V::LANES) {
            let count = V::LANES.min(b.len() - start);
            // SAFETY: `count` channels remain in all three.
            unsafe {
                let a = V::load_bytes(a.as_ptr().add(start), count);
                let b = V::load_bytes(b.as_ptr().add(start), count);
                let a = a.sub(V::Floats::splat(scale.zero_points[0]));
                let b = b.sub(V::Floats::splat(scale.zero_points[1]));
                let real = a.mul(b).mul(V::Floats::splat(scale.factor));
                V::store_bytes(real, scale.rounding, y.as_mut_ptr().add(start), count);
            }
        }
    }
}
