//! How fast a run goes, and how long it will take. Fed with measured times; looks at no clock.

/// Seconds per step, lately and in all.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    steps: u64,
    seconds: f64,
    lately: f64,
    waited_lately: f64,
}

/// Weight of the newest step in [`Pace::seconds_per_step`].
const NEWEST: f64 = 0.05;

impl Pace {
    /// Adds a step of so many seconds, of which `waited` were spent waiting for pictures. The first of a session pays for planning and cold caches; it counts in the estimate only until
    /// there is another.
    pub fn record(&mut self, seconds: f64, waited: f64) {
        self.steps += 1;
        let newest = if self.steps <= 2 { 1.0 } else { NEWEST.max(1.0 / self.steps as f64) };
        self.lately += newest * (seconds - self.lately);
        self.waited_lately += newest * (waited - self.waited_lately);
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

    /// Share of a step spent waiting for pictures, lately, 0..1; 0 before the first.
    pub fn wait_share(&self) -> f64 {
        if self.lately > 0.0 { (self.waited_lately / self.lately).clamp(0.0, 1.0) } else { 0.0 }
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
        pace.record(5.0, 5.0);
        assert_eq!((pace.seconds_per_step(), pace.wait_share()), (5.0, 1.0));
        pace.record(0.1, 0.0);
        pace.record(0.1, 0.0);
        assert!((pace.seconds_per_step() - 0.1).abs() < 1e-12);
        assert_eq!(pace.steps(), 3);
        assert!((pace.seconds() - 5.2).abs() < 1e-12);
    }

    #[test]
    fn the_estimate_follows_a_change() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| pace.record(0.1, 0.05));
        (0..100).for_each(|_| pace.record(0.2, 0.05));
        assert!((pace.seconds_per_step() - 0.2).abs() < 0.002);
        assert!((pace.wait_share() - 0.25).abs() < 0.005);
    }

    #[test]
    fn a_budget_becomes_steps() {
        assert_eq!(steps_within(60.0, 0.1, 10.0), 500);
        assert_eq!(steps_within(1.0, 0.1, 10.0), 1);
    }
}
