//! Whether a machine held its speed while it was measured: the samples in the order they were taken, cut into trials,
//! judged as perf_analyzer does, three in a row within 10 % of their mean. Never here: leaving a trial out.

use serde::{Deserialize, Serialize};

/// Trials that a series is cut into.
const TRIALS: usize = 10;
/// Samples of a trial at least; fewer samples make fewer trials.
const TRIAL: usize = 10;
/// Trials in a row that have to agree.
const AGREEING: usize = 3;
/// How far each may lie from their mean, as a share of it.
const TOLERANCE: f64 = 0.1;

/// The verdict, and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Whether the last three trials agree; `None` where samples are too few to tell.
    pub stable: Option<bool>,
    /// Every trial, in order.
    pub trials: Vec<Trial>,
}

/// A stretch of samples, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Samples.
    pub count: usize,
    /// Mean in microseconds: what throughput follows from.
    pub mean_us: f64,
    /// Median in microseconds.
    pub p50_us: f64,
    /// Whether this trial and the two before agree, in mean and in median; `None` for the first two.
    pub stable: Option<bool>,
}

impl Stability {
    /// Judges samples, in microseconds, in the order they were taken.
    pub fn of(samples: &[f64]) -> Self {
        let trials = (samples.len() / TRIAL).min(TRIALS);
        if trials < AGREEING {
            return Self { stable: None, trials: Vec::new() };
        }
        let part = |index: usize| samples.len() * index / trials..samples.len() * (index + 1) / trials;
        let mut judged: Vec<Trial> = (0..trials).map(|index| Trial::of(&samples[part(index)])).collect();
        for last in AGREEING - 1..trials {
            judged[last].stable = Some(agree(&judged[last + 1 - AGREEING..=last]));
        }
        Self { stable: judged.last().and_then(|trial| trial.stable), trials: judged }
    }

    /// The verdict as a word.
    pub fn word(&self) -> &'static str {
        match self.stable {
            Some(true) => "stable",
            Some(false) => "unstable",
            None => "too few to tell",
        }
    }
}

impl Trial {
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let mean_us = samples.iter().sum::<f64>() / samples.len() as f64;
        Self { count: samples.len(), mean_us, p50_us: sorted[(sorted.len() - 1) / 2], stable: None }
    }
}

fn agree(trials: &[Trial]) -> bool {
    let within = |value: fn(&Trial) -> f64| {
        let mean = trials.iter().map(value).sum::<f64>() / trials.len() as f64;
        trials.iter().all(|trial| (value(trial) - mean).abs() <= TOLERANCE * mean)
    };
    within(|trial| trial.mean_us) && within(|trial| trial.p50_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trials of ten samples each, all of one value.
    fn judged(values: &[f64]) -> Stability {
        Stability::of(&values.iter().flat_map(|&value| [value; 10]).collect::<Vec<_>>())
    }

    #[test]
    fn three_trials_within_ten_percent_are_stable() {
        let stability = judged(&[500.0, 100.0, 104.0, 96.0]);
        assert_eq!(stability.stable, Some(true));
        let verdicts: Vec<_> = stability.trials.iter().map(|trial| trial.stable).collect();
        assert_eq!(verdicts, [None, None, Some(false), Some(true)], "the first, slow one is seen and said");
    }

    #[test]
    fn a_machine_that_slows_down_is_unstable() {
        assert_eq!(judged(&[100.0, 100.0, 100.0, 130.0]).stable, Some(false));
        assert_eq!(judged(&[100.0, 100.0, 100.0, 130.0]).word(), "unstable");
    }

    #[test]
    fn an_outlier_that_the_median_hides_shows_in_the_mean() {
        let mut samples = vec![100.0; 30];
        samples[29] = 10_000.0;
        assert_eq!(Stability::of(&samples).stable, Some(false));
    }

    #[test]
    fn few_samples_say_nothing() {
        let stability = Stability::of(&[1.0; 29]);
        assert_eq!((stability.stable, stability.trials.len()), (None, 0));
        assert_eq!(stability.word(), "too few to tell");
    }
}
