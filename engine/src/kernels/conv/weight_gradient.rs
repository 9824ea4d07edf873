//! Gradient of the weights of a dense convolution.
//!
//! For a range of pixels, the output gradients of a panel of columns are packed side by side; then every patch of the
//! weights adds its sum over these pixels, so that both operands come from the first caches.
//!
//! A patch is summed by one thread over all pixels in order. Where there are too few patches to go around, the pixels
//! are divided into slices, as many as the shape says, whose sums are added in order.
//!
//! Never here: the gradient of the bias.

use std::ops::Range;

use crate::pool::{Disjoint, Pool};
use crate::simd::{Isa, Simd, dispatch};

use super::gather::{Class, Source, Tap};
use super::micro::{PANEL, Patch, Segment, most_rows, patch_for};
use super::{BLOCK, scratch};

/// Pixels whose output gradients are packed at a time.
const CHUNK: usize = 128;
/// Most panels of a task: with more the packed gradients leave no room in the second cache.
const PANELS: usize = 4;
/// Panels from which on the inputs of a patch are packed too.
const PACKING_PANELS: usize = 3;
/// Most bytes of the result that a task goes through for every chunk: a quarter of a second-level cache.
const RESULT_BYTES: usize = 512 << 10;
/// Fewest bytes of both maps in a slice.
const SLICE_BYTES: usize = 512 << 10;
/// Fewest pixels of a slice where there are few patches.
const SLICE: usize = 2048;

/// The sum over a whole batch.
pub struct WeightGradient<'a> {
    pub batch: usize,
    pub source: Source,
    /// The forward class: its targets are the pixels of `dy`.
    pub class: &'a Class,
    pub groups: usize,
    /// Inputs per group.
    pub depth: usize,
    /// Outputs per group.
    pub columns: usize,
    pub dy: &'a [f32],
    /// Floats of a block of the gradient.
    pub block_len: usize,
    pub accumulate: bool,
}

/// One task: some patches of some panels, over a slice of the pixels.
struct Task {
    group: usize,
    panels: Range<usize>,
    patches: Range<usize>,
    pixels: Range<usize>,
    slice: usize,
}

/// How the work is cut.
struct Cut {
    slices: usize,
    panels_per_task: usize,
    ranges: usize,
    patches_per_task: usize,
    tasks_per_range: usize,
}

/// What a task packs: output gradients `[panel][pixel][32]`, and inputs of a patch `[pixel][16]`.
struct Packed<'a> {
    panels: &'a mut [f32],
    x: &'a mut [f32],
    /// Runs of pixels of a tap in the source, and the same in `x`.
    segments: Vec<Segment>,
    packed_segments: Vec<Segment>,
}

