//! The two innermost loops of dense convolution, unrolled over a block of registers, for every instruction set.
//!
//! [`Tile`]: rows of the output times columns, summed over taps and channels, with bias, residual and the cheap
//! activations; the input is broadcast, the weights are vectors. [`Patch`]: rows of the weight gradient (inputs) times columns (outputs), summed over pixels.
//!
//! Never here: where rows lie in a map, or who does which tile.
#![allow(clippy::needless_range_loop)] // indices count registers; iterators would hide that

use models::Activation;

use crate::simd::{self, Isa, Simd};

use super::BLOCK;
use super::finish::{Bound, Finish};

/// Most rows of a tile or patch under any instruction set.
pub const MOST_ROWS: usize = 14;

/// `out[row][column] = finish of the sum over taps, k of pointers[tap][row][k] * weights[column / 16][offsets[tap] + k * 16 + column % 16]`
pub struct Tile {
    /// `[taps][rows]`: where the channels of a row begin under a tap.
    pub pointers: *const *const f32,
    /// `[taps]`: where the weights of a tap begin in a block.
    pub offsets: *const usize,
    pub taps: usize,
    /// Channels summed over per tap.
    pub depth: usize,
    /// First block of columns: floats, or bf16 if the kernel is one of [`bf16_tile_for`].
    pub weights: *const f32,
    /// Numbers from a block of columns to the next.
    pub block_len: usize,
    /// `[rows]`: where a row begins in `out`, counted in floats.
    pub outs: *const usize,
    /// First column of the first row.
    pub out: *mut f32,
    /// Columns that exist, up to the kernel's.
    pub columns: usize,
    pub finish: Finish,
}

/// A run of pixels with constant steps.
#[derive(Clone, Copy)]
pub struct Segment {
    /// First pixel's first input of the map `x`.
    pub x: *const f32,
    /// First pixel's output gradients.
    pub dy: *const f32,
    pub pixels: usize,
}

/// `dw[column / 16][row * 16 + column % 16] (+)= sum over pixels of x[row] * dy[column]`
pub struct Patch {
    pub segments: *const Segment,
    pub count: usize,
    /// Floats from a pixel of `x` to the next in a segment.
    pub x_step: usize,
    /// Floats from a pixel of `dy` to the next.
    pub dy_step: usize,
    /// Added to every segment's `x`: the first row.
    pub x_offset: usize,
    /// Added to every segment's `dy`: the first column.
    pub dy_offset: usize,
    /// First row and column of the result.
    pub dw: *mut f32,
    pub block_len: usize,
    pub accumulate: bool,
}

/// A loop over a tile.
pub type TileKernel = unsafe fn(&Tile);
/// A loop over a patch.
pub type PatchKernel = unsafe fn(&Patch);

/// Columns of a panel of output gradients: a whole number of blocks for every instruction set.
pub const PANEL: usize = 32;

/// Floats from the start of the first block to that of a vector of columns.
#[inline(always)]
fn column_start<V: Simd>(vector: usize, block_len: usize) -> usize {
    let column = vector * V::LANES;
    column / BLOCK * block_len + column % BLOCK
}

/// A number format of the weights of a tile.
trait Number: Copy {
    /// # Safety
    /// A vector of them is readable.
    unsafe fn load<V: Simd>(from: *const Self) -> V;
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(from) }
    }
}

/// bf16
impl Number for u16 {
    #[inline(always)]
    unsafe fn load<V: Simd>(from: *const u16) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(from) }
    }
}

#[inline(always)]
unsafe fn tile_kernel<V: Simd, W: Number, const R: usize, const C: usize>(tile: &Tile) {
    // SAFETY: all reads lie in the rows, taps, blocks, bias and residual that the tile's builder vouches for.
    unsafe {
        let mut sums = [first_sums::<V, C>(tile); R];
        for r in 0..R {
            let out = tile.out.add(*tile.outs.add(r));
            for c in (0..C * V::LANES).step_by(BLOCK) {
                V::prefetch_write(out.wrapping_add(c));
            }
        }
        for tap in 0..tile.taps {
            let rows = tile.pointers.add(tap * R).cast::<[*const f32; R]>().read_unaligned();
            let weights = tile.weights.cast::<W>().add(*tile.offsets.add(tap));
            for k in 0..tile.depth {
                let mut columns = [V::zero(); C];
                for c in 0..C {
                    columns[c] = W::load(weights.add(k * BLOCK + column_start::<V>(c, tile.block_len)));
                }
                for r in 0..R {
                    let x = V::splat(*rows[r].add(k));
                    for c in 0..C {
                        sums[r][c] = x.mul_add(columns[c], sums[r][c]);
                    }
                }
            }
        }
        if tile.columns == C * V::LANES {
            finish_rows::<V, R, C, true>(sums, tile);
        } else {
            finish_rows::<V, R, C, false>(sums, tile);
        }
    }
}

