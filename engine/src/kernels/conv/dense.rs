//! Dense and grouped convolution, told to the gathered sums: source, taps and weights of each of the three passes.
//!
//! Maps of few channels (a network's first layer) are copied with their padding; then the columns of a kernel's row and
//! their channels lie side by side and count as the channels of one tap.
//!
//! Never here: loops over pixels.

use crate::pool::{Disjoint, Pool};
use crate::simd::{Isa, Simd, dispatch};

use super::gather::{Class, Source, Tap};
use super::micro::MOST_ROWS;
use super::product::{Product, Weights};
use super::weight_gradient::WeightGradient;
use super::winograd::{self, Grid, Size, WeightGradient as WinogradGradient, Winograd};
use super::{BLOCK, ConvShape, Epilogue, Weight, bf16, scratch};

/// Whether the columns of a kernel's row count as channels.
fn folds(shape: &ConvShape) -> bool {
    shape.groups == 1 && shape.in_channels <= 4 && shape.kernel[1] > 1
}

/// See [`super::forward`].
pub fn forward(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weight: Weight<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let run = |source: Source, classes: &[Class], depth: usize, weights: Weights<'_>, y: &mut [f32]| {
        let product = Product {
            batch: shape.batch,
            source,
            classes,
            groups: shape.groups,
            depth,
            weights,
            block_len: shape.block_len(),
            columns: shape.group_outputs(),
            target: [shape.out_height(), shape.out_width()],
            accumulate: false,
            epilogue: *epilogue,
        };
        product.run(pool, y);
    };
    let by_winograd = |size: Size, weights: winograd::Weights<'_>, y: &mut [f32]| {
        let winograd = Winograd {
            grid: grid(shape, size, x),
            channels: shape.in_channels,
            columns: shape.out_channels,
            accumulate: false,
            epilogue: *epilogue,
        };
        winograd.run(pool, weights, y);
    };
    let (classes, depth) = ([Class::forward(shape)], shape.group_inputs());
    match weight {
        Weight::Winograd(size, weights) => by_winograd(size, winograd::Weights::Transformed(weights), y),
        Weight::Bf16(values) if shape.batch * shape.out_height() * shape.out_width() <= MOST_ROWS => {
            run(input(shape, x), &classes, depth, Weights::Bf16(values), y);
        }
        Weight::Bf16(values) => {
            // Many rows read the weights again and again: widened once.
            let widen = |group: usize, block: usize, to: &mut [f32]| {
                let start = (group * shape.group_blocks() + block) * shape.block_len();
                bf16::widen(pool.isa(), &values[start..][..to.len()], to);
            };
            run(input(shape, x), &classes, depth, Weights::Made(&widen), y);
        }
        Weight::Plain(weights) if folds(shape) => with_padding(pool, shape, x, |source, class| {
            run(source, &[class], shape.kernel[1] * shape.in_channels, Weights::Packed(weights), y);
        }),
        Weight::Plain(weights) => match winograd::best(shape, [shape.out_height(), shape.out_width()]) {
            Some(size) => by_winograd(size, winograd::Weights::Plain(weights), y),
            None => run(input(shape, x), &classes, depth, Weights::Packed(weights), y),
        },
    }
}

/// See [`super::backward_input`].
pub fn backward_input(
    pool: &Pool,
    shape: &ConvShape,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    if let Some(size) = winograd::best(shape, [shape.in_height, shape.in_width]) {
        return winograd_backward_input(pool, shape, size, dy, weight, dx, accumulate);
    }
    let mut classes = Class::backward(shape);
    let taps = number_taps(&mut classes);
    let isa = pool.isa();
    let product = Product {
        batch: shape.batch,
        source: Source::map(dy.as_ptr(), shape.out_height(), shape.out_width(), shape.out_channels),
        classes: &classes,
        groups: shape.groups,
        depth: shape.group_outputs(),
        weights: Weights::Made(&|group, block, to| transpose(isa, shape, weight, &taps, (group, block), to)),
        block_len: taps.len() * shape.group_outputs() * BLOCK,
        columns: shape.group_inputs(),
        target: [shape.in_height, shape.in_width],
        accumulate,
        epilogue: Epilogue::default(),
    };
    product.run(pool, dx);
}

/// The gradient of the input as a convolution of `dy` with turned and transposed weights.
pub fn winograd_backward_input(
    pool: &Pool,
    shape: &ConvShape,
    size: Size,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let winograd = Winograd {
        grid: Grid {
            size,
            batch: shape.batch,
            source: Source::map(dy.as_ptr(), shape.out_height(), shape.out_width(), shape.out_channels),
            padding: shape.padding.map(|padding| 2 - padding),
            target: [shape.in_height, shape.in_width],
        },
        channels: shape.out_channels,
        columns: shape.in_channels,
        accumulate,
        epilogue: Epilogue::default(),
    };
    let turned = [8, 7, 6, 5, 4, 3, 2, 1, 0];
    let len = turned.len() * shape.out_channels * BLOCK;
    let blocks = shape.in_channels.div_ceil(BLOCK);
    scratch::with(blocks * len, |transposed| {
        let (to, isa) = (Disjoint::new(transposed), pool.isa());
        pool.run(blocks, &|block| {
            // SAFETY: every block is a part of its own.
            transpose(isa, shape, weight, &turned, (0, block), unsafe { to.part(block * len, len) });
        });
        winograd.run(pool, winograd::Weights::Plain(transposed), dx);
    });
}

