//! Convolution and linear layers over bytes: packs weights once, and divides a run into tiles and tasks.
//!
//! Never here: the loops over registers.

use std::ops::Range;

use crate::kernels::conv::ConvShape;
use crate::pool::{Disjoint, Pool};
use crate::simd::ByteIsa;
use crate::{EngineError, Result};

use super::depthwise::Depthwise;
use super::elementwise;
use super::lanes::{Line, Rounding};
use super::source::Layout;
use super::tile::{self, BLOCK, MOST_ROWS, Results, Tile, most_rows, tile_for};
use super::{Output, Quantization, Table};

/// Bytes of weights that a task goes through again and again: about a quarter of a second-level cache.
const WEIGHT_BYTES: usize = 512 << 10;
/// Multiplications below which waking a thread costs more than it saves.
pub const SMALL: usize = 200_000;

/// The numbers of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Of the input.
    pub x: Quantization,
    /// `[output][input of the group][kh][kw]`.
    pub weight: &'a [i8],
    /// One per output.
    pub weight_scales: &'a [f32],
    /// One per output, in units of `x.scale * weight_scales[output]`; none if empty.
    pub bias: &'a [i32],
}

/// A map of the output's shape that is added to the rounded sums, before the activation; see [`Output::branch`].
#[derive(Clone, Copy, Debug)]
pub struct Residual<'a> {
    /// `[batch][height][width][channels]` as the output.
    pub bytes: &'a [u8],
    /// Its own.
    pub quantization: Quantization,
}

/// A convolution ready to run: weights packed, zero point in the bias. A linear layer is the 1x1 convolution of 1x1 maps.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Of one picture.
    shape: ConvShape,
    x: Quantization,
    output: Output,
    weights: Weights,
}

#[derive(Clone, Debug)]
enum Weights {
    Dense(Dense),
    Depthwise(Depthwise),
}

/// What both kinds of packing read: bias with the zero point, multipliers, and the shape.
pub struct Folded<'a> {
    pub shape: &'a ConvShape,
    pub layout: &'a Layout,
    pub weight: &'a [i8],
    pub bias: Vec<i32>,
    pub multipliers: Vec<f32>,
}

impl Conv {
    /// Packs a layer; the batch of `shape` is ignored.
    ///
    /// # Errors
    /// [`EngineError::Quantization`] if a sum could overflow: weights and bias are too large for i32, or there are more
    /// than about 66000 products in a sum.
    ///
    /// # Panics
    /// If a slice has not the length that the shape says, or the batch or an extent is zero.
    pub fn new(shape: &ConvShape, layer: &Layer<'_>, output: Output) -> Result<Self> {
        let shape = ConvShape { batch: 1, ..*shape };
        let each = shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1];
        assert_eq!(layer.weight.len(), shape.out_channels * each, "weights of {shape:?}");
        assert_eq!(layer.weight_scales.len(), shape.out_channels, "scales of {shape:?}");
        assert!(layer.bias.is_empty() || layer.bias.len() == shape.out_channels, "bias of {shape:?}");
        let slack = if shape.is_depthwise() { Depthwise::slack(&shape) } else { Dense::slack(&shape) };
        let layout = Layout::new(&shape, slack);
        let folded = Folded {
            shape: &shape,
            layout: &layout,
            weight: layer.weight,
            bias: corrected_bias(&shape, &layout, layer)?,
            multipliers: layer
                .weight_scales
                .iter()
                .map(|scale| layer.x.scale * scale / output.sums().scale)
                .collect(),
        };
        let weights = if shape.is_depthwise() {
            Weights::Depthwise(Depthwise::new(&folded))
        } else {
            let scales = layer.weight_scales.iter().map(|scale| layer.x.scale * scale).collect::<Vec<_>>();
            Weights::Dense(Dense::new(&folded, &scales))
        };
        Ok(Self { shape, x: layer.x, output, weights })
    }

    /// The sizes, for one picture.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Runs whole pictures of bytes, NHWC, into bytes. Overwrites `y`.
    ///
    /// # Panics
    /// If `x` is no whole number of pictures, another slice does not fit it, or a depthwise convolution is given a
    /// residual.
    pub fn forward(&self, pool: &Pool, x: &[u8], residual: Option<Residual<'_>>, y: &mut [u8]) {
        let batch = self.batch(x.len(), y.len());
        let table = self.output.table.as_deref();
        match &self.weights {
            Weights::Dense(dense) => {
                let sums = self.output.sums();
                let residual = residual.map(|residual| {
                    assert_eq!(residual.bytes.len(), y.len(), "residual of {:?}", self.shape);
                    tile::Residual {
                        start: residual.bytes.as_ptr(),
                        branch: Output::new(sums).rounding(),
                        addition: self.output.addition([sums, residual.quantization]),
                    }
                });
                let rounding = match &residual {
                    Some(_) => self.output.rounding_of_sum(),
                    None => self.output.rounding(),
                };
                let to = Disjoint::new(y);
                let store = Store::Bytes { to: &to, rounding, residual, table };
                dense.run(pool, batch, x, self.x.zero_point, &store);
            }
            Weights::Depthwise(depthwise) => {
                assert!(residual.is_none(), "a depthwise convolution takes no residual");
                depthwise.run(pool, batch, x, self.x.zero_point, &self.output, y);
            }
        }
    }

    /// The same into real numbers, as the last layer of a network needs them: no rounding, clamping or table.
    ///
    /// # Panics
    /// As [`Conv::forward`], and if the convolution is depthwise.
    pub fn forward_f32(&self, pool: &Pool, x: &[u8], y: &mut [f32]) {
        let batch = self.batch(x.len(), y.len());
        let Weights::Dense(dense) = &self.weights else {
            panic!("a depthwise convolution has no real output");
        };
        let to = Disjoint::new(y);
        dense.run(pool, batch, x, self.x.zero_point, &Store::Floats(&to));
    }

    fn batch(&self, x: usize, y: usize) -> usize {
        let batch = x / self.shape.in_len().max(1);
        assert_eq!(x, batch * self.shape.in_len(), "input of {:?}", self.shape);
        assert_eq!(y, batch * self.shape.out_len(), "output of {:?}", self.shape);
        batch
    }
}

