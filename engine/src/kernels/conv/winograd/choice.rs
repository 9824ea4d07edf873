//! When Winograd's convolution pays, and on patches of which size: a fixed model of processor cycles, by shape alone, so
//! that the same network takes the same path on every machine and with any number of threads.
//!
//! Never here: arithmetic on maps.

use super::super::micro::MOST_ROWS;
use super::super::{BLOCK, ConvShape};
use super::Size;
use super::gradient::Cut;

/// Multiplications per cycle of a core that multiplies two vectors of 16 at once, and the share that kernels reach.
const MULTIPLICATIONS: f64 = 32.0 * 0.9;
/// Bytes per cycle from and to memory beyond the second-level cache.
const BYTES: f64 = 9.5;
/// The same of transformed weights, which are read in many short pieces.
const COEFFICIENT_BYTES: f64 = 5.2;
/// Bytes of transformed weights that stay in the second-level cache from where they are made to where they are read.
const CACHED: f64 = (1 << 20) as f64;
/// Cycles to transform a vector of a coefficient: of source or product, and of weights.
const VECTOR: f64 = 2.5;
const WEIGHT_VECTOR: f64 = 2.0;

/// The size that is faster than the direct sum where weights are transformed in every call, if any; `target` is the map
/// that is computed.
pub fn best(shape: &ConvShape, target: [usize; 2]) -> Option<Size> {
    choose(shape, 4, |size| cycles(shape, target, size, false))
}

/// The same where they are transformed beforehand; the direct sum would read `bytes` of a weight.
pub fn best_prepared(shape: &ConvShape, bytes: usize) -> Option<Size> {
    let target = [shape.out_height(), shape.out_width()];
    choose(shape, bytes, |size| cycles(shape, target, size, true))
}

/// The size for the gradient of the weights, if it is faster than the direct sum.
pub fn best_for_weights(shape: &ConvShape) -> Option<Size> {
    choose(shape, 4, |size| gradient_cycles(shape, size))
}

/// The size that takes the fewest cycles, if they are fewer than those of the direct sum.
fn choose(shape: &ConvShape, bytes: usize, cost: impl Fn(Size) -> f64) -> Option<Size> {
    if !able(shape) {
        return None;
    }
    let candidates = [Size::Two, Size::Four].map(|size| (size, cost(size)));
    let (size, cycles) = candidates.into_iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    (cycles < direct_cycles(shape, bytes)).then_some(size)
}

fn able(shape: &ConvShape) -> bool {
    shape.kernel == [3, 3]
        && shape.stride == [1, 1]
        && shape.groups == 1
        && shape.in_channels.min(shape.out_channels) >= BLOCK
        && shape.padding.iter().all(|&padding| padding <= 2)
}

fn direct_cycles(shape: &ConvShape, bytes: usize) -> f64 {
    let [inputs, outputs] = [[shape.in_height, shape.in_width], [shape.out_height(), shape.out_width()]];
    // Along an axis, the places where each tap meets no padding: the direct sum leaves the others out. Forward and
    // backward have the same ones.
    let hits = |axis: usize| {
        let hit = |place: usize, tap: usize| (place + tap).wrapping_sub(shape.padding[axis]) < inputs[axis];
        [0, 1, 2].map(|tap| (0..outputs[axis]).filter(|&place| hit(place, tap)).count())
    };
    let (rows, columns) = (hits(0), hits(1));
    let sum = |hits: [usize; 3]| hits.iter().sum::<usize>();
    let touched = |hits: [usize; 3]| hits.iter().filter(|&&hits| hits > 0).count();
    let pairs = shape.in_channels * shape.out_channels;
    let products = shape.batch * sum(rows) * sum(columns) * pairs;
    let fetched = (touched(rows) * touched(columns) * pairs * bytes) as f64 / BYTES;
    together(shape.batch * outputs[0] * outputs[1], products as f64 / MULTIPLICATIONS, fetched)
}

/// Cycles of products of so many rows with weights that take `fetched` cycles to arrive. The first tile waits for them;
/// those after it, which find them in the cache, cannot begin before.
fn together(rows: usize, products: f64, fetched: f64) -> f64 {
    if rows <= MOST_ROWS { products.max(fetched) } else { products + fetched }
}

