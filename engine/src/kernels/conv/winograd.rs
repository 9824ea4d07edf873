//! 3x3 convolution with stride 1 by Winograd's F(2x2, 3x3) and F(4x4, 3x3): sixteen products per patch of 2x2 targets
//! instead of thirty-six, thirty-six per 4x4 instead of a hundred and forty-four (Lavin and Gray, Fast Algorithms for
//! Convolutional Neural Networks, 2015).
//!
//! Source pixels of a patch become coefficients per channel, a matrix product per coefficient with the transformed
//! weights follows, and the products of a patch become its targets. A task takes some patches through all three steps
//! while they are in its cache; where there are too few patches to share out so, the threads share each step instead.
//! Every product is summed by one call of a tile kernel: the division never shows in the result.
//!
//! The gradient of the input is the same with turned and transposed weights; that of the weights is a matrix product per
//! coefficient over all patches.
//!
//! Never here: other kernels or strides, or groups.

mod choice;
mod gradient;
mod grid;
mod transform;

use std::ops::Range;

use crate::pool::{Disjoint, Pool};
use crate::simd::{Isa, dispatch};

use super::finish::Finish;
use super::micro::{MOST_ROWS, Tile, most_rows, tile_for};
use super::product::share;
use super::{BLOCK, ConvShape, Epilogue, scratch};
pub use choice::{best, best_for_weights, best_prepared};
pub use gradient::WeightGradient;
pub use grid::Grid;
use transform::{MOST, Targets, block_len, source_kernel, target_kernel, weights_kernel};

/// Bytes of coefficients and products of a task: a quarter of a second-level cache.
const TASK_BYTES: usize = 512 << 10;

/// Targets of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// 2x2
    Two,
    /// 4x4
    Four,
}

impl Size {
    /// Targets along a side.
    fn targets(self) -> usize {
        match self {
            Size::Two => 2,
            Size::Four => 4,
        }
    }

    /// Coefficients along a side.
    fn side(self) -> usize {
        self.targets() + 2
    }

    fn coefficients(self) -> usize {
        self.side() * self.side()
    }

    /// Patches of a map.
    fn patches(self, target: [usize; 2]) -> usize {
        target.iter().map(|size| size.div_ceil(self.targets())).product()
    }
}

/// Where the coefficients of the weights come from.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// `[block of 16 columns][tap][channel][16]`: they are computed.
    Plain(&'a [f32]),
    /// What [`transform_weights`] has made.
    Transformed(&'a [f32]),
}

/// Floats of the transformed weights of a layer.
pub fn transformed_len(size: Size, shape: &ConvShape) -> usize {
    size.coefficients() * shape.out_channels.div_ceil(BLOCK) * block_len(shape.in_channels)
}

/// `[block of 16 columns][tap][channel][16]` to `[coefficient][block][channel][16]`.
pub fn transform_weights(pool: &Pool, size: Size, channels: usize, from: &[f32], to: &mut [f32]) {
    let len = block_len(channels);
    let blocks = from.len() / (9 * len);
    let (to, isa, step) = (Disjoint::new(to), pool.isa(), blocks * len);
    pool.run(blocks, &|block| {
        let from = &from[block * 9 * len..][..9 * len];
        // Every block writes its own part of every coefficient.
        let to = to.as_mut_ptr().wrapping_add(block * len);
        match size {
            Size::Two => dispatch!(isa, weights_kernel[2](from: &[f32], to: *mut f32, step: usize)),
            Size::Four => dispatch!(isa, weights_kernel[4](from: &[f32], to: *mut f32, step: usize)),
        }
    });
}

/// A 3x3 convolution of a source, told without its weights.
#[derive(Clone, Copy)]
pub struct Winograd<'a> {
    pub grid: Grid,
    /// Channels of the source and of the target.
    pub channels: usize,
    pub columns: usize,
    pub accumulate: bool,
    pub epilogue: Epilogue<'a>,
}

