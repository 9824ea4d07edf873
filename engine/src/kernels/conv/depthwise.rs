//! Depthwise convolution, vectors over channels.
//!
//! Forward and the gradient of the input are one loop: targets in a grid, a window of source pixels around each. Where a
//! window lies inside the source's columns, four targets share the pixels that they load; at the borders a window is cut.
//! The gradient of the weights keeps all taps of a vector of channels in registers while it goes through the pixels of a
//! slice of the batch; slices are as many as the shape says and are added in order.
//!
//! Never here: any other grouping.
#![allow(clippy::needless_range_loop)] // indices count registers; iterators would hide that

use std::ops::Range;

use crate::pool::{Disjoint, Pool};
use crate::simd::{Simd, dispatch};

use super::finish::{self, Finish};
use super::{ConvShape, Epilogue, scratch};

/// Targets of a window kernel.
const WIDE: usize = 4;
/// Fewest pixels of a slice of the batch.
const SLICE: usize = 128;
/// Most slices of a batch.
const SLICES: usize = 8;

/// One axis of a grid of targets that share their taps.
#[derive(Clone, Copy)]
struct Axis {
    /// Targets, the first, and the step between them.
    count: usize,
    start: usize,
    target_step: usize,
    /// Source pixels per target, and where the window of target 0 begins.
    source_step: usize,
    offset: isize,
    /// Source pixels there are.
    limit: usize,
    taps: usize,
    /// Kernel index of the first tap, and the step to the next.
    first_tap: usize,
    tap_step: isize,
}

impl Axis {
    fn forward(shape: &ConvShape, axis: usize) -> Self {
        Self {
            count: [shape.out_height(), shape.out_width()][axis],
            start: 0,
            target_step: 1,
            source_step: shape.stride[axis],
            offset: -(shape.padding[axis] as isize),
            limit: [shape.in_height, shape.in_width][axis],
            taps: shape.kernel[axis],
            first_tap: 0,
            tap_step: 1,
        }
    }

    /// Input pixels `phase`, `phase + stride`, ... and the outputs that they reached, first to last.
    fn backward(shape: &ConvShape, axis: usize, phase: usize) -> Self {
        let (stride, shifted) = (shape.stride[axis], phase + shape.padding[axis]);
        let first = shifted % stride;
        let taps = (shape.kernel[axis] + stride - 1).saturating_sub(first) / stride;
        let last = first + taps.saturating_sub(1) * stride;
        Self {
            count: ([shape.in_height, shape.in_width][axis] - phase).div_ceil(stride),
            start: phase,
            target_step: stride,
            source_step: 1,
            offset: (shifted as isize - last as isize) / stride as isize,
            limit: [shape.out_height(), shape.out_width()][axis],
            taps,
            first_tap: last,
            tap_step: -(stride as isize),
        }
    }

    /// First source pixel of a target's window, perhaps outside.
    fn window(&self, target: usize) -> isize {
        (target * self.source_step) as isize + self.offset
    }

    /// Taps of a target that meet the source.
    fn hits(&self, target: usize) -> Range<usize> {
        let window = self.window(target);
        let start = (-window).clamp(0, self.taps as isize);
        start as usize..(self.limit as isize - window).clamp(start, self.taps as isize) as usize
    }

    /// Targets all of whose taps meet the source.
    fn inner(&self) -> Range<usize> {
        let whole = |target: &usize| self.hits(*target) == (0..self.taps);
        let start = (0..self.count).find(whole).unwrap_or(self.count);
        start..(start..self.count).find(|target| !whole(target)).unwrap_or(self.count)
    }

    /// Targets under which a tap meets the source.
    fn met_by(&self, tap: usize) -> Range<usize> {
        let meets = |target: &usize| self.hits(*target).contains(&tap);
        let start = (0..self.count).find(meets).unwrap_or(self.count);
        start..(start..self.count).find(|target| !meets(target)).unwrap_or(self.count)
    }

    fn kernel_index(&self, tap: usize) -> usize {
        (self.first_tap as isize + tap as isize * self.tap_step) as usize
    }
}