impl WeightGradient<'_> {
    /// Computes all of `dw`.
    pub fn run(&self, pool: &Pool, dw: &mut [f32]) {
        let cut = self.cut(pool);
        if !self.accumulate {
            self.clear_untouched(pool, dw);
        }
        if cut.slices == 1 {
            return self.run_slices(pool, &cut, dw, self.accumulate);
        }
        let len = dw.len();
        scratch::with(cut.slices * len, |sums| {
            self.run_slices(pool, &cut, sums, false);
            self.add_slices(pool, &cut, sums, dw);
        });
    }

    /// Zeros the weights of taps that meet nothing but padding.
    fn clear_untouched(&self, pool: &Pool, dw: &mut [f32]) {
        let tap_len = self.depth * BLOCK;
        if self.pixels() > 0 && self.class.taps.len() * tap_len == self.block_len {
            return;
        }
        let (block_len, pixels) = (self.block_len, self.pixels());
        let blocks = dw.len() / block_len;
        let dw = Disjoint::new(dw);
        pool.run(blocks, &|block| {
            // SAFETY: every block is a part of its own.
            let block = unsafe { dw.part(block * block_len, block_len) };
            for (tap, weights) in block.chunks_exact_mut(tap_len).enumerate() {
                if pixels == 0 || self.class.taps.iter().all(|known| known.tap != tap) {
                    weights.fill(0.0);
                }
            }
        });
    }

    fn run_slices(&self, pool: &Pool, cut: &Cut, dw: &mut [f32], accumulate: bool) {
        let len = dw.len() / cut.slices;
        let dw = Disjoint::new(dw);
        let tasks = cut.slices * self.groups * cut.ranges * cut.tasks_per_range;
        pool.run(tasks, &|index| {
            let task = self.task(cut, index);
            let start = dw.as_mut_ptr().wrapping_add(task.slice * len);
            self.run_task(pool.isa(), &task, start, accumulate);
        });
    }

    /// Adds the slices in order; taps without pixels are absent from them.
    fn add_slices(&self, pool: &Pool, cut: &Cut, sums: &[f32], dw: &mut [f32]) {
        let (len, accumulate) = (dw.len(), self.accumulate);
        let tap_len = self.depth * BLOCK;
        let pieces = len / self.block_len * self.class.taps.len();
        let dw = Disjoint::new(dw);
        pool.run(pieces, &|piece| {
            let (block, tap) = (piece / self.class.taps.len(), piece % self.class.taps.len());
            let start = block * self.block_len + self.class.taps[tap].tap * tap_len;
            // SAFETY: every piece is a part of its own.
            let part = unsafe { dw.part(start, tap_len) };
            for slice in 0..cut.slices {
                let sums = &sums[slice * len + start..][..tap_len];
                let add = accumulate || slice > 0;
                dispatch!(pool.isa(), add_kernel(part: &mut [f32], sums: &[f32], add: bool));
            }
        });
    }

    fn pixels(&self) -> usize {
        self.batch * self.class.places()
    }

    fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }

    /// Row tiles of a tap.
    fn row_tiles(&self, isa: Isa) -> usize {
        self.depth.div_ceil(most_rows(isa))
    }

    fn cut(&self, pool: &Pool) -> Cut {
        let panels = self.columns.div_ceil(PANEL);
        let patches = (self.class.taps.len() * self.row_tiles(pool.isa())).max(1);
        let slices = self.slices(self.groups * panels * patches);
        let panels_per_task = panels.div_ceil(panels.div_ceil(PANELS));
        let ranges = panels.div_ceil(panels_per_task);
        let wanted = (pool.threads() * 6).div_ceil(self.groups * ranges * slices);
        let most = (RESULT_BYTES / (panels_per_task * PANEL * most_rows(pool.isa()) * 4)).max(1);
        let patches_per_task = patches.div_ceil(wanted).max(4.min(patches)).min(most);
        let tasks_per_range = patches.div_ceil(patches_per_task);
        Cut { slices, panels_per_task, ranges, patches_per_task, tasks_per_range }
    }

    /// Slices of the pixels: where there are few patches, and where the maps are larger than the cache, so that going
    /// through them once per task would cost more than adding up some small results.
    fn slices(&self, patches: usize) -> usize {
        let by_patches = if patches < 24 { (self.pixels() / SLICE).min(8) } else { 1 };
        let result = self.groups * self.blocks() * self.block_len * 4;
        let maps = self.pixels() * (self.depth + self.columns) * self.groups * 4;
        let by_maps = if result <= RESULT_BYTES / 2 { (maps / SLICE_BYTES).min(16) } else { 1 };
        by_patches.max(by_maps).max(1)
    }

    fn task(&self, cut: &Cut, index: usize) -> Task {
        let (rest, part) = (index / cut.tasks_per_range, index % cut.tasks_per_range);
        let (rest, range) = (rest / cut.ranges, rest % cut.ranges);
        let (slice, group) = (rest / self.groups, rest % self.groups);
        let (panel, patch) = (range * cut.panels_per_task, part * cut.patches_per_task);
        let chunks = self.pixels().div_ceil(CHUNK);
        let bound = |slice: usize| (chunks * slice / cut.slices * CHUNK).min(self.pixels());
        Task {
            group,
            panels: panel..(panel + cut.panels_per_task).min(self.columns.div_ceil(PANEL)),
            patches: patch..patch + cut.patches_per_task,
            pixels: bound(slice)..bound(slice + 1),
            slice,
        }
    }

    fn run_task(&self, isa: Isa, task: &Task, dw: *mut f32, accumulate: bool) {
        let panels_len = task.panels.len() * CHUNK * PANEL;
        scratch::with(panels_len + CHUNK * BLOCK, |memory| {
            let (panels, x) = memory.split_at_mut(panels_len);
            let mut packed = Packed { panels, x, segments: Vec::new(), packed_segments: Vec::new() };
            let mut add = accumulate;
            for first in task.pixels.clone().step_by(CHUNK) {
                let pixels = first..task.pixels.end.min(first + CHUNK);
                if !self.is_direct(isa) {
                    self.pack(task, &pixels, &mut packed);
                }
                self.patches(isa, task, &pixels, &mut packed, dw, add);
                add = true;
            }
        });
    }

    /// Picture and place of a pixel: by position on narrow maps, so that runs are long.
    fn pixel(&self, pixel: usize) -> (usize, usize) {
        if self.by_position() {
            (pixel % self.batch, pixel / self.batch)
        } else {
            (pixel / self.class.places(), pixel % self.class.places())
        }
    }

    fn by_position(&self) -> bool {
        self.class.width <= 4 && self.batch > self.class.width
    }

    /// Copies the columns of every panel side by side, zeros beyond the last column.
    fn pack(&self, task: &Task, pixels: &Range<usize>, packed: &mut Packed<'_>) {
        let channels = self.columns * self.groups;
        for (panel, to) in task.panels.clone().zip(packed.panels.chunks_exact_mut(CHUNK * PANEL)) {
            let first = panel * PANEL;
            let columns = PANEL.min(self.columns - first);
            let offset = task.group * self.columns + first;
            let step = if self.by_position() { self.class.places() * channels } else { channels };
            let mut to = to.chunks_exact_mut(PANEL);
            let mut pixel = pixels.start;
            while pixel < pixels.end {
                let (picture, place) = self.pixel(pixel);
                // By position a line is the pictures of a place, else all pixels are one line.
                let end = if self.by_position() {
                    pixels.end.min(pixel + self.batch - picture)
                } else {
                    pixels.end
                };
                let start = (picture * self.class.places() + place) * channels + offset;
                pack_line(&self.dy[start..], step, columns, to.by_ref().take(end - pixel));
                pixel = end;
            }
        }
    }

    /// Adds these pixels to the task's patches.
    fn patches(
        &self,
        isa: Isa,
        task: &Task,
        pixels: &Range<usize>,
        packed: &mut Packed<'_>,
        dw: *mut f32,
        accumulate: bool,
    ) {
        let tiles = self.row_tiles(isa);
        let all = self.class.taps.len() * tiles;
        let mut known = usize::MAX;
        for index in task.patches.start..task.patches.end.min(all) {
            let (tap, tile) = (index / tiles, index % tiles);
            if tap != known {
                self.segments(isa, task, &self.class.taps[tap], pixels, packed);
                known = tap;
            }
            let (base, more) = (self.depth / tiles, self.depth % tiles);
            let (row, rows) = (tile * base + tile.min(more), base + usize::from(tile < more));
            let place = self.class.taps[tap].tap * self.depth + row;
            self.patch(isa, task, packed, (row, rows), dw.wrapping_add(place * BLOCK), accumulate);
        }
    }

    /// One patch: the rows `(first, count)` of a tap, all columns of all panels.
    fn patch(
        &self,
        isa: Isa,
        task: &Task,
        packed: &mut Packed<'_>,
        rows: (usize, usize),
        dw: *mut f32,
        accumulate: bool,
    ) {
        let x_offset = task.group * self.depth + rows.0;
        let packs = task.panels.len() >= PACKING_PANELS;
        if packs {
            let (segments, step, to) = (&packed.segments[..], self.x_step(), &mut packed.x[..]);
            let rows = rows.1;
            dispatch!(isa, pack_kernel(segments: &[Segment], step: usize, x_offset: usize, rows: usize, to: &mut [f32]));
        }
        let segments = if packs { &packed.packed_segments } else { &packed.segments };
        let mut patch = Patch {
            segments: segments.as_ptr(),
            count: segments.len(),
            x_step: if packs { BLOCK } else { self.x_step() },
            dy_step: self.dy_step(isa),
            x_offset: if packs { 0 } else { x_offset },
            dy_offset: 0,
            dw,
            block_len: self.block_len,
            accumulate,
        };
        for (index, panel) in task.panels.clone().enumerate() {
            let first = panel * (PANEL / BLOCK);
            let blocks = (PANEL / BLOCK).min(self.blocks() - first);
            let mut block = 0;
            while block < blocks {
                let (kernel, taken) = patch_for(isa, rows.1, blocks - block);
                let panel_start = if self.is_direct(isa) { panel * PANEL } else { index * CHUNK * PANEL };
                patch.dy_offset = panel_start + block * BLOCK;
                patch.dw = dw.wrapping_add((task.group * self.blocks() + first + block) * self.block_len);
                // SAFETY: segments lie in the source or its packed copy, and in the packed panels; this task alone
                // writes these rows of these blocks.
                unsafe { kernel(&patch) };
                block += taken;
            }
        }
    }

    /// Whether output gradients are read where they lie: packing is for patches that go through them often, and for
    /// columns that do not fill a block.
    fn is_direct(&self, isa: Isa) -> bool {
        let patches = self.class.taps.len() * self.row_tiles(isa);
        patches <= 4 && self.columns.is_multiple_of(BLOCK) && !self.by_position()
    }

    fn dy_step(&self, isa: Isa) -> usize {
        if self.is_direct(isa) { self.columns * self.groups } else { PANEL }
    }

    /// Floats from a pixel to the next in a segment.
    fn x_step(&self) -> usize {
        if self.by_position() { self.source.picture } else { self.class.source_step[1] * self.source.pixel }
    }

    /// Runs of pixels in the range that this tap joins with pixels of the source.
    fn segments(&self, isa: Isa, task: &Task, tap: &Tap, pixels: &Range<usize>, packed: &mut Packed<'_>) {
        packed.segments.clear();
        let line = if self.by_position() { self.batch } else { self.class.width };
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let end = pixels.end.min((pixel / line + 1) * line);
            let (picture, place) = self.pixel(pixel);
            let count = end - pixel;
            let run = if self.by_position() {
                self.same_place(tap, place, count)
            } else {
                self.same_row(tap, place, count)
            };
            let dy = if self.is_direct(isa) {
                self.dy[pixel * self.columns * self.groups + task.group * self.columns..].as_ptr()
            } else {
                packed.panels[(pixel - pixels.start) * PANEL..].as_ptr()
            };
            self.push(tap, picture, place, run, (dy, self.dy_step(isa)), &mut packed.segments);
            pixel = end;
        }
        let mut before = 0;
        packed.packed_segments.clear();
        for segment in &packed.segments {
            packed.packed_segments.push(Segment { x: packed.x[before * BLOCK..].as_ptr(), ..*segment });
            before += segment.pixels;
        }
    }

    /// Of `count` pictures at a place: all or none.
    fn same_place(&self, tap: &Tap, place: usize, count: usize) -> Range<usize> {
        let column = (place % self.class.width * self.class.source_step[1]) as isize + tap.column;
        if self.row_hits(tap, place) && (column as usize) < self.source.width { 0..count } else { 0..0 }
    }

    /// Of `count` pixels of a row from `place`: those under which the tap is not padding.
    fn same_row(&self, tap: &Tap, place: usize, count: usize) -> Range<usize> {
        if !self.row_hits(tap, place) {
            return 0..0;
        }
        let (step, first) = (self.class.source_step[1] as isize, (place % self.class.width) as isize);
        let ceil = |distance: isize| (distance + step - 1).div_euclid(step) - first;
        let start = ceil(-tap.column).clamp(0, count as isize);
        let end = ceil(self.source.width as isize - tap.column).clamp(start, count as isize);
        start as usize..end as usize
    }

    fn row_hits(&self, tap: &Tap, place: usize) -> bool {
        let row = (place / self.class.width * self.class.source_step[0]) as isize + tap.row;
        (row as usize) < self.source.height
    }

    /// Appends a run of pixels, or lengthens the last segment where it follows on.
    fn push(
        &self,
        tap: &Tap,
        picture: usize,
        place: usize,
        run: Range<usize>,
        (dy, dy_step): (*const f32, usize),
        segments: &mut Vec<Segment>,
    ) {
        if run.is_empty() {
            return;
        }
        let (source, class) = (&self.source, self.class);
        let row = (place / class.width * class.source_step[0]) as isize + tap.row;
        let column = (place % class.width * class.source_step[1]) as isize + tap.column;
        let pixel = row * source.row as isize + column * source.pixel as isize;
        let skipped = run.start * self.x_step();
        let x =
            source.start.wrapping_add(picture * source.picture).wrapping_offset(pixel).wrapping_add(skipped);
        let dy = dy.wrapping_add(run.start * dy_step);
        if let Some(last) = segments.last_mut() {
            let follows = last.x.wrapping_add(last.pixels * self.x_step()) == x;
            if follows && last.dy.wrapping_add(last.pixels * dy_step) == dy {
                last.pixels += run.len();
                return;
            }
        }
        segments.push(Segment { x, dy, pixels: run.len() });
    }
}

