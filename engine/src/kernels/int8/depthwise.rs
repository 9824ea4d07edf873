//! Depthwise convolution over bytes, vectors over channels.
//!
//! A product of bytes is summed in fours, and the fours of a depthwise convolution are rows of the kernel: four rows of
//! the map are interleaved byte by byte, once per column of the map, and serve every target whose window has that column.
//! Kernels of 3 rows leave one of four unused, kernels of 5 rows take two fours.
//!
//! Channels go in chunks of 64, in the order that interleaving makes of them: line `j` of four holds in its lane `i` the
//! channel `16 (i / 4) + 4 j + i % 4`. The narrow vectors take the two halves of a chunk, which are the two halves of
//! every line. What remains of the channels is a chunk of 64 or half a chunk that ends with the last channel and repeats
//! some of its predecessor's.
//!
//! Never here: any other grouping.
#![allow(clippy::needless_range_loop)] // indices count registers; iterators would hide that

use std::mem::MaybeUninit;

use crate::kernels::conv::ConvShape;
use crate::pool::{Disjoint, Pool};
use crate::simd::{ByteIsa, Simd};

use super::conv::{Folded, SMALL, Start};
use super::lanes::{LINE, Lanes, Line, Rounding, interleaved};
use super::source::Layout;
use super::{Output, elementwise};

/// Channels of a chunk, and of its halves.
const CHUNK: usize = 64;
const HALF: usize = CHUNK / 2;
/// Rows of the kernel that are summed at once.
const QUAD: usize = 4;
/// Most targets of a strip.
const WIDE: usize = 4;
/// Bytes of a line that belong to the first half of a chunk.
const HALF_LINE: usize = LINE / 2;

/// Weights of a depthwise convolution.
#[derive(Clone, Debug)]
pub struct Depthwise {
    layout: Layout,
    chunks: Vec<Chunk>,
    /// `[chunk][kernel column][quad of kernel rows][4]`
    lines: Vec<Line>,
    /// `[chunk][4][16]`
    bias: Vec<i32>,
    multipliers: Vec<f32>,
}

/// Channels that are computed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chunk {
    start: usize,
    /// Channels that exist: 64, or fewer in a map of fewer; up to 32, it is half a chunk.
    count: usize,
}

/// The chunks of a map of `channels` channels.
fn chunks(channels: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> =
        (0..channels / CHUNK).map(|index| Chunk { start: index * CHUNK, count: CHUNK }).collect();
    let rest = channels % CHUNK;
    if rest > 0 {
        let count = if rest <= HALF { HALF } else { CHUNK }.min(channels);
        chunks.push(Chunk { start: channels - count, count });
    }
    chunks
}

/// Targets side by side, for a kernel, and the channels of a chunk or half.
struct Strip {
    /// First tap of the first target, first channel.
    x: *const u8,
    /// Bytes from a row of the map to the next, and from a pixel to the next.
    line: usize,
    pixel: usize,
    /// Taps down and right.
    taps: [usize; 2],
    /// Pixels from a target to the next.
    stride: usize,
    weights: *const i8,
    bias: *const i32,
    multipliers: *const f32,
    rounding: Rounding,
    /// First target, first channel.
    y: *mut u8,
    /// Bytes from a target to the next.
    step: usize,
    /// Channels that exist.
    count: usize,
}

impl Depthwise {
    /// Bytes that strips read beyond a pixel: chunks are read whole, and some channels may not fill one.
    pub fn slack(shape: &ConvShape) -> usize {
        if shape.in_channels >= CHUNK || shape.in_channels == HALF { 0 } else { CHUNK }
    }

    /// Packs a layer.
    pub fn new(folded: &Folded<'_>) -> Self {
        let Folded { shape, layout, .. } = *folded;
        let chunks = chunks(shape.in_channels);
        let block_len = block_len(layout);
        let mut depthwise = Self {
            layout: layout.clone(),
            lines: vec![Line::ZERO; chunks.len() * block_len],
            bias: vec![0; chunks.len() * CHUNK],
            multipliers: vec![0.0; chunks.len() * CHUNK],
            chunks,
        };
        for (index, chunk) in depthwise.chunks.iter().enumerate() {
            let lines = &mut depthwise.lines[index * block_len..][..block_len];
            for place in 0..CHUNK {
                let (vector, lane) = (place / 16, place % 16);
                let channel = interleaved(vector, lane);
                if channel >= chunk.count {
                    continue;
                }
                let channel = chunk.start + channel;
                depthwise.bias[index * CHUNK + place] = folded.bias[channel];
                depthwise.multipliers[index * CHUNK + place] = folded.multipliers[channel];
                pack(layout, folded, channel, &mut |row, column, weight| {
                    let quad = column * layout.rows.taps.div_ceil(QUAD) + row / QUAD;
                    lines[quad * 4 + vector].0[lane * 4 + row % QUAD] = weight;
                });
            }
        }
        depthwise
    }