/// Finishes and writes the sums. Every loop is short, so that the compiler unrolls it and the sums stay in registers.
#[inline(always)]
unsafe fn finish_rows<V: Simd, const R: usize, const C: usize, const WHOLE: bool>(
    mut sums: [[V; C]; R],
    tile: &Tile,
) {
    let count = |c: usize| {
        if WHOLE { V::LANES } else { tile.columns.saturating_sub(c * V::LANES).min(V::LANES) }
    };
    // SAFETY: `count` columns of every vector exist in the rows, and in their residuals.
    unsafe {
        for from in [tile.finish.accumulate.then_some(tile.out.cast_const()), tile.finish.residual()] {
            let Some(from) = from else { continue };
            for r in 0..R {
                let from = from.wrapping_add(*tile.outs.add(r));
                for c in 0..C {
                    let from = from.wrapping_add(c * V::LANES);
                    let added = if WHOLE { V::load(from) } else { V::load_partial(from, count(c)) };
                    sums[r][c] = sums[r][c].add(added);
                }
            }
        }
        match tile.finish.bound {
            Bound::Free => {}
            Bound::Between(low, high) => {
                let (low, high) = (V::splat(low), V::splat(high));
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = high.min(low.max(sums[r][c]));
                    }
                }
            }
            Bound::HardSwish => {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = simd::activate(Activation::HardSwish, sums[r][c]);
                    }
                }
            }
        }
        for r in 0..R {
            let out = tile.out.add(*tile.outs.add(r));
            for c in 0..C {
                let to = out.wrapping_add(c * V::LANES);
                if WHOLE { sums[r][c].store(to) } else { sums[r][c].store_partial(to, count(c)) }
            }
        }
    }
}

#[inline(always)]
unsafe fn f32_tile<V: Simd, const R: usize, const C: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile_kernel::<V, f32, R, C>(tile) }
}

#[inline(always)]
unsafe fn bf16_tile<V: Simd, const R: usize, const C: usize>(tile: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { tile_kernel::<V, u16, R, C>(tile) }
}

/// Sums begin with the bias.
#[inline(always)]
unsafe fn first_sums<V: Simd, const C: usize>(tile: &Tile) -> [V; C] {
    let mut sums = [V::zero(); C];
    for c in 0..C {
        let start = c * V::LANES;
        let count = tile.columns.saturating_sub(start).min(V::LANES);
        // SAFETY: `count` columns remain in the bias.
        sums[c] = unsafe { tile.finish.first::<V>(start, count) };
    }
    sums
}

#[inline(always)]
unsafe fn patch_kernel<V: Simd, const R: usize, const C: usize>(patch: &Patch) {
    let mut sums = [[V::zero(); C]; R];
    // SAFETY: all reads lie in the segments that the patch's builder vouches for.
    unsafe {
        for index in 0..patch.count {
            let segment = *patch.segments.add(index);
            let mut x = segment.x.add(patch.x_offset);
            let mut dy = segment.dy.add(patch.dy_offset);
            for _ in 0..segment.pixels {
                let mut columns = [V::zero(); C];
                for c in 0..C {
                    columns[c] = V::load(dy.add(c * V::LANES));
                }
                for r in 0..R {
                    let row = V::splat(*x.add(r));
                    for c in 0..C {
                        sums[r][c] = row.mul_add(columns[c], sums[r][c]);
                    }
                }
                // The step past the last pixel may leave the map; it is never read.
                x = x.wrapping_add(patch.x_step);
                dy = dy.wrapping_add(patch.dy_step);
            }
        }
        for r in 0..R {
            for c in 0..C {
                let to = patch.dw.add(r * BLOCK + column_start::<V>(c, patch.block_len));
                if patch.accumulate { sums[r][c].add(V::load(to)).store(to) } else { sums[r][c].store(to) }
            }
        }
    }
}

