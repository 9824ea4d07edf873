//! Pooling of NHWC maps: largest value, mean, mean over all positions. Windows may overlap and reach over the edge.
//!
//! Work is divided by picture.

use models::Pool2d;

use crate::kernels::norm::{Rows, Target};
use crate::kernels::spans::lanes;
use crate::pool::{Disjoint, Pool};
use crate::simd::{Simd, dispatch};

/// A pooling of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Pictures.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// The window.
    pub window: Pool2d,
}

impl PoolShape {
    /// Rows and columns of the output.
    pub fn out(&self) -> [usize; 2] {
        let Pool2d { kernel, stride, padding } = self.window;
        [
            (self.height + 2 * padding[0] - kernel[0]) / stride[0] + 1,
            (self.width + 2 * padding[1] - kernel[1]) / stride[1] + 1,
        ]
    }

    fn in_picture(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn out_picture(&self) -> usize {
        self.out()[0] * self.out()[1] * self.channels
    }

    /// The part of the window at this output row (axis 0) or column (axis 1) that lies within the input. Never empty,
    /// since the padding is at most half the window.
    #[inline(always)]
    fn span(&self, axis: usize, output: usize) -> Span {
        let Pool2d { kernel, stride, padding } = self.window;
        let size = if axis == 0 { self.height } else { self.width };
        let start = output * stride[axis];
        let first = padding[axis].saturating_sub(start);
        let end = kernel[axis].min(size + padding[axis] - start);
        Span { first, end, input: start + first - padding[axis] }
    }
}

/// Taps of a window along one axis.
#[derive(Clone, Copy)]
struct Span {
    /// First tap within the input.
    first: usize,
    /// One past the last.
    end: usize,
    /// Input row or column of the first.
    input: usize,
}

/// Walks the taps of an output: `taps!(shape, rows, columns, (number, input) => { ... })` with the tap's number in its
/// window and its input position. A macro for the reason that `lanes!` is one.
macro_rules! taps {
    ($shape:expr, $rows:expr, $columns:expr, ($number:ident, $input:ident) => $body:block) => {{
        let (shape, rows, columns): (&PoolShape, Span, Span) = ($shape, $rows, $columns);
        for row in rows.first..rows.end {
            let line = (rows.input + row - rows.first) * shape.width + columns.input;
            for column in columns.first..columns.end {
                let $number = row * shape.window.kernel[1] + column;
                let $input = line + column - columns.first;
                $body
            }
        }
    }};
}

/// Largest value of each window into `y`, and the number of its tap, as a float, into `taps` if there is one.
pub fn max_forward(pool: &Pool, shape: &PoolShape, x: &[f32], y: &mut [f32], taps: Option<&mut [f32]>) {
    let isa = pool.isa();
    let (outputs, taps) = (Disjoint::new(y), taps.map(Disjoint::new));
    pool.run(shape.batch, &|picture| {
        let x = &x[picture * shape.in_picture()..][..shape.in_picture()];
        // SAFETY: pictures do not overlap.
        let (y, taps) = unsafe {
            let part = |all: &Disjoint<'_, f32>| {
                all.part(picture * shape.out_picture(), shape.out_picture()).as_mut_ptr()
            };
            (part(&outputs), taps.as_ref().map(part))
        };
        dispatch!(isa, max_kernel(shape: &PoolShape, x: &[f32], y: *mut f32, taps: Option<*mut f32>));
    });
}

#[inline(always)]
fn max_kernel<V: Simd>(shape: &PoolShape, x: &[f32], y: *mut f32, taps: Option<*mut f32>) {
    let ([out_height, out_width], channels, x) = (shape.out(), shape.channels, x.as_ptr());
    for (row, column) in (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column))) {
        let (rows, columns) = (shape.span(0, row), shape.span(1, column));
        let out = (row * out_width + column) * channels;
        lanes!(V, channels, at => {
            // SAFETY: a tap's positions lie within the picture's maps.
            unsafe {
                let start = (rows.input * shape.width + columns.input) * channels;
                let mut best: V = at.load(x.add(start));
                let mut noted = V::splat((rows.first * shape.window.kernel[1] + columns.first) as f32);
                taps!(shape, rows, columns, (number, input) => {
                    let value: V = at.load(x.add(input * channels));
                    noted = value.if_greater(best, V::splat(number as f32), noted);
                    best = value.if_greater(best, value, best);
                });
                at.store(best, y.add(out));
                if let Some(taps) = taps {
                    at.store(noted, taps.add(out));
                }
            }
        });
    }
}

