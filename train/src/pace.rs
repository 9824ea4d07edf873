//! How fast a run goes, and how long it will take. Fed with measured times; looks at no clock.

/// Seconds per step, lately and in all.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    steps: u64,
    seconds: f64,
    lately: f64,
}

/// Weight of the newest step in [`Pace::seconds_per_step`].
const NEWEST: f64 = 0.05;

impl Pace {
    /// Adds a step. The first of a session pays for planning and cold caches; it counts in the estimate only until
    /// there is another.
    pub fn record(&mut self, seconds: f64) {
        self.steps += 1;
        let fresh = self.steps <= 2;
        self.lately = if fresh {
            seconds
        } else {
            self.lately + NEWEST.max(1.0 / self.steps as f64) * (seconds - self.lately)
        };
        self.seconds += seconds;
    }

    /// Steps recorded.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Seconds of all steps recorded.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Seconds of a step, lately; 0 before the first.
    pub fn seconds_per_step(&self) -> f64 {
        self.lately
    }
}

/// Steps that fit into `budget` seconds when a step takes `step` seconds and everything else (evaluations, set-up)
/// `fixed` seconds in all; at least one.
pub fn steps_within(budget: f64, step: f64, fixed: f64) -> u64 {
    (((budget - fixed) / step.max(1e-9)).floor() as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_does_not_spoil_the_estimate() {
        let mut pace = Pace::default();
        pace.record(5.0);
        assert_eq!(pace.seconds_per_step(), 5.0);
        pace.record(0.1);
        pace.record(0.1);
        assert!((pace.seconds_per_step() - 0.1).abs() < 1e-12);
        assert_eq!(pace.steps(), 3);
        assert!((pace.seconds() - 5.2).abs() < 1e-12);
    }

    #[test]
    fn the_estimate_follows_a_change() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.record(0.1));
        (0..100).for_each(|_| pace.record(0.2));
        assert!((pace.seconds_per_step() - 0.2).abs() < 0.002);
    }

    #[test]
    fn a_budget_becomes_steps() {
        assert_eq!(steps_within(60.0, 0.1, 10.0), 500);
        assert_eq!(steps_within(1.0, 0.1, 10.0), 1);
    }
}