fn cycles(shape: &ConvShape, target: [usize; 2], size: Size, prepared: bool) -> f64 {
    let count = shape.batch * size.patches(target);
    let patches = count as f64;
    let coefficients = size.coefficients() as f64;
    let lanes = |channels: usize| channels.next_multiple_of(BLOCK) as f64;
    let (inputs, outputs) = (lanes(shape.in_channels), lanes(shape.out_channels));
    // Few rows leave the multipliers waiting for each other.
    let busy = (patches * 4.0 / 10.0).min(1.0);
    let products = patches * coefficients * inputs * outputs / (MULTIPLICATIONS * busy);
    let transforms = patches * coefficients * (inputs + outputs) / 16.0 * VECTOR;
    let pairs = inputs * outputs;
    if prepared {
        return transforms + together(count, products, coefficients * pairs * 4.0 / COEFFICIENT_BYTES);
    }
    let (bytes, vectors) = (coefficients * pairs * 4.0, coefficients * pairs / 16.0);
    // Beyond the cache they are fetched to be written, written, and read.
    let moved = if bytes > CACHED { bytes * 3.0 } else { 9.0 * pairs * 4.0 };
    transforms + products + (vectors * WEIGHT_VECTOR).max(moved / BYTES)
}

fn gradient_cycles(shape: &ConvShape, size: Size) -> f64 {
    let count = shape.batch * size.patches([shape.out_height(), shape.out_width()]);
    let cut = Cut::of(size, count, shape.in_channels, shape.out_channels);
    let (patches, coefficients) = (count as f64, size.coefficients() as f64);
    let lanes = |channels: usize| channels.next_multiple_of(BLOCK) as f64;
    let (inputs, outputs) = (lanes(shape.in_channels), lanes(shape.out_channels));
    let products = patches * coefficients * inputs * outputs / MULTIPLICATIONS;
    let transforms = patches * coefficients * (inputs * cut.ranges as f64 + outputs) / 16.0 * VECTOR;
    // The sums of every part are written and read.
    let sums = coefficients * inputs * outputs * cut.parts as f64 * 4.0 * 2.0 / BYTES;
    products + transforms + sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(batch: usize, side: usize, channels: usize) -> ConvShape {
        let linear = ConvShape::linear(batch, channels, channels);
        ConvShape { in_height: side, in_width: side, kernel: [3; 2], padding: [1; 2], ..linear }
    }

    #[test]
    fn large_maps_take_large_patches_and_small_ones_none() {
        let best = |shape: ConvShape| super::best(&shape, [shape.in_height, shape.in_width]);
        assert_eq!(best(square(64, 32, 64)), Some(Size::Four));
        assert_eq!(best_for_weights(&square(64, 32, 64)), Some(Size::Four));
        // Of nine taps one meets a map of 1x1.
        assert_eq!(best(square(64, 1, 64)), None);
        assert_eq!(best_for_weights(&square(64, 1, 64)), None);
    }

    #[test]
    fn one_picture_takes_fewer_coefficients_where_weights_are_many() {
        // Layers of ResNet-18 at 224 px, as they were measured: 1.27, 1.45 and 2.2 ms for the last by the direct sum, 2x2, 4x4.
        let sizes = [(56, 64), (28, 128), (14, 256), (7, 512)];
        let found = sizes.map(|(side, channels)| best_prepared(&square(1, side, channels), 4));
        assert_eq!(found, [Some(Size::Four), Some(Size::Four), Some(Size::Two), None]);
    }

    #[test]
    fn other_kernels_strides_and_groups_have_no_patches() {
        let shape = square(64, 32, 64);
        for other in [
            ConvShape { kernel: [5; 2], padding: [2; 2], ..shape },
            ConvShape { stride: [2; 2], ..shape },
            ConvShape { groups: 2, ..shape },
            ConvShape { groups: 64, ..shape },
            ConvShape { in_channels: 3, ..shape },
        ] {
            assert_eq!(super::best(&other, [32, 32]), None, "{other:?}");
            assert_eq!(best_prepared(&other, 4), None, "{other:?}");
            assert_eq!(best_for_weights(&other), None, "{other:?}");
        }
    }
}
