//! Kernels that join two values or touch each value alone: sums, products, gates, dropout, sums over rows, and the
//! pictures' way in.

use std::ops::Range;

use models::Activation;

use crate::kernels::activation::{Function, dispatch_activation, slope_of};
use crate::kernels::norm::{Rows, Target};
use crate::kernels::spans::{CHUNK, Source, chunks, lanes};
use crate::pool::{Disjoint, Pool};
use crate::random::Stream;
use crate::simd::{Simd, dispatch};

/// `y = activation(a + b)`.
pub fn add(pool: &Pool, a: &[f32], b: &[f32], activation: Option<Activation>, y: &mut [f32]) {
    let (isa, len, slope) = (pool.isa(), y.len(), slope_of(activation));
    let parts = Disjoint::new(y);
    chunks(pool, len, &|range| {
        // SAFETY: chunks do not overlap.
        let y = unsafe { parts.part(range.start, range.len()) };
        let (a, b) = (&a[range.clone()], &b[range]);
        dispatch_activation!(activation, isa, add_kernel(a: &[f32], b: &[f32], slope: f32, y: &mut [f32]));
    });
}

#[inline(always)]
fn add_kernel<V: Simd, F: Function>(a: &[f32], b: &[f32], slope: f32, y: &mut [f32]) {
    let (len, a, b, y, slope) = (y.len(), a.as_ptr(), b.as_ptr(), y.as_mut_ptr(), V::splat(slope));
    lanes!(V, len, at => {
        // SAFETY: all have `len` elements.
        unsafe { at.store(F::value(at.load::<V>(a).add(at.load(b)), slope), y) }
    });
}

/// `y = a * b`, written or added.
pub fn multiply(pool: &Pool, a: &[f32], b: &[f32], y: Target<'_>) {
    let (isa, add, len) = (pool.isa(), y.add, y.values.len());
    let parts = Disjoint::new(y.values);
    chunks(pool, len, &|range| {
        // SAFETY: chunks do not overlap.
        let y = unsafe { parts.part(range.start, range.len()) };
        let (a, b) = (&a[range.clone()], &b[range]);
        dispatch!(isa, multiply_kernel(a: &[f32], b: &[f32], y: &mut [f32], add: bool));
    });
}

#[inline(always)]
fn multiply_kernel<V: Simd>(a: &[f32], b: &[f32], y: &mut [f32], add: bool) {
    let (len, a, b, y) = (y.len(), a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    lanes!(V, len, at => {
        // SAFETY: all have `len` elements.
        unsafe { at.put(at.load::<V>(a).mul(at.load(b)), y, add) }
    });
}

/// Copies `from` to a gradient, or adds it.
pub fn pass_on(pool: &Pool, from: &[f32], to: Target<'_>) {
    scale(pool, from, 1.0, to);
}

/// Writes or adds `factor * from`.
pub fn scale(pool: &Pool, from: &[f32], factor: f32, to: Target<'_>) {
    let (isa, add) = (pool.isa(), to.add);
    let parts = Disjoint::new(to.values);
    chunks(pool, from.len(), &|range| {
        // SAFETY: chunks do not overlap.
        let to = unsafe { parts.part(range.start, range.len()) };
        let from = &from[range];
        dispatch!(isa, scale_kernel(from: &[f32], factor: f32, to: &mut [f32], add: bool));
    });
}

#[inline(always)]
fn scale_kernel<V: Simd>(from: &[f32], factor: f32, to: &mut [f32], add: bool) {
    let (len, from, to, factor) = (to.len(), from.as_ptr(), to.as_mut_ptr(), V::splat(factor));
    lanes!(V, len, at => {
        // SAFETY: both have `len` elements.
        unsafe { at.put(at.load::<V>(from).mul(factor), to, add) }
    });
}

/// `y = x * gate`, the gate one number per picture and channel.
pub fn gate_forward(pool: &Pool, rows: Rows, x: &[f32], gate: &[f32], y: Target<'_>) {
    let (isa, add, picture_len) = (pool.isa(), y.add, rows.positions * rows.channels);
    let outputs = Disjoint::new(y.values);
    pool.run(rows.samples, &|picture| {
        let x = &x[picture * picture_len..][..picture_len];
        let gate = &gate[picture * rows.channels..][..rows.channels];
        // SAFETY: pictures do not overlap.
        let y = unsafe { outputs.part(picture * picture_len, picture_len) };
        dispatch!(isa, gate_kernel(x: &[f32], gate: &[f32], y: &mut [f32], add: bool));
    });
}

#[inline(always)]
fn gate_kernel<V: Simd>(x: &[f32], gate: &[f32], y: &mut [f32], add: bool) {
    let channels = gate.len();
    for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
        let (x, gate, y) = (x.as_ptr(), gate.as_ptr(), y.as_mut_ptr());
        lanes!(V, channels, at => {
            // SAFETY: all have `channels` elements.
            unsafe { at.put(at.load::<V>(x).mul(at.load(gate)), y, add) }
        });
    }
}

