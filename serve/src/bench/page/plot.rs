//! Plots as inline SVG: accuracy over latency, and the distribution of latencies. Never here: a figure that is in no
//! table.

use super::escaped::html as escaped;
use crate::bench::report::{BenchReport, Row};

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 210.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;
/// Colors that are told apart on light and on dark paper.
const COLORS: [&str; 8] =
    ["#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#dc2626"];

/// A logarithmic axis of microseconds.
struct Time {
    low: f64,
    high: f64,
}

impl Time {
    fn over(values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min).max(0.1);
        let high = values.fold(low, f64::max);
        Self { low: low / 1.3, high: high * 1.3 }
    }

    fn x(&self, us: f64) -> f64 {
        let share = (us.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    /// 1, 2 and 5 of each power of ten.
    fn ticks(&self) -> Vec<f64> {
        let steps = (-1..8).flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)));
        let inside: Vec<f64> = steps.filter(|tick| (self.low..=self.high).contains(tick)).collect();
        let every = inside.len().div_ceil(8).max(1);
        inside.into_iter().step_by(every).collect()
    }

    fn axis(&self) -> String {
        let bottom = HEIGHT - BOTTOM;
        let tick = |us: f64| {
            let x = self.x(us);
            format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/><text class=\"faint\" \
                 x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
                bottom + 16.0,
                label(us)
            )
        };
        self.ticks().into_iter().map(tick).collect()
    }
}

fn label(us: f64) -> String {
    if us < 1000.0 { format!("{us} us") } else { format!("{} ms", us / 1000.0) }
}

fn y(share: f64) -> f64 {
    HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
}

fn framed(inside: &str, caption: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" role=\"img\" aria-label=\"{caption}\">\n{inside}<text \
         class=\"faint\" x=\"{LEFT}\" y=\"{:.1}\">{caption}</text>\n</svg>",
        HEIGHT - 6.0
    )
}

fn name(row: &Row) -> String {
    escaped(&format!("{}, {}", row.model, row.title()))
}

/// A point for each row whose accuracy is known, p90 to the right, accuracy upward; the others in a line below.
pub(super) fn accuracy_latency(report: &BenchReport) -> String {
    let rows: Vec<(&Row, f64)> =
        report.rows.iter().filter_map(|row| Some((row, row.figures()?.latency.at(90.0)))).collect();
    if rows.is_empty() {
        return "<p>No row was measured.</p>".into();
    }
    let time = Time::over(rows.iter().map(|(_, us)| *us));
    let known = rows.iter().filter_map(|(row, _)| row.accuracy.share()).map(|share| share.top1);
    let steps = if known.clone().next().is_some() { 0..5 } else { 0..0 };
    let low = known.clone().fold(1.0, f64::min);
    let high = known.fold(low, f64::max);
    // At least four points from bottom to top, so that a tenth of one does not look like a cliff.
    let (low, high) = ((low - 0.02).max(0.0), (high + 0.02).min(1.0));
    // The lowest eighth is for rows without an accuracy.
    let height = |top1: f64| y(0.125 + 0.875 * (top1 - low) / (high - low).max(1e-9));
    let mut inside = time.axis();
    for step in steps {
        let top1 = low + (high - low) * f64::from(step) / 4.0;
        inside += &format!(
            "<text class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.1} %</text>\n",
            LEFT - 6.0,
            height(top1) + 4.0,
            top1 * 100.0
        );
    }
    for (index, (row, us)) in rows.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let at = row.accuracy.share().map_or(y(0.03), |share| height(share.top1));
        let fill = if row.accuracy.share().is_some() { color } else { "none" };
        inside += &format!(
            "<circle cx=\"{:.1}\" cy=\"{at:.1}\" r=\"5\" fill=\"{fill}\" stroke=\"{color}\" stroke-width=\"2\"><title>{}: \
             p90 {us:.0} us, {}</title></circle>\n",
            time.x(*us),
            name(row),
            row.accuracy.text()
        );
    }
    inside += &legend(rows.iter().map(|(row, _)| name(row)));
    framed(&inside, "p90 of one picture (logarithmic); open circles below: accuracy not measured")
}

/// A curve for each row: the share of calls that took at most so long.
pub(super) fn distributions(report: &BenchReport) -> String {
    let mut curves = Vec::new();
    for series in &report.samples {
        let Some(index) =
            series.name.strip_prefix("row-").and_then(|rest| rest.strip_suffix("-single-stream"))
        else {
            continue;
        };
        let row = index.parse().ok().and_then(|index: usize| report.rows.get(index));
        let mut sorted: Vec<u64> = series.samples.nanoseconds().collect();
        sorted.sort_unstable();
        if let (Some(row), false) = (row, sorted.is_empty()) {
            curves.push((row, quantiles(&sorted)));
        }
    }
    if curves.is_empty() {
        return "<p>The samples are not at hand.</p>".into();
    }
    let time = Time::over(curves.iter().flat_map(|(_, points)| points.iter().map(|point| point.0)));
    let mut inside = time.axis();
    for share in [0.0, 0.5, 0.9, 1.0] {
        inside += &format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/><text class=\"faint\" x=\"{:.1}\" \
             y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>\n",
            WIDTH - RIGHT,
            y(share),
            y(share),
            LEFT - 6.0,
            y(share) + 4.0,
            share * 100.0
        );
    }
    for (index, (row, points)) in curves.iter().enumerate() {
        let points: Vec<String> =
            points.iter().map(|&(us, share)| format!("{:.1},{:.1}", time.x(us), y(share))).collect();
        inside += &format!(
            "<polyline class=\"curve\" stroke=\"{}\" points=\"{}\"><title>{}</title></polyline>\n",
            COLORS[index % COLORS.len()],
            points.join(" "),
            name(row)
        );
    }
    inside += &legend(curves.iter().map(|(row, _)| name(row)));
    framed(&inside, "share of calls that took at most so long (logarithmic)")
}

/// At most 200 points of the distribution, the fastest and the slowest among them.
fn quantiles(sorted: &[u64]) -> Vec<(f64, f64)> {
    let last = sorted.len() - 1;
    let steps = last.clamp(1, 200);
    let at = |step: usize| {
        let index = last * step / steps;
        (sorted[index] as f64 / 1e3, (index + 1) as f64 / sorted.len() as f64)
    };
    (0..=steps).map(at).collect()
}

fn legend(names: impl Iterator<Item = String>) -> String {
    let line = |(index, name): (usize, String)| {
        let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 10.0 + 18.0 * index as f64);
        format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{name}</text>\n",
            COLORS[index % COLORS.len()],
            x + 9.0,
            y + 4.0
        )
    };
    names.enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_is_logarithmic_and_has_ticks() {
        let time = Time { low: 10.0, high: 1000.0 };
        let middle = (time.x(10.0) + time.x(1000.0)) / 2.0;
        assert!((time.x(100.0) - middle).abs() < 1e-9);
        assert_eq!(time.ticks(), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!((label(50.0), label(2000.0)), ("50 us".into(), "2 ms".into()));
    }

    #[test]
    fn quantiles_hold_both_ends() {
        let sorted: Vec<u64> = (1..=1000).map(|index| index * 1000).collect();
        let points = quantiles(&sorted);
        assert_eq!((points[0], points[points.len() - 1]), ((1.0, 0.001), (1000.0, 1.0)));
        assert_eq!(quantiles(&[5000]), [(5.0, 1.0), (5.0, 1.0)]);
    }
}