/// Targets that share their taps, and where the weights of those begin.
struct Grid {
    rows: Axis,
    columns: Axis,
    weights: usize,
    /// Targets of a row whose windows lie inside.
    inner: Range<usize>,
}

/// Targets `y` from source `x`, both maps of one channel count.
struct Windows<'a> {
    /// One per phase of the stride, row by row: `[row phase][column phase]`.
    grids: Vec<Grid>,
    phases: [usize; 2],
    batch: usize,
    channels: usize,
    x: &'a [f32],
    /// Of every grid `[rows.taps][columns.taps][channels]`
    weights: &'a [f32],
    /// Height and width of the target map.
    target: [usize; 2],
    accumulate: bool,
    epilogue: Epilogue<'a>,
}

/// See [`super::forward`].
pub fn forward(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weight: &[f32],
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (rows, columns) = (Axis::forward(shape, 0), Axis::forward(shape, 1));
    let windows = Windows {
        grids: vec![Grid { rows, columns, weights: 0, inner: columns.inner() }],
        phases: [1, 1],
        batch: shape.batch,
        channels: shape.in_channels,
        x,
        weights: weight,
        target: [shape.out_height(), shape.out_width()],
        accumulate: false,
        epilogue: *epilogue,
    };
    windows.run(pool, y);
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
    scratch::with(weight.len(), |turned| {
        let phases = [shape.stride[0].min(shape.in_height), shape.stride[1].min(shape.in_width)];
        let windows = Windows {
            grids: turned_grids(shape, phases, weight, turned),
            phases,
            batch: shape.batch,
            channels: shape.in_channels,
            x: dy,
            weights: turned,
            target: [shape.in_height, shape.in_width],
            accumulate,
            epilogue: Epilogue::default(),
        };
        windows.run(pool, dx);
    });
}

/// The grids of the gradient of the input; every weight belongs to one of them and is copied there in window order.
fn turned_grids(shape: &ConvShape, phases: [usize; 2], weight: &[f32], turned: &mut [f32]) -> Vec<Grid> {
    let channels = shape.in_channels;
    let mut grids = Vec::with_capacity(phases[0] * phases[1]);
    let mut taps = 0;
    for phase in 0..phases[0] * phases[1] {
        let rows = Axis::backward(shape, 0, phase / phases[1]);
        let columns = Axis::backward(shape, 1, phase % phases[1]);
        grids.push(Grid { rows, columns, weights: taps * channels, inner: columns.inner() });
        for place in 0..rows.taps * columns.taps {
            let row = rows.kernel_index(place / columns.taps);
            let from = row * shape.kernel[1] + columns.kernel_index(place % columns.taps);
            turned[taps * channels..][..channels].copy_from_slice(&weight[from * channels..][..channels]);
            taps += 1;
        }
    }
    grids
}

/// One target or several side by side, for a kernel.
#[derive(Clone, Copy)]
struct Window {
    /// First source pixel of the first target's window, as far as it is inside.
    x: *const f32,
    /// Floats from a row of the source to the next.
    x_row: usize,
    weights: *const f32,
    /// Floats from a row of weights to the next.
    weights_row: usize,
    rows: usize,
    columns: usize,
    channels: usize,
    y: *mut f32,
    /// Floats from a target to the next.
    y_step: usize,
    /// Its residual begins at the first target.
    finish: Finish,
}

