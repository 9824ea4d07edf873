//! The report as a short table for the terminal; [`BenchReport::write`] has everything.

use super::report::{BenchReport, Outcome, Row};

const HEAD: [&str; 9] =
    ["model", "engine", "input", "p50", "p90 (at most)", "p99 (n)", "pictures/s", "accuracy", "faster"];

impl BenchReport {
    /// Lines of aligned columns, the machine above them, servers and doubts below.
    pub fn to_table(&self) -> String {
        let mut text =
            vec![self.machine.text(), format!("threads of each engine: {}", self.threads), String::new()];
        if !self.rows.is_empty() {
            let mut lines = vec![HEAD.map(String::from).to_vec()];
            lines.extend(self.rows.iter().filter(|row| row.figures().is_some()).map(cells));
            text.extend(aligned(&lines));
        }
        text.extend(self.overheads());
        text.extend(self.servers());
        let doubts = self.warnings.iter().map(|warning| format!("! {warning}"));
        if !self.warnings.is_empty() {
            text.push(String::new());
        }
        text.extend(doubts);
        if self.rows.iter().any(|row| row.random_weights) {
            text.extend([String::new(), "* random weights: speed is meant, accuracy is none".into()]);
        }
        text.join("\n") + "\n"
    }

    /// What HTTP adds, a line per row and format.
    fn overheads(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in &self.rows {
            for stages in row.figures().map(|figures| figures.stages.as_slice()).unwrap_or_default() {
                let (Some(http), Some(overhead)) = (&stages.http, stages.http_overhead_us) else { continue };
                let p50 = |latency: &super::Latency| time(latency.at(50.0));
                lines.push(vec![
                    row.model.clone(),
                    row.title(),
                    stages.format.clone(),
                    p50(&stages.decode),
                    p50(&stages.preprocess),
                    p50(&stages.inference),
                    p50(http),
                    time(overhead),
                ]);
            }
        }
        if lines.is_empty() {
            return lines.concat();
        }
        let head = ["model", "engine", "file", "decode", "preprocess", "inference", "HTTP", "HTTP adds"];
        lines.insert(0, head.map(String::from).to_vec());
        [vec![String::new()], aligned(&lines)].concat()
    }

    /// A line for each load.
    fn servers(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for load in &self.http {
            lines.push(String::new());
            lines.push(format!("HTTP, {} ({}), {}:", load.model, load.engine, load.server));
            for closed in &load.closed {
                let latency = closed.latency.as_ref();
                let [p50, p99] =
                    [50.0, 99.0].map(|percent| latency.map_or("-".into(), |at| time(at.at(percent))));
                let (connections, pace) = (closed.connections, closed.answers_per_second);
                let failed = closed.codes.text();
                lines.push(format!(
                    "  {connections} connections: {pace:.0} requests/s, p50 {p50}, p99 {p99}, failed: {failed}"
                ));
            }
            for open in &load.open {
                let latency = open.latency.as_ref();
                let [p50, p99] =
                    [50.0, 99.0].map(|percent| latency.map_or("-".into(), |at| time(at.at(percent))));
                let held = if open.held { "held" } else { "NOT held" };
                let (rate, failed) = (open.rate, open.codes.text());
                lines.push(format!(
                    "  {rate} requests/s come: {held}, p50 {p50}, p99 {p99}, failed: {failed}"
                ));
            }
            for batched in &load.batched {
                lines.push(format!(
                    "  {}: {:.0} pictures/s, {:.1} % of the engine's {:.0} offline",
                    batched.how,
                    batched.pictures_per_second,
                    batched.ratio * 100.0,
                    batched.offline_per_second
                ));
            }
        }
        lines
    }
}

fn aligned(lines: &[Vec<String>]) -> Vec<String> {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    lines.iter().map(line).collect()
}

fn cells(row: &Row) -> Vec<String> {
    let [channels, height, width] = row.input;
    let mut cells = vec![
        format!("{}{}", row.model, if row.random_weights { "*" } else { "" }),
        row.title(),
        format!("{channels}x{height}x{width}"),
    ];
    match &row.outcome {
        Outcome::Figures(figures) => {
            let latency = &figures.latency;
            let bound = latency.percentile(90.0).and_then(|p90| p90.bound_us);
            cells.extend([
                time(latency.at(50.0)),
                format!("{} ({})", time(latency.at(90.0)), bound.map_or("too few".into(), time)),
                format!("{} ({})", time(latency.at(99.0)), latency.count),
                format!("{:.0}", figures.throughput.pictures_per_second),
                row.accuracy.text(),
                figures.ratio.as_ref().map_or("-".into(), |ratio| {
                    let http = ratio.http.map(|http| format!(", {http:.2}x over HTTP")).unwrap_or_default();
                    format!("{:.2}x than {}{http}", ratio.in_process, ratio.against)
                }),
            ]);
        }
        Outcome::Missing(reason) => cells.push(reason.clone()),
    }
    cells
}

/// Microseconds to three digits, in the unit that suits.
pub(super) fn time(microseconds: f64) -> String {
    let (value, unit) =
        if microseconds.abs() < 1000.0 { (microseconds, "us") } else { (microseconds / 1000.0, "ms") };
    let decimals = if value.abs() < 10.0 {
        2
    } else if value.abs() < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

pub(super) fn count_of(macs: u64) -> String {
    let macs = macs as f64;
    if macs < 1e9 { format!("{:.1} M", macs / 1e6) } else { format!("{:.2} G", macs / 1e9) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_read_well() {
        assert_eq!(
            [time(8.123), time(91.26), time(910.4), time(4390.0)],
            ["8.12 us", "91.3 us", "910 us", "4.39 ms"]
        );
        assert_eq!([count_of(37_200_000), count_of(1_814_000_000)], ["37.2 M", "1.81 G"]);
    }
}
