//! The map that a convolution reads: which taps ever meet it, and a copy with its padding where the kernels need one.
//!
//! With the padding in memory a target's taps lie at constant distances, borders or not.
//!
//! Never here: weights, or arithmetic on maps.

use crate::kernels::conv::{ConvShape, scratch};
use crate::pool::{Disjoint, Pool};

/// Bytes of a copy below which waking a thread costs more than it saves.
const SMALL: usize = 64 << 10;

/// One axis of a convolution, without the taps that meet nothing but padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Targets.
    pub outs: usize,
    pub stride: usize,
    /// First tap of the kernel that is used, and their number.
    first: usize,
    pub taps: usize,
    /// Pixels of the map, and of padding that taps meet before and after it.
    limit: usize,
    before: usize,
    after: usize,
    /// Pixel of the padded map under the first tap of target 0.
    start: usize,
}

impl Axis {
    fn new(shape: &ConvShape, axis: usize) -> Self {
        let outs = [shape.out_height(), shape.out_width()][axis];
        let limit = [shape.in_height, shape.in_width][axis];
        let (stride, padding, kernel) = (shape.stride[axis], shape.padding[axis], shape.kernel[axis]);
        let meets = |tap: &usize| (0..outs).any(|out| (out * stride + tap).wrapping_sub(padding) < limit);
        let first = (0..kernel).find(meets).unwrap_or(0);
        let taps = (first..kernel).rfind(meets).map_or(kernel, |last| last + 1 - first);
        let before = padding.saturating_sub(first);
        let start = first.saturating_sub(padding);
        let after = (start + (outs - 1) * stride + taps).saturating_sub(before + limit);
        Self { outs, stride, first, taps, limit, before, after, start }
    }

    fn padded(&self) -> usize {
        self.before + self.limit + self.after
    }
}

/// How the map of a convolution lies in memory, padding included.
#[derive(Clone, Debug)]
pub struct Layout {
    pub rows: Axis,
    pub columns: Axis,
    pub channels: usize,
    /// Bytes from a row of the padded map to the next, and from a picture to the next.
    pub line: usize,
    picture: usize,
    /// Bytes that kernels may read past the end.
    slack: usize,
}

impl Layout {
    /// The map of `shape` for kernels that read up to `slack` bytes beyond the channels that they need.
    pub fn new(shape: &ConvShape, slack: usize) -> Self {
        let (rows, columns) = (Axis::new(shape, 0), Axis::new(shape, 1));
        let line = columns.padded() * shape.in_channels;
        let picture = rows.padded() * line;
        Self { rows, columns, channels: shape.in_channels, line, picture, slack }
    }

    /// Passes on where the first tap of the first target lies: in `x`, or in a copy with padding and slack.
    pub fn with<T>(&self, pool: &Pool, x: &[u8], zero_point: u8, f: impl FnOnce(*const u8) -> T) -> T {
        let start = self.rows.start * self.line + self.columns.start * self.channels;
        let padding = [self.rows.before, self.rows.after, self.columns.before, self.columns.after];
        if padding == [0; 4] && self.slack == 0 {
            return f(x.as_ptr().wrapping_add(start));
        }
        let batch = x.len() / (self.rows.limit * self.columns.limit * self.channels);
        let len = batch * self.picture;
        scratch::with((len + self.slack).div_ceil(size_of::<f32>()), |floats| {
            // SAFETY: floats are four bytes each, and any byte is a part of one.
            let copy =
                unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast::<u8>(), len + self.slack) };
            copy[len..].fill(0);
            self.copy(pool, x, zero_point, &mut copy[..len]);
            f(copy.as_ptr().wrapping_add(start))
        })
    }

    /// Copies all rows and fills what lies between them.
    fn copy(&self, pool: &Pool, x: &[u8], zero_point: u8, copy: &mut [u8]) {
        let pictures = copy.len() / self.picture;
        let parts =
            if copy.len() < SMALL { 1 } else { self.rows.limit.min((4 * pool.threads()).div_ceil(pictures)) };
        let copy = Disjoint::new(copy);
        pool.run(pictures * parts, &|task| {
            let (picture, part) = (task / parts, task % parts);
            let rows = [part, part + 1].map(|part| part * self.rows.limit / parts);
            let (start, len) = self.part(picture, rows);
            // SAFETY: parts of a picture begin where their predecessors end.
            let to = unsafe { copy.part(start, len) };
            let len = self.columns.limit * self.channels;
            let from = &x[(picture * self.rows.limit + rows[0]) * len..][..(rows[1] - rows[0]) * len];
            let first = self.pixel(picture, rows[0]) - start;
            copy_rows(from, len, self.line, first, zero_point, to);
        });
    }

    /// Start and length of what a part writes: from the first row's first pixel, or the picture's padding, to the next
    /// part's.
    fn part(&self, picture: usize, rows: [usize; 2]) -> (usize, usize) {
        let start = if rows[0] == 0 { picture * self.picture } else { self.pixel(picture, rows[0]) };
        let end = if rows[1] == self.rows.limit {
            (picture + 1) * self.picture
        } else {
            self.pixel(picture, rows[1])
        };
        (start, end - start)
    }

    /// Where a row of the map begins in the copy, behind its padding.
    fn pixel(&self, picture: usize, row: usize) -> usize {
        picture * self.picture + (self.rows.before + row) * self.line + self.columns.before * self.channels
    }

    /// Places of the used weights of an output in `[output][input of the group][kh][kw]`, ordered by row, column, input.
    pub fn weights(&self, shape: &ConvShape, output: usize) -> impl Iterator<Item = usize> {
        let (inputs, [height, width]) = (shape.in_channels / shape.groups, shape.kernel);
        let (first, taps) = ([self.rows.first, self.columns.first], [self.rows.taps, self.columns.taps]);
        (0..taps[0] * taps[1] * inputs).map(move |index| {
            let (tap, input) = (index / inputs, index % inputs);
            let (row, column) = (first[0] + tap / taps[1], first[1] + tap % taps[1]);
            ((output * inputs + input) * height + row) * width + column
        })
    }

    /// Targets of a picture.
    pub fn places(&self) -> usize {
        self.rows.outs * self.columns.outs
    }

    /// Bytes from the first target's first tap to that of target `[picture][row][column]`.
    pub fn offset(&self, picture: usize, row: usize, column: usize) -> usize {
        picture * self.picture
            + row * self.rows.stride * self.line
            + column * self.columns.stride * self.channels
    }
}

/// Copies rows of `len` bytes to places `line` apart from `first`, and fills what is left of `to`.
fn copy_rows(from: &[u8], len: usize, line: usize, first: usize, filling: u8, to: &mut [u8]) {
    let (before, mut rest) = to.split_at_mut(first);
    before.fill(filling);
    let mut rows = from.chunks_exact(len).peekable();
    while let Some(row) = rows.next() {
        let gap = if rows.peek().is_some() { line } else { rest.len() };
        let (this, next) = rest.split_at_mut(gap);
        let (pixels, padding) = this.split_at_mut(len);
        pixels.copy_from_slice(row);
        padding.fill(filling);
        rest = next;
    }
}
