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

    /// Calls `visit(output position, number of the tap in its window, input position)` for every pair of a picture.
    #[inline(always)]
    fn taps(&self) -> impl Iterator<Item = Tap> + use<> {
        let shape = *self;
        let [out_height, out_width] = shape.out();
        (0..out_height * out_width).flat_map(move |output| {
            let Pool2d { kernel, stride, padding } = shape.window;
            let (row, column) = (output / out_width * stride[0], output % out_width * stride[1]);
            (0..kernel[0] * kernel[1]).filter_map(move |number| {
                let y = (row + number / kernel[1]).checked_sub(padding[0]).filter(|&y| y < shape.height)?;
                let x = (column + number % kernel[1]).checked_sub(padding[1]).filter(|&x| x < shape.width)?;
                Some(Tap { output, number, input: y * shape.width + x })
            })
        })
    }
}

/// A pair of an output and an input position.
#[derive(Clone, Copy)]
struct Tap {
    output: usize,
    number: usize,
    input: usize,
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
    let channels = shape.channels;
    let mut last = usize::MAX;
    for tap in shape.taps() {
        let first = tap.output != last;
        last = tap.output;
        let number = V::splat(tap.number as f32);
        // SAFETY: a tap's positions lie within the picture's maps.
        let (x, y, taps) = unsafe {
            let out = tap.output * channels;
            (x.as_ptr().add(tap.input * channels), y.add(out), taps.map(|taps| taps.add(out)))
        };
        lanes!(V, channels, at => {
            // SAFETY: as above.
            unsafe {
                let value: V = at.load(x);
                if first {
                    at.store(value, y);
                    if let Some(taps) = taps {
                        at.store(number, taps);
                    }
                } else {
                    let best = at.load(y);
                    at.store(value.if_greater(best, value, best), y);
                    if let Some(taps) = taps {
                        at.store(value.if_greater(best, number, at.load(taps)), taps);
                    }
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
fn max_backward_kernel<V: Simd>(shape: &PoolShape, dy: &[f32], taps: &[f32], dx: &mut [f32]) {
    let channels = shape.channels;
    for tap in shape.taps() {
        let (below, above) = (V::splat(tap.number as f32 - 0.5), V::splat(tap.number as f32 + 0.5));
        // SAFETY: a tap's positions lie within the picture's maps.
        let (dx, dy, taps) = unsafe {
            let out = tap.output * channels;
            (dx.as_mut_ptr().add(tap.input * channels), dy.as_ptr().add(out), taps.as_ptr().add(out))
        };
        lanes!(V, channels, at => {
            // SAFETY: as above.
            unsafe {
                let noted: V = at.load(taps);
                let not_above = above.if_greater(noted, at.load(dy), V::zero());
                let share = noted.if_greater(below, not_above, V::zero());
                at.put(share, dx, true);
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
    let channels = shape.channels;
    let share = V::splat(1.0 / (shape.window.kernel[0] * shape.window.kernel[1]) as f32);
    for tap in shape.taps() {
        let (source, target) = if TRANSPOSED { (tap.output, tap.input) } else { (tap.input, tap.output) };
        // SAFETY: a tap's positions lie within the picture's maps.
        let (from, to) =
            unsafe { (from.as_ptr().add(source * channels), to.as_mut_ptr().add(target * channels)) };
        lanes!(V, channels, at => {
            // SAFETY: as above.
            unsafe { at.store(at.load::<V>(from).mul_add(share, at.load(to)), to) }
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
            let mut sums = [V::zero(); 2];
            for position in 0..positions {
                sums[position % 2] = sums[position % 2].add(at.load(x.add(position * channels)));
            }
            at.store(sums[0].add(sums[1]).mul(share), y);
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
