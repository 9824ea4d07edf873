//! Samples of a duration and their distribution: percentiles by the nearest rank with the bound that their number
//! supports. All samples count; nothing is clipped. Never here: a clock.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::early_stopping::{bound, minimum_count};
use super::stability::Stability;

/// The percentiles that are reported.
pub const PERCENTS: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];

/// Durations of all calls, in the order they were taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(pub(super) Vec<Duration>);

/// A distribution of latencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Calls that counted.
    pub count: usize,
    /// Mean of all of them, in microseconds.
    pub mean_us: f64,
    /// The fastest.
    pub min_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// p50, p90, p95, p99 and p99.9.
    pub percentiles: Vec<Percentile>,
    /// Whether the machine held its speed.
    pub stability: Stability,
}

/// A percentile and how far it can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentile {
    /// Percent of the calls that took at most this long.
    pub percent: f64,
    /// The sample at the nearest rank, in microseconds.
    pub us: f64,
    /// What the percentile is at most, with 99 % confidence (MLPerf's early-stopping estimate); `None` where the samples
    /// are fewer than `minimum_count`.
    pub bound_us: Option<f64>,
    /// Samples that the bound needs.
    pub minimum_count: usize,
}

impl Latency {
    /// A percentile in microseconds; NaN for one that is not among [`PERCENTS`].
    pub fn at(&self, percent: f64) -> f64 {
        self.percentile(percent).map_or(f64::NAN, |percentile| percentile.us)
    }

    /// A percentile with its bound.
    pub fn percentile(&self, percent: f64) -> Option<&Percentile> {
        self.percentiles.iter().find(|percentile| percentile.percent == percent)
    }
}

impl Samples {
    /// Adds a sample.
    pub(super) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nanoseconds of each, in the order they were taken.
    pub fn nanoseconds(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|sample| u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Their sum.
    pub(super) fn total(&self) -> Duration {
        self.0.iter().sum()
    }

    /// The median in microseconds.
    pub(super) fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.0.iter().copied().map(micros).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        nearest(&sorted, 0.5)
    }

    /// Their distribution.
    pub fn summary(&self) -> Latency {
        let taken: Vec<f64> = self.0.iter().copied().map(micros).collect();
        let mut sorted = taken.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let percentile = |percent: f64| Percentile {
            percent,
            us: nearest(&sorted, percent / 100.0),
            bound_us: bound(&sorted, percent / 100.0),
            minimum_count: minimum_count(percent / 100.0),
        };
        Latency {
            count: taken.len(),
            mean_us: taken.iter().sum::<f64>() / taken.len() as f64,
            min_us: sorted.first().copied().unwrap_or(f64::NAN),
            max_us: sorted.last().copied().unwrap_or(f64::NAN),
            percentiles: PERCENTS.map(percentile).to_vec(),
            stability: Stability::of(&taken),
        }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The sample that `share` of all do not exceed.
fn nearest(sorted: &[f64], share: f64) -> f64 {
    // 99.9 % of 1000 is 999 samples, though 0.999 * 1000 comes out a hair above.
    let rank = (share * sorted.len() as f64 - 1e-9).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Samples with their name.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What was timed: `row-0-single-stream`.
    pub name: String,
    /// In the order they were taken.
    pub samples: Samples,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_the_nearest_rank() {
        let samples = Samples((1..=1000).rev().map(Duration::from_micros).collect());
        let latency = samples.summary();
        let found = PERCENTS.map(|percent| latency.at(percent).round());
        assert_eq!(found, [500.0, 900.0, 950.0, 990.0, 999.0]);
        assert_eq!((latency.count, latency.min_us.round(), latency.max_us.round()), (1000, 1.0, 1000.0));
        assert!((latency.mean_us - 500.5).abs() < 1e-6 && (samples.median() - 500.0).abs() < 1e-6);
    }

    #[test]
    fn a_bound_is_there_only_where_the_count_supports_it() {
        let latency = Samples((1..=662).map(Duration::from_micros).collect()).summary();
        let p99 = latency.percentile(99.0).unwrap();
        assert_eq!((p99.bound_us.map(f64::round), p99.minimum_count), (Some(662.0), 662));
        let p999 = latency.percentile(99.9).unwrap();
        assert_eq!((p999.bound_us, p999.minimum_count), (None, 6636));
    }

    #[test]
    fn one_slow_call_is_not_clipped() {
        let mut samples = vec![Duration::from_micros(10); 99];
        samples.push(Duration::from_secs(1));
        assert_eq!(Samples(samples).summary().max_us, 1e6);
    }
}
