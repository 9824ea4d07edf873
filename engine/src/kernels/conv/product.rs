//! Runs a gathered sum over all targets: divides it into tasks, finds the rows of each tile and calls the tile kernels.
//!
//! Targets are taken in the order of the map, or by position: the same pixel of many pictures together, so that a tap
//! that falls into the padding is left out instead of multiplied by zero. On maps of 1x1 a padded 3x3 kernel is then a
//! 1x1 kernel. By position, the source is first copied so that the pictures of a pixel are neighbors.
//!
//! Every target is summed by one call of a tile kernel, over taps and channels in order: the division into tasks never
//! shows in the result.
//!
//! Never here: what the taps mean.

use std::cell::RefCell;

use crate::pool::{Disjoint, Pool};

use super::finish::{self, Finish};
use super::gather::{Class, Source, Tap};
use super::micro::{Tile, bf16_tile_for, most_rows, tile_for};
use super::{BLOCK, Epilogue, scratch};

/// Bytes of weights that a task goes through again and again: about a quarter of a second-level cache.
const WEIGHT_BYTES: usize = 512 << 10;
/// Multiplications below which waking a thread costs more than it saves.
const SMALL: usize = 60_000;

/// A gathered sum over a whole batch.
pub struct Product<'a> {
    pub batch: usize,
    pub source: Source,
    pub classes: &'a [Class],
    pub groups: usize,
    /// Channels summed over, per group; groups lie side by side in a source pixel.
    pub depth: usize,
    pub weights: Weights<'a>,
    /// Floats of a block of weights.
    pub block_len: usize,
    /// Target channels per group.
    pub columns: usize,
    /// Height and width of the target map.
    pub target: [usize; 2],
    pub accumulate: bool,
    pub epilogue: Epilogue<'a>,
}

