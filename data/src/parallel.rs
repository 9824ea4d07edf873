//! The same work on every item of a slice, on several threads. Results do not depend on how many.
//!
//! Never here: a pool that outlives the call.

/// Splits `items` into runs of equal length, one per thread, and gives each run, with the index of its first item and a
/// state of its own, to `work`.
pub fn runs<T: Send, S>(
    items: &mut [T],
    threads: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize, &mut T) + Sync,
) {
    let length = items.len().div_ceil(threads.max(1)).max(1);
    let one = |start: usize, run: &mut [T]| {
        let mut own = state();
        for (offset, item) in run.iter_mut().enumerate() {
            work(&mut own, start + offset, item);
        }
    };
    if items.len() <= length {
        return one(0, items);
    }
    std::thread::scope(|scope| {
        for (index, run) in items.chunks_mut(length).enumerate() {
            let one = &one;
            scope.spawn(move || one(index * length, run));
        }
    });
}

/// Threads that the machine offers.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_item_is_worked_on_once_with_its_index() {
        for (count, threads) in [(0, 2), (1, 4), (7, 3), (100, 0), (5, 50)] {
            let mut items = vec![0; count];
            super::runs(&mut items, threads, || (), |(), index, item| *item += index + 1);
            assert!(items.into_iter().eq(1..=count), "{count} items, {threads} threads");
        }
    }
}
