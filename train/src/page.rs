//! `report.html`: a run to look at. One page, no script, nothing from outside, drawn from the run's own `metrics.jsonl` and
//! summary; a distillation makes its page of the same parts.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::error::{Result, TrainError};
use crate::folder::{RunFolder, write_atomically};
use crate::summary::{Summary, percent};

/// A line of a chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// Optimizer steps and values.
    pub points: Vec<(f64, f64)>,
}

/// What `metrics.jsonl` says of a run, as curves over the steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The loss, then the parts that it is made of; none where the only part is the loss itself.
    pub losses: Vec<Curve>,
    /// Accuracy on the validation pictures in percent.
    pub accuracy: Curve,
    /// Learning rate.
    pub lr: Curve,
}

impl History {
    /// Reads a run's file; a run that has logged nothing yet has empty curves.
    ///
    /// # Errors
    /// The system's; a line that is no JSON.
    pub fn read(metrics: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(metrics).map_err(TrainError::file("reading", metrics))?;
        let mut history =
            Self { losses: vec![Curve { name: "loss".into(), points: Vec::new() }], ..Self::default() };
        for (number, line) in text.lines().enumerate() {
            let event: Value = serde_json::from_str(line).map_err(|error| {
                TrainError::malformed(metrics, format!("line {}: expected JSON: {error}", number + 1))
            })?;
            history.add(&event);
        }
        if history.losses.get(1).is_some_and(|part| part.points == history.losses[0].points) {
            history.losses.truncate(1);
        }
        Ok(history)
    }

    fn add(&mut self, event: &Value) {
        let Some(step) = event["step"].as_f64() else { return };
        match event["event"].as_str() {
            Some("step") => {
                extend(&mut self.losses[0], step, &event["loss"]);
                extend(&mut self.lr, step, &event["lr"]);
                for (index, part) in event["parts"].as_array().into_iter().flatten().enumerate() {
                    if self.losses.len() == index + 1 {
                        let name = part[0].as_str().unwrap_or_default().into();
                        self.losses.push(Curve { name, points: Vec::new() });
                    }
                    extend(&mut self.losses[index + 1], step, &part[1]);
                }
            }
            Some("evaluated") if event["split"] == "val" => {
                let percent = event["accuracy"].as_f64().map(|share| share * 100.0);
                self.accuracy.points.extend(percent.map(|percent| (step, percent)));
            }
            _ => {}
        }
    }
}

fn extend(curve: &mut Curve, step: f64, value: &Value) {
    curve.points.extend(value.as_f64().map(|value| (step, value)));
}

/// Writes a training's page: the curves so far and, once there is one, the summary.
///
/// # Errors
/// The system's.
pub fn write(folder: &RunFolder, title: &str, summary: Option<&Summary>) -> Result<()> {
    let history = History::read(&folder.metrics())?;
    let mut sections = Vec::new();
    if let Some(summary) = summary {
        sections.push(facts(summary));
    }
    let accuracy = Curve { name: "validation".into(), ..history.accuracy };
    sections.push(chart("Accuracy on the validation pictures", "%", &[accuracy]));
    sections.push(chart("Loss", "", &history.losses));
    sections.push(chart("Learning rate", "", &[history.lr]));
    if let Some(summary) = summary.filter(|summary| !summary.confusion.is_empty()) {
        sections.push(confusion(&summary.classes, &summary.confusion));
    }
    write_atomically(&folder.page(), document(title, &sections).as_bytes())
}