/// Takes the zero point of the input out of all sums.
fn corrected_bias(shape: &ConvShape, layout: &Layout, layer: &Layer<'_>) -> Result<Vec<i32>> {
    let corrected = |output: usize| {
        let (mut sum, mut largest) = (0_i64, 0_i64);
        for weight in layout.weights(shape, output) {
            let weight = i64::from(layer.weight[weight]);
            sum += weight;
            largest += weight.abs();
        }
        let bias = layer.bias.get(output).copied().map_or(0, i64::from);
        let bias = bias - i64::from(layer.x.zero_point) * sum;
        if bias.abs() + 255 * largest > i64::from(i32::MAX) {
            let reason =
                format!("sums of output {output} may reach {} and overflow i32", bias.abs() + 255 * largest);
            return Err(EngineError::Quantization { reason });
        }
        Ok(bias as i32)
    };
    (0..shape.out_channels).map(corrected).collect()
}

/// Where results go.
enum Store<'a> {
    Bytes {
        to: &'a Disjoint<'a, u8>,
        rounding: Rounding,
        residual: Option<tile::Residual>,
        table: Option<&'a Table>,
    },
    Floats(&'a Disjoint<'a, f32>),
}

// SAFETY: the residual's pointer is only read, and the slice behind it is borrowed for as long as kernels run.
unsafe impl Sync for Store<'_> {}

/// Weights of a dense or grouped convolution.
#[derive(Clone, Debug)]
struct Dense {
    layout: Layout,
    groups: usize,
    /// Inputs and outputs of a group.
    inputs: usize,
    columns: usize,
    /// `[group][block][tap][quad]`, see the module above.
    lines: Vec<Line>,
    /// Bytes from a target's first tap to each; a row of the kernel is one tap if there are no groups.
    taps: Vec<usize>,
    quads: usize,
    /// `[group][block][16]`
    bias: Vec<i32>,
    /// Into units of the output, and into real numbers.
    multipliers: Vec<f32>,
    scales: Vec<f32>,
}

/// How the work is cut: targets into tiles, blocks of columns into ranges.
struct Cut {
    rows: usize,
    tiles: usize,
    tiles_per_task: usize,
    blocks_per_task: usize,
}

impl Dense {
    /// Bytes that tiles read beyond a pixel: the last four of a tap may be incomplete.
    fn slack(shape: &ConvShape) -> usize {
        if (shape.in_channels / shape.groups).is_multiple_of(4) { 0 } else { 4 }
    }