/// Gradient of a gate: the sum of `dy * x` over each picture's positions.
pub fn gate_backward(pool: &Pool, rows: Rows, x: &[f32], dy: &[f32], dgate: Target<'_>) {
    let (isa, add, picture_len) = (pool.isa(), dgate.add, rows.positions * rows.channels);
    let outputs = Disjoint::new(dgate.values);
    pool.run(rows.samples, &|picture| {
        let range = picture * picture_len..(picture + 1) * picture_len;
        let (x, dy) = (&x[range.clone()], &dy[range]);
        // SAFETY: pictures do not overlap.
        let dgate = unsafe { outputs.part(picture * rows.channels, rows.channels) };
        dispatch!(isa, gate_backward_kernel(x: &[f32], dy: &[f32], dgate: &mut [f32], add: bool));
    });
}

#[inline(always)]
fn gate_backward_kernel<V: Simd>(x: &[f32], dy: &[f32], dgate: &mut [f32], add: bool) {
    let channels = dgate.len();
    let positions = x.len() / channels;
    let (x, dy, dgate) = (x.as_ptr(), dy.as_ptr(), dgate.as_mut_ptr());
    lanes!(V, channels, at => {
        // SAFETY: every row has `channels` elements.
        unsafe {
            let (mut even, mut odd) = (V::zero(), V::zero());
            for pair in 0..positions / 2 {
                let row = 2 * pair * channels;
                even = at.load::<V>(x.add(row)).mul_add(at.load(dy.add(row)), even);
                odd = at.load::<V>(x.add(row + channels)).mul_add(at.load(dy.add(row + channels)), odd);
            }
            if positions % 2 == 1 {
                let row = (positions - 1) * channels;
                even = at.load::<V>(x.add(row)).mul_add(at.load(dy.add(row)), even);
            }
            at.put(even.add(odd), dgate, add);
        }
    });
}

/// Rows that one partial sum of [`column_sums`] covers: about a chunk's worth, whatever the thread count.
fn rows_per_part(channels: usize) -> usize {
    (CHUNK / channels).max(1)
}

/// Floats of working memory that [`column_sums`] needs.
pub fn column_sums_work(rows: usize, channels: usize) -> usize {
    rows.div_ceil(rows_per_part(channels)) * channels
}

/// Sum of every column of `values`, `[rows, channels]`: a bias's gradient. Parts are added in order.
pub fn column_sums(pool: &Pool, values: &[f32], work: &mut [f32], sums: Target<'_>) {
    let (isa, channels) = (pool.isa(), sums.values.len());
    let part_len = rows_per_part(channels) * channels;
    let count = values.len().div_ceil(part_len);
    let partials = Disjoint::new(&mut work[..count * channels]);
    pool.run(count, &|index| {
        let values = &values[index * part_len..((index + 1) * part_len).min(values.len())];
        // SAFETY: every part has its own sums.
        let sums = unsafe { partials.part(index * channels, channels) };
        dispatch!(isa, column_kernel(values: &[f32], sums: &mut [f32]));
    });
    for (channel, sum) in sums.values.iter_mut().enumerate() {
        let parts = work[..count * channels].iter().skip(channel).step_by(channels);
        let total = parts.map(|&part| f64::from(part)).sum::<f64>() as f32;
        *sum = if sums.add { *sum + total } else { total };
    }
}