/// See [`super::backward_weight`].
pub fn backward_weight(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
) {
    let run = |source: Source, class: &Class, depth: usize, dw: &mut [f32]| {
        let gradient = WeightGradient {
            batch: shape.batch,
            source,
            class,
            groups: shape.groups,
            depth,
            columns: shape.group_outputs(),
            dy,
            block_len: shape.block_len(),
            accumulate,
        };
        gradient.run(pool, dw);
    };
    if let Some(size) = winograd::best_for_weights(shape) {
        return winograd_backward_weight(pool, shape, size, x, dy, dw, accumulate);
    }
    if folds(shape) {
        return with_padding(pool, shape, x, |source, class| {
            run(source, &class, shape.kernel[1] * shape.in_channels, dw);
        });
    }
    run(input(shape, x), &Class::forward(shape), shape.group_inputs(), dw);
}

/// The same by Winograd's convolution.
pub fn winograd_backward_weight(
    pool: &Pool,
    shape: &ConvShape,
    size: Size,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
) {
    let gradient = WinogradGradient {
        grid: grid(shape, size, x),
        channels: shape.in_channels,
        columns: shape.out_channels,
        dy,
        accumulate,
    };
    gradient.run(pool, dw);
}

/// The patches of the output.
fn grid(shape: &ConvShape, size: Size, x: &[f32]) -> Grid {
    Grid {
        size,
        batch: shape.batch,
        source: input(shape, x),
        padding: shape.padding,
        target: [shape.out_height(), shape.out_width()],
    }
}

fn input(shape: &ConvShape, x: &[f32]) -> Source {
    Source::map(x.as_ptr(), shape.in_height, shape.in_width, shape.in_channels)
}

/// Copies `x` with its padding and passes it on with the class whose taps are the kernel's rows.
fn with_padding(pool: &Pool, shape: &ConvShape, x: &[f32], f: impl FnOnce(Source, Class)) {
    let channels = shape.in_channels;
    let [height, width] = [shape.in_height + 2 * shape.padding[0], shape.in_width + 2 * shape.padding[1]];
    let picture = height * width * channels;
    scratch::with(shape.batch * picture, |padded| {
        let to = Disjoint::new(padded);
        pool.run(shape.batch, &|index| {
            // SAFETY: every picture is a part of its own.
            let to = unsafe { to.part(index * picture, picture) };
            to.fill(0.0);
            let line = shape.in_width * channels;
            let from = &x[index * shape.in_height * line..];
            for row in 0..shape.in_height {
                let start = ((row + shape.padding[0]) * width + shape.padding[1]) * channels;
                to[start..start + line].copy_from_slice(&from[row * line..][..line]);
            }
        });
        let class = Class {
            height: shape.out_height(),
            width: shape.out_width(),
            start: [0; 2],
            target_step: [1; 2],
            source_step: shape.stride,
            taps: (0..shape.kernel[0]).map(|row| Tap { row: row as isize, column: 0, tap: row }).collect(),
        };
        f(Source::map(padded.as_ptr(), height, width, channels), class);
    });
}

/// Numbers the taps that occur from 0, and returns their places in the kernel in that order.
fn number_taps(classes: &mut [Class]) -> Vec<usize> {
    let mut known = Vec::new();
    for tap in classes.iter_mut().flat_map(|class| class.taps.to_mut()) {
        let number = known.iter().position(|&place| place == tap.tap).unwrap_or(known.len());
        if number == known.len() {
            known.push(tap.tap);
        }
        tap.tap = number;
    }
    known
}

/// A block of 16 inputs of a group for the gradient of the input: `[tap of the list][output][16]`.
fn transpose(
    isa: Isa,
    shape: &ConvShape,
    weight: &[f32],
    taps: &[usize],
    (group, block): (usize, usize),
    to: &mut [f32],
) {
    let (inputs, outputs) = (shape.group_inputs(), shape.group_outputs());
    let rows = BLOCK.min(inputs - block * BLOCK);
    for (&tap, to) in taps.iter().zip(to.chunks_exact_mut(outputs * BLOCK)) {
        let start = (tap * inputs + block * BLOCK) * BLOCK;
        for (index, to) in to.chunks_mut(BLOCK * BLOCK).enumerate() {
            let from =
                &weight[(group * shape.group_blocks() + index) * shape.block_len() + start..][..rows * BLOCK];
            dispatch!(isa, transpose_kernel(from: &[f32], to: &mut [f32]));
        }
    }
}

/// `to[column][row] = from[row][column]` for 16 columns in `from` and 16 rows in `to`, as many as the slices hold; zeros
/// beyond.
#[inline(always)]
fn transpose_kernel<V: Simd>(from: &[f32], to: &mut [f32]) {
    const SQUARE: usize = BLOCK * BLOCK;
    if from.len() == SQUARE && to.len() == SQUARE {
        // SAFETY: both are whole squares.
        return unsafe { transpose_square::<V>(from.as_ptr(), to.as_mut_ptr()) };
    }
    let (mut whole, mut turned) = ([0.0; SQUARE], [0.0; SQUARE]);
    whole[..from.len()].copy_from_slice(from);
    // SAFETY: as above.
    unsafe { transpose_square::<V>(whole.as_ptr(), turned.as_mut_ptr()) };
    to.copy_from_slice(&turned[..to.len()]);
}

#[inline(always)]
unsafe fn transpose_square<V: Simd>(from: *const f32, to: *mut f32) {
    for row in (0..BLOCK).step_by(V::LANES) {
        for column in (0..BLOCK).step_by(V::LANES) {
            // SAFETY: inside both squares.
            unsafe {
                V::transpose(from.add(row * BLOCK + column), BLOCK, to.add(column * BLOCK + row), BLOCK)
            };
        }
    }
}
