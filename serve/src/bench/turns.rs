//! Calls by turns, so that a machine whose speed drifts favors nobody. Every sample after the warm-up counts.

use std::time::Duration;

use super::latency::Samples;
use super::options::Span;
use crate::Result;

/// Calls of one contestant in a row before the next one's turn: few enough that all see the same weather, enough that
/// caches are the contestant's own for most of them.
const TURN: usize = 20;

/// Calls every contestant by turns, until each has what the span asks for. A call says how long it took, and of how many
/// samples the span counts it.
pub(super) fn by_turns(
    contestants: usize,
    warm_up: usize,
    span: Span,
    worth: usize,
    mut call: impl FnMut(usize, usize) -> Result<Duration>,
) -> Result<Vec<Samples>> {
    for contestant in 0..contestants {
        for index in 0..warm_up {
            call(contestant, index)?;
        }
    }
    let mut samples = vec![Samples::default(); contestants];
    let mut spent = vec![Duration::ZERO; contestants];
    loop {
        let mut called = false;
        for contestant in 0..contestants {
            for _ in 0..TURN {
                let taken = &mut samples[contestant];
                if span.is_over(taken.len() * worth, spent[contestant]) {
                    break;
                }
                let took = call(contestant, taken.len())?;
                taken.push(took);
                spent[contestant] += took;
                called = true;
            }
        }
        if !called {
            return Ok(samples);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(samples: &[Samples]) -> Vec<usize> {
        samples.iter().map(Samples::len).collect()
    }

    #[test]
    fn contestants_take_turns_and_warm_up_does_not_count() {
        let span = Span { samples: 30, time: Duration::ZERO, patience: Duration::from_secs(9) };
        let mut order = Vec::new();
        let samples = by_turns(2, 2, span, 1, |contestant, _| {
            order.push(contestant);
            Ok(Duration::from_micros(1))
        });
        assert_eq!(lengths(&samples.unwrap()), [30, 30]);
        let turns = [(0, 2), (1, 2), (0, 20), (1, 20), (0, 10), (1, 10)];
        assert_eq!(order, turns.map(|(contestant, calls)| vec![contestant; calls]).concat());
    }

    #[test]
    fn patience_ends_a_slow_one_after_at_least_one_sample() {
        let span = Span { samples: 1000, time: Duration::ZERO, patience: Duration::from_millis(3) };
        let samples =
            by_turns(2, 0, span, 1, |contestant, _| Ok(Duration::from_millis([1, 50][contestant]))).unwrap();
        assert_eq!(lengths(&samples), [3, 1]);
    }

    #[test]
    fn a_batch_is_worth_its_pictures() {
        let span = Span { samples: 100, time: Duration::ZERO, patience: Duration::from_secs(9) };
        let samples = by_turns(1, 0, span, 32, |_, _| Ok(Duration::from_millis(1))).unwrap();
        assert_eq!(lengths(&samples), [4], "4 batches of 32 are at least 100 pictures");
    }
}
