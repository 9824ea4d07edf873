//! The innermost loop of dense convolution over bytes: rows of the output times columns, unrolled over registers, from
//! the first product to the stored byte.
//!
//! Never here: where rows lie in a map, or who does which tile.
#![allow(clippy::needless_range_loop)] // indices count registers; iterators would hide that

use std::mem::MaybeUninit;

use crate::simd::{ByteIsa, Simd};

use super::Addition;
use super::lanes::{LINE, Lanes, Line, Rounding};

/// Outputs in a block of weights.
pub const BLOCK: usize = 16;
/// Most rows of a tile under any instruction set.
pub const MOST_ROWS: usize = 14;
/// Most vectors of sums of a tile.
const MOST_VECTORS: usize = 2 * MOST_ROWS;
/// Lines of weights that are asked for ahead where a tile has few rows: it waits for memory, not for products.
const AHEAD: usize = 12;

/// What becomes of the sums of a tile.
#[derive(Clone, Copy)]
pub enum Results {
    /// `clamp(round(sum * multiplier) + zero point)`, or that with a residual.
    Bytes {
        /// First column of the first row.
        out: *mut u8,
        rounding: Rounding,
        residual: Option<Residual>,
    },
    /// `sum * multiplier`, from the first column of the first row.
    Floats(*mut f32),
}

/// A map of the output's shape that is added to the rounded sums.
#[derive(Clone, Copy)]
pub struct Residual {
    /// First column of the first row.
    pub start: *const u8,
    /// How sums become the bytes that it is added to.
    pub branch: Rounding,
    pub addition: Addition,
}

/// `sums[row][column] = bias[column] + sum over taps, k of x[starts[row] + taps[tap] + k] * weights[column][tap][k]`
pub struct Tile {
    /// `[rows]`: where the first tap of a row begins.
    pub starts: *const *const u8,
    /// `[taps]`: bytes from the first tap of a row to each.
    pub offsets: *const usize,
    pub taps: usize,
    /// Fours of inputs per tap.
    pub quads: usize,
    /// First block of columns, `[tap][quad]`.
    pub weights: *const Line,
    /// Lines from a block of columns to the next.
    pub block_len: usize,
    /// Of the first column.
    pub bias: *const i32,
    /// Of the first column.
    pub multipliers: *const f32,
    /// `[rows]`: where a row begins in the output, counted in elements.
    pub outs: *const usize,
    /// Columns that exist, up to the kernel's.
    pub columns: usize,
    pub results: Results,
}

/// A loop over a tile.
pub type TileKernel = unsafe fn(&Tile);

/// Bytes from the start of the first block to the weights of a vector of columns.
#[inline(always)]
fn column_start<V: Lanes>(vector: usize, block_len: usize) -> usize {
    let column = vector * V::LANES;
    column / BLOCK * block_len * LINE + column % BLOCK * 4
}

#[inline(always)]
unsafe fn tile_kernel<V: Lanes, const R: usize, const C: usize>(tile: &Tile) {
    // SAFETY: all reads lie in the rows, taps and blocks that the tile's builder vouches for.
    unsafe {
        let mut bias = [V::load(tile.bias); C];
        for c in 1..C {
            bias[c] = V::load(tile.bias.add(c * V::LANES));
        }
        let mut sums = [bias; R];
        let rows = tile.starts.cast::<[*const u8; R]>().read_unaligned();
        let mut weights = tile.weights.cast::<i8>();
        for tap in 0..tile.taps {
            let mut place = *tile.offsets.add(tap);
            for _ in 0..tile.quads {
                let mut columns = [V::weights(weights); C];
                for c in 0..C {
                    let column = weights.add(column_start::<V>(c, tile.block_len));
                    columns[c] = V::weights(column);
                    if R <= 3 {
                        V::prefetch(column.wrapping_add(AHEAD * LINE));
                    }
                }
                for r in 0..R {
                    let x = V::splat_four(rows[r].add(place));
                    for c in 0..C {
                        sums[r][c] = sums[r][c].dot(x, columns[c]);
                    }
                }
                place += 4;
                weights = weights.add(LINE);
            }
        }
        // Through memory: rows are finished in a loop, and an array that a loop indexes would not stay in registers.
        let mut kept = [const { MaybeUninit::<Line>::uninit() }; MOST_VECTORS];
        for r in 0..R {
            for c in 0..C {
                sums[r][c].store(kept.as_mut_ptr().cast::<i32>().add((r * C + c) * V::LANES));
            }
        }
        finish::<V>(tile, kept.as_ptr().cast(), [R, C * V::LANES]);
    }
}

