//! The report as a table for people.

use models::Stem;

use super::{BenchReport, Latency, Row};

const HEAD: [&str; 11] = [
    "model",
    "engine",
    "stem",
    "input",
    "MACs",
    "p50",
    "p90",
    "p99 (n)",
    "pictures/s (batch)",
    "HTTP p50/p90/p99 (n)",
    "faster",
];

impl BenchReport {
    /// Lines of aligned columns, the machine above them.
    pub fn to_table(&self) -> String {
        let mut lines = vec![HEAD.map(String::from).to_vec()];
        lines.extend(self.rows.iter().map(cells));
        let width =
            |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        let machine = &self.machine;
        let above = format!(
            "{}, {} cores, {}, kernels {}, threads per engine: {}",
            machine.cpu, machine.cores, machine.system, machine.kernels, self.threads
        );
        let mut text = vec![above, String::new()];
        text.extend(lines.iter().map(line));
        if self.rows.iter().any(|row| row.random_weights) {
            text.extend([String::new(), "* random weights: speed is meant, accuracy is none".into()]);
        }
        text.join("\n") + "\n"
    }
}

fn cells(row: &Row) -> Vec<String> {
    let [channels, height, width] = row.input;
    let Latency { count, p50_us, p90_us, p99_us } = row.latency;
    let http = row.http.map(|http| {
        let parts = [http.p50_us, http.p90_us, http.p99_us].map(time).join("/");
        format!("{parts} ({})", http.count)
    });
    vec![
        format!("{}{}", row.model, if row.random_weights { "*" } else { "" }),
        if row.weights == "f32" { row.engine.clone() } else { format!("{}, {}", row.engine, row.weights) },
        row.stem.map_or("-", stem).into(),
        format!("{channels}x{height}x{width}"),
        row.macs.map_or("-".into(), count_of),
        time(p50_us),
        time(p90_us),
        format!("{} ({count})", time(p99_us)),
        format!("{:.0} ({})", row.throughput.pictures_per_second, row.throughput.batch),
        http.unwrap_or_else(|| "-".into()),
        row.ratio.as_ref().map_or("-".into(), |ratio| {
            let http = ratio.http.map(|http| format!(", {http:.2}x over HTTP")).unwrap_or_default();
            format!("{:.2}x than {}{http}", ratio.in_process, ratio.against)
        }),
    ]
}

fn stem(stem: Stem) -> &'static str {
    match stem {
        Stem::Imagenet => "imagenet",
        Stem::Small => "small",
    }
}

/// Microseconds to three digits, in the unit that suits.
fn time(microseconds: f64) -> String {
    let (value, unit) =
        if microseconds < 1000.0 { (microseconds, "us") } else { (microseconds / 1000.0, "ms") };
    let decimals = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

fn count_of(macs: u64) -> String {
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