impl Windows<'_> {
    fn run(&self, pool: &Pool, y: &mut [f32]) {
        let lines = self.batch * self.target[0];
        let taps = (self.weights.len() / self.channels.max(1)).max(1);
        let work = lines * self.target[1] * self.channels * taps / self.grids.len();
        let wanted = if work < 30_000 { 1 } else { pool.threads() * 6 };
        let per_task = lines.div_ceil(wanted).max(1);
        let y = Disjoint::new(y);
        pool.run(lines.div_ceil(per_task), &|task| {
            for line in task * per_task..lines.min((task + 1) * per_task) {
                let (picture, row) = (line / self.target[0], line % self.target[0]);
                let first = row % self.phases[0] * self.phases[1];
                for grid in &self.grids[first..first + self.phases[1]] {
                    self.line(pool, grid, picture, row / self.phases[0], &y);
                }
            }
        });
    }

    /// One row of targets of a grid.
    fn line(&self, pool: &Pool, grid: &Grid, picture: usize, row: usize, y: &Disjoint<'_, f32>) {
        let (size, step) = (grid.columns.taps, grid.columns.source_step);
        let mut column = 0;
        while column < grid.columns.count {
            let fits = grid.inner.contains(&column) && column + WIDE <= grid.inner.end;
            let window = self.window(grid, picture, row, column, y);
            let mut count = WIDE;
            match (fits, size, step) {
                (true, 1, 1) => dispatch!(pool.isa(), wide_kernel[1, 1, 4](window: Window)),
                (true, 2, 1) => dispatch!(pool.isa(), wide_kernel[2, 1, 5](window: Window)),
                (true, 3, 1) => dispatch!(pool.isa(), wide_kernel[3, 1, 6](window: Window)),
                (true, 3, 2) => dispatch!(pool.isa(), wide_kernel[3, 2, 9](window: Window)),
                (true, 5, 1) => dispatch!(pool.isa(), wide_kernel[5, 1, 8](window: Window)),
                (true, 5, 2) => dispatch!(pool.isa(), wide_kernel[5, 2, 11](window: Window)),
                _ => {
                    count = 1;
                    dispatch!(pool.isa(), window_kernel(window: Window));
                }
            }
            self.finish(pool, grid, picture, row, column..column + count, y);
            column += count;
        }
    }

    fn target(&self, grid: &Grid, picture: usize, row: usize, column: usize) -> usize {
        let row = grid.rows.start + row * grid.rows.target_step;
        let column = grid.columns.start + column * grid.columns.target_step;
        ((picture * self.target[0] + row) * self.target[1] + column) * self.channels
    }

    fn window(
        &self,
        grid: &Grid,
        picture: usize,
        row: usize,
        column: usize,
        y: &Disjoint<'_, f32>,
    ) -> Window {
        let (rows, columns) = (grid.rows.hits(row), grid.columns.hits(column));
        // A window without rows or columns is never read.
        let first = |axis: &Axis, target: usize, hits: &Range<usize>| {
            (axis.window(target) + hits.start as isize).max(0) as usize
        };
        let (top, left) = (first(&grid.rows, row, &rows), first(&grid.columns, column, &columns));
        let pixel = (picture * grid.rows.limit + top) * grid.columns.limit + left;
        let tap = rows.start * grid.columns.taps + columns.start;
        let target = self.target(grid, picture, row, column);
        Window {
            x: self.x.as_ptr().wrapping_add(pixel * self.channels),
            x_row: grid.columns.limit * self.channels,
            weights: self.weights.as_ptr().wrapping_add(grid.weights + tap * self.channels),
            weights_row: grid.columns.taps * self.channels,
            rows: rows.len(),
            columns: columns.len(),
            channels: self.channels,
            y: y.as_mut_ptr().wrapping_add(target),
            y_step: grid.columns.target_step * self.channels,
            finish: Finish::of(&self.epilogue, 0, self.accumulate).at(target),
        }
    }

    /// The activation of some targets of a row, if the kernels lack it.
    fn finish(
        &self,
        pool: &Pool,
        grid: &Grid,
        picture: usize,
        row: usize,
        columns: Range<usize>,
        y: &Disjoint<'_, f32>,
    ) {
        let Some(activation) = finish::left_over(&self.epilogue) else { return };
        for column in columns {
            // SAFETY: this task alone writes this row of targets.
            let target = unsafe { y.part(self.target(grid, picture, row, column), self.channels) };
            finish::activate(pool.isa(), activation, target);
        }
    }
}

/// Four targets side by side whose windows of `K` columns, `S` apart, lie inside: `N = 3 S + K` source pixels per row.
#[inline(always)]
fn wide_kernel<V: Simd, const K: usize, const S: usize, const N: usize>(window: Window) {
    let mut channel = 0;
    while channel < window.channels {
        let count = V::LANES.min(window.channels - channel);
        // SAFETY: the caller's windows lie inside the maps, and `count` channels remain.
        unsafe {
            if count == V::LANES {
                wide_channels::<V, K, S, N, true>(&window, channel, count);
            } else {
                wide_channels::<V, K, S, N, false>(&window, channel, count);
            }
        }
        channel += V::LANES;
    }
}

