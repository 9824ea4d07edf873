//! Ranges of maps from what they hold on calibration pictures: least to largest, the share of values that a percentile
//! names, or the threshold at which a map's distribution and its quantized one diverge least (Kullback-Leibler).
//!
//! Sources: S. Migacz, "8-bit inference with TensorRT", GTC 2017, for the threshold; ONNX Runtime's calibrators for what
//! becomes of maps with two signs. Never here: pictures, or bytes.

use std::fmt;
use std::str::FromStr;

use engine::{Images, Observer};

use crate::{ExportError, Result};

/// Cells of a histogram.
const CELLS: usize = 2048;
/// Cells between two thresholds that are tried.
const STRIDE: usize = 8;
/// What a percentile is where none is said.
const PERCENTILE: f64 = 99.99;
/// Probability of what a quantized distribution does not have.
const NEVER: f64 = 1e-9;

/// A way to choose the range of a map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Calibration {
    /// From the least value to the largest.
    MinMax,
    /// Where the distributions before and after quantization diverge least.
    Entropy,
    /// The middle share of all values, in per cent.
    Percentile(f64),
}

/// Every way, each with its usual numbers.
pub const ALL: [Calibration; 3] =
    [Calibration::MinMax, Calibration::Entropy, Calibration::Percentile(PERCENTILE)];

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Calibration::MinMax => f.write_str("minmax"),
            Calibration::Entropy => f.write_str("entropy"),
            Calibration::Percentile(percent) => write!(f, "percentile:{percent}"),
        }
    }
}

impl FromStr for Calibration {
    type Err = ExportError;

    fn from_str(name: &str) -> Result<Self> {
        let names = ["minmax", "entropy", "percentile"];
        let percent = |text: &str| text.parse().ok().filter(|percent| (50.0..=100.0).contains(percent));
        match name.split_once(':') {
            None if name == "minmax" => Ok(Self::MinMax),
            None if name == "entropy" => Ok(Self::Entropy),
            None if name == "percentile" => Ok(Self::Percentile(PERCENTILE)),
            Some(("percentile", text)) if percent(text).is_some() => {
                Ok(Self::Percentile(percent(text).unwrap_or(PERCENTILE)))
            }
            _ => Err(ExportError::Calibration {
                name: name.into(),
                suggestion: models::nearest::suggestion(name, names),
            }),
        }
    }
}

/// What a map holds on all calibration pictures.
#[derive(Clone, Debug)]
pub struct Spread {
    low: f32,
    high: f32,
    /// Values from `low` to `high`.
    values: Vec<u64>,
    /// Magnitudes of all values but zero, which every quantization holds exactly, from zero to the largest.
    magnitudes: Vec<u64>,
    /// Mean of each channel.
    pub means: Vec<f32>,
}