/// Instances of a kernel for the row counts in brackets, in order.
macro_rules! instances {
    ($kernel:ident($argument:ty), $vector:ty, $columns:literal, [$($rows:literal)*], $attribute:meta) => {
        [$({
            #[$attribute]
            unsafe fn instance(argument: &$argument) {
                // SAFETY: the caller's promise.
                unsafe { $kernel::<$vector, $rows, $columns>(argument) }
            }
            instance as unsafe fn(&$argument)
        }),*]
    };
}

macro_rules! avx512 {
    ($kernel:ident($argument:ty), $columns:literal, $rows:tt) => {
        instances!(
            $kernel($argument),
            crate::simd::Avx512,
            $columns,
            $rows,
            target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
        )
    };
}

macro_rules! avx2 {
    ($kernel:ident($argument:ty), $columns:literal, $rows:tt) => {
        instances!(
            $kernel($argument),
            crate::simd::Avx2,
            $columns,
            $rows,
            target_feature(enable = "avx2,fma")
        )
    };
}

macro_rules! portable {
    ($kernel:ident($argument:ty), $columns:literal, $rows:tt) => {
        instances!($kernel($argument), crate::simd::Portable, $columns, $rows, inline(never))
    };
}

/// Most rows that a tile or patch has under `isa`.
pub fn most_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => MOST_ROWS,
        Isa::Avx2 | Isa::Portable => 6,
    }
}

/// Kernels of tiles for one format of weights: by instruction set, blocks of columns and rows.
struct Tiles {
    #[cfg(target_arch = "x86_64")]
    avx512: ([TileKernel; 14], [TileKernel; 14], [TileKernel; 6]),
    #[cfg(target_arch = "x86_64")]
    avx2: ([TileKernel; 6], [TileKernel; 3]),
    portable: [TileKernel; 6],
}

macro_rules! tiles {
    ($kernel:ident) => {
        Tiles {
            #[cfg(target_arch = "x86_64")]
            avx512: (
                avx512!($kernel(Tile), 1, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
                avx512!($kernel(Tile), 2, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
                avx512!($kernel(Tile), 4, [1 2 3 4 5 6]),
            ),
            #[cfg(target_arch = "x86_64")]
            avx2: (
                avx2!($kernel(Tile), 2, [1 2 3 4 5 6]),
                avx2!($kernel(Tile), 4, [1 2 3]),
            ),
            portable: portable!($kernel(Tile), 2, [1 2 3 4 5 6]),
        }
    };
}

static TILES: Tiles = tiles!(f32_tile);
static BF16_TILES: Tiles = tiles!(bf16_tile);

impl Tiles {
    fn pick(&self, isa: Isa, rows: usize, blocks: usize) -> (TileKernel, usize) {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                let (one, two, four) = &self.avx512;
                match blocks {
                    1 => (one[rows - 1], 1),
                    4.. if rows <= 6 => (four[rows - 1], 4),
                    _ => (two[rows - 1], 2),
                }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                let (one, two) = &self.avx2;
                if rows <= 3 && blocks >= 2 { (two[rows - 1], 2) } else { (one[rows - 1], 1) }
            }
            _ => (self.portable[rows - 1], 1),
        }
    }
}

/// The kernel for a tile of `rows` rows where `blocks` blocks of columns remain, and the blocks that it takes.
pub fn tile_for(isa: Isa, rows: usize, blocks: usize) -> (TileKernel, usize) {
    TILES.pick(isa, rows, blocks)
}

/// The same for weights in bf16.
pub fn bf16_tile_for(isa: Isa, rows: usize, blocks: usize) -> (TileKernel, usize) {
    BF16_TILES.pick(isa, rows, blocks)
}

/// The kernel for a patch of `rows` rows where `blocks` blocks of columns remain, and the blocks that it takes.
pub fn patch_for(isa: Isa, rows: usize, blocks: usize) -> (PatchKernel, usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512_patch(rows, blocks),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            static ONE: [PatchKernel; 6] = avx2!(patch_kernel(Patch), 2, [1 2 3 4 5 6]);
            (ONE[rows - 1], 1)
        }
        _ => {
            static ONE: [PatchKernel; 6] = portable!(patch_kernel(Patch), 2, [1 2 3 4 5 6]);
            (ONE[rows - 1], 1)
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn avx512_patch(rows: usize, blocks: usize) -> (PatchKernel, usize) {
    static ONE: [PatchKernel; 14] = avx512!(patch_kernel(Patch), 1, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    static TWO: [PatchKernel; 14] = avx512!(patch_kernel(Patch), 2, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    if blocks == 1 { (ONE[rows - 1], 1) } else { (TWO[rows - 1], 2) }
}