/// One vector of channels, a whole one or `count` lanes of it.
#[inline(always)]
unsafe fn load<V: Simd, const WHOLE: bool>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe { if WHOLE { V::load(from) } else { V::load_partial(from, count) } }
}

#[inline(always)]
unsafe fn wide_channels<V: Simd, const K: usize, const S: usize, const N: usize, const WHOLE: bool>(
    window: &Window,
    channel: usize,
    count: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [window.finish.first::<V>(channel, count); WIDE];
        for row in 0..window.rows {
            let x = window.x.add(row * window.x_row + channel);
            let weights = window.weights.add(row * window.weights_row + channel);
            let mut pixels = [V::zero(); N];
            for n in 0..N {
                pixels[n] = load::<V, WHOLE>(x.add(n * window.channels), count);
            }
            for k in 0..K {
                let weight = load::<V, WHOLE>(weights.add(k * window.channels), count);
                for t in 0..WIDE {
                    sums[t] = pixels[t * S + k].mul_add(weight, sums[t]);
                }
            }
        }
        for t in 0..WIDE {
            put::<V, WHOLE>(sums[t], window, t * window.y_step + channel, count);
        }
    }
}

/// Writes a sum at `place`, counted from the first target.
#[inline(always)]
unsafe fn put<V: Simd, const WHOLE: bool>(sum: V, window: &Window, place: usize, count: usize) {
    let residual = window.finish.residual.wrapping_add(place);
    // SAFETY: the caller's promise.
    unsafe { window.finish.put::<V, WHOLE>(sum, window.y.add(place), residual, count) };
}

/// One target whose window has any number of rows and columns.
#[inline(always)]
fn window_kernel<V: Simd>(window: Window) {
    let mut channel = 0;
    // SAFETY: the caller's window lies inside the maps; the channels taken remain.
    unsafe {
        while channel + 4 * V::LANES <= window.channels {
            window_channels::<V, 4, true>(&window, channel, V::LANES);
            channel += 4 * V::LANES;
        }
        while channel + V::LANES <= window.channels {
            window_channels::<V, 1, true>(&window, channel, V::LANES);
            channel += V::LANES;
        }
        if channel < window.channels {
            window_channels::<V, 1, false>(&window, channel, window.channels - channel);
        }
    }
}

#[inline(always)]
unsafe fn window_channels<V: Simd, const C: usize, const WHOLE: bool>(
    window: &Window,
    channel: usize,
    count: usize,
) {
    let mut sums = [V::zero(); C];
    // SAFETY: the caller's promise.
    unsafe {
        for c in 0..C {
            sums[c] = window.finish.first::<V>(channel + c * V::LANES, count);
        }
        for row in 0..window.rows {
            for column in 0..window.columns {
                let x = window.x.add(row * window.x_row + column * window.channels + channel);
                let weights =
                    window.weights.add(row * window.weights_row + column * window.channels + channel);
                for c in 0..C {
                    let weight = load::<V, WHOLE>(weights.add(c * V::LANES), count);
                    sums[c] = load::<V, WHOLE>(x.add(c * V::LANES), count).mul_add(weight, sums[c]);
                }
            }
        }
        for c in 0..C {
            put::<V, WHOLE>(sums[c], window, channel + c * V::LANES, count);
        }
    }
}

#[inline(always)]
unsafe fn add_up<V: Simd, const WHOLE: bool>(sum: V, to: *mut f32, count: usize, accumulate: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        let sum = if accumulate { sum.add(load::<V, WHOLE>(to, count)) } else { sum };
        if WHOLE { sum.store(to) } else { sum.store_partial(to, count) }
    }
}