    /// Runs a batch.
    pub fn run(&self, pool: &Pool, batch: usize, x: &[u8], zero_point: u8, output: &Output, y: &mut [u8]) {
        let lines = batch * self.layout.rows.outs;
        let width = self.layout.columns.outs * self.layout.channels;
        let work = lines * width * self.layout.rows.taps * self.layout.columns.taps;
        let wanted = if work < SMALL / 4 { 1 } else { pool.threads() * 4 };
        let per_task = lines.div_ceil(wanted).max(1);
        let kernels = Kernels::of(pool.byte_isa(), self);
        self.layout.with(pool, x, zero_point, |start| {
            let (source, y) = (Start(start), Disjoint::new(y));
            pool.run(lines.div_ceil(per_task), &|task| {
                for line in task * per_task..lines.min((task + 1) * per_task) {
                    // SAFETY: every line of targets is a part of its own.
                    let to = unsafe { y.part(line * width, width) };
                    self.line(&kernels, &source, line, output.rounding(), to);
                    if let Some(table) = &output.table {
                        elementwise::replace(table, to);
                    }
                }
            });
        });
    }

    /// One row of targets.
    fn line(&self, kernels: &Kernels, source: &Start, line: usize, rounding: Rounding, to: &mut [u8]) {
        let (picture, row) = (line / self.layout.rows.outs, line % self.layout.rows.outs);
        let block_len = block_len(&self.layout);
        for (index, chunk) in self.chunks.iter().enumerate() {
            let strip = Strip {
                x: source.0.wrapping_add(self.layout.offset(picture, row, 0) + chunk.start),
                line: self.layout.line,
                pixel: self.layout.channels,
                taps: [self.layout.rows.taps, self.layout.columns.taps],
                stride: self.layout.columns.stride,
                weights: self.lines[index * block_len..].as_ptr().cast(),
                bias: self.bias[index * CHUNK..].as_ptr(),
                multipliers: self.multipliers[index * CHUNK..].as_ptr(),
                rounding,
                y: to[chunk.start..].as_mut_ptr(),
                step: self.layout.channels,
                count: chunk.count,
            };
            kernels.run(&strip, self.layout.columns.outs);
        }
    }
}

/// Lines of a chunk.
fn block_len(layout: &Layout) -> usize {
    layout.columns.taps * layout.rows.taps.div_ceil(QUAD) * 4
}

/// Calls `place` with row, column and weight of every used tap of a channel.
fn pack(layout: &Layout, folded: &Folded<'_>, channel: usize, place: &mut dyn FnMut(usize, usize, i8)) {
    for (tap, from) in layout.weights(folded.shape, channel).enumerate() {
        place(tap / layout.columns.taps, tap % layout.columns.taps, folded.weight[from]);
    }
}

/// A loop over a strip.
type StripKernel = unsafe fn(&Strip);

/// Kernels for one target, and for two and four side by side where there are such.
#[derive(Clone, Copy)]
struct Family {
    one: StripKernel,
    wide: Option<[StripKernel; 2]>,
}

/// The kernels of an instruction set for a layer.
struct Kernels {
    /// For whole chunks, where vectors are wide enough.
    whole: Option<Family>,
    half: Family,
}

impl Kernels {
    /// Runs all `targets` of a row, for the strip's chunk.
    fn run(&self, strip: &Strip, targets: usize) {
        match self.whole {
            Some(family) if strip.count > HALF => family.run(strip, targets),
            _ => {
                let first = strip.count.min(HALF);
                self.half.run(&Strip { count: first, ..*strip }, targets);
                if strip.count > HALF {
                    self.half.run(&strip.second_half(), targets);
                }
            }
        }
    }
}

impl Strip {
    /// The second half of a chunk.
    fn second_half(&self) -> Strip {
        Strip {
            x: self.x.wrapping_add(HALF),
            weights: self.weights.wrapping_add(HALF_LINE),
            bias: self.bias.wrapping_add(8),
            multipliers: self.multipliers.wrapping_add(8),
            y: self.y.wrapping_add(HALF),
            count: self.count - HALF,
            ..*self
        }
    }