/// Gradient of the largest values: each goes to the place that [`max_forward`] noted.
pub fn max_backward(pool: &Pool, shape: &PoolShape, dy: &[f32], taps: &[f32], dx: Target<'_>) {
    let (isa, add) = (pool.isa(), dx.add);
    let inputs = Disjoint::new(dx.values);
    pool.run(shape.batch, &|picture| {
        // SAFETY: pictures do not overlap.
        let dx = unsafe { inputs.part(picture * shape.in_picture(), shape.in_picture()) };
        if !add {
            dx.fill(0.0);
        }
        let outputs = picture * shape.out_picture()..(picture + 1) * shape.out_picture();
        let (dy, taps) = (&dy[outputs.clone()], &taps[outputs]);
        dispatch!(isa, max_backward_kernel(shape: &PoolShape, dy: &[f32], taps: &[f32], dx: &mut [f32]));
    });
}

#[inline(always)]
fn max_backward_kernel<V: Simd>(shape: &PoolShape, dy: &[f32], noted: &[f32], dx: &mut [f32]) {
    let ([out_height, out_width], channels) = (shape.out(), shape.channels);
    let (dy, noted, dx) = (dy.as_ptr(), noted.as_ptr(), dx.as_mut_ptr());
    for (row, column) in (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column))) {
        let (rows, columns) = (shape.span(0, row), shape.span(1, column));
        let out = (row * out_width + column) * channels;
        lanes!(V, channels, at => {
            // SAFETY: a tap's positions lie within the picture's maps.
            unsafe {
                let (gradient, noted): (V, V) = (at.load(dy.add(out)), at.load(noted.add(out)));
                taps!(shape, rows, columns, (number, input) => {
                    let not_above = V::splat(number as f32 + 0.5).if_greater(noted, gradient, V::zero());
                    let share = noted.if_greater(V::splat(number as f32 - 0.5), not_above, V::zero());
                    at.put(share, dx.add(input * channels), true);
                });
            }
        });
    }
}

/// Mean of each window; padding counts as zeros.
pub fn average_forward(pool: &Pool, shape: &PoolShape, x: &[f32], y: &mut [f32]) {
    let isa = pool.isa();
    let outputs = Disjoint::new(y);
    pool.run(shape.batch, &|picture| {
        let x = &x[picture * shape.in_picture()..][..shape.in_picture()];
        // SAFETY: pictures do not overlap.
        let y = unsafe { outputs.part(picture * shape.out_picture(), shape.out_picture()) };
        y.fill(0.0);
        dispatch!(isa, average_kernel[false](shape: &PoolShape, x: &[f32], y: &mut [f32]));
    });
}

/// Gradient of the means.
pub fn average_backward(pool: &Pool, shape: &PoolShape, dy: &[f32], dx: Target<'_>) {
    let (isa, add) = (pool.isa(), dx.add);
    let inputs = Disjoint::new(dx.values);
    pool.run(shape.batch, &|picture| {
        // SAFETY: pictures do not overlap.
        let dx = unsafe { inputs.part(picture * shape.in_picture(), shape.in_picture()) };
        if !add {
            dx.fill(0.0);
        }
        let dy = &dy[picture * shape.out_picture()..][..shape.out_picture()];
        dispatch!(isa, average_kernel[true](shape: &PoolShape, dy: &[f32], dx: &mut [f32]));
    });
}