    fn new(folded: &Folded<'_>, scales: &[f32]) -> Self {
        let Folded { shape, layout, .. } = *folded;
        let (inputs, columns) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        // Without groups the pixels of a kernel's row are one.
        let pixels = if shape.groups == 1 { 1 } else { layout.columns.taps };
        let depth = inputs * layout.columns.taps / pixels;
        let mut taps = Vec::with_capacity(layout.rows.taps * pixels);
        for row in 0..layout.rows.taps {
            taps.extend((0..pixels).map(|column| row * layout.line + column * layout.channels));
        }
        let filled = |values: &[f32]| in_blocks(values, shape.groups, columns);
        let mut dense = Self {
            layout: layout.clone(),
            groups: shape.groups,
            inputs,
            columns,
            lines: Vec::new(),
            taps,
            quads: depth.div_ceil(4),
            bias: in_blocks(&folded.bias, shape.groups, columns),
            multipliers: filled(&folded.multipliers),
            scales: filled(scales),
        };
        dense.lines = vec![Line::ZERO; shape.groups * dense.blocks() * dense.block_len()];
        for output in 0..shape.out_channels {
            dense.pack(shape, folded.weight, output, depth);
        }
        dense
    }

    /// Places the weights of an output.
    fn pack(&mut self, shape: &ConvShape, weight: &[i8], output: usize, depth: usize) {
        let (group, column) = (output / self.columns, output % self.columns);
        let first = (group * self.blocks() + column / BLOCK) * self.block_len();
        for (index, from) in self.layout.weights(shape, output).enumerate() {
            let (tap, input) = (index / depth, index % depth);
            let line = first + tap * self.quads + input / 4;
            self.lines[line].0[column % BLOCK * 4 + input % 4] = weight[from];
        }
    }

    /// Blocks of columns in a group.
    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Lines of a block.
    fn block_len(&self) -> usize {
        self.taps.len() * self.quads
    }

    fn run(&self, pool: &Pool, batch: usize, x: &[u8], zero_point: u8, store: &Store<'_>) {
        let cut = self.cut(pool, batch);
        self.layout.with(pool, x, zero_point, |start| {
            let source = Start(start);
            let ranges = self.blocks().div_ceil(cut.blocks_per_task);
            let chunks = cut.tiles.div_ceil(cut.tiles_per_task);
            // A range of columns is the outermost loop: its weights stay in the cache.
            pool.run(self.groups * ranges * chunks, &|task| {
                let (group, rest) = (task / (ranges * chunks), task % (ranges * chunks));
                let first = rest / chunks * cut.blocks_per_task;
                let blocks = first..self.blocks().min(first + cut.blocks_per_task);
                let tile = rest % chunks * cut.tiles_per_task;
                let work = Work { dense: self, isa: pool.byte_isa(), source: &source, store, group, blocks };
                for tile in tile..cut.tiles.min(tile + cut.tiles_per_task) {
                    let (base, more) = (cut.rows / cut.tiles, cut.rows % cut.tiles);
                    let first = tile * base + tile.min(more);
                    work.tile(first..first + base + usize::from(tile < more));
                }
            });
        });
    }

    fn cut(&self, pool: &Pool, batch: usize) -> Cut {
        let rows = batch * self.layout.places();
        let tiles = rows.div_ceil(most_rows(pool.byte_isa()));
        let (blocks, threads) = (self.blocks(), pool.threads());
        let macs = rows * self.lines.len() * size_of::<Line>();
        let shared = threads > 1 && macs >= SMALL;
        // Kernels take two blocks at a time, on tiles of few rows four or eight.
        let step = [2, 4, 8][usize::from(rows <= 6) + usize::from(rows <= 3)];
        let mut ranges = (blocks * self.block_len() * size_of::<Line>()).div_ceil(WEIGHT_BYTES);
        let wanted = threads * 4;
        if shared && tiles * self.groups < wanted {
            // Few rows: divide the columns.
            ranges = ranges.max(wanted.div_ceil((tiles * self.groups).max(1)));
        }
        let blocks_per_task = blocks.div_ceil(ranges.max(1)).next_multiple_of(step).min(blocks).max(1);
        if !shared {
            return Cut { rows, tiles, tiles_per_task: tiles.max(1), blocks_per_task };
        }
        let ranges = blocks.div_ceil(blocks_per_task) * self.groups;
        let chunks = ((wanted + ranges / 2) / ranges.max(1)).max(1);
        Cut { rows, tiles, tiles_per_task: tiles.div_ceil(chunks).max(1), blocks_per_task }
    }
}