/// Copies `columns` floats of pixels `step` apart to rows of a panel, zeros beyond.
fn pack_line<'p>(from: &[f32], step: usize, columns: usize, to: impl Iterator<Item = &'p mut [f32]>) {
    for (index, to) in to.enumerate() {
        let from = &from[index * step..][..columns];
        if let (Ok(to), Ok(from)) = (<&mut [f32; PANEL]>::try_from(&mut *to), <&[f32; PANEL]>::try_from(from))
        {
            *to = *from;
        } else {
            to[..columns].copy_from_slice(from);
            to[columns..].fill(0.0);
        }
    }
}

/// Copies `rows` inputs of every pixel of the segments to rows of 16.
#[inline(always)]
fn pack_kernel<V: Simd>(segments: &[Segment], step: usize, offset: usize, rows: usize, to: &mut [f32]) {
    let mut to = to.as_mut_ptr();
    for segment in segments {
        let mut x = segment.x.wrapping_add(offset);
        for _ in 0..segment.pixels {
            let mut row = 0;
            while row < rows {
                // SAFETY: the segments lie in the source, and have no more pixels than `to` has rows of 16.
                unsafe { V::load_partial(x.add(row), V::LANES.min(rows - row)).store(to.add(row)) };
                row += V::LANES;
            }
            x = x.wrapping_add(step);
            to = to.wrapping_add(BLOCK);
        }
    }
}

/// `part = sums`, or `part += sums`.
#[inline(always)]
fn add_kernel<V: Simd>(part: &mut [f32], sums: &[f32], add: bool) {
    let to = part.as_mut_ptr();
    let mut i = 0;
    while i < part.len() {
        // SAFETY: both are whole blocks of 16 of one length.
        unsafe {
            let sum = V::load(sums.as_ptr().add(i));
            let sum = if add { V::load(to.add(i)).add(sum) } else { sum };
            sum.store(to.add(i));
        }
        i += V::LANES;
    }
}
