//! A dense convolution, or the gradient of its input, as sums over gathered pixels: which source pixel and which weights
//! belong to a target pixel under each tap.
//!
//! Forward, the target is the output and there is one class of targets. Backward, the target is the input; with a stride,
//! pixels of different phases meet different taps, so each phase is a class of its own.
//!
//! Never here: arithmetic on maps, or who does which tile.

use std::borrow::Cow;

use super::ConvShape;

/// How pixels of a map lie in memory, in floats.
#[derive(Clone, Copy)]
pub struct Source {
    pub start: *const f32,
    pub picture: usize,
    pub row: usize,
    pub pixel: usize,
    pub height: usize,
    pub width: usize,
}

// SAFETY: a source only reads, and the slice behind it is borrowed for as long as kernels run.
unsafe impl Sync for Source {}
// SAFETY: as above.
unsafe impl Send for Source {}

impl Source {
    /// A contiguous NHWC map.
    pub fn map(start: *const f32, height: usize, width: usize, channels: usize) -> Self {
        Self {
            start,
            picture: height * width * channels,
            row: width * channels,
            pixel: channels,
            height,
            width,
        }
    }

    /// Where a pixel of the map begins.
    pub fn at(&self, picture: usize, row: usize, column: usize) -> *const f32 {
        self.start.wrapping_add(picture * self.picture + row * self.row + column * self.pixel)
    }
}

/// A tap as seen from a target: the source pixel relative to the target's own, and the place of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    pub row: isize,
    pub column: isize,
    /// `kernel row * kernel width + kernel column`
    pub tap: usize,
}

/// Targets that share their taps: a grid of them in every picture.
#[derive(Clone, Debug)]
pub struct Class {
    pub height: usize,
    pub width: usize,
    /// Target pixel of the grid's first place, and its step.
    pub start: [usize; 2],
    pub target_step: [usize; 2],
    /// Steps of the source per step of the grid.
    pub source_step: [usize; 2],
    pub taps: Cow<'static, [Tap]>,
}

/// Along one axis: number of targets, first target, and the taps (source offset, kernel index) that ever hit the source.
struct Axis {
    count: usize,
    start: usize,
    taps: Vec<(isize, usize)>,
}

impl Class {
    /// The class of the forward pass.
    pub fn forward(shape: &ConvShape) -> Self {
        let outs = [shape.out_height(), shape.out_width()];
        if shape.kernel == [1, 1] && shape.padding == [0, 0] {
            // Most layers of a small network, some of which take less than a microsecond.
            return Self {
                height: outs[0],
                width: outs[1],
                start: [0, 0],
                target_step: [1, 1],
                source_step: shape.stride,
                taps: Cow::Borrowed(&[Tap { row: 0, column: 0, tap: 0 }]),
            };
        }
        let [rows, columns] = [0, 1].map(|axis| forward_axis(shape, axis, outs[axis]));
        Self::cross(&rows, &columns, shape.kernel[1], [1, 1], shape.stride)
    }

    /// The classes of the gradient of the input, one per phase of the stride.
    pub fn backward(shape: &ConvShape) -> Vec<Self> {
        let mut classes = Vec::new();
        for row_phase in 0..shape.stride[0].min(shape.in_height) {
            for column_phase in 0..shape.stride[1].min(shape.in_width) {
                let rows = backward_axis(shape, 0, row_phase);
                let columns = backward_axis(shape, 1, column_phase);
                classes.push(Self::cross(&rows, &columns, shape.kernel[1], shape.stride, [1, 1]));
            }
        }
        classes
    }

    fn cross(
        rows: &Axis,
        columns: &Axis,
        kernel_width: usize,
        target_step: [usize; 2],
        source_step: [usize; 2],
    ) -> Self {
        let mut taps = Vec::with_capacity(rows.taps.len() * columns.taps.len());
        for &(row, kernel_row) in &rows.taps {
            for &(column, kernel_column) in &columns.taps {
                taps.push(Tap { row, column, tap: kernel_row * kernel_width + kernel_column });
            }
        }
        let (height, width, start) = (rows.count, columns.count, [rows.start, columns.start]);
        Self { height, width, start, target_step, source_step, taps: taps.into() }
    }

    /// Places of the grid.
    pub fn places(&self) -> usize {
        self.height * self.width
    }

    /// Pairs of place and tap that hit the source.
    pub fn hits(&self, source: &Source) -> usize {
        let count = |places: usize, step: usize, offset: isize, limit: usize| {
            (0..places).filter(|place| (((place * step) as isize + offset) as usize) < limit).count()
        };
        let hits = |tap: &Tap| {
            count(self.height, self.source_step[0], tap.row, source.height)
                * count(self.width, self.source_step[1], tap.column, source.width)
        };
        self.taps.iter().map(hits).sum()
    }
}

/// Whether any of `count` targets, `step` source pixels apart, hits the source at this offset.
fn hits(count: usize, step: usize, offset: isize, limit: usize) -> bool {
    (0..count).any(|target| (((target * step) as isize + offset) as usize) < limit)
}

fn forward_axis(shape: &ConvShape, axis: usize, count: usize) -> Axis {
    let limit = [shape.in_height, shape.in_width][axis];
    let offset = |tap: usize| tap as isize - shape.padding[axis] as isize;
    let taps = (0..shape.kernel[axis])
        .map(|tap| (offset(tap), tap))
        .filter(|&(offset, _)| hits(count, shape.stride[axis], offset, limit))
        .collect();
    Axis { count, start: 0, taps }
}

fn backward_axis(shape: &ConvShape, axis: usize, phase: usize) -> Axis {
    let (targets, limit) = [(shape.in_height, shape.out_height()), (shape.in_width, shape.out_width())][axis];
    let stride = shape.stride[axis];
    let count = (targets - phase).div_ceil(stride);
    let distance = |tap: usize| (phase + shape.padding[axis]) as isize - tap as isize;
    let taps = (0..shape.kernel[axis])
        .filter(|&tap| distance(tap).rem_euclid(stride as isize) == 0)
        .map(|tap| (distance(tap).div_euclid(stride as isize), tap))
        .filter(|&(offset, _)| hits(count, 1, offset, limit))
        .collect();
    Axis { count, start: phase, taps }
}