    /// The strip that begins with another target of the row.
    fn shifted(&self, target: usize) -> Strip {
        Strip {
            x: self.x.wrapping_add(target * self.stride * self.pixel),
            y: self.y.wrapping_add(target * self.step),
            ..*self
        }
    }
}

impl Family {
    /// As many targets at once as the kernels take; the last strip may repeat some of its predecessor's.
    fn run(self, strip: &Strip, targets: usize) {
        let (kernel, wide) = match self.wide {
            Some([_, four]) if targets >= WIDE => (four, WIDE),
            Some([two, _]) if targets >= 2 => (two, 2),
            _ => (self.one, 1),
        };
        let mut target = 0;
        while target < targets {
            let first = target.min(targets - wide);
            // SAFETY: all taps of these targets lie in the padded map, a chunk of their channels in it or its slack; the
            // results are written by this task alone; the kernel is for this machine.
            unsafe { kernel(&strip.shifted(first)) };
            target += wide;
        }
    }
}

/// A column's pixels in rows `first..first + 4` of the window, interleaved. Beyond the kernel the last row is repeated,
/// under weights of zero.
#[inline(always)]
unsafe fn quad<V: Lanes>(column: *const u8, line: usize, first: usize, rows: usize) -> [V::Inputs; 4] {
    let row = |index: usize| column.wrapping_add((first + index).min(rows - 1) * line);
    // SAFETY: the caller's strip has these rows.
    unsafe {
        if first + 1 == rows {
            return V::spread(row(0));
        }
        V::interleave([row(0), row(1), row(2), row(3)])
    }
}

/// One target whose window has any number of rows and columns.
#[inline(always)]
unsafe fn one_kernel<V: Lanes>(strip: &Strip) {
    // SAFETY: the caller's strip lies in its map, and its chunk's weights are whole.
    unsafe {
        let mut sums = start::<V>(strip);
        let [rows, columns] = strip.taps;
        let mut weights = strip.weights;
        for column in 0..columns {
            let from = strip.x.add(column * strip.pixel);
            for first in (0..rows).step_by(QUAD) {
                let inputs = quad::<V>(from, strip.line, first, rows);
                for j in 0..4 {
                    sums[j] = sums[j].dot(inputs[j], V::weights(weights.add(j * LINE)));
                }
                weights = weights.add(4 * LINE);
            }
        }
        finish(strip, sums, strip.y);
    }
}

/// `W` targets, `S` columns apart, with a kernel of `K` by `K`.
#[inline(always)]
unsafe fn wide_kernel<V: Lanes, const K: usize, const S: usize, const W: usize>(strip: &Strip) {
    // SAFETY: the caller's strip lies in its map, and its chunk's weights are whole.
    unsafe {
        let mut sums = [start::<V>(strip); W];
        // Written out, so that sums stay in registers.
        macro_rules! columns {
            ($first:literal: $($column:literal)*) => {
                $(if $first < K && $column < (W - 1) * S + K {
                    column::<V, K, S, W, $column>(strip, $first, &mut sums);
                })*
            };
        }
        columns!(0: 0 1 2 3 4 5 6 7 8 9 10);
        columns!(4: 0 1 2 3 4 5 6 7 8 9 10);
        // Through memory: an array that a loop indexes would not stay in registers.
        let mut kept = [const { MaybeUninit::<Line>::uninit() }; 4 * WIDE];
        let kept = kept.as_mut_ptr().cast::<i32>();
        for w in 0..W {
            for j in 0..4 {
                sums[w][j].store(kept.add((4 * w + j) * V::LANES));
            }
        }
        for w in 0..W {
            let from = kept.add(4 * w * V::LANES);
            let (a, b) = (V::load(from), V::load(from.add(V::LANES)));
            let (c, d) = (V::load(from.add(2 * V::LANES)), V::load(from.add(3 * V::LANES)));
            finish(strip, [a, b, c, d], strip.y.add(w * strip.step));
        }
    }
}

/// Adds one column of the map, rows from `first`, to the sums of all targets whose windows have it.
#[inline(always)]
unsafe fn column<V: Lanes, const K: usize, const S: usize, const W: usize, const N: usize>(
    strip: &Strip,
    first: usize,
    sums: &mut [[V; 4]; W],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let inputs = quad::<V>(strip.x.add(N * strip.pixel), strip.line, first, K);
        for w in 0..W {
            if N < w * S || N - w * S >= K {
                continue;
            }
            let quad = (N - w * S) * K.div_ceil(QUAD) + first / QUAD;
            let weights = strip.weights.add(quad * 4 * LINE);
            for j in 0..4 {
                sums[w][j] = sums[w][j].dot(inputs[j], V::weights(weights.add(j * LINE)));
            }
        }
    }
}

