//! Gradient of the weights by Winograd's convolution: coefficients of source and output gradients, a matrix product per
//! coefficient that sums over patches, and the transposed transformation of the sums.
//!
//! Patches are divided into parts and columns into ranges, by shape alone; every task sums one part for one range in
//! chunks that stay in its cache, and parts are added up in order, so that the result does not depend on the threads.
//!
//! Never here: the other two passes.

use std::ops::Range;

use super::super::micro::{Patch, Segment, most_rows, patch_for};
use super::super::product::share;
use super::super::{BLOCK, scratch};
use super::transform::{MOST_TARGETS, block_len, gradient_kernel, weight_gradient_kernel};
use super::{Grid, Size, lanes, step, transform_source};
use crate::pool::{Disjoint, Pool};
use crate::simd::{Isa, dispatch};

/// Bytes of a task's sums, and of the coefficients of a chunk.
const SUM_BYTES: usize = 640 << 10;
const CHUNK_BYTES: usize = 512 << 10;
/// Fewest patches of a part, and most tasks.
const PART: usize = 48;
const TASKS: usize = 16;

/// The gradient of the weights of a 3x3 convolution with stride 1.
pub struct WeightGradient<'a> {
    /// Of the input `x`; its targets are the output.
    pub grid: Grid,
    /// Channels of input and output.
    pub channels: usize,
    pub columns: usize,
    /// Gradient of the output.
    pub dy: &'a [f32],
    pub accumulate: bool,
}

/// How the work is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Parts of the patches.
    pub parts: usize,
    /// Ranges of columns.
    pub ranges: usize,
    /// Blocks of columns in a range.
    blocks_per_range: usize,
}

impl Cut {
    /// For a layer with these patches.
    pub fn of(size: Size, patches: usize, channels: usize, columns: usize) -> Self {
        let blocks = columns.div_ceil(BLOCK);
        let block_bytes = size.coefficients() * block_len(channels) * 4;
        // Kernels take two blocks at a time.
        let fit = (SUM_BYTES / block_bytes).max(1);
        let blocks_per_range = if fit > 1 { fit / 2 * 2 } else { 1 }.min(blocks);
        let ranges = blocks.div_ceil(blocks_per_range);
        let parts = (TASKS / ranges).min(patches / PART).max(1);
        Self { parts, ranges, blocks_per_range }
    }
}

impl WeightGradient<'_> {
    /// Computes all of `dw`.
    pub fn run(&self, pool: &Pool, dw: &mut [f32]) {
        let cut = Cut::of(self.grid.size, self.grid.patches(), self.channels, self.columns);
        let len = self.grid.size.coefficients() * self.blocks() * block_len(self.channels);
        scratch::with(cut.parts * len, |sums| {
            let all = Disjoint::new(sums);
            pool.run(cut.parts * cut.ranges, &|task| {
                let (part, range) = (task % cut.parts, task / cut.parts);
                let first = range * cut.blocks_per_range;
                let blocks = first..self.blocks().min(first + cut.blocks_per_range);
                let (start, count) = share(self.grid.patches(), cut.parts, part);
                let task = Task { gradient: self, isa: pool.isa(), blocks };
                // Every task has sums of its own.
                task.run(start..start + count, all.as_mut_ptr().wrapping_add(part * len));
            });
            self.finish(pool, cut.parts, sums, dw);
        });
    }

    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Adds the parts up and brings the sums back to taps.
    fn finish(&self, pool: &Pool, parts: usize, sums: &[f32], dw: &mut [f32]) {
        let len = block_len(self.channels);
        let (isa, step) = (pool.isa(), self.blocks() * len);
        let (part_len, accumulate) = (sums.len() / parts, self.accumulate);
        let to = Disjoint::new(dw);
        pool.run(self.blocks(), &|block| {
            // SAFETY: every block is a part of its own.
            let to = unsafe { to.part(block * 9 * len, 9 * len) };
            let sums = &sums[block * len..];
            match self.grid.size {
                Size::Two => {
                    dispatch!(isa, weight_gradient_kernel[2](sums: &[f32], part_len: usize, parts: usize, step: usize, to: &mut [f32], accumulate: bool));
                }
                Size::Four => {
                    dispatch!(isa, weight_gradient_kernel[4](sums: &[f32], part_len: usize, parts: usize, step: usize, to: &mut [f32], accumulate: bool));
                }
            }
        });
    }
}