fn facts(summary: &Summary) -> String {
    let accuracy = |share: Option<f64>| percent(share) + if share.is_some() { " %" } else { "" };
    let row = |name: &str, value: String| vec![name.to_string(), value];
    table(
        &["", ""],
        &[
            row("test accuracy", accuracy(summary.test_accuracy)),
            row("validation accuracy", accuracy(summary.val_accuracy)),
            row("training accuracy", accuracy(Some(summary.train_accuracy))),
            row("labels", summary.labels.to_string()),
            row("pictures without label", summary.unlabeled.to_string()),
            row("parameters", summary.params.to_string()),
            row("multiply-accumulates a picture", summary.macs.to_string()),
            row("steps (kept)", format!("{} ({})", summary.steps, summary.kept_step)),
            row("seconds", format!("{:.0}", summary.seconds)),
            row("waiting for pictures", format!("{:.1} % of the training time", summary.wait_share * 100.0)),
            row("pictures a second", format!("{:.0}", summary.pictures_per_second)),
        ],
    )
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 34.0;
const MARGIN: f64 = 12.0;
/// Points of a drawn line at most; more are averaged.
const MOST_POINTS: usize = 150;
/// Points up to which each is marked, to be read by pointing at it.
const MOST_MARKS: usize = 60;

/// A chart over the optimizer steps. Curves without points are left out; without any the chart says so.
pub fn chart(title: &str, unit: &str, curves: &[Curve]) -> String {
    let curves: Vec<(usize, Curve)> = curves
        .iter()
        .enumerate()
        .filter(|(_, curve)| !curve.points.is_empty())
        .map(|(index, curve)| (index % 4, Curve { name: curve.name.clone(), points: thinned(&curve.points) }))
        .collect();
    let mut out = format!("<h2>{}</h2>\n", escaped(title));
    if curves.is_empty() {
        return out + "<p>nothing yet</p>\n";
    }
    let points = || curves.iter().flat_map(|(_, curve)| &curve.points);
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let highest = points().map(|point| point.1).fold(f64::MIN, f64::max);
    let lowest = points().map(|point| point.1).fold(0.0, f64::min);
    let ticks = ticks(lowest, highest);
    let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
    let x = |step: f64| LEFT + step / last * (WIDTH - LEFT - MARGIN);
    let y = |value: f64| MARGIN + (top - value) / (top - bottom) * (HEIGHT - BOTTOM - MARGIN);

    if curves.len() > 1 {
        out.push_str("<p class=\"legend\">");
        for (color, curve) in &curves {
            let _ = write!(out, "<span class=\"c{color}\">{}</span> ", escaped(&curve.name));
        }
        out.push_str("</p>\n");
    }
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escaped(title)
    );
    for tick in &ticks {
        let at = y(*tick);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}{unit}</text>",
            WIDTH - MARGIN,
            LEFT - 6.0,
            at + 4.0,
            number(*tick),
        );
    }
    for quarter in 0..=4 {
        let step = last * f64::from(quarter) / 4.0;
        let anchor = ["start", "middle", "end"][usize::from(quarter > 0) + usize::from(quarter == 4)];
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{step:.0}{}</text>",
            x(step),
            HEIGHT - 14.0,
            if quarter == 4 { " steps" } else { "" },
        );
    }
    for (color, curve) in &curves {
        let line: Vec<String> =
            curve.points.iter().map(|&(step, value)| format!("{:.1},{:.1}", x(step), y(value))).collect();
        let _ = writeln!(out, "<polyline class=\"l{color}\" points=\"{}\"/>", line.join(" "));
        for &(step, value) in curve.points.iter().filter(|_| curve.points.len() <= MOST_MARKS) {
            let _ = writeln!(
                out,
                "<circle class=\"c{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{}, step {step:.0}: {}{unit}</title></circle>",
                x(step),
                y(value),
                escaped(&curve.name),
                number(value),
            );
        }
    }
    out + "</svg>\n"
}

/// Means of as many neighbors as it takes.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |group: &[(f64, f64)]| {
        let sum = group.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / group.len() as f64, sum.1 / group.len() as f64)
    };
    points.chunks(points.len().div_ceil(MOST_POINTS).max(1)).map(mean).collect()
}

/// Round numbers from at most `lowest` to at least `highest`, about five.
fn ticks(lowest: f64, highest: f64) -> Vec<f64> {
    let span = (highest - lowest).max(1e-9);
    let power = 10f64.powf((span / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| span / step <= 6.0);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((lowest / step).floor() as i64, (highest / step).ceil() as i64);
    (first..=last.max(first + 1)).map(|index| index as f64 * step).collect()
}

/// Four significant digits, no trailing zeros.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// A table; the first column is its rows' names.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"wide\"><table>\n");
    if header.iter().any(|cell| !cell.is_empty()) {
        let cells: String = header.iter().map(|cell| format!("<th>{}</th>", escaped(cell))).collect();
        let _ = writeln!(out, "<tr>{cells}</tr>");
    }
    for row in rows {
        let mut cells = row.iter().map(|cell| escaped(cell));
        let name = cells.next().unwrap_or_default();
        let rest: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(out, "<tr><th>{name}</th>{rest}</tr>");
    }
    out + "</table></div>\n"
}

/// Pictures by true class (row) and answer (column), shaded by their share of the row.
pub fn confusion(classes: &[String], counts: &[Vec<u32>]) -> String {
    let mut out = String::from(
        "<h2>Answers on the test pictures</h2>\n<p>A row holds the pictures of a class, a column an answer.</p>\n\
         <div class=\"wide\"><table class=\"confusion\">\n<tr><th></th>",
    );
    for class in classes {
        let _ = write!(out, "<th>{}</th>", escaped(class));
    }
    out.push_str("<th>right</th></tr>\n");
    for (index, (class, row)) in classes.iter().zip(counts).enumerate() {
        let total = row.iter().sum::<u32>().max(1);
        let _ = write!(out, "<tr><th>{}</th>", escaped(class));
        for count in row {
            let share = f64::from(*count) / f64::from(total);
            let _ = write!(out, "<td style=\"--share:{share:.3}\">{count}</td>");
        }
        let right = f64::from(row.get(index).copied().unwrap_or(0)) / f64::from(total);
        let _ = writeln!(out, "<td>{:.1} %</td></tr>", right * 100.0);
    }
    out + "</table></div>\n"
}

