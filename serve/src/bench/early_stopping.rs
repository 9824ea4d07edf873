//! How much a percentile of so many samples can be believed: MLPerf's early-stopping rule, derived from the binomial
//! distribution. Never here: a clock, a unit.
//!
//! Whoever says "90 % of calls take at most `x`" may be wrong by luck. Of `n` calls, `t` were slower than `x`; if in
//! truth more than 10 % are slower, so few happen with a probability of at most `P(Binomial(n, 0.1) <= t)`. MLPerf
//! accepts the statement where that is at most 1 - 0.99, with no tolerance (Inference rules, appendix "early stopping";
//! LoadGen names the same numbers). So the estimate of `n` samples leaves out as many of the slowest as may be left out,
//! but one, and reports the slowest of the rest: a bound that holds with 99 % confidence. It needs at least the samples
//! with which one may be slower.

/// How sure a bound has to be.
pub const CONFIDENCE: f64 = 0.99;

/// Samples that a bound on this percentile needs at least: 64 for 90 %, 662 for 99 %.
pub fn minimum_count(share: f64) -> usize {
    let enough = |count: usize| allowed(count, 1, share);
    let mut high = 2;
    while !enough(high) {
        high *= 2;
    }
    let mut low = high / 2;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// How many of `count` samples may lie above a bound on this percentile; `None` below [`minimum_count`].
pub fn slower_allowed(count: usize, share: f64) -> Option<usize> {
    if count == 0 || !allowed(count, 1, share) {
        return None;
    }
    let (mut low, mut high) = (1, count);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if allowed(count, middle, share) { low = middle } else { high = middle }
    }
    Some(low)
}

/// The bound on this percentile that sorted samples support: all but the slowest `t - 1` are at most this.
pub fn bound<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let slower = slower_allowed(sorted.len(), share)?;
    sorted.get(sorted.len() - slower).copied()
}

/// Whether `slower` of `count` calls beyond a bound still prove the percentile.
fn allowed(count: usize, slower: usize, share: f64) -> bool {
    at_most(slower, count, 1.0 - share) <= 1.0 - CONFIDENCE
}

/// `P(Binomial(count, chance) <= successes)`, summed downward from the largest term while terms still count.
fn at_most(successes: usize, count: usize, chance: f64) -> f64 {
    if successes >= count {
        return 1.0;
    }
    let mean = count as f64 * chance;
    if successes as f64 > mean {
        // Beyond the mean the terms rise on the way down: sum the short tail on the other side instead.
        return 1.0 - at_most(count - successes - 1, count, 1.0 - chance);
    }
    let odds = chance / (1.0 - chance);
    let mut term = term(successes, count, chance);
    let (mut sum, mut k) = (term, successes);
    while k > 0 && term > sum * 1e-17 {
        term *= k as f64 / ((count - k + 1) as f64 * odds);
        sum += term;
        k -= 1;
    }
    sum
}

/// `P(Binomial(count, chance) = k)`.
fn term(k: usize, count: usize, chance: f64) -> f64 {
    let ways = ln_factorial(count) - ln_factorial(k) - ln_factorial(count - k);
    (ways + k as f64 * chance.ln() + (count - k) as f64 * (-chance).ln_1p()).exp()
}

/// The logarithm of n!: summed while short, by Stirling's series beyond.
fn ln_factorial(n: usize) -> f64 {
    if n < 64 {
        return (2..=n).map(|factor| (factor as f64).ln()).sum();
    }
    let n = n as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1260.0 * n.powi(5));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_the_binomial() {
        // By hand: of 4 coins at most 1 shows heads in 5 of 16 cases, at most 3 in 15.
        assert!((at_most(1, 4, 0.5) - 5.0 / 16.0).abs() < 1e-14);
        assert!((at_most(3, 4, 0.5) - 15.0 / 16.0).abs() < 1e-14);
        // No sample of 459 beyond p99: 0.99^459, which LoadGen names as its minimum for none slower.
        assert!((at_most(0, 459, 0.01) - 0.99_f64.powi(459)).abs() < 1e-13);
        assert!(at_most(0, 459, 0.01) <= 0.01 && at_most(0, 458, 0.01) > 0.01);
        // Both ways to ln n! meet.
        let summed: f64 = (2..=64).map(|factor| f64::from(factor).ln()).sum();
        assert!((ln_factorial(64) - summed).abs() < 1e-11);
    }

    #[test]
    fn minimum_counts_are_the_rules() {
        let counts = [0.9, 0.95, 0.99, 0.999].map(minimum_count);
        assert_eq!(counts, [64, 130, 662, 6636]);
    }

    #[test]
    fn how_many_may_be_slower_is_the_rules() {
        assert_eq!([slower_allowed(1000, 0.9), slower_allowed(1000, 0.99)], [Some(78), Some(2)]);
        assert_eq!([slower_allowed(5000, 0.9), slower_allowed(5000, 0.99)], [Some(450), Some(33)]);
        assert_eq!([slower_allowed(24576, 0.9), slower_allowed(24576, 0.99)], [Some(2348), Some(209)]);
        assert_eq!(
            [slower_allowed(64, 0.9), slower_allowed(63, 0.9), slower_allowed(0, 0.5)],
            [Some(1), None, None]
        );
    }

    #[test]
    fn the_bound_drops_all_but_one_of_the_slowest_that_it_may() {
        let sorted: Vec<u32> = (1..=1000).collect();
        assert_eq!(bound(&sorted, 0.9), Some(923), "77 of 78 dropped");
        assert_eq!(bound(&sorted, 0.99), Some(999), "1 of 2 dropped");
        assert_eq!(bound(&sorted, 0.999), None);
        assert!(bound(&sorted, 0.5).is_some_and(|bound| bound > 500));
    }
}