/// Patches under way with their coefficients and products.
struct Stage<'a> {
    winograd: &'a Winograd<'a>,
    isa: Isa,
    weights: &'a [f32],
    zeros: &'a [f32],
    /// First of the patches.
    first: usize,
    count: usize,
    coefficients: Disjoint<'a, f32>,
    products: Disjoint<'a, f32>,
}

impl Winograd<'_> {
    /// Computes all of `out`.
    pub fn run(&self, pool: &Pool, weights: Weights<'_>, out: &mut [f32]) {
        match weights {
            Weights::Transformed(weights) => self.run_transformed(pool, weights, out),
            Weights::Plain(weights) => {
                let len = self.grid.size.coefficients() * self.blocks() * block_len(self.channels);
                scratch::with(len, |transformed| {
                    transform_weights(pool, self.grid.size, self.channels, weights, transformed);
                    self.run_transformed(pool, transformed, out);
                });
            }
        }
    }

    fn run_transformed(&self, pool: &Pool, weights: &[f32], out: &mut [f32]) {
        let out = Disjoint::new(out);
        let (patches, size) = (self.grid.patches(), self.grid.size);
        let bytes = size.coefficients() * (lanes(self.channels) + lanes(self.columns)) * 4;
        let most = (TASK_BYTES / bytes).next_multiple_of(most_rows(pool.isa()));
        if pool.threads() == 1 || patches >= pool.threads() * 3 * most_rows(pool.isa()) {
            // Whole tiles, and enough tasks to share.
            let shared = patches.div_ceil(pool.threads() * 6).next_multiple_of(most_rows(pool.isa()));
            let per_task = most.min(shared);
            return pool.run(patches.div_ceil(per_task), &|task| {
                let patches = task * per_task..patches.min((task + 1) * per_task);
                self.stage(pool.isa(), weights, patches, |stage| {
                    stage.transform(0..stage.count);
                    (0..size.coefficients()).for_each(|coefficient| {
                        stage.multiply(coefficient, 0..self.blocks());
                    });
                    stage.put(0..stage.count, &out);
                });
            });
        }
        self.stage(pool.isa(), weights, 0..patches, |stage| self.run_steps(pool, stage, &out));
    }

    /// One step after the other, each shared out.
    fn run_steps(&self, pool: &Pool, stage: &Stage<'_>, out: &Disjoint<'_, f32>) {
        let parts = stage.count.min(pool.threads() * 3);
        let part = |index: usize| {
            let (first, count) = share(stage.count, parts, index);
            first..first + count
        };
        pool.run(parts, &|index| stage.transform(part(index)));
        pool.run(self.grid.size.coefficients(), &|coefficient| stage.multiply(coefficient, 0..self.blocks()));
        pool.run(parts, &|index| stage.put(part(index), out));
    }

    /// Lends the memory for these patches.
    fn stage(&self, isa: Isa, weights: &[f32], patches: Range<usize>, f: impl FnOnce(&Stage<'_>)) {
        let count = patches.len();
        let size = self.grid.size;
        let coefficients = size.coefficients() * step(count, self.channels);
        let products = size.coefficients() * step(count, self.columns);
        let zeros = lanes(self.channels);
        scratch::with(coefficients + products + zeros, |memory| {
            let (zeros, memory) = memory.split_at_mut(zeros);
            zeros.fill(0.0);
            let (coefficients, products) = memory.split_at_mut(coefficients);
            f(&Stage {
                winograd: self,
                isa,
                weights,
                zeros,
                first: patches.start,
                count,
                coefficients: Disjoint::new(coefficients),
                products: Disjoint::new(products),
            });
        });
    }

    /// Blocks of columns.
    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }
}

