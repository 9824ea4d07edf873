//! Places in the arena by lifetime: what is dead makes room for what comes.

use super::{Place, ValueId};
use crate::buffer::rounded;

/// One step of the run, forward or backward, as far as memory is concerned.
#[derive(Clone, Debug, Default)]
pub(super) struct Event {
    /// Values that it reads, writes or works in.
    pub touches: Vec<ValueId>,
    /// `(old, new)`: the new value may take over the old one's place if nothing reads the old one later.
    pub in_place: Option<(ValueId, ValueId)>,
}

/// Places for values of these lengths, and the length of the arena.
pub(super) fn assign(lengths: &[usize], events: &[Event]) -> (Vec<Place>, usize) {
    let lifetimes = lifetimes(lengths.len(), events);
    let mut places: Vec<Place> = lengths.iter().map(|&len| Place { offset: 0, len }).collect();
    let mut free = Free::default();
    for (time, event) in events.iter().enumerate() {
        let taken = event.in_place.filter(|&(old, new)| {
            lifetimes[old.0].last == time
                && lifetimes[new.0].first == time
                && lengths[old.0] == lengths[new.0]
        });
        for &value in unique(&event.touches, &lifetimes, |life| life.first == time).iter() {
            places[value.0].offset = match taken {
                Some((old, new)) if new == value => places[old.0].offset,
                _ => free.take(rounded(lengths[value.0])),
            };
        }
        for &value in unique(&event.touches, &lifetimes, |life| life.last == time).iter() {
            if taken.is_none_or(|(old, _)| old != value) {
                free.give(places[value.0].offset, rounded(lengths[value.0]));
            }
        }
    }
    (places, free.end)
}

#[derive(Clone, Copy)]
struct Lifetime {
    first: usize,
    last: usize,
}

fn lifetimes(count: usize, events: &[Event]) -> Vec<Lifetime> {
    let mut lifetimes = vec![Lifetime { first: usize::MAX, last: 0 }; count];
    for (time, event) in events.iter().enumerate() {
        for value in &event.touches {
            let life = &mut lifetimes[value.0];
            life.first = life.first.min(time);
            life.last = time;
        }
    }
    lifetimes
}

fn unique(values: &[ValueId], lifetimes: &[Lifetime], keep: impl Fn(&Lifetime) -> bool) -> Vec<ValueId> {
    let mut kept: Vec<ValueId> = Vec::new();
    for &value in values {
        if keep(&lifetimes[value.0]) && !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

/// Free blocks by offset; neighbors are joined.
#[derive(Default)]
struct Free {
    blocks: Vec<(usize, usize)>,
    end: usize,
}

impl Free {
    /// The smallest block that fits, or more at the end.
    fn take(&mut self, len: usize) -> usize {
        let fits = self.blocks.iter().enumerate().filter(|(_, block)| block.1 >= len);
        if let Some((index, &(offset, size))) = fits.min_by_key(|(_, block)| block.1) {
            if size == len {
                self.blocks.remove(index);
            } else {
                self.blocks[index] = (offset + len, size - len);
            }
            return offset;
        }
        let offset = match self.blocks.last() {
            Some(&(offset, size)) if offset + size == self.end => {
                self.blocks.pop();
                offset
            }
            _ => self.end,
        };
        self.end = offset + len;
        offset
    }

    fn give(&mut self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let index = self.blocks.partition_point(|block| block.0 < offset);
        self.blocks.insert(index, (offset, len));
        self.join(index);
        if index > 0 {
            self.join(index - 1);
        }
    }

    fn join(&mut self, index: usize) {
        if let Some(&(next, size)) = self.blocks.get(index + 1)
            && self.blocks[index].0 + self.blocks[index].1 == next
        {
            self.blocks[index].1 += size;
            self.blocks.remove(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(touches: &[usize]) -> Event {
        Event { touches: touches.iter().map(|&index| ValueId(index)).collect(), in_place: None }
    }

    #[test]
    fn values_that_live_at_once_do_not_overlap_and_the_dead_make_room() {
        let lengths = [100, 40, 100, 7, 64];
        let events = [event(&[0, 1]), event(&[1, 2]), event(&[2, 3, 4]), event(&[3, 4])];
        let (places, end) = assign(&lengths, &events);
        let lives = lifetimes(5, &events);
        for a in 0..5 {
            for b in 0..a {
                let together = lives[a].first <= lives[b].last && lives[b].first <= lives[a].last;
                let apart = places[a].offset + rounded(lengths[a]) <= places[b].offset
                    || places[b].offset + rounded(lengths[b]) <= places[a].offset;
                assert!(!together || apart, "{a} and {b}: {places:?}");
            }
        }
        assert!(end < lengths.iter().map(|&len| rounded(len)).sum());
    }

    #[test]
    fn a_gradient_takes_the_place_of_the_one_it_came_from() {
        let mut last = event(&[0, 1]);
        last.in_place = Some((ValueId(0), ValueId(1)));
        let (places, end) = assign(&[32, 32], &[event(&[0]), last.clone(), event(&[1])]);
        assert_eq!((places[0].offset, end), (places[1].offset, 32));
        let (places, _) = assign(&[32, 32], &[event(&[0]), last, event(&[0, 1])]);
        assert_ne!(places[0].offset, places[1].offset);
    }
}
