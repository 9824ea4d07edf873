//! 3x3 convolution with stride 1 by Winograd's F(2x2, 3x3): sixteen products per patch of 2x2 targets instead of
//! thirty-six (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015).
//!
//! A task takes some patches through all three steps while they are in its cache: 4x4 source pixels become sixteen
//! coefficients per channel, sixteen matrix products with the transformed weights follow, and sixteen sums per column
//! become 2x2 targets. The gradient of the input is the same with turned and transposed weights.
//!
//! Never here: other kernels or strides, groups, or the gradient of the weights.

use std::ops::Range;

use models::Activation;

use crate::pool::{Disjoint, Pool};
use crate::simd::{Isa, Simd, dispatch};

use super::gather::Source;
use super::micro::{MOST_ROWS, Tile, most_rows, tile_for};
use super::product::{finish_kernel, share};
use super::{BLOCK, ConvShape, Epilogue, scratch};

/// Coefficients of a patch.
const COEFFICIENTS: usize = 16;
/// Bytes of coefficients and sums of a task: a quarter of a second-level cache.
const TASK_BYTES: usize = 512 << 10;
/// Most bytes of transformed weights: half of a second-level cache.
const WEIGHT_BYTES: usize = 1 << 20;

/// A 3x3 convolution of a source, told without its weights.
#[derive(Clone, Copy)]
pub struct Winograd<'a> {
    pub batch: usize,
    pub source: Source,
    /// Rows and columns of zeros before the source.
    pub padding: [usize; 2],
    /// Height and width of the target map.
    pub target: [usize; 2],
    /// Channels of the source and of the target.
    pub channels: usize,
    pub columns: usize,
    pub accumulate: bool,
    pub epilogue: Epilogue<'a>,
}

/// Whether the saved products are worth the transformations: by shape alone, `target` being the map that is computed.
pub fn pays(shape: &ConvShape, target: [usize; 2]) -> bool {
    let small = shape.kernel == [3, 3] && shape.stride == [1, 1] && shape.groups == 1;
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    let weights = COEFFICIENTS * inputs.next_multiple_of(BLOCK) * outputs.next_multiple_of(BLOCK) * 4;
    let fits = weights <= WEIGHT_BYTES
        && inputs.min(outputs) >= 32
        && shape.padding.iter().all(|&padding| padding <= 2);
    // A quarter of a larger map's targets would be beyond its edge if it were odd and narrow.
    let even = target.iter().all(|&size| size >= 8 && (size % 2 == 0 || size >= 15));
    let patches = shape.batch * target[0].div_ceil(2) * target[1].div_ceil(2);
    small && fits && even && patches >= 64
}