/// The page around its sections.
pub fn document(title: &str, sections: &[String]) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n<h1>{title}</h1>\n{}</html>\n",
        sections.concat()
    )
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ink: #1c2430; --faint: #d9dee5; --page: #fff; --c0: #0b6e99; --c1: #c2570c; --c2: #6b7280; --c3: #7c3aed; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --faint: #39424e; --page: #14181d; --c0: #4fb3dd; --c1: #f0944d; --c2: #a1a8b3; --c3: #b79bff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 760px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--ink); }
.grid { stroke: var(--faint); } polyline { fill: none; stroke-width: 2; }
.l0 { stroke: var(--c0); } .l1 { stroke: var(--c1); } .l2 { stroke: var(--c2); stroke-dasharray: 6 3; } .l3 { stroke: var(--c3); stroke-dasharray: 2 3; }
circle.c0 { fill: var(--c0); } circle.c1 { fill: var(--c1); } circle.c2 { fill: var(--c2); } circle.c3 { fill: var(--c3); }
.legend span { margin-right: 1.2em; font-weight: 600; } span.c0 { color: var(--c0); } span.c1 { color: var(--c1); } span.c2 { color: var(--c2); } span.c3 { color: var(--c3); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .6em; text-align: right; border-bottom: 1px solid var(--faint); } th:first-child { text-align: left; }
.confusion td[style] { background: color-mix(in srgb, var(--c0) calc(var(--share) * 70%), transparent); }
";

/// Text that means itself in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"event":"started","run":"r"}
{"event":"step","step":10,"loss":2.5,"parts":[["labeled",2.0],["unlabeled",0.5]],"lr":0.03}
{"event":"evaluated","step":10,"split":"val","accuracy":0.25}
{"event":"step","step":20,"loss":1.5,"parts":[["labeled",1.0],["unlabeled",0.5]],"lr":0.01}
{"event":"evaluated","step":20,"split":"test","accuracy":0.9}
"#;

    fn history(lines: &str) -> Result<History> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, lines).unwrap();
        History::read(&path)
    }

    #[test]
    fn the_file_becomes_curves() {
        let found = history(LINES).unwrap();
        let names: Vec<&str> = found.losses.iter().map(|curve| curve.name.as_str()).collect();
        assert_eq!(names, ["loss", "labeled", "unlabeled"]);
        assert_eq!(found.losses[1].points, [(10.0, 2.0), (20.0, 1.0)]);
        assert_eq!(found.accuracy.points, [(10.0, 25.0)], "validation alone, in percent");
        assert_eq!(found.lr.points, [(10.0, 0.03), (20.0, 0.01)]);
    }

    #[test]
    fn a_loss_of_one_part_is_one_curve() {
        let line = r#"{"event":"step","step":1,"loss":2.5,"parts":[["labeled",2.5]],"lr":0.03}"#;
        assert_eq!(history(line).unwrap().losses.len(), 1);
    }

    #[test]
    fn a_torn_line_is_named() {
        let error = history("{\"event\":\"started\"}\n{\"ev").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("metrics.jsonl"), "{error}");
    }

    #[test]
    fn ticks_are_round_and_enclose() {
        assert_eq!(ticks(0.0, 93.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(0.0, 0.0)[0], 0.0);
        for (lowest, highest) in [(0.0, 1e-6), (-3.0, 2.5), (0.0, 7e5), (0.0, 2.31)] {
            let ticks = ticks(lowest, highest);
            assert!(
                ticks[0] <= lowest && ticks[ticks.len() - 1] >= highest && (2..=9).contains(&ticks.len()),
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.03, 60.0, 91.25, 1234.5].map(number), ["0", "0.03", "60", "91.25", "1234"]);
    }

    /// The corners of the plot: the first tick at the bottom, the last step at the right.
    #[test]
    fn points_lie_where_their_values_say() {
        let curve = Curve { name: "a".into(), points: vec![(0.0, 0.0), (100.0, 100.0)] };
        let drawn = chart("t", "%", &[curve]);
        assert!(drawn.contains("points=\"56.0,266.0 708.0,12.0\""), "{drawn}");
        assert!(drawn.contains("<title>a, step 100: 100%</title>"));
        assert!(chart("t", "", &[Curve::default()]).contains("nothing yet"));
    }

    #[test]
    fn long_curves_are_averaged() {
        let points: Vec<(f64, f64)> = (0..600).map(|n| (f64::from(n), f64::from(n % 2))).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 150);
        assert!(thin.iter().all(|point| point.1 == 0.5));
    }

    #[test]
    fn names_from_elsewhere_cannot_break_the_page() {
        let page = document("<script>", &[confusion(&["a\"<b>".into()], &[vec![3]])]);
        assert!(!page.contains("<script>") && !page.contains("<b>") && page.contains("a&quot;&lt;b&gt;"));
    }
}