/// Sums before the first product.
#[inline(always)]
unsafe fn start<V: Lanes>(strip: &Strip) -> [V; 4] {
    // SAFETY: a chunk has four times sixteen biases.
    unsafe {
        let load = strip.bias;
        [V::load(load), V::load(load.add(16)), V::load(load.add(32)), V::load(load.add(48))]
    }
}

/// Stores the results of a target.
#[inline(always)]
unsafe fn finish<V: Lanes>(strip: &Strip, sums: [V; 4], to: *mut u8) {
    // SAFETY: a chunk has four times sixteen multipliers, and the target `count` channels.
    unsafe {
        let [a, b, c, d] = sums;
        let values = [
            a.floats().mul(V::Floats::load(strip.multipliers)),
            b.floats().mul(V::Floats::load(strip.multipliers.add(16))),
            c.floats().mul(V::Floats::load(strip.multipliers.add(32))),
            d.floats().mul(V::Floats::load(strip.multipliers.add(48))),
        ];
        V::store_interleaved(values, strip.rounding, to, strip.count);
    }
}

/// An instance of a kernel for a vector.
macro_rules! instance {
    ($attribute:meta, $kernel:ident::<$($generic:tt),*>) => {{
        #[$attribute]
        unsafe fn instance(strip: &Strip) {
            // SAFETY: the caller's promise.
            unsafe { $kernel::<$($generic),*>(strip) }
        }
        instance as StripKernel
    }};
}

/// The kernels of a vector for a layer; several targets at once with the kernels of the usual networks.
macro_rules! family {
    ($depthwise:expr, $vector:ident, $attribute:meta) => {{
        let depthwise: &Depthwise = $depthwise;
        macro_rules! wide {
            ($taps:literal, $stride:literal) => {
                Some([
                    instance!($attribute, wide_kernel::<$vector, $taps, $stride, 2>),
                    instance!($attribute, wide_kernel::<$vector, $taps, $stride, 4>),
                ])
            };
        }
        let taps = [depthwise.layout.rows.taps, depthwise.layout.columns.taps];
        let wide = match (taps, depthwise.layout.columns.stride) {
            ([3, 3], 1) => wide!(3, 1),
            ([3, 3], 2) => wide!(3, 2),
            ([5, 5], 1) => wide!(5, 1),
            ([5, 5], 2) => wide!(5, 2),
            _ => None,
        };
        Family { one: instance!($attribute, one_kernel::<$vector>), wide }
    }};
}

/// The same, for vectors of AVX-512.
#[cfg(target_arch = "x86_64")]
macro_rules! vnni {
    ($depthwise:expr, $vector:ident) => {
        family!(
            $depthwise,
            $vector,
            target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")
        )
    };
}

impl Kernels {
    fn of(isa: ByteIsa, depthwise: &Depthwise) -> Self {
        use super::lanes::Portable;
        #[cfg(target_arch = "x86_64")]
        use super::lanes::{Avx2, AvxVnni, Vnni, VnniHalf};
        match isa {
            #[cfg(target_arch = "x86_64")]
            ByteIsa::Vnni => {
                Kernels { whole: Some(vnni!(depthwise, Vnni)), half: vnni!(depthwise, VnniHalf) }
            }
            #[cfg(target_arch = "x86_64")]
            ByteIsa::AvxVnni => {
                let half = family!(depthwise, AvxVnni, target_feature(enable = "avx2,fma,avxvnni"));
                Kernels { whole: None, half }
            }
            #[cfg(target_arch = "x86_64")]
            ByteIsa::Avx2 => {
                Kernels { whole: None, half: family!(depthwise, Avx2, target_feature(enable = "avx2,fma")) }
            }
            _ => Kernels { whole: None, half: family!(depthwise, Portable, inline(never)) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_every_channel_and_stay_inside() {
        for channels in 1..300 {
            let mut covered = vec![false; channels];
            for chunk in chunks(channels) {
                covered[chunk.start..chunk.start + chunk.count].fill(true);
            }
            assert!(covered.into_iter().all(|covered| covered), "{channels}");
        }
    }
}