impl Winograd<'_> {
    /// Computes all of `out` with weights `[block of 16 columns][tap][channel][16]`.
    pub fn run(&self, pool: &Pool, weights: &[f32], out: &mut [f32]) {
        let len = COEFFICIENTS * self.channels * BLOCK;
        scratch::with(self.blocks() * len, |transformed| {
            let to = Disjoint::new(transformed);
            let isa = pool.isa();
            pool.run(self.blocks(), &|block| {
                let from = &weights[block * 9 * self.channels * BLOCK..][..9 * self.channels * BLOCK];
                // SAFETY: every block is a part of its own.
                let to = unsafe { to.part(block * len, len) };
                dispatch!(isa, weights_kernel(from: &[f32], to: &mut [f32]));
            });
            self.run_tasks(pool, transformed, out);
        });
    }

    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Rows and columns of patches.
    fn grid(&self) -> [usize; 2] {
        self.target.map(|size| size.div_ceil(2))
    }

    fn run_tasks(&self, pool: &Pool, weights: &[f32], out: &mut [f32]) {
        let [height, width] = self.grid();
        let patches = self.batch * height * width;
        let most = most_rows(pool.isa());
        let bytes = COEFFICIENTS * (lanes(self.channels) + lanes(self.columns)) * 4;
        // Whole tiles, and enough tasks to share.
        let per_task = (TASK_BYTES / bytes).min(patches.div_ceil(pool.threads() * 6)).next_multiple_of(most);
        let out = Disjoint::new(out);
        pool.run(patches.div_ceil(per_task), &|task| {
            let patches = task * per_task..patches.min((task + 1) * per_task);
            self.run_task(pool.isa(), weights, patches, &out);
        });
    }

    fn run_task(&self, isa: Isa, weights: &[f32], patches: Range<usize>, out: &Disjoint<'_, f32>) {
        let count = patches.len();
        // A line between the coefficients, so that they do not compete for a place in the cache.
        let coefficients = count * lanes(self.channels) + BLOCK;
        let sums = count * lanes(self.columns) + BLOCK;
        let zeros = lanes(self.channels);
        scratch::with(COEFFICIENTS * (coefficients + sums) + zeros, |memory| {
            let (zeros, memory) = memory.split_at_mut(zeros);
            zeros.fill(0.0);
            let (from, to) = memory.split_at_mut(COEFFICIENTS * coefficients);
            for (index, patch) in patches.clone().enumerate() {
                self.transform(isa, patch, zeros, &mut from[index * lanes(self.channels)..], coefficients);
            }
            for coefficient in 0..COEFFICIENTS {
                let from = &from[coefficient * coefficients..][..coefficients];
                let to = &mut to[coefficient * sums..][..sums];
                self.multiply(isa, count, from, &weights[coefficient * self.channels * BLOCK..], to);
            }
            for (index, patch) in patches.enumerate() {
                self.put(isa, patch, &to[index * lanes(self.columns)..], sums, out);
            }
        });
    }

    /// Picture, row and column of a patch's first target.
    fn place(&self, patch: usize) -> (usize, usize, usize) {
        let [height, width] = self.grid();
        (patch / (height * width), patch / width % height * 2, patch % width * 2)
    }

    /// Coefficients of a patch, `step` floats apart in `to`.
    fn transform(&self, isa: Isa, patch: usize, zeros: &[f32], to: &mut [f32], step: usize) {
        let (picture, row, column) = self.place(patch);
        let mut pixels = [zeros.as_ptr(); COEFFICIENTS];
        for (index, pixel) in pixels.iter_mut().enumerate() {
            let row = (row + index / 4).wrapping_sub(self.padding[0]);
            let column = (column + index % 4).wrapping_sub(self.padding[1]);
            if row < self.source.height && column < self.source.width {
                *pixel = self.source.at(picture, row, column);
            }
        }
        let (channels, pixels) = (self.channels, &pixels);
        dispatch!(isa, source_kernel(pixels: &[*const f32; COEFFICIENTS], channels: usize, to: &mut [f32], step: usize));
    }

    /// The product of one coefficient: `count` rows.
    fn multiply(&self, isa: Isa, count: usize, from: &[f32], weights: &[f32], to: &mut [f32]) {
        let most = most_rows(isa);
        let tiles = count.div_ceil(most);
        for tile in 0..tiles {
            let (first, rows) = share(count, tiles, tile);
            let mut pointers = [from.as_ptr(); MOST_ROWS];
            let mut outs = [0; MOST_ROWS];
            for row in 0..rows {
                pointers[row] = from[(first + row) * lanes(self.channels)..].as_ptr();
                outs[row] = (first + row) * lanes(self.columns);
            }
            let mut block = 0;
            while block < self.blocks() {
                let (kernel, taken) = tile_for(isa, rows, self.blocks() - block);
                let block_len = COEFFICIENTS * self.channels * BLOCK;
                let tile = Tile {
                    pointers: pointers.as_ptr(),
                    offsets: [0].as_ptr(),
                    taps: 1,
                    depth: self.channels,
                    weights: weights[block * block_len..].as_ptr(),
                    block_len,
                    outs: outs.as_ptr(),
                    out: to[block * BLOCK..].as_mut_ptr(),
                    columns: taken * BLOCK,
                    accumulate: false,
                };
                // SAFETY: `rows` pointers to `channels` floats each, and as many rows of `lanes(columns)` floats.
                unsafe { kernel(&tile) };
                block += taken;
            }
        }
    }

    /// Targets of a patch from its sums, `step` floats apart in `from`.
    fn put(&self, isa: Isa, patch: usize, from: &[f32], step: usize, out: &Disjoint<'_, f32>) {
        let (picture, row, column) = self.place(patch);
        let [height, width] = self.target;
        let place = |index: usize| {
            let (row, column) = (row + index / 2, column + index % 2);
            let inside = row < height && column < width;
            inside.then(|| ((picture * height + row) * width + column) * self.columns)
        };
        let places = [0, 1, 2, 3].map(place);
        let targets = places
            .map(|place| place.map_or(std::ptr::null_mut(), |place| out.as_mut_ptr().wrapping_add(place)));
        let (targets, columns, accumulate) = (&targets, self.columns, self.accumulate);
        dispatch!(isa, target_kernel(from: &[f32], step: usize, targets: &[*mut f32; 4], columns: usize, accumulate: bool));
        for place in places.into_iter().flatten() {
            self.finish(isa, place, out);
        }
    }

    /// Bias, residual and activation of a target.
    fn finish(&self, isa: Isa, start: usize, out: &Disjoint<'_, f32>) {
        let Epilogue { bias, residual, activation } = self.epilogue;
        if bias.is_none() && residual.is_none() && activation.is_none() {
            return;
        }
        let residual = residual.map(|residual| &residual[start..][..self.columns]);
        // SAFETY: this task alone writes this target.
        let target = unsafe { out.part(start, self.columns) };
        dispatch!(isa, finish_kernel(target: &mut [f32], bias: Option<&[f32]>, residual: Option<&[f32]>, activation: Option<Activation>));
    }
}

/// Channels in whole vectors of the widest instruction set.
fn lanes(channels: usize) -> usize {
    channels.next_multiple_of(BLOCK)
}