/// Where the weights `[group][block][tap][depth][16]` come from.
#[derive(Clone, Copy)]
pub enum Weights<'a> {
    /// They lie there.
    Packed(&'a [f32]),
    /// They lie there in bf16.
    Bf16(&'a [u16]),
    /// They are made: `make(group, block, to)` writes a block. Where one task alone uses a block it makes it for itself, so
    /// that it never leaves the cache; else all are made beforehand.
    Made(&'a (dyn Fn(usize, usize, &mut [f32]) + Sync)),
}

/// How the work is cut: targets into tiles, blocks of columns into ranges.
struct Cut {
    by_position: bool,
    /// Rows of source and target follow each other without a gap, one for one: a plain matrix product.
    flat: bool,
    most_rows: usize,
    tiles: usize,
    tiles_per_task: usize,
    blocks_per_task: usize,
}

/// A tile's rows, taps and outputs, refilled for every tile.
#[derive(Default)]
struct Table {
    pointers: Vec<*const f32>,
    offsets: Vec<usize>,
    outs: Vec<usize>,
    stretches: Vec<Stretch>,
}

/// Rows of a tile that lie the same step apart in the source.
struct Stretch {
    /// The picture's first pixel.
    start: *const f32,
    /// Source row and column of the first row of the tile.
    at: [isize; 2],
    rows: usize,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

/// A tile's targets: `rows` of a class from `first`, or pictures from `first` at one place.
struct Targets<'c> {
    class: &'c Class,
    place: Option<usize>,
    first: usize,
    rows: usize,
}

impl Product<'_> {
    /// Computes all of `out`.
    pub fn run(&self, pool: &Pool, out: &mut [f32]) {
        if !self.pays_by_position() {
            return self.run_from(pool, self.source, false, out);
        }
        let pixel = odd_lines(self.depth * self.groups);
        let len = self.source.height * self.source.width * self.batch * pixel;
        scratch::with(len, |copy| {
            let source = self.copy_by_position(pool, pixel, copy);
            self.run_from(pool, source, true, out);
        });
    }

    /// Whether copying the source costs less than the taps in the padding, or than rows that begin in the same places
    /// of the first cache and push each other out.
    fn pays_by_position(&self) -> bool {
        if self.batch < 8 {
            return false;
        }
        let crowded = self.source.pixel.is_multiple_of(512) && self.blocks() >= 8;
        let all: usize = self.classes.iter().map(|class| class.places() * class.taps.len()).sum();
        let hits: usize = self.classes.iter().map(|class| class.hits(&self.source)).sum();
        crowded || hits * 10 < all * 9
    }

    /// Copies the source as `[row][column][picture][pixel]`.
    fn copy_by_position(&self, pool: &Pool, pixel: usize, copy: &mut [f32]) -> Source {
        let (from, channels, batch) = (self.source, self.depth * self.groups, self.batch);
        let to = Disjoint::new(copy);
        let parts = batch.div_ceil(8);
        pool.run(from.height * parts, &|task| {
            let (row, part) = (task / parts, task % parts);
            for column in 0..from.width {
                for picture in part * 8..batch.min(part * 8 + 8) {
                    let place = (row * from.width + column) * batch + picture;
                    // SAFETY: both pixels lie in their maps; every task writes pixels of its own.
                    unsafe {
                        let target = to.part(place * pixel, channels);
                        std::ptr::copy_nonoverlapping(
                            from.at(picture, row, column),
                            target.as_mut_ptr(),
                            channels,
                        );
                    }
                }
            }
        });
        let column = batch * pixel;
        Source { start: copy.as_ptr(), picture: pixel, row: from.width * column, pixel: column, ..from }
    }

    fn run_from(&self, pool: &Pool, source: Source, by_position: bool, out: &mut [f32]) {
        let cut = self.cut(pool, by_position);
        let out = Disjoint::new(out);
        scratch::with(if cut.flat { 0 } else { self.depth }, |zeros| {
            zeros.fill(0.0);
            let run = Run { product: self, pool, source, cut: &cut, zeros, out: &out };
            match self.weights {
                Weights::Packed(_) | Weights::Bf16(_) => run.tasks(self.weights),
                Weights::Made(_) if cut.tiles_per_task >= cut.tiles => run.tasks(self.weights),
                Weights::Made(make) => {
                    self.with_made(pool, make, |weights| run.tasks(Weights::Packed(weights)));
                }
            }
        });
    }

    /// Makes all blocks of weights.
    fn with_made(
        &self,
        pool: &Pool,
        make: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
        f: impl FnOnce(&[f32]),
    ) {
        scratch::with(self.groups * self.blocks() * self.block_len, |weights| {
            let to = Disjoint::new(weights);
            pool.run(self.groups * self.blocks(), &|index| {
                // SAFETY: every block is a part of its own.
                let to = unsafe { to.part(index * self.block_len, self.block_len) };
                make(index / self.blocks(), index % self.blocks(), to);
            });
            f(weights);
        });
    }

    /// Blocks of columns in a group.
    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    fn cut(&self, pool: &Pool, by_position: bool) -> Cut {
        let most_rows = most_rows(pool.isa());
        let tiles: usize =
            self.classes.iter().map(|class| self.class_tiles(class, by_position, most_rows)).sum();
        let (blocks, threads) = (self.blocks(), pool.threads());
        let mut cut = Cut {
            by_position,
            flat: !by_position && self.is_flat(),
            most_rows,
            tiles,
            tiles_per_task: tiles.max(1),
            blocks_per_task: blocks.max(1),
        };
        // Kernels take two blocks at a time, on tiles of few rows four.
        let step = if self.rows() <= 6 { 4 } else { 2 };
        let mut ranges = (self.touched_bytes() * blocks).div_ceil(WEIGHT_BYTES);
        let wanted = threads * 6;
        let shared = threads > 1 && self.macs() >= SMALL;
        if shared && tiles * self.groups < wanted {
            // Few rows: divide the columns.
            ranges = ranges.max(wanted.div_ceil((tiles * self.groups).max(1)));
        }
        cut.blocks_per_task = blocks.div_ceil(ranges.max(1)).next_multiple_of(step).clamp(1, blocks.max(1));
        if !shared {
            return cut;
        }
        let ranges = blocks.div_ceil(cut.blocks_per_task) * self.groups;
        let chunks = ((wanted + ranges / 2) / ranges.max(1)).max(1);
        cut.tiles_per_task = tiles.div_ceil(chunks).max(1);
        cut
    }

    /// Bytes of a block of weights that some target meets.
    fn touched_bytes(&self) -> usize {
        self.classes.iter().map(|class| class.taps.len()).sum::<usize>() * self.depth * BLOCK * 4
    }

    fn rows(&self) -> usize {
        self.batch * self.classes.iter().map(Class::places).sum::<usize>()
    }

    fn is_flat(&self) -> bool {
        let [class] = self.classes else { return false };
        let [tap] = &class.taps[..] else { return false };
        let same_map = [class.height, class.width] == self.target
            && self.target == [self.source.height, self.source.width]
            && class.source_step == [1, 1];
        let gapless = self.source.row == self.source.width * self.source.pixel
            && self.source.picture == self.source.height * self.source.row;
        same_map && gapless && (tap.row, tap.column) == (0, 0)
    }

    fn macs(&self) -> usize {
        let taps: usize = self.classes.iter().map(|class| class.places() * class.taps.len()).sum();
        taps * self.batch * self.depth * self.columns * self.groups
    }

    fn class_tiles(&self, class: &Class, by_position: bool, most_rows: usize) -> usize {
        if by_position {
            class.places() * self.batch.div_ceil(most_rows)
        } else {
            (class.places() * self.batch).div_ceil(most_rows)
        }
    }

    /// The targets of tile `tile`; sizes of tiles differ by one row at most.
    fn targets(&self, cut: &Cut, mut tile: usize) -> Option<Targets<'_>> {
        for class in self.classes {
            let tiles = self.class_tiles(class, cut.by_position, cut.most_rows);
            if tile >= tiles {
                tile -= tiles;
                continue;
            }
            if !cut.by_position {
                let (first, rows) = share(class.places() * self.batch, tiles, tile);
                return Some(Targets { class, place: None, first, rows });
            }
            let per_place = self.batch.div_ceil(cut.most_rows);
            let (first, rows) = share(self.batch, per_place, tile % per_place);
            return Some(Targets { class, place: Some(tile / per_place), first, rows });
        }
        None
    }
}