#[inline(always)]
fn column_kernel<V: Simd>(values: &[f32], sums: &mut [f32]) {
    let channels = sums.len();
    let rows = values.len() / channels;
    let (values, sums) = (values.as_ptr(), sums.as_mut_ptr());
    lanes!(V, channels, at => {
        // SAFETY: every row has `channels` elements.
        unsafe {
            let (mut even, mut odd) = (V::zero(), V::zero());
            for pair in 0..rows / 2 {
                even = even.add(at.load(values.add(2 * pair * channels)));
                odd = odd.add(at.load(values.add((2 * pair + 1) * channels)));
            }
            if rows % 2 == 1 {
                even = even.add(at.load(values.add((rows - 1) * channels)));
            }
            at.store(even.add(odd), sums);
        }
    });
}

/// Dropout: each value survives with probability `1 - p`, divided by that. `stream` is the node's; backward draws the
/// same again, so it is the same function, of the gradient.
pub fn dropout(pool: &Pool, p: f32, stream: Stream, from: Source<'_>, to: Target<'_>) {
    let (isa, add, len) = (pool.isa(), to.add, to.values.len());
    let parts = Disjoint::new(to.values);
    chunks(pool, len, &|range| {
        let key = stream.bits((range.start / CHUNK) as u64);
        // SAFETY: chunks do not overlap, and the range lies within the slices.
        let (to, from) = unsafe {
            let to = parts.part(range.start, range.len());
            let from = from.part(to, range.start);
            (to, from)
        };
        dispatch!(isa, dropout_kernel(p: f32, key: u64, from: *const f32, to: &mut [f32], add: bool));
    });
}

/// Values that [`dropout_kernel`] draws for at once.
const DRAWN: usize = 256;

#[inline(always)]
fn dropout_kernel<V: Simd>(p: f32, key: u64, from: *const f32, to: &mut [f32], add: bool) {
    let kept = 1.0 / (1.0 - p);
    let threshold = (f64::from(p) * 4_294_967_296.0) as u32;
    for (number, to) in to.chunks_mut(DRAWN).enumerate() {
        let start = number * DRAWN;
        let mut factors = [0.0; DRAWN];
        for (index, factor) in factors.iter_mut().enumerate() {
            *factor = if draw(key, (start + index) as u32) < threshold { 0.0 } else { kept };
        }
        let (len, to, factors) = (to.len(), to.as_mut_ptr(), factors.as_ptr());
        lanes!(V, len, at => {
            // SAFETY: the source has the chunk's length; read before written, since they may be the same.
            unsafe { at.put(at.load::<V>(from.add(start)).mul(at.load(factors)), to, add) }
        });
    }
}

/// 32 random bits for a place in a chunk (Wellons' lowbias32 with the chunk's key mixed in twice); in 32-bit
/// arithmetic, which vectors are good at.
#[inline(always)]
fn draw(key: u64, place: u32) -> u32 {
    let mut x = place.wrapping_mul(0x9e37_79b9).wrapping_add(key as u32);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x ^= (key >> 32) as u32;
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Stochastic depth's factor of every sample: zero with probability `p`, else `1 / (1 - p)`.
pub fn depth_factors(p: f32, stream: Stream, factors: &mut [f32]) {
    for (sample, factor) in factors.iter_mut().enumerate() {
        *factor = if stream.uniform(sample as u64) < p { 0.0 } else { 1.0 / (1.0 - p) };
    }
}

/// `to = from * factor`, one factor per sample.
pub fn scale_samples(pool: &Pool, factors: &[f32], from: &[f32], to: Target<'_>) {
    let (isa, add) = (pool.isa(), to.add);
    let sample_len = from.len() / factors.len();
    let parts = Disjoint::new(to.values);
    pool.run(factors.len(), &|sample| {
        let from = &from[sample * sample_len..][..sample_len];
        // SAFETY: samples do not overlap.
        let to = unsafe { parts.part(sample * sample_len, sample_len) };
        let factor = factors[sample];
        dispatch!(isa, scale_kernel(from: &[f32], factor: f32, to: &mut [f32], add: bool));
    });
}

/// The table's entry for every byte and channel: `[256, channels]`.
pub fn look_up(pool: &Pool, bytes: &[u8], table: &[f32], y: &mut [f32]) {
    let channels = table.len() / 256;
    let parts = Disjoint::new(y);
    pixel_parts(pool, bytes.len(), channels, &|range| {
        // SAFETY: parts do not overlap.
        let y = unsafe { parts.part(range.start, range.len()) };
        for (bytes, y) in bytes[range].chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            for (channel, (&byte, y)) in bytes.iter().zip(y).enumerate() {
                *y = table[usize::from(byte) * channels + channel];
            }
        }
    });
}

