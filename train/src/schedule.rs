//! The learning rate of a step: a shape over the run, after a linear warm-up.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate falls over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Not at all.
    Constant,
    /// Half a cosine, down to zero (Loshchilov and Hutter 2017).
    #[default]
    Cosine,
    /// `cos(7 pi / 16 * t)`, down to a fifth (Sohn et al. 2020).
    FixMatch,
}

impl Schedule {
    /// Every schedule with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("constant", Self::Constant), ("cosine", Self::Cosine), ("fixmatch", Self::FixMatch)];

    /// Factor on the base learning rate at `step` of `steps`. Over the first `warmup` share of the run it also grows
    /// linearly, from one part of the warm-up's steps on: never zero.
    pub fn factor(self, step: u64, steps: u64, warmup: f64) -> f64 {
        let done = step as f64 / steps.max(1) as f64;
        let shape = match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (PI * done).cos()),
            Self::FixMatch => (7.0 * PI / 16.0 * done).cos(),
        };
        let warmup_steps = (warmup * steps as f64).round();
        shape * ((step + 1) as f64 / warmup_steps.max(1.0)).min(1.0)
    }
}

/// Decay of the moving average at `step`: `(1 + step) / (10 + step)` until that reaches `decay`, so that short runs do
/// not average with their random start (as TensorFlow's `ExponentialMovingAverage` does when given the step).
pub fn ema_decay(decay: f64, step: u64) -> f64 {
    decay.min((1 + step) as f64 / (10 + step) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_at_their_marks() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        near(Schedule::Constant.factor(70, 100, 0.0), 1.0);
        near(Schedule::Cosine.factor(0, 100, 0.0), 1.0);
        near(Schedule::Cosine.factor(50, 100, 0.0), 0.5);
        near(Schedule::Cosine.factor(100, 100, 0.0), 0.0);
        near(Schedule::FixMatch.factor(100, 100, 0.0), (7.0 * PI / 16.0).cos());
    }

    #[test]
    fn warm_up_grows_linearly_and_never_starts_at_zero() {
        let factors: Vec<f64> = (0..6).map(|step| Schedule::Constant.factor(step, 40, 0.1)).collect();
        assert_eq!(factors, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn the_average_forgets_its_start() {
        assert_eq!(ema_decay(0.999, 0), 0.1);
        assert_eq!(ema_decay(0.999, 90), 0.91);
        assert_eq!(ema_decay(0.999, 1_000_000), 0.999);
        assert_eq!(ema_decay(0.5, 90), 0.5);
    }
}