/// First and count of part `part` when `all` is divided into `parts` parts that differ by one at most.
pub fn share(all: usize, parts: usize, part: usize) -> (usize, usize) {
    let (base, more) = (all / parts, all % parts);
    (part * base + part.min(more), base + usize::from(part < more))
}

/// Floats of a pixel so that neighbors begin an odd number of cache lines apart: then they do not compete for a place in
/// the cache.
fn odd_lines(channels: usize) -> usize {
    (channels.div_ceil(BLOCK) | 1) * BLOCK
}

/// A product under way: what all its tasks share.
#[derive(Clone, Copy)]
struct Run<'a> {
    product: &'a Product<'a>,
    pool: &'a Pool,
    source: Source,
    cut: &'a Cut,
    zeros: &'a [f32],
    out: &'a Disjoint<'a, f32>,
}

impl Run<'_> {
    /// Runs all tasks over these weights, or over those that each task makes.
    fn tasks(&self, weights: Weights<'_>) {
        let (product, cut) = (self.product, self.cut);
        let ranges = product.blocks().div_ceil(cut.blocks_per_task);
        let chunks = cut.tiles.div_ceil(cut.tiles_per_task);
        // A range of columns is the outermost loop: its weights stay in the cache.
        self.pool.run(product.groups * ranges * chunks, &|task| {
            let (group, rest) = (task / (ranges * chunks), task % (ranges * chunks));
            let first = rest / chunks * cut.blocks_per_task;
            let blocks = first..product.blocks().min(first + cut.blocks_per_task);
            let tile = rest % chunks * cut.tiles_per_task;
            let tiles = tile..cut.tiles.min(tile + cut.tiles_per_task);
            let start = (group * product.blocks() + first) * product.block_len;
            let work = |weights: Values<'_>| {
                Work { run: *self, group, blocks: blocks.clone(), weights }.tiles(tiles.clone())
            };
            match weights {
                Weights::Packed(weights) => work(Values::F32(&weights[start..])),
                Weights::Bf16(weights) => work(Values::Bf16(&weights[start..])),
                Weights::Made(make) => scratch::with(blocks.len() * product.block_len, |weights| {
                    for (block, to) in blocks.clone().zip(weights.chunks_exact_mut(product.block_len.max(1)))
                    {
                        make(group, block, to);
                    }
                    work(Values::F32(weights));
                }),
            }
        });
    }
}

