//! How elementwise work is divided among threads and walked in vectors, and tables of per-channel numbers that are
//! read along with it.
//!
//! The division depends on sizes alone, never on the thread count, so that sums come out the same on any machine with
//! the same vectors. Never here: arithmetic.

use std::ops::Range;

use crate::pool::Pool;
use crate::simd::Simd;

/// Elements of a unit of elementwise work: 64 KiB, which a core's second-level cache holds several times over.
pub const CHUNK: usize = 1 << 14;

/// The widest vector: tables are laid out for it, whatever the instruction set, so that chunks are the same on all.
pub const WIDEST: usize = 16;

/// Shortest table: long enough that a sum kept in memory has left the store buffer when it is needed again.
const SHORTEST_PERIOD: usize = 128;

/// Runs `task` on every chunk of `0..len`.
pub fn chunks(pool: &Pool, len: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
    pool.run(len.div_ceil(CHUNK), &|index| task(index * CHUNK..((index + 1) * CHUNK).min(len)));
}

/// Where the values of one step come from: the very memory that it writes, or another.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The destination holds them.
    Same,
    /// Another slice of the destination's length.
    From(&'a [f32]),
}

impl Source<'_> {
    /// Start of the values for the part of the destination that starts `offset` after its beginning.
    ///
    /// # Safety
    /// `offset` lies within the destination.
    pub(crate) unsafe fn part(self, destination: &mut [f32], offset: usize) -> *const f32 {
        match self {
            Source::Same => destination.as_ptr(),
            Source::From(values) => values[offset..offset + destination.len()].as_ptr(),
        }
    }
}

/// A vector's place: its first element and how many it has, all lanes but at the end.
#[derive(Clone, Copy)]
pub struct At {
    /// First element.
    pub index: usize,
    /// Elements.
    pub count: usize,
}

impl At {
    /// The elements of `from` at this place.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub unsafe fn load<V: Simd>(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            if self.count == V::LANES {
                V::load(from.add(self.index))
            } else {
                V::load_partial(from.add(self.index), self.count)
            }
        }
    }

    /// As many elements as this place has, from `from` itself on; zero in the other lanes.
    ///
    /// # Safety
    /// They are readable.
    #[inline(always)]
    pub unsafe fn load_at<V: Simd>(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { if self.count == V::LANES { V::load(from) } else { V::load_partial(from, self.count) } }
    }

    /// Writes the elements at this place.
    ///
    /// # Safety
    /// They are writable.
    #[inline(always)]
    pub unsafe fn store<V: Simd>(self, value: V, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.count == V::LANES {
                value.store(to.add(self.index));
            } else {
                value.store_partial(to.add(self.index), self.count);
            }
        }
    }

    /// Writes the elements, or adds them to what is there.
    ///
    /// # Safety
    /// They are readable and writable.
    #[inline(always)]
    pub unsafe fn put<V: Simd>(self, value: V, to: *mut f32, accumulate: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            let value = if accumulate { value.add(self.load(to)) } else { value };
            self.store(value, to);
        }
    }
}

/// Walks `0..len` in vectors: `lanes!(V, len, at => { ... })`. A macro, because a closure that is not inlined would be
/// compiled without the instruction set.
macro_rules! lanes {
    ($vector:ty, $len:expr, $at:ident => $body:block) => {{
        let len: usize = $len;
        let lanes = <$vector as $crate::simd::Simd>::LANES;
        let whole = len - len % lanes;
        let mut index = 0;
        while index < whole {
            let $at = $crate::kernels::spans::At { index, count: lanes };
            $body
            index += lanes;
        }
        if index < len {
            let $at = $crate::kernels::spans::At { index, count: len - index };
            $body
        }
    }};
}
pub(crate) use lanes;

/// The same with a place in a table of `period` elements, from `phase` on: `lanes_and_table!(V, len, phase, period,
/// (at, p) => { ... })`. The table has [`table_len`] elements, so that a vector may be read at any `p`.
macro_rules! lanes_and_table {
    ($vector:ty, $len:expr, $phase:expr, $period:expr, ($at:ident, $p:ident) => $body:block) => {{
        let (len, period): (usize, usize) = ($len, $period);
        let lanes = <$vector as $crate::simd::Simd>::LANES;
        let whole = len - len % lanes;
        let (mut index, mut p): (usize, usize) = (0, $phase);
        while index < whole {
            let ($at, $p) = ($crate::kernels::spans::At { index, count: lanes }, p);
            $body
            index += lanes;
            p += lanes;
            if p >= period {
                p -= period;
            }
        }
        if index < len {
            let ($at, $p) = ($crate::kernels::spans::At { index, count: len - index }, p);
            $body
        }
    }};
}
pub(crate) use lanes_and_table;

/// Elements after which a table of `channels` numbers repeats in whole vectors.
pub fn period(channels: usize) -> usize {
    let once = channels / greatest_common_divisor(channels, WIDEST) * WIDEST;
    once * SHORTEST_PERIOD.div_ceil(once)
}

/// Elements of a table: a period and one vector more.
pub fn table_len(channels: usize) -> usize {
    period(channels) + WIDEST
}

/// Fills a table with the numbers of the channels, over and over.
pub fn fill_table(table: &mut [f32], channels: usize, number: impl Fn(usize) -> f32) {
    let (first, rest) = table.split_at_mut(channels);
    first.iter_mut().enumerate().for_each(|(channel, entry)| *entry = number(channel));
    for part in rest.chunks_mut(channels) {
        part.copy_from_slice(&first[..part.len()]);
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_repeat_in_whole_vectors() {
        for channels in [1, 3, 7, 16, 24, 40, 128, 130, 960, 1009] {
            let period = period(channels);
            assert_eq!((period % channels, period % WIDEST), (0, 0), "{channels}");
            assert!(period >= SHORTEST_PERIOD);
            let mut table = vec![0.0; table_len(channels)];
            fill_table(&mut table, channels, |channel| channel as f32);
            assert!(table.iter().enumerate().all(|(i, &entry)| entry == (i % channels) as f32));
        }
    }
}