/// `y = x * scale + shift` per channel.
pub fn affine(pool: &Pool, x: &[f32], scale: &[f32], shift: &[f32], y: &mut [f32]) {
    let channels = scale.len();
    let parts = Disjoint::new(y);
    pixel_parts(pool, x.len(), channels, &|range| {
        // SAFETY: parts do not overlap.
        let y = unsafe { parts.part(range.start, range.len()) };
        for (x, y) in x[range].chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            for (((y, x), scale), shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = x * scale + shift;
            }
        }
    });
}

/// Runs `task` on ranges of about a chunk that hold whole pixels.
fn pixel_parts(pool: &Pool, len: usize, channels: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
    let part_len = rows_per_part(channels) * channels;
    pool.run(len.div_ceil(part_len), &|index| task(index * part_len..((index + 1) * part_len).min(len)));
}

/// Gradient of [`affine`]: `dx = dy * scale`.
pub fn scale_channels(pool: &Pool, scale: &[f32], dy: &[f32], dx: Target<'_>) {
    let channels = scale.len();
    let add = dx.add;
    let parts = Disjoint::new(dx.values);
    pixel_parts(pool, dy.len(), channels, &|range| {
        // SAFETY: parts do not overlap.
        let dx = unsafe { parts.part(range.start, range.len()) };
        for (dx, dy) in dx.chunks_exact_mut(channels).zip(dy[range].chunks_exact(channels)) {
            for ((dx, dy), scale) in dx.iter_mut().zip(dy).zip(scale) {
                *dx = if add { *dx + dy * scale } else { dy * scale };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::{self, assert_close, isas, ramp};

    #[test]
    fn sums_and_products_match_the_definition() {
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            let (a, b) = (ramp(CHUNK + 13, 2.0), ramp(2 * CHUNK, 1.5)[CHUNK - 13..].to_vec());
            let mut y = vec![9.0; a.len()];
            add(&pool, &a, &b, Some(Activation::HardSwish), &mut y);
            let sum =
                |(a, b): (&f32, &f32)| reference::activate(Activation::HardSwish, f64::from(a + b)) as f32;
            let expected: Vec<f32> = a.iter().zip(&b).map(sum).collect();
            assert_close(&y, &expected, 1e-5, "sum");
            multiply(&pool, &a, &b, Target { values: &mut y, add: true });
            let expected: Vec<f32> =
                expected.iter().zip(a.iter().zip(&b)).map(|(y, (a, b))| y + a * b).collect();
            assert_close(&y, &expected, 1e-5, "product");
        }
    }

    #[test]
    fn gates_match_the_definition_in_both_directions() {
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            for (positions, channels) in [(1, 3), (6, 16), (5, 21), (9, 72)] {
                let rows = Rows { samples: 3, positions, channels };
                let (x, dy) = (ramp(rows.len(), 2.0), ramp(rows.len(), 1.0));
                let gate = ramp(3 * channels, 0.9);
                let gate_of = |i: usize| i / (positions * channels) * channels + i % channels;
                let expected: Vec<f32> = x.iter().enumerate().map(|(i, x)| x * gate[gate_of(i)]).collect();
                let (mut y, mut dgate) = (vec![9.0; x.len()], vec![1.0; gate.len()]);
                gate_forward(&pool, rows, &x, &gate, Target { values: &mut y, add: false });
                assert_close(&y, &expected, 1e-6, "gate");
                let mut expected = vec![1.0; gate.len()];
                x.iter().zip(&dy).enumerate().for_each(|(i, (x, dy))| expected[gate_of(i)] += x * dy);
                gate_backward(&pool, rows, &x, &dy, Target { values: &mut dgate, add: true });
                assert_close(&dgate, &expected, 1e-5, "gradient of the gate");
            }
        }
    }

    #[test]
    fn column_sums_match_the_definition_whatever_the_thread_count() {
        for isa in isas() {
            for (rows, channels) in [(1, 1), (7, 10), (3000, 33), (5, 20_000)] {
                let values = ramp(rows * channels, 1.0);
                let sums = |threads| {
                    let mut work = vec![9.0; column_sums_work(rows, channels)];
                    let mut sums = vec![0.0; channels];
                    let pool = Pool::with_isa(threads, isa);
                    column_sums(&pool, &values, &mut work, Target { values: &mut sums, add: false });
                    sums
                };
                let mut expected = vec![0.0_f64; channels];
                values.iter().enumerate().for_each(|(i, &value)| expected[i % channels] += f64::from(value));
                let expected: Vec<f32> = expected.iter().map(|&sum| sum as f32).collect();
                assert_close(&sums(1), &expected, 1e-4, "sums");
                assert_eq!(sums(1), sums(3));
            }
        }
    }

    #[test]
    fn dropout_keeps_the_mean_and_draws_the_same_again() {
        let pool = Pool::new(2);
        let (x, stream) = (vec![1.0; 3 * CHUNK], Stream::new(4).with(9));
        let mut y = vec![9.0; x.len()];
        dropout(&pool, 0.3, stream, Source::From(&x), Target { values: &mut y, add: false });
        let mean = y.iter().sum::<f32>() / y.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!(y.iter().all(|&y| y == 0.0 || (y - 1.0 / 0.7).abs() < 1e-6));
        let mut again = x.clone();
        dropout(&Pool::new(1), 0.3, stream, Source::Same, Target { values: &mut again, add: false });
        assert_eq!(again, y);
    }

    #[test]
    fn stochastic_depth_scales_whole_samples() {
        let mut factors = [9.0; 200];
        depth_factors(0.25, Stream::new(1), &mut factors);
        let kept = factors.iter().filter(|&&factor| factor > 0.0).count();
        assert!((120..180).contains(&kept), "{kept}");
        assert!(factors.iter().all(|&factor| factor == 0.0 || factor == 1.0 / 0.75));
        let mut y = [9.0; 6];
        scale_samples(&Pool::new(2), &[0.0, 2.0], &[1.0; 6], Target { values: &mut y, add: false });
        assert_eq!(y, [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn pictures_from_bytes_and_from_floats_are_the_same() {
        let pool = Pool::new(2);
        let (scale, shift) = ([2.0, 4.0, 0.5], [-1.0, 0.25, 0.0]);
        let bytes: Vec<u8> = (0..3 * 1000).map(|i| (i * 37 % 256) as u8).collect();
        let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let table: Vec<f32> =
            (0..768).map(|i| (i / 3) as f32 / 255.0 * scale[i % 3] + shift[i % 3]).collect();
        let (mut a, mut b) = (vec![9.0; bytes.len()], vec![9.0; bytes.len()]);
        look_up(&pool, &bytes, &table, &mut a);
        affine(&pool, &floats, &scale, &shift, &mut b);
        assert_close(&a, &b, 1e-6, "pictures");
        let mut dx = vec![1.0; 3];
        scale_channels(&pool, &scale, &[1.0, 1.0, 1.0], Target { values: &mut dx, add: true });
        assert_eq!(dx, [3.0, 5.0, 1.5]);
    }
}
