//! A row: our figures beside a peer's, as a line of the table and as JSON.

use serde_json::{Value, json};

use super::case::{Case, Kind};
use super::median;
use super::ours::{Bound, Timing};

/// Spread of our own figures from which a machine counts as too busy to measure on.
const NOISY: f64 = 0.15;

/// What our side did in every round.
pub struct Ours {
    pub case: Case,
    /// Each with the machine's limit right after it.
    pub turns: Vec<(Timing, Bound)>,
}

impl Ours {
    fn figures(&self) -> Vec<f64> {
        self.turns.iter().map(|(timing, _)| timing.figure(&self.case)).collect()
    }

    fn median_of(&self, figure: impl Fn(&Timing, &Bound) -> f64) -> f64 {
        median(&self.turns.iter().map(|(timing, bound)| figure(timing, bound)).collect::<Vec<_>>())
    }

    fn limit_share(&self) -> f64 {
        self.median_of(|timing, bound| bound.share(timing.milliseconds))
    }

    /// The rate that is reached, and its unit: of reading weights where answers wait for memory, else of arithmetic.
    fn reached(&self) -> (f64, &'static str) {
        let waiting = self.turns.iter().filter(|(_, bound)| bound.by_memory).count();
        let waits = self.case.kind == Kind::Infer && 2 * waiting > self.turns.len();
        let rate = |amount: fn(&Bound) -> f64| {
            self.median_of(|timing, bound| amount(bound) / timing.milliseconds / 1e6)
        };
        if waits {
            (rate(|bound| bound.weight_bytes), "GB/s")
        } else {
            (rate(|bound| bound.flops), "GFLOP/s")
        }
    }

    /// Distance of the extremes as a share of the median.
    fn spread(&self) -> f64 {
        let figures = self.figures();
        let [low, high] = extremes(&figures);
        (high - low) / median(&figures)
    }

    fn memory(&self) -> Option<f64> {
        let known: Vec<f64> = self.turns.iter().filter_map(|(timing, _)| timing.memory).collect();
        (self.case.kind == Kind::Train && !known.is_empty()).then(|| median(&known))
    }

    /// A line to print where the figures are not to be relied on.
    pub fn warning(&self) -> Option<String> {
        let spread = self.spread();
        (spread > NOISY).then(|| {
            format!(
                "{:<38}! our own figures spread over {:.0} %: a busy machine; measure again, with more --rounds",
                self.case.name(),
                spread * 100.0
            )
        })
    }
}

/// What a peer did in every round.
pub struct Theirs {
    pub label: String,
    pub figures: Vec<f64>,
    /// Peak bytes of training steps, where that was asked and is known.
    pub memory: Option<f64>,
    /// Whether it does something else than we do.
    pub information: bool,
}

/// Names of the table's columns.
pub fn heading() -> String {
    format!(
        "{:<38}{:>10}{:>10}  {:<11}{:>6}{:>14}{:>16}{:>7}{:>15}  peer",
        "case", "ours", "peer", "unit", "ratio", "spread", "reached", "limit", "MB ours/peer"
    )
}

/// A comparison with one peer.
pub struct Row<'a> {
    pub ours: &'a Ours,
    pub theirs: &'a Theirs,
}

impl Row<'_> {
    /// One ratio for each round; above 1 is in our favor.
    fn ratios(&self) -> Vec<f64> {
        let pairs = self.ours.figures().into_iter().zip(&self.theirs.figures);
        pairs.map(|(ours, &theirs)| self.ours.case.kind.ratio(ours, theirs)).collect()
    }

    /// A line of the table.
    pub fn line(&self) -> String {
        let (reached, unit) = self.ours.reached();
        let ratios = self.ratios();
        let [low, high] = extremes(&ratios);
        let megabytes = |bytes: Option<f64>| bytes.map_or("-".into(), |bytes| format!("{:.0}", bytes / 1e6));
        let mark = if self.theirs.information { " (for information)" } else { "" };
        format!(
            "{:<38}{:>10}{:>10}  {:<11}{:>6.2}{:>14}{:>16}{:>6.0}%{:>15}  {}{mark}",
            self.ours.case.name(),
            significant(median(&self.ours.figures())),
            significant(median(&self.theirs.figures)),
            self.ours.case.kind.unit(),
            median(&ratios),
            format!("{low:.2}..{high:.2}"),
            format!("{reached:.1} {unit}"),
            self.ours.limit_share() * 100.0,
            format!("{} / {}", megabytes(self.ours.memory()), megabytes(self.theirs.memory)),
            self.theirs.label,
        )
    }

    /// The row for a program.
    pub fn json(&self) -> Value {
        let (reached, reached_unit) = self.ours.reached();
        let ratios = self.ratios();
        let [low, high] = extremes(&ratios);
        json!({
            "case": self.ours.case.name(),
            "peer": self.theirs.label,
            "information": self.theirs.information,
            "ours": median(&self.ours.figures()),
            "theirs": median(&self.theirs.figures),
            "unit": self.ours.case.kind.unit(),
            "ratio": median(&ratios),
            "ratio_min": low,
            "ratio_max": high,
            "rounds": ratios.len(),
            "ours_spread": self.ours.spread(),
            "noisy": self.ours.spread() > NOISY,
            "macs": self.ours.median_of(|timing, _| timing.macs),
            "limit_share": self.ours.limit_share(),
            "limit_milliseconds": self.ours.median_of(|_, bound| bound.milliseconds),
            "reached": reached,
            "reached_unit": reached_unit,
            "memory_ours": self.ours.memory(),
            "memory_theirs": self.theirs.memory,
        })
    }
}