/// Adds every input's share to its outputs, or, transposed, every output's share to its inputs.
#[inline(always)]
fn average_kernel<V: Simd, const TRANSPOSED: bool>(shape: &PoolShape, from: &[f32], to: &mut [f32]) {
    let ([out_height, out_width], channels) = (shape.out(), shape.channels);
    let share = V::splat(1.0 / (shape.window.kernel[0] * shape.window.kernel[1]) as f32);
    let (from, to) = (from.as_ptr(), to.as_mut_ptr());
    for (row, column) in (0..out_height).flat_map(|row| (0..out_width).map(move |column| (row, column))) {
        let output = row * out_width + column;
        taps!(shape, shape.span(0, row), shape.span(1, column), (_number, input) => {
            let (source, target) = if TRANSPOSED { (output, input) } else { (input, output) };
            lanes!(V, channels, at => {
                // SAFETY: a tap's positions lie within the picture's maps.
                unsafe {
                    let sum = at.load::<V>(from.add(source * channels));
                    let to = to.add(target * channels);
                    at.store(sum.mul_add(share, at.load(to)), to);
                }
            });
        });
    }
}

/// Mean over all positions of each picture.
pub fn global_forward(pool: &Pool, rows: Rows, x: &[f32], y: &mut [f32]) {
    let isa = pool.isa();
    let picture_len = rows.positions * rows.channels;
    let outputs = Disjoint::new(y);
    pool.run(rows.samples, &|picture| {
        let x = &x[picture * picture_len..][..picture_len];
        // SAFETY: pictures do not overlap.
        let y = unsafe { outputs.part(picture * rows.channels, rows.channels) };
        dispatch!(isa, mean_kernel(x: &[f32], y: &mut [f32]));
    });
}

#[inline(always)]
fn mean_kernel<V: Simd>(x: &[f32], y: &mut [f32]) {
    let channels = y.len();
    let positions = x.len() / channels;
    let share = V::splat(1.0 / positions as f32);
    let (x, y) = (x.as_ptr(), y.as_mut_ptr());
    lanes!(V, channels, at => {
        // SAFETY: every row has `channels` elements.
        unsafe {
            let (mut even, mut odd) = (V::zero(), V::zero());
            for pair in 0..positions / 2 {
                even = even.add(at.load(x.add(2 * pair * channels)));
                odd = odd.add(at.load(x.add((2 * pair + 1) * channels)));
            }
            if positions % 2 == 1 {
                even = even.add(at.load(x.add((positions - 1) * channels)));
            }
            at.store(even.add(odd).mul(share), y);
        }
    });
}

/// Gradient of the mean over all positions.
pub fn global_backward(pool: &Pool, rows: Rows, dy: &[f32], dx: Target<'_>) {
    let (isa, add) = (pool.isa(), dx.add);
    let picture_len = rows.positions * rows.channels;
    let inputs = Disjoint::new(dx.values);
    pool.run(rows.samples, &|picture| {
        let dy = &dy[picture * rows.channels..][..rows.channels];
        // SAFETY: pictures do not overlap.
        let dx = unsafe { inputs.part(picture * picture_len, picture_len) };
        dispatch!(isa, spread_kernel(dy: &[f32], dx: &mut [f32], add: bool));
    });
}