/// Watches all maps on these pictures, twice: for their extremes, then for their histograms.
///
/// # Errors
/// The engine's.
pub fn spreads(observer: &mut Observer, pictures: Images<'_>) -> Result<Vec<Spread>> {
    let channels: Vec<usize> = observer.points().iter().map(|point| point.channels).collect();
    let mut spreads: Vec<Spread> = channels.iter().map(|&channels| Spread::new(channels)).collect();
    observer.observe(pictures, &mut |point, values| spreads[point].widen(values))?;
    let mut sums: Vec<Vec<f64>> = channels.iter().map(|&channels| vec![0.0; channels]).collect();
    let mut counts = vec![0_u64; channels.len()];
    observer.observe(pictures, &mut |point, values| {
        spreads[point].count(values);
        counts[point] += (values.len() / channels[point].max(1)) as u64;
        for pixel in values.chunks_exact(channels[point].max(1)) {
            sums[point].iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    })?;
    for ((spread, sums), count) in spreads.iter_mut().zip(sums).zip(counts) {
        spread.means = sums.into_iter().map(|sum| (sum / count.max(1) as f64) as f32).collect();
    }
    Ok(spreads)
}

impl Spread {
    fn new(channels: usize) -> Self {
        Self {
            low: f32::INFINITY,
            high: f32::NEG_INFINITY,
            values: vec![0; CELLS],
            magnitudes: vec![0; CELLS],
            means: vec![0.0; channels],
        }
    }

    fn widen(&mut self, values: &[f32]) {
        self.low = values.iter().copied().fold(self.low, f32::min);
        self.high = values.iter().copied().fold(self.high, f32::max);
    }

    fn largest(&self) -> f32 {
        self.high.max(-self.low)
    }

    fn count(&mut self, values: &[f32]) {
        let to_cell = |extent: f32| if extent > 0.0 { CELLS as f32 / extent } else { 0.0 };
        let (scale, magnitude_scale) = (to_cell(self.high - self.low), to_cell(self.largest()));
        for &value in values {
            self.values[cell((value - self.low) * scale)] += 1;
            if value != 0.0 {
                self.magnitudes[cell(value.abs() * magnitude_scale)] += 1;
            }
        }
    }

    /// The range that a calibration chooses; not finite if the values were not.
    pub fn range(&self, calibration: Calibration) -> [f32; 2] {
        match calibration {
            Calibration::MinMax => [self.low, self.high],
            Calibration::Percentile(percent) => {
                let [first, last] = middle(&self.values, percent / 100.0);
                let width = (self.high - self.low) / CELLS as f32;
                [self.low + first as f32 * width, self.low + last as f32 * width]
            }
            Calibration::Entropy => {
                // A map of one sign has all bytes for it, one of two signs half of them for each.
                let levels = if self.low < 0.0 && self.high > 0.0 { 128 } else { 256 };
                let kept = least_divergent(&self.magnitudes, levels, STRIDE);
                let threshold = self.largest() * kept as f32 / CELLS as f32;
                [self.low.max(-threshold), self.high.min(threshold)]
            }
        }
    }
}

fn cell(position: f32) -> usize {
    // What is not a number counts as least; the ranges of such a map are refused by the engine.
    (position as usize).min(CELLS - 1)
}

/// The cells between which the middle `share` of a histogram lies: first, and one beyond the last.
fn middle(cells: &[u64], share: f64) -> [usize; 2] {
    let total: u64 = cells.iter().sum();
    let cut = total as f64 * (1.0 - share) / 2.0;
    let beyond = |mut cells: Box<dyn Iterator<Item = &u64> + '_>| {
        let mut seen = 0.0;
        cells
            .position(|&count| {
                seen += count as f64;
                // Shares are not exact in binary.
                seen - cut > 1e-9 * total as f64
            })
            .unwrap_or(0)
    };
    let first = beyond(Box::new(cells.iter()));
    [first, cells.len() - beyond(Box::new(cells.iter().rev()))]
}

/// How many cells to keep so that the distribution, what lies beyond them added to the last one, diverges least from
/// the same in `levels` steps.
fn least_divergent(cells: &[u64], levels: usize, stride: usize) -> usize {
    let all: u64 = cells.iter().sum();
    let mut best = (f64::INFINITY, cells.len());
    for kept in (levels.min(cells.len())..=cells.len()).step_by(stride.max(1)).chain([cells.len()]) {
        let divergence = divergence(&cells[..kept], all, levels);
        if divergence < best.0 {
            best = (divergence, kept);
        }
    }
    best.1
}

/// The Kullback-Leibler divergence of the cells kept, with what is beyond them in the last, from themselves in
/// `levels` steps.
fn divergence(kept: &[u64], all: u64, levels: usize) -> f64 {
    let inside: u64 = kept.iter().sum();
    let (Some(&last), 1..) = (kept.last(), inside) else { return f64::INFINITY };
    let mut divergence = 0.0;
    for level in 0..levels {
        let step = &kept[level * kept.len() / levels..(level + 1) * kept.len() / levels];
        let held = step.iter().filter(|&&count| count > 0).count();
        let each = step.iter().sum::<u64>() as f64 / held.max(1) as f64 / inside as f64;
        for &count in step.iter().filter(|&&count| count > 0) {
            divergence += term(count as f64 / all as f64, each);
        }
    }
    // The last cell again, with what was cut off.
    let own = kept.len() - 1;
    let level = (0..levels).rev().find(|level| level * kept.len() / levels <= own).unwrap_or(0);
    let step = &kept[level * kept.len() / levels..];
    let held = step.iter().filter(|&&count| count > 0).count();
    let each = step.iter().sum::<u64>() as f64 / held.max(1) as f64 / inside as f64;
    let each = if last > 0 { each } else { 0.0 };
    let (before, after) = (last as f64 / all as f64, (last + all - inside) as f64 / all as f64);
    divergence - term(before, each) + term(after, each)
}