/// Weights of a task, from the first block of its range.
#[derive(Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// One task: some tiles of a group, a range of its blocks and their weights.
struct Work<'a> {
    run: Run<'a>,
    group: usize,
    blocks: std::ops::Range<usize>,
    weights: Values<'a>,
}

impl Work<'_> {
    fn tiles(&self, tiles: std::ops::Range<usize>) {
        TABLE.with_borrow_mut(|table| tiles.for_each(|tile| self.tile(tile, table)));
    }

    fn tile(&self, tile: usize, table: &mut Table) {
        let Some(targets) = self.run.product.targets(self.run.cut, tile) else { return };
        if self.run.cut.flat {
            self.fill_flat(&targets, table);
        } else {
            self.fill(&targets, table);
        }
        self.multiply(targets.rows, table);
        self.finish(table);
    }

    /// The same for a plain matrix product.
    fn fill_flat(&self, targets: &Targets<'_>, table: &mut Table) {
        let (product, channels) = (self.run.product, self.run.product.columns * self.run.product.groups);
        let rows = targets.first..targets.first + targets.rows;
        let source = self.run.source.start.wrapping_add(self.group * product.depth);
        table.pointers.clear();
        table.pointers.extend(rows.clone().map(|row| source.wrapping_add(row * self.run.source.pixel)));
        table.outs.clear();
        table.outs.extend(rows.map(|row| row * channels + self.group * product.columns));
        table.offsets.clear();
        table.offsets.extend(targets.class.taps.iter().map(|tap| tap.tap * product.depth * BLOCK));
    }

    /// Notes where the rows of the tile lie under each tap, and where they go.
    fn fill(&self, targets: &Targets<'_>, table: &mut Table) {
        let Table { pointers, offsets, outs, stretches } = table;
        pointers.clear();
        offsets.clear();
        outs.clear();
        stretches.clear();
        let channels = self.run.product.columns * self.run.product.groups;
        let step = targets.class.target_step[1] * channels;
        let step = if targets.place.is_some() { self.picture_len() } else { step };
        let mut place = Place::of(targets);
        let mut row = 0;
        while row < targets.rows {
            let rows = place.neighbors(targets).min(targets.rows - row);
            let out = self.out(targets.class, &place);
            outs.extend((0..rows).map(|row| out + row * step));
            stretches.push(self.stretch(targets.class, &place, rows));
            place.advance(targets, rows);
            row += rows;
        }
        for tap in targets.class.taps.iter() {
            let start = pointers.len();
            let mut any = false;
            for stretch in stretches.iter() {
                any |= self.fill_tap(targets, tap, stretch, pointers);
            }
            if any {
                offsets.push(tap.tap * self.run.product.depth * BLOCK);
            } else {
                pointers.truncate(start);
            }
        }
    }

    /// Floats of a picture of the output.
    fn picture_len(&self) -> usize {
        let product = self.run.product;
        product.target[0] * product.target[1] * product.columns * product.groups
    }

    /// Where the output of a place begins.
    fn out(&self, class: &Class, place: &Place) -> usize {
        let product = self.run.product;
        let [y, x] = [0, 1].map(|axis| class.start[axis] + place.grid[axis] * class.target_step[axis]);
        let pixel = (place.picture * product.target[0] + y) * product.target[1] + x;
        (pixel * product.groups + self.group) * product.columns
    }

    fn stretch(&self, class: &Class, place: &Place, rows: usize) -> Stretch {
        let source = &self.run.source;
        let at = [0, 1].map(|axis| (place.grid[axis] * class.source_step[axis]) as isize);
        let start = source.at(place.picture, 0, 0).wrapping_add(self.group * self.run.product.depth);
        Stretch { start, at, rows }
    }

    /// Notes the rows of a stretch under a tap; whether any of them meets the source.
    fn fill_tap(
        &self,
        targets: &Targets<'_>,
        tap: &Tap,
        stretch: &Stretch,
        pointers: &mut Vec<*const f32>,
    ) -> bool {
        let (source, zeros) = (&self.run.source, self.run.zeros.as_ptr());
        let [y, x] = [stretch.at[0] + tap.row, stretch.at[1] + tap.column];
        let (step, across) = match targets.place {
            Some(_) => (source.picture as isize, 0),
            None => {
                let across = targets.class.source_step[1] as isize;
                (across * source.pixel as isize, across)
            }
        };
        let inside = |x: isize| (x as usize) < source.width;
        let rows = 0..stretch.rows as isize;
        let first = stretch.start.wrapping_offset(y * source.row as isize + x * source.pixel as isize);
        if y as usize >= source.height {
            pointers.extend(rows.map(|_| zeros));
            return false;
        }
        if inside(x) && inside(x + (rows.end - 1) * across) {
            pointers.extend(rows.map(|row| first.wrapping_offset(row * step)));
            return true;
        }
        let pixel = |row: isize| {
            if inside(x + row * across) { first.wrapping_offset(row * step) } else { zeros }
        };
        pointers.extend(rows.clone().map(pixel));
        rows.into_iter().any(|row| inside(x + row * across))
    }

    /// Calls the kernels over the range of columns.
    fn multiply(&self, rows: usize, table: &Table) {
        let product = self.run.product;
        let mut block = self.blocks.start;
        while block < self.blocks.end {
            let column = block * BLOCK;
            let channel = self.group * product.columns + column;
            let finish = Finish::of(&product.epilogue, channel, product.accumulate).at(column);
            let (isa, remain) = (self.run.pool.isa(), self.blocks.end - block);
            let start = (block - self.blocks.start) * product.block_len;
            let ((kernel, taken), weights) = match self.weights {
                Values::F32(weights) => (tile_for(isa, rows, remain), weights[start..].as_ptr()),
                Values::Bf16(weights) => (bf16_tile_for(isa, rows, remain), weights[start..].as_ptr().cast()),
            };
            let tile = Tile {
                pointers: table.pointers.as_ptr(),
                offsets: table.offsets.as_ptr(),
                taps: table.offsets.len(),
                depth: product.depth,
                weights,
                block_len: product.block_len,
                outs: table.outs.as_ptr(),
                out: self.run.out.as_mut_ptr().wrapping_add(column),
                columns: (product.columns - column).min(taken * BLOCK),
                finish,
            };
            // SAFETY: `fill` wrote `rows` pointers per tap, each with `depth` readable floats, and `rows` places in the
            // output, each with `columns` writable ones that no other task writes; the kernel is for this machine.
            unsafe { kernel(&tile) };
            block += taken;
        }
    }

    /// The activation, if the kernels lack it, while the tile is in the cache.
    fn finish(&self, table: &Table) {
        let Some(activation) = finish::left_over(&self.run.product.epilogue) else { return };
        let first = self.blocks.start * BLOCK;
        let columns = self.run.product.columns.min(self.blocks.end * BLOCK) - first;
        for &start in &table.outs {
            // SAFETY: this task alone writes these columns of this row.
            let row = unsafe { self.run.out.part(start + first, columns) };
            finish::activate(self.run.pool.isa(), activation, row);
        }
    }
}

/// Where a row of a tile lies: the picture and the place in the grid.
struct Place {
    picture: usize,
    grid: [usize; 2],
}

impl Place {
    fn of(targets: &Targets<'_>) -> Self {
        let (class, places) = (targets.class, targets.class.places());
        let (picture, place) = match targets.place {
            Some(place) => (targets.first, place),
            None => (targets.first / places, targets.first % places),
        };
        Self { picture, grid: [place / class.width, place % class.width] }
    }

    /// Rows from here on that lie the same step apart in source and target: those of a line, or pictures at a place.
    fn neighbors(&self, targets: &Targets<'_>) -> usize {
        if targets.place.is_some() { targets.rows } else { targets.class.width - self.grid[1] }
    }

    /// Goes on by as many rows, not beyond the end of the line.
    fn advance(&mut self, targets: &Targets<'_>, rows: usize) {
        if targets.place.is_some() {
            self.picture += rows;
            return;
        }
        self.grid[1] += rows;
        if self.grid[1] == targets.class.width {
            self.grid = [self.grid[0] + 1, 0];
        }
        if self.grid[0] == targets.class.height {
            *self = Self { picture: self.picture + 1, grid: [0, 0] };
        }
    }
}