impl Stage<'_> {
    /// Coefficients of some patches.
    fn transform(&self, patches: Range<usize>) {
        let Winograd { grid, channels, .. } = *self.winograd;
        for index in patches {
            let pixels = grid.pixels(self.first + index, self.zeros);
            // Every patch writes its own part of every coefficient.
            let to = self.coefficients.as_mut_ptr().wrapping_add(index * lanes(channels));
            transform_source(self.isa, grid.size, &pixels, channels, to, step(self.count, channels));
        }
    }

    /// The matrix product of one coefficient for a range of blocks.
    fn multiply(&self, coefficient: usize, blocks: Range<usize>) {
        let Winograd { channels, columns, .. } = *self.winograd;
        let len = block_len(channels);
        let weights = &self.weights[coefficient * self.winograd.blocks() * len..];
        let from = self.coefficients.as_mut_ptr().wrapping_add(coefficient * step(self.count, channels));
        let to = self.products.as_mut_ptr().wrapping_add(coefficient * step(self.count, columns));
        let tiles = self.count.div_ceil(most_rows(self.isa));
        for tile in 0..tiles {
            let (first, rows) = share(self.count, tiles, tile);
            let mut pointers = [std::ptr::null(); MOST_ROWS];
            let mut outs = [0; MOST_ROWS];
            for row in 0..rows {
                pointers[row] = from.wrapping_add((first + row) * lanes(channels)).cast_const();
                outs[row] = (first + row) * lanes(columns);
            }
            let mut block = blocks.start;
            while block < blocks.end {
                let (kernel, taken) = tile_for(self.isa, rows, blocks.end - block);
                let tile = Tile {
                    pointers: pointers.as_ptr(),
                    offsets: [0].as_ptr(),
                    taps: 1,
                    depth: channels,
                    weights: weights[block * len..].as_ptr(),
                    block_len: len,
                    outs: outs.as_ptr(),
                    out: to.wrapping_add(block * BLOCK),
                    columns: taken * BLOCK,
                    finish: Finish::PLAIN,
                };
                // SAFETY: `rows` pointers to `channels` floats each, and as many rows of `lanes(columns)` floats; the
                // coefficients are computed, and this task alone writes these products.
                unsafe { kernel(&tile) };
                block += taken;
            }
        }
    }

    /// Targets of some patches.
    fn put(&self, patches: Range<usize>, out: &Disjoint<'_, f32>) {
        let Winograd { grid, columns, accumulate, epilogue, .. } = *self.winograd;
        let null = std::ptr::null();
        let (isa, step) = (self.isa, step(self.count, columns));
        for index in patches {
            let targets = &Targets {
                out: out.as_mut_ptr(),
                residual: epilogue.residual.map_or(null, <[f32]>::as_ptr),
                bias: epilogue.bias.map_or(null, <[f32]>::as_ptr),
                activation: epilogue.activation,
                accumulate,
                columns,
                places: grid.targets(self.first + index, columns),
            };
            let from = self.products.as_mut_ptr().wrapping_add(index * lanes(columns)).cast_const();
            match grid.size {
                Size::Two => {
                    dispatch!(isa, target_kernel[2](from: *const f32, step: usize, targets: &Targets));
                }
                Size::Four => {
                    dispatch!(isa, target_kernel[4](from: *const f32, step: usize, targets: &Targets));
                }
            }
        }
    }
}

/// Coefficients of a patch's pixels, `step` floats apart in `to`.
fn transform_source(
    isa: Isa,
    size: Size,
    pixels: &[*const f32; MOST],
    channels: usize,
    to: *mut f32,
    step: usize,
) {
    match size {
        Size::Two => {
            dispatch!(isa, source_kernel[2](pixels: &[*const f32; MOST], channels: usize, to: *mut f32, step: usize));
        }
        Size::Four => {
            dispatch!(isa, source_kernel[4](pixels: &[*const f32; MOST], channels: usize, to: *mut f32, step: usize));
        }
    }
}

/// Channels in whole vectors of the widest instruction set.
fn lanes(channels: usize) -> usize {
    channels.next_multiple_of(BLOCK)
}

/// Floats from a coefficient of `count` patches to the next: a line more, so that they do not compete for a place in the
/// cache.
fn step(count: usize, channels: usize) -> usize {
    count * lanes(channels) + BLOCK
}