/// `p ln(p / q)`
fn term(p: f64, q: f64) -> f64 {
    if p > 0.0 { p * (p / q.max(NEVER)).ln() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_share_leaves_as_much_on_either_side() {
        // Of 100 values, 80 % in the middle cut 10 off each side: 5 + 5 of the first two cells and one cell of 9.
        let cells = [5, 5, 40, 41, 9];
        assert_eq!(
            middle(&cells, 0.8),
            [2, 4],
            "the ten lowest of 100 go; of the nine in the last cell and one below it, the nine"
        );
        assert_eq!(middle(&cells, 1.0), [0, 5]);
        assert_eq!(middle(&cells, 0.9), [1, 5], "5 below the cut go, of the 9 above it none");
        assert_eq!(middle(&[0, 0, 7, 0], 1.0), [2, 3], "empty cells at the ends are never kept");
    }

    #[test]
    fn the_divergence_is_the_formulas() {
        // P = (4, 0, 2, 2) / 8 in two levels: (4, 0) stays (4, 0) since a level is spread over the cells it was made of.
        assert!(divergence(&[4, 0, 2, 2], 8, 2).abs() < 1e-12);
        // P = (3, 1, 2, 2) / 8, Q = (2, 2, 2, 2) / 8: 3/8 ln(3/2) + 1/8 ln(1/2).
        let expected = 3.0 / 8.0 * 1.5_f64.ln() + 1.0 / 8.0 * 0.5_f64.ln();
        assert!((divergence(&[3, 1, 2, 2], 8, 2) - expected).abs() < 1e-12);
        // Two values beyond the last cell: P = (3, 1, 2, 4) / 10, Q = (2, 2, 2, 2) / 8.
        let expected: f64 = [3.0_f64, 1.0, 2.0, 4.0].iter().map(|p| p / 10.0 * (p / 10.0 / 0.25).ln()).sum();
        assert!((divergence(&[3, 1, 2, 2], 10, 2) - expected).abs() < 1e-12);
    }

    #[test]
    fn a_far_value_is_cut_off_and_a_flat_distribution_is_not() {
        let mut cells = vec![0; 512];
        cells[..128].iter_mut().enumerate().for_each(|(index, cell)| *cell = 500 + index as u64 % 2 * 1000);
        cells[511] = 1;
        assert_eq!(least_divergent(&cells, 128, 8), 128);
        assert_eq!(least_divergent(&[100; 512], 128, 8), 512);
        assert_eq!(least_divergent(&[0; 512], 128, 8), 512, "a map of nothing but zeros keeps its range");
    }

    fn spread(values: &[f32]) -> Spread {
        let mut spread = Spread::new(1);
        spread.widen(values);
        spread.count(values);
        spread
    }

    #[test]
    fn ranges_are_in_the_maps_own_numbers() {
        let mut values: Vec<f32> = (0..20_000).map(|index| index as f32 / 10_000.0 - 1.0).collect();
        values.push(31.0);
        let spread = spread(&values);
        assert_eq!(spread.range(Calibration::MinMax), [-1.0, 31.0]);
        let [low, high] = spread.range(Calibration::Percentile(99.9));
        assert!(low == -1.0 && (0.9..1.1).contains(&high), "{low} {high}");
        let [low, high] = spread.range(Calibration::Entropy);
        assert!(low == -1.0 && high < 4.0, "{low} {high}");
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let range = spread(&[1.0, f32::INFINITY]).range(Calibration::MinMax);
        assert!(!range[1].is_finite());
    }

    #[test]
    fn names_are_read_and_slips_are_mended() {
        for calibration in ALL {
            assert_eq!(calibration.to_string().parse::<Calibration>().unwrap(), calibration);
        }
        assert_eq!("percentile".parse::<Calibration>().unwrap(), ALL[2]);
        for (name, expected) in [
            ("entropi", "did you mean `entropy`?"),
            ("percentile:101", "percentile:99.99"),
            ("percentile:x", "percentile:99.99"),
        ] {
            let message = name.parse::<Calibration>().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