/// Stores all rows of sums, `columns` apart.
#[inline(always)]
unsafe fn finish<V: Lanes>(tile: &Tile, sums: *const i32, [rows, columns]: [usize; 2]) {
    for row in 0..rows {
        for first in (0..tile.columns).step_by(V::LANES) {
            let count = V::LANES.min(tile.columns - first);
            // SAFETY: `count` columns remain in the row; bias and multipliers are filled up to whole blocks.
            unsafe {
                let sum = V::load(sums.add(row * columns + first));
                finish_vector(tile, sum, first, count, *tile.outs.add(row));
            }
        }
    }
}

/// Stores `count` sums from column `first` of the row that begins at `row`.
#[inline(always)]
unsafe fn finish_vector<V: Lanes>(tile: &Tile, sums: V, first: usize, count: usize, row: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut real = sums.floats().mul(V::Floats::load(tile.multipliers.add(first)));
        match tile.results {
            Results::Bytes { out, rounding, residual } => {
                if let Some(residual) = residual {
                    let value = V::load_bytes(residual.start.add(row + first), count);
                    real = residual.addition.of(rounded(real, residual.branch), value);
                }
                V::store_bytes(real, rounding, out.add(row + first), count);
            }
            Results::Floats(out) => real.store_partial(out.add(row + first), count),
        }
    }
}

/// The bytes of sums, as floats.
#[inline(always)]
fn rounded<V: Simd>(sums: V, rounding: Rounding) -> V {
    let [low, high] = rounding.bounds().map(V::splat);
    sums.max(low).min(high).round().add(V::splat(f32::from(rounding.zero_point)))
}

/// Instances of the kernel for the row counts in brackets, in order.
macro_rules! instances {
    ($vector:ty, $columns:literal, [$($rows:literal)*], $attribute:meta) => {
        [$({
            #[$attribute]
            unsafe fn instance(tile: &Tile) {
                // SAFETY: the caller's promise.
                unsafe { tile_kernel::<$vector, $rows, $columns>(tile) }
            }
            instance as TileKernel
        }),*]
    };
}

/// Most rows that a tile has under `isa`.
pub fn most_rows(isa: ByteIsa) -> usize {
    match isa {
        ByteIsa::Vnni => MOST_ROWS,
        ByteIsa::AvxVnni => 6,
        ByteIsa::Avx2 | ByteIsa::Portable => 4,
    }
}

/// The kernel for a tile of `rows` rows where `blocks` blocks of columns remain, and the blocks that it takes.
pub fn tile_for(isa: ByteIsa, rows: usize, blocks: usize) -> (TileKernel, usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        ByteIsa::Vnni => vnni_tile(rows, blocks),
        #[cfg(target_arch = "x86_64")]
        ByteIsa::AvxVnni => {
            static ONE: [TileKernel; 6] = instances!(super::lanes::AvxVnni, 2, [1 2 3 4 5 6], target_feature(enable = "avx2,fma,avxvnni"));
            static TWO: [TileKernel; 3] =
                instances!(super::lanes::AvxVnni, 4, [1 2 3], target_feature(enable = "avx2,fma,avxvnni"));
            if rows <= 3 && blocks >= 2 { (TWO[rows - 1], 2) } else { (ONE[rows - 1], 1) }
        }
        #[cfg(target_arch = "x86_64")]
        ByteIsa::Avx2 => {
            static ONE: [TileKernel; 4] =
                instances!(super::lanes::Avx2, 2, [1 2 3 4], target_feature(enable = "avx2,fma"));
            (ONE[rows - 1], 1)
        }
        _ => {
            static ONE: [TileKernel; 4] = instances!(super::lanes::Portable, 2, [1 2 3 4], inline(never));
            (ONE[rows - 1], 1)
        }
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! vnni {
    ($columns:literal, [$($rows:literal)*]) => {
        instances!(super::lanes::Vnni, $columns, [$($rows)*], target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))
    };
}

#[cfg(target_arch = "x86_64")]
fn vnni_tile(rows: usize, blocks: usize) -> (TileKernel, usize) {
    static ONE: [TileKernel; 14] = vnni!(1, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    static TWO: [TileKernel; 14] = vnni!(2, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]);
    static FOUR: [TileKernel; 6] = vnni!(4, [1 2 3 4 5 6]);
    static EIGHT: [TileKernel; 3] = vnni!(8, [1 2 3]);
    match blocks {
        1 => (ONE[rows - 1], 1),
        8.. if rows <= 3 => (EIGHT[rows - 1], 8),
        4.. if rows <= 6 => (FOUR[rows - 1], 4),
        _ => (TWO[rows - 1], 2),
    }
}
