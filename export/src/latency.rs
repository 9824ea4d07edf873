//! How long a file takes for one picture: pixels in memory to logits, one thread, every call counted. A figure for the
//! card, taken in a second; `distill bench` is the measurement for those who doubt it.

use std::time::{Duration, Instant};

use models::Machine;
use models::bundle::{Latency, Statistic};
use models::formula;

use crate::Result;
use crate::answers::Answers;

const WARM_UP: usize = 10;
const MOST_CALLS: usize = 1000;
const PICTURES: usize = 8;

/// Rows for a file: median and 90th percentile of the calls that fit into `budget`, at least one.
///
/// # Errors
/// The engine's.
pub fn measure(
    file: &str,
    answers: &mut Answers,
    [channels, height, width]: [usize; 3],
    machine: &Machine,
    budget: Duration,
) -> Result<Vec<Latency>> {
    let pictures: Vec<Vec<u8>> =
        (0..PICTURES).map(|index| formula::picture(index, channels, height, width)).collect();
    for picture in pictures.iter().cycle().take(WARM_UP) {
        answers.call(picture)?;
    }
    let (begun, mut calls) = (Instant::now(), Vec::new());
    for picture in pictures.iter().cycle().take(MOST_CALLS) {
        let call = Instant::now();
        answers.call(picture)?;
        calls.push(call.elapsed());
        if begun.elapsed() > budget {
            break;
        }
    }
    calls.sort_unstable();
    let row = |(statistic, share)| Latency {
        file: file.into(),
        engine: answers.engine().into(),
        threads: 1,
        batch: 1,
        statistic,
        count: calls.len(),
        microseconds: nearest_rank(&calls, share).as_secs_f64() * 1e6,
        machine: machine.clone(),
    };
    Ok([(Statistic::P50, 0.5), (Statistic::P90, 0.9)].map(row).into())
}

/// The call that `share` of the sorted calls do not exceed.
fn nearest_rank(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_calls_by_the_nearest_rank() {
        let calls: Vec<Duration> = (1..=10).map(Duration::from_micros).collect();
        assert_eq!(nearest_rank(&calls, 0.5), Duration::from_micros(5));
        assert_eq!(nearest_rank(&calls, 0.9), Duration::from_micros(9));
        assert_eq!(nearest_rank(&calls[..1], 0.9), Duration::from_micros(1));
    }
}