#[inline(always)]
fn spread_kernel<V: Simd>(dy: &[f32], dx: &mut [f32], add: bool) {
    let channels = dy.len();
    let positions = dx.len() / channels;
    let share = V::splat(1.0 / positions as f32);
    for position in 0..positions {
        let to = dx[position * channels..][..channels].as_mut_ptr();
        lanes!(V, channels, at => {
            // SAFETY: both rows have `channels` elements.
            unsafe { at.put(at.load::<V>(dy.as_ptr()).mul(share), to, add) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::{assert_close, isas, ramp};

    /// Calls `visit(output element, input element)` for every pair that a window joins.
    fn pairs(shape: &PoolShape, mut visit: impl FnMut(usize, usize)) {
        let ([out_height, out_width], window) = (shape.out(), shape.window);
        for picture in 0..shape.batch {
            for (row, column) in (0..out_height * out_width).map(|i| (i / out_width, i % out_width)) {
                for (tap_row, tap_column) in (0..window.kernel[0] * window.kernel[1])
                    .map(|i| (i / window.kernel[1], i % window.kernel[1]))
                {
                    let y = (row * window.stride[0] + tap_row) as isize - window.padding[0] as isize;
                    let x = (column * window.stride[1] + tap_column) as isize - window.padding[1] as isize;
                    if (0..shape.height as isize).contains(&y) && (0..shape.width as isize).contains(&x) {
                        for channel in 0..shape.channels {
                            let out = (picture * out_height + row) * out_width + column;
                            let input = (picture * shape.height + y as usize) * shape.width + x as usize;
                            visit(out * shape.channels + channel, input * shape.channels + channel);
                        }
                    }
                }
            }
        }
    }

    fn shapes() -> Vec<PoolShape> {
        let window = |kernel, stride, padding| Pool2d { kernel, stride, padding };
        let shape = |height, width, channels, window| PoolShape { batch: 2, height, width, channels, window };
        vec![
            shape(6, 8, 5, window([2, 2], [2, 2], [0, 0])),
            shape(9, 7, 16, window([3, 3], [2, 2], [1, 1])),
            shape(7, 5, 19, window([3, 2], [1, 3], [1, 0])),
            shape(5, 5, 33, window([5, 5], [1, 1], [2, 2])),
            shape(4, 4, 3, window([2, 2], [3, 3], [0, 0])),
        ]
    }

    #[test]
    fn largest_values_and_their_gradient_match_the_definition() {
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            for shape in shapes() {
                let x = ramp(shape.batch * shape.in_picture(), 4.0);
                let outputs = shape.batch * shape.out_picture();
                let mut best = vec![usize::MAX; outputs];
                pairs(&shape, |out, input| {
                    if best[out] == usize::MAX || x[input] > x[best[out]] {
                        best[out] = input;
                    }
                });
                let (mut y, mut taps) = (vec![9.0; outputs], vec![9.0; outputs]);
                max_forward(&pool, &shape, &x, &mut y, Some(&mut taps));
                let expected: Vec<f32> = best.iter().map(|&input| x[input]).collect();
                assert_eq!(y, expected, "{shape:?}");
                let dy = ramp(outputs, 1.0);
                let mut expected = vec![1.0; x.len()];
                best.iter().zip(&dy).for_each(|(&input, dy)| expected[input] += dy);
                let mut dx = vec![1.0; x.len()];
                max_backward(&pool, &shape, &dy, &taps, Target { values: &mut dx, add: true });
                assert_close(&dx, &expected, 1e-6, &format!("{shape:?}"));
            }
        }
    }

    #[test]
    fn means_and_their_gradient_match_the_definition() {
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            for shape in shapes() {
                let x = ramp(shape.batch * shape.in_picture(), 4.0);
                let dy = ramp(shape.batch * shape.out_picture(), 1.0);
                let area = (shape.window.kernel[0] * shape.window.kernel[1]) as f32;
                let (mut expected, mut back) = (vec![0.0; dy.len()], vec![0.0; x.len()]);
                pairs(&shape, |out, input| {
                    expected[out] += x[input] / area;
                    back[input] += dy[out] / area;
                });
                let (mut y, mut dx) = (vec![9.0; dy.len()], vec![9.0; x.len()]);
                average_forward(&pool, &shape, &x, &mut y);
                average_backward(&pool, &shape, &dy, Target { values: &mut dx, add: false });
                assert_close(&y, &expected, 1e-5, &format!("{shape:?}"));
                assert_close(&dx, &back, 1e-5, &format!("{shape:?}"));
            }
        }
    }

    #[test]
    fn the_mean_over_all_positions_and_its_gradient_match_the_definition() {
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            for (positions, channels) in [(1, 5), (4, 16), (7, 35), (49, 3)] {
                let rows = Rows { samples: 3, positions, channels };
                let (x, dy) = (ramp(rows.len(), 2.0), ramp(3 * channels, 1.0));
                let at = |sample: usize, channel: usize| sample * channels + channel;
                let mut expected = vec![0.0; dy.len()];
                let mut back = vec![0.5; x.len()];
                for row in 0..3 * positions {
                    for channel in 0..channels {
                        expected[at(row / positions, channel)] += x[at(row, channel)] / positions as f32;
                        back[at(row, channel)] += dy[at(row / positions, channel)] / positions as f32;
                    }
                }
                let (mut y, mut dx) = (vec![9.0; dy.len()], vec![0.5; x.len()]);
                global_forward(&pool, rows, &x, &mut y);
                global_backward(&pool, rows, &dy, Target { values: &mut dx, add: true });
                assert_close(&y, &expected, 1e-5, "mean");
                assert_close(&dx, &back, 1e-5, "gradient");
            }
        }
    }
}