/// Numbers per output with zeros up to whole blocks of every group.
fn in_blocks<T: Copy + Default>(values: &[T], groups: usize, columns: usize) -> Vec<T> {
    let filled = columns.next_multiple_of(BLOCK);
    let mut all = vec![T::default(); groups * filled];
    for (to, from) in all.chunks_exact_mut(filled).zip(values.chunks_exact(columns)) {
        to[..columns].copy_from_slice(from);
    }
    all
}

/// Where a source begins, for all tasks of a run.
pub struct Start(pub *const u8);

// SAFETY: only read, and the slice behind it is borrowed for as long as kernels run.
unsafe impl Sync for Start {}

/// One task: a range of blocks of a group.
struct Work<'a> {
    dense: &'a Dense,
    isa: ByteIsa,
    source: &'a Start,
    store: &'a Store<'a>,
    group: usize,
    blocks: Range<usize>,
}

impl Work<'_> {
    /// Computes some rows of the output, one after the other in the map.
    fn tile(&self, rows: Range<usize>) {
        let dense = self.dense;
        let (mut starts, mut outs) = ([self.source.0; MOST_ROWS], [0; MOST_ROWS]);
        let (height, width) = (dense.layout.rows.outs, dense.layout.columns.outs);
        let (mut line, mut column) = (rows.start / width, rows.start % width);
        let mut next = true;
        let mut start = self.source.0;
        for (index, row) in rows.clone().enumerate() {
            if next {
                let offset = dense.layout.offset(line / height, line % height, column);
                start = self.source.0.wrapping_add(offset + self.group * dense.inputs);
            }
            starts[index] = start;
            outs[index] = row * dense.groups * dense.columns;
            start = start.wrapping_add(dense.layout.columns.stride * dense.layout.channels);
            column += 1;
            next = column == width;
            if next {
                (line, column) = (line + 1, 0);
            }
        }
        let mut block = self.blocks.start;
        while block < self.blocks.end {
            block += self.blocks_of(rows.len(), block, &starts, &outs);
        }
        self.replace(&outs[..rows.len()]);
    }

    /// Calls a kernel and returns the blocks that it took.
    fn blocks_of(&self, rows: usize, block: usize, starts: &[*const u8], outs: &[usize]) -> usize {
        let dense = self.dense;
        let (kernel, taken) = tile_for(self.isa, rows, self.blocks.end - block);
        let column = self.group * dense.columns + block * BLOCK;
        let index = self.group * dense.blocks() + block;
        let (results, multipliers) = match self.store {
            Store::Bytes { to, rounding, residual, .. } => {
                let residual = residual.map(|residual| tile::Residual {
                    start: residual.start.wrapping_add(column),
                    ..residual
                });
                let out = to.as_mut_ptr().wrapping_add(column);
                (Results::Bytes { out, rounding: *rounding, residual }, &dense.multipliers)
            }
            Store::Floats(to) => (Results::Floats(to.as_mut_ptr().wrapping_add(column)), &dense.scales),
        };
        let tile = Tile {
            starts: starts.as_ptr(),
            offsets: dense.taps.as_ptr(),
            taps: dense.taps.len(),
            quads: dense.quads,
            weights: dense.lines[index * dense.block_len()..].as_ptr(),
            block_len: dense.block_len(),
            bias: dense.bias[index * BLOCK..].as_ptr(),
            multipliers: multipliers[index * BLOCK..].as_ptr(),
            outs: outs.as_ptr(),
            columns: (dense.columns - block * BLOCK).min(taken * BLOCK),
            results,
        };
        // SAFETY: under every tap each row has `4 quads` readable bytes, in the map or its slack; `taken` blocks of weights,
        // bias and multipliers remain; `columns` results of each row are written by no other task; the kernel is for
        // this machine.
        unsafe { kernel(&tile) };
        taken
    }

    /// Replaces the bytes of this task's rows and columns by those of the table.
    fn replace(&self, outs: &[usize]) {
        let Store::Bytes { to, table: Some(table), .. } = self.store else { return };
        let (first, end) = (self.blocks.start * BLOCK, self.dense.columns.min(self.blocks.end * BLOCK));
        let Some(&row) = outs.first() else { return };
        if self.dense.groups == 1 && end - first == self.dense.columns {
            // Whole rows follow each other without a gap.
            // SAFETY: this task alone writes these rows.
            return elementwise::replace(table, unsafe { to.part(row, outs.len() * self.dense.columns) });
        }
        for out in outs {
            let start = out + self.group * self.dense.columns + first;
            // SAFETY: this task alone writes these columns of this row.
            elementwise::replace(table, unsafe { to.part(start, end - first) });
        }
    }
}