/// `G w G'` of a block: from `[tap][channel][16]` to `[coefficient][channel][16]`.
#[inline(always)]
fn weights_kernel<V: Simd>(from: &[f32], to: &mut [f32]) {
    let channels = from.len() / (9 * BLOCK);
    let half = V::splat(0.5);
    let step = channels * BLOCK;
    let mut start = 0;
    while start < step {
        let mut rows = [V::zero(); 12];
        // SAFETY: nine taps and sixteen coefficients of `step` floats, a whole number of vectors.
        unsafe {
            for column in 0..3 {
                let [a, b, c] = three::<V>(from.as_ptr().add(column * step + start), 3 * step);
                let outer = a.add(c).mul(half);
                rows[column] = a;
                rows[3 + column] = b.mul_add(half, outer);
                rows[6 + column] = outer.sub(b.mul(half));
                rows[9 + column] = c;
            }
            for row in 0..4 {
                let [a, b, c] = [rows[row * 3], rows[row * 3 + 1], rows[row * 3 + 2]];
                let outer = a.add(c).mul(half);
                let to = to.as_mut_ptr().add(row * 4 * step + start);
                a.store(to);
                b.mul_add(half, outer).store(to.add(step));
                outer.sub(b.mul(half)).store(to.add(2 * step));
                c.store(to.add(3 * step));
            }
        }
        start += V::LANES;
    }
}

#[inline(always)]
unsafe fn three<V: Simd>(from: *const f32, step: usize) -> [V; 3] {
    // SAFETY: the caller's promise.
    unsafe { [V::load(from), V::load(from.add(step)), V::load(from.add(2 * step))] }
}

/// `B' d B` of 4x4 pixels; channels beyond the last become zero.
#[inline(always)]
fn source_kernel<V: Simd>(pixels: &[*const f32; COEFFICIENTS], channels: usize, to: &mut [f32], step: usize) {
    let mut channel = 0;
    while channel < channels {
        let count = V::LANES.min(channels - channel);
        let mut rows = [V::zero(); COEFFICIENTS];
        // SAFETY: every pixel has `channels` floats; `to` has room for whole vectors of every coefficient.
        unsafe {
            for column in 0..4 {
                let mut d = [V::zero(); 4];
                for row in 0..4 {
                    let pixel = pixels[row * 4 + column].add(channel);
                    d[row] = if count == V::LANES { V::load(pixel) } else { V::load_partial(pixel, count) };
                }
                rows[column] = d[0].sub(d[2]);
                rows[4 + column] = d[1].add(d[2]);
                rows[8 + column] = d[2].sub(d[1]);
                rows[12 + column] = d[1].sub(d[3]);
            }
            for row in 0..4 {
                let d = [rows[row * 4], rows[row * 4 + 1], rows[row * 4 + 2], rows[row * 4 + 3]];
                let to = to.as_mut_ptr().add(row * 4 * step + channel);
                d[0].sub(d[2]).store(to);
                d[1].add(d[2]).store(to.add(step));
                d[2].sub(d[1]).store(to.add(2 * step));
                d[1].sub(d[3]).store(to.add(3 * step));
            }
        }
        channel += V::LANES;
    }
}

/// `A' m A`: four targets; a null pointer is beyond the map.
#[inline(always)]
fn target_kernel<V: Simd>(
    from: &[f32],
    step: usize,
    targets: &[*mut f32; 4],
    columns: usize,
    accumulate: bool,
) {
    let mut column = 0;
    while column < columns {
        let count = V::LANES.min(columns - column);
        let mut rows = [V::zero(); 8];
        // SAFETY: `from` has whole vectors of every sum; `count` columns remain in every target.
        unsafe {
            for k in 0..4 {
                let from = from.as_ptr().add(k * step + column);
                let m = [
                    V::load(from),
                    V::load(from.add(4 * step)),
                    V::load(from.add(8 * step)),
                    V::load(from.add(12 * step)),
                ];
                rows[k] = m[0].add(m[1]).add(m[2]);
                rows[4 + k] = m[1].sub(m[2]).sub(m[3]);
            }
            for row in 0..2 {
                let m = [rows[row * 4], rows[row * 4 + 1], rows[row * 4 + 2], rows[row * 4 + 3]];
                put::<V>(m[0].add(m[1]).add(m[2]), targets[row * 2], column, count, accumulate);
                put::<V>(m[1].sub(m[2]).sub(m[3]), targets[row * 2 + 1], column, count, accumulate);
            }
        }
        column += V::LANES;
    }
}

#[inline(always)]
unsafe fn put<V: Simd>(value: V, target: *mut f32, column: usize, count: usize, accumulate: bool) {
    if target.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let to = target.add(column);
        let value = if accumulate { value.add(V::load_partial(to, count)) } else { value };
        if count == V::LANES { value.store(to) } else { value.store_partial(to, count) }
    }
}