/// Four digits that say something.
fn significant(figure: f64) -> String {
    let decimals = if figure >= 1000.0 { 0 } else { (3 - figure.log10().floor() as i32).max(0) as usize };
    format!("{figure:.decimals$}")
}

fn extremes(figures: &[f64]) -> [f64; 2] {
    [f64::min, f64::max].map(|pick| figures.iter().copied().reduce(pick).unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(name: &str, milliseconds: &[f64]) -> Ours {
        let turn = |&milliseconds| {
            let timing = Timing { milliseconds, macs: 7e6, memory: Some(100e6) };
            (timing, Bound { milliseconds: 0.5, by_memory: true, flops: 14e6, weight_bytes: 16e6 })
        };
        Ours { case: Case::parse(name).unwrap(), turns: milliseconds.iter().map(turn).collect() }
    }

    fn theirs(figures: &[f64]) -> Theirs {
        Theirs { label: "peer".into(), figures: figures.to_vec(), memory: None, information: false }
    }

    #[test]
    fn a_row_of_json_has_these_keys() {
        let (ours, theirs) = (ours("infer/resnet18/32/t1", &[1.0]), theirs(&[2.0]));
        let row = Row { ours: &ours, theirs: &theirs }.json();
        let mut keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        keys.sort();
        let expected = "case information limit_milliseconds limit_share macs memory_ours memory_theirs noisy ours \
                        ours_spread peer ratio ratio_max ratio_min reached reached_unit rounds theirs unit";
        assert_eq!(keys, expected.split_whitespace().collect::<Vec<_>>());
        assert!(row["memory_ours"].is_null() && row["memory_theirs"].is_null(), "memory is training's");
    }

    #[test]
    fn medians_of_pairs_are_as_worked_by_hand() {
        let (ours, theirs) = (ours("infer/resnet18/32/t1", &[0.8, 1.0, 1.25]), theirs(&[1.6, 1.0, 5.0]));
        let row = Row { ours: &ours, theirs: &theirs }.json();
        // Ratios 2, 1 and 4; shares of the limit 0.625, 0.5 and 0.4; 16 MB in 1 ms.
        assert_eq!((&row["ours"], &row["theirs"], &row["ratio"]), (&json!(1.0), &json!(1.6), &json!(2.0)));
        assert_eq!((&row["ratio_min"], &row["ratio_max"]), (&json!(1.0), &json!(4.0)));
        assert_eq!(row["limit_share"], json!(0.5));
        assert_eq!((&row["reached"], &row["reached_unit"]), (&json!(16.0), &json!("GB/s")));
    }

    #[test]
    fn training_counts_pictures_and_memory() {
        let ours = ours("train/resnet18/32/b64", &[32.0]);
        let theirs = Theirs { memory: Some(300e6), ..theirs(&[1000.0]) };
        let row = Row { ours: &ours, theirs: &theirs }.json();
        assert_eq!((&row["ours"], &row["ratio"]), (&json!(2000.0), &json!(2.0)));
        assert_eq!((&row["memory_ours"], &row["memory_theirs"]), (&json!(100e6), &json!(300e6)));
        // 14 million operations in 32 ms, though memory decides.
        assert_eq!((&row["reached"], &row["reached_unit"]), (&json!(14e6 / 32.0 / 1e6), &json!("GFLOP/s")));
        assert!(Row { ours: &ours, theirs: &theirs }.line().contains("100 / 300"));
    }

    #[test]
    fn a_spread_beyond_fifteen_percent_is_warned_about() {
        assert_eq!(ours("infer/resnet18/32/t1", &[1.0, 1.1, 1.14]).warning(), None);
        let warning = ours("infer/resnet18/32/t1", &[1.0, 1.2, 1.1]).warning().unwrap();
        assert!(warning.contains("18 %"), "{warning}");
    }

    #[test]
    fn figures_show_four_digits() {
        let shown = [0.34012, 7.8, 86.25, 2614.3].map(significant);
        assert_eq!(shown, ["0.3401", "7.800", "86.25", "2614"]);
    }
}