/// Sums of all taps for some channels over some pictures.
#[derive(Clone, Copy)]
struct TapSums {
    x: *const f32,
    dy: *const f32,
    /// `[tap][channels]`
    dw: *mut f32,
    pictures: usize,
    rows: Axis,
    columns: Axis,
    channels: usize,
    channel: usize,
    /// Channels of this call.
    count: usize,
    /// Targets whose window's columns lie inside.
    inner: [usize; 2],
    accumulate: bool,
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
    let pixels = shape.batch * shape.out_height() * shape.out_width();
    let slices = (pixels / SLICE).clamp(1, SLICES).min(shape.batch.max(1));
    if slices == 1 {
        return sum_slices(pool, shape, x, dy, 1, dw, accumulate);
    }
    let len = dw.len();
    scratch::with(slices * len, |sums| {
        sum_slices(pool, shape, x, dy, slices, sums, false);
        let sums = &*sums;
        for slice in 0..slices {
            let (sums, add) = (&sums[slice * len..][..len], accumulate || slice > 0);
            dispatch!(pool.isa(), add_kernel(dw: &mut [f32], sums: &[f32], add: bool));
        }
    });
}

/// Sums of every slice of the batch, one after the other in `sums`.
fn sum_slices(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    slices: usize,
    sums: &mut [f32],
    accumulate: bool,
) {
    let (rows, columns) = (Axis::forward(shape, 0), Axis::forward(shape, 1));
    let inner = columns.inner();
    let channels = shape.in_channels;
    let len = sums.len() / slices;
    let sums = Disjoint::new(sums);
    // Sixteen channels are whole vectors under every instruction set, and a cache line.
    let parts = channels.div_ceil(16).min((pool.threads() * 6).div_ceil(slices));
    let per_part = channels.div_ceil(16).div_ceil(parts) * 16;
    let (in_picture, out_picture) =
        (shape.in_len() / shape.batch.max(1), shape.out_len() / shape.batch.max(1));
    pool.run(slices * parts, &|task| {
        let (slice, part) = (task / parts, task % parts);
        let pictures = shape.batch * slice / slices..shape.batch * (slice + 1) / slices;
        let work = TapSums {
            x: x[pictures.start * in_picture..].as_ptr(),
            dy: dy[pictures.start * out_picture..].as_ptr(),
            dw: sums.as_mut_ptr().wrapping_add(slice * len),
            pictures: pictures.len(),
            rows,
            columns,
            channels,
            channel: part * per_part,
            count: per_part.min(channels.saturating_sub(part * per_part)),
            inner: [inner.start, inner.end],
            accumulate,
        };
        match shape.kernel {
            // Most taps of a narrow map meet padding.
            _ if columns.count <= 2 => dispatch!(pool.isa(), any_taps_kernel(work: TapSums)),
            [3, 3] => dispatch!(pool.isa(), taps_kernel[3, 9](work: TapSums)),
            [5, 5] => dispatch!(pool.isa(), taps_kernel[5, 25](work: TapSums)),
            _ => dispatch!(pool.isa(), any_taps_kernel(work: TapSums)),
        }
    });
}

/// Square kernels of side `K`, `T = K^2` taps, all in registers.
#[inline(always)]
fn taps_kernel<V: Simd, const K: usize, const T: usize>(work: TapSums) {
    let mut channel = work.channel;
    let end = work.channel + work.count;
    while channel < end {
        let count = V::LANES.min(end - channel);
        // SAFETY: `count` channels remain.
        unsafe {
            if count == V::LANES {
                taps_channels::<V, K, T, true>(&work, channel, count);
            } else {
                taps_channels::<V, K, T, false>(&work, channel, count);
            }
        }
        channel += V::LANES;
    }
}