/// A range of blocks of columns.
struct Task<'a> {
    gradient: &'a WeightGradient<'a>,
    isa: Isa,
    blocks: Range<usize>,
}

impl Task<'_> {
    /// Sums over some patches, `[coefficient][block][channel][16]`.
    fn run(&self, patches: Range<usize>, sums: *mut f32) {
        let WeightGradient { grid, channels, .. } = *self.gradient;
        let columns = self.blocks.len() * BLOCK;
        let bytes = grid.size.coefficients() * (lanes(channels) + columns) * 4;
        let most = (CHUNK_BYTES / bytes).max(PART / 3).min(patches.len());
        let inputs_len = grid.size.coefficients() * step(most, channels);
        let gradients_len = grid.size.coefficients() * step(most, columns);
        scratch::with(inputs_len + gradients_len + lanes(channels).max(columns), |memory| {
            let (inputs, memory) = memory.split_at_mut(inputs_len);
            let (gradients, zeros) = memory.split_at_mut(gradients_len);
            zeros.fill(0.0);
            let mut first = patches.start;
            while first < patches.end {
                let count = most.min(patches.end - first);
                self.transform_inputs(first, count, zeros, inputs);
                self.transform_gradients(first, count, zeros, gradients);
                for coefficient in 0..grid.size.coefficients() {
                    let from = [
                        &inputs[coefficient * step(count, channels)..],
                        &gradients[coefficient * step(count, columns)..],
                    ];
                    self.multiply(coefficient, count, from, sums, first > patches.start);
                }
                first += count;
            }
        });
    }

    fn transform_inputs(&self, first: usize, count: usize, zeros: &[f32], to: &mut [f32]) {
        let WeightGradient { grid, channels, .. } = *self.gradient;
        for index in 0..count {
            let pixels = grid.pixels(first + index, zeros);
            let to = to[index * lanes(channels)..].as_mut_ptr();
            transform_source(self.isa, grid.size, &pixels, channels, to, step(count, channels));
        }
    }

    fn transform_gradients(&self, first: usize, count: usize, zeros: &[f32], to: &mut [f32]) {
        let WeightGradient { grid, columns: all, dy, .. } = *self.gradient;
        let columns = self.blocks.len() * BLOCK;
        let start = self.blocks.start * BLOCK;
        let exist = columns.min(all - start);
        let (isa, step) = (self.isa, step(count, columns));
        for index in 0..count {
            let pixels = &grid
                .targets(first + index, all)
                .map(|place| place.map_or(zeros.as_ptr(), |place| dy[place + start..].as_ptr()));
            let to = to[index * columns..].as_mut_ptr();
            match grid.size {
                Size::Two => {
                    dispatch!(isa, gradient_kernel[2](pixels: &[*const f32; MOST_TARGETS], exist: usize, to: *mut f32, step: usize));
                }
                Size::Four => {
                    dispatch!(isa, gradient_kernel[4](pixels: &[*const f32; MOST_TARGETS], exist: usize, to: *mut f32, step: usize));
                }
            }
        }
    }

    /// Adds the products of `count` patches to one coefficient's sums, or begins them.
    fn multiply(
        &self,
        coefficient: usize,
        count: usize,
        [inputs, gradients]: [&[f32]; 2],
        sums: *mut f32,
        accumulate: bool,
    ) {
        let channels = self.gradient.channels;
        let columns = self.blocks.len() * BLOCK;
        let len = block_len(channels);
        let first = (coefficient * self.gradient.blocks() + self.blocks.start) * len;
        let segment = Segment { x: inputs.as_ptr(), dy: gradients.as_ptr(), pixels: count };
        let tiles = channels.div_ceil(most_rows(self.isa));
        let mut block = 0;
        while block < self.blocks.len() {
            let mut taken = 1;
            for tile in 0..tiles {
                let (row, rows) = share(channels, tiles, tile);
                let (kernel, blocks) = patch_for(self.isa, rows, self.blocks.len() - block);
                taken = blocks;
                let patch = Patch {
                    segments: &raw const segment,
                    count: 1,
                    x_step: lanes(channels),
                    dy_step: columns,
                    x_offset: row,
                    dy_offset: block * BLOCK,
                    dw: sums.wrapping_add(first + block * len + row * BLOCK),
                    block_len: len,
                    accumulate,
                };
                // SAFETY: `count` pixels of `lanes(channels)` and `columns` floats each; the sums of these blocks are
                // this task's alone.
                unsafe { kernel(&patch) };
            }
            block += taken;
        }
    }
}