#[inline(always)]
unsafe fn taps_channels<V: Simd, const K: usize, const T: usize, const WHOLE: bool>(
    work: &TapSums,
    channel: usize,
    count: usize,
) {
    let mut sums = [V::zero(); T];
    let (rows, columns, channels) = (&work.rows, &work.columns, work.channels);
    let step = columns.source_step * channels;
    // SAFETY: only taps that meet the source are read; the caller vouches for the channels.
    unsafe {
        for picture in 0..work.pictures {
            for row in 0..rows.count {
                let top = rows.window(row) + (picture * rows.limit) as isize;
                let dy = work.dy.add((picture * rows.count + row) * columns.count * channels + channel);
                let hit = rows.hits(row);
                // May point before the map where the window does; those pixels are not read.
                let start =
                    (top * columns.limit as isize + columns.offset) * channels as isize + channel as isize;
                let x = work.x.wrapping_offset(start);
                for column in 0..columns.count {
                    let gradient = load::<V, WHOLE>(dy.add(column * channels), count);
                    let x = x.wrapping_add(column * step);
                    let inside = column >= work.inner[0] && column < work.inner[1];
                    let hits = if inside { 0..K } else { columns.hits(column) };
                    for k in 0..K {
                        if k < hit.start || k >= hit.end {
                            continue;
                        }
                        let x = x.wrapping_add(k * columns.limit * channels);
                        if inside {
                            for j in 0..K {
                                let pixel = load::<V, WHOLE>(x.wrapping_add(j * channels), count);
                                sums[k * K + j] = pixel.mul_add(gradient, sums[k * K + j]);
                            }
                        } else {
                            for j in 0..K {
                                if j >= hits.start && j < hits.end {
                                    let pixel = load::<V, WHOLE>(x.wrapping_add(j * channels), count);
                                    sums[k * K + j] = pixel.mul_add(gradient, sums[k * K + j]);
                                }
                            }
                        }
                    }
                }
            }
        }
        for t in 0..T {
            add_up::<V, WHOLE>(sums[t], work.dw.add(t * channels + channel), count, work.accumulate);
        }
    }
}

/// Kernels of any size and narrow maps, a tap at a time.
#[inline(always)]
fn any_taps_kernel<V: Simd>(work: TapSums) {
    for tap in 0..work.rows.taps * work.columns.taps {
        let mut channel = work.channel;
        let end = work.channel + work.count;
        // SAFETY: the channels taken remain.
        unsafe {
            while channel + 4 * V::LANES <= end {
                one_tap::<V, 4, true>(&work, tap, channel, V::LANES);
                channel += 4 * V::LANES;
            }
            while channel + V::LANES <= end {
                one_tap::<V, 1, true>(&work, tap, channel, V::LANES);
                channel += V::LANES;
            }
            if channel < end {
                one_tap::<V, 1, false>(&work, tap, channel, end - channel);
            }
        }
    }
}

#[inline(always)]
unsafe fn one_tap<V: Simd, const C: usize, const WHOLE: bool>(
    work: &TapSums,
    tap: usize,
    channel: usize,
    count: usize,
) {
    let (rows, columns, channels) = (&work.rows, &work.columns, work.channels);
    let (tap_row, tap_column) = (tap / columns.taps, tap % columns.taps);
    let (targets, across) = (rows.met_by(tap_row), columns.met_by(tap_column));
    let mut sums = [V::zero(); C];
    // SAFETY: only targets whose tap meets the source are read; the caller vouches for the channels.
    unsafe {
        for picture in 0..work.pictures {
            for row in targets.start..targets.end {
                let in_row = picture * rows.limit + (rows.window(row) + tap_row as isize) as usize;
                let line = (picture * rows.count + row) * columns.count;
                for column in across.start..across.end {
                    let pixel =
                        in_row * columns.limit + (columns.window(column) + tap_column as isize) as usize;
                    let x = work.x.add(pixel * channels + channel);
                    let dy = work.dy.add((line + column) * channels + channel);
                    for c in 0..C {
                        let gradient = load::<V, WHOLE>(dy.add(c * V::LANES), count);
                        sums[c] = load::<V, WHOLE>(x.add(c * V::LANES), count).mul_add(gradient, sums[c]);
                    }
                }
            }
        }
        for c in 0..C {
            let to = work.dw.add(tap * channels + channel + c * V::LANES);
            add_up::<V, WHOLE>(sums[c], to, count, work.accumulate);
        }
    }
}

/// `dw = sums`, or `dw += sums`.
#[inline(always)]
fn add_kernel<V: Simd>(dw: &mut [f32], sums: &[f32], add: bool) {
    let to = dw.as_mut_ptr();
    let mut i = 0;
    while i < dw.len() {
        let count = V::LANES.min(dw.len() - i);
        // SAFETY: both are of one length.
        unsafe {
            let sum = V::load_partial(sums.as_ptr().add(i), count);
            let sum = if add { V::load_partial(to.add(i), count).add(sum) } else { sum };
            sum.store_partial(to.add(i), count);
        }
        i += V::LANES;
    }
}
