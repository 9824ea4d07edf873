//! What a report says, as titled tables with the sentences that they need: one text for the page and for Markdown.

use crate::bench::latency::{Latency, PERCENTS};
use crate::bench::report::{BenchReport, Figures, Outcome, Ratio, Row, Stages};
use crate::bench::table::{count_of, time};
use crate::bench::{Accuracy, Energy, Load, LoadReport, Trial};

/// A table with its title.
pub(super) struct Section {
    pub title: &'static str,
    /// How it was measured, or what it means.
    pub note: String,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

/// All sections that have something to say.
pub(super) fn sections(report: &BenchReport) -> Vec<Section> {
    let all = [
        single_stream(report),
        missing(report),
        offline(report),
        accuracy(report),
        stages(report),
        closed(report),
        open(report),
        batched(report),
        stability(report),
        engines(report),
        conditions(report),
    ];
    all.into_iter().filter(|section| !section.rows.is_empty()).collect()
}

fn name(row: &Row) -> String {
    let stars = if row.random_weights { " *" } else { "" };
    format!("{}{stars}", row.model)
}

fn measured(report: &BenchReport) -> impl Iterator<Item = (&Row, &Figures)> {
    report.rows.iter().filter_map(|row| Some((row, row.figures()?)))
}

/// p50 to p99.9: the sample, and its bound or the count that it lacks.
fn percentiles(latency: &Latency) -> Vec<String> {
    let cell = |percent: f64| {
        let Some(percentile) = latency.percentile(percent) else { return "-".into() };
        let bound = match percentile.bound_us {
            Some(bound) => format!("(≤ {})", time(bound)),
            None => format!("(n < {})", percentile.minimum_count),
        };
        format!("{} {bound}", time(percentile.us))
    };
    PERCENTS.map(cell).to_vec()
}

fn single_stream(report: &BenchReport) -> Section {
    let effort = &report.effort;
    let cells = |(row, figures): (&Row, &Figures)| {
        let faster = |ratio: &Ratio| format!("{:.2}x than {}", ratio.in_process, ratio.against);
        let mut cells = vec![name(row), row.title()];
        cells.extend(percentiles(&figures.latency));
        cells.push(time(figures.latency.max_us));
        cells.push(figures.latency.count.to_string());
        cells.push(figures.latency.stability.word().into());
        cells.push(figures.ratio.as_ref().map_or("-".into(), faster));
        cells
    };
    Section {
        title: "Single stream",
        note: format!(
            "One picture after the other, each from call to answer, in this process, by turns of 20 calls. {} calls of \
             warm-up do not count; then at least {} calls and {} s, at most {} s for each row. All calls count, none is \
             clipped. In brackets what the percentile is at most with 99 % confidence (MLPerf's early-stopping \
             estimate), or the count below which nothing can be said. * random weights: speed is meant.",
            effort.warm_up, effort.samples, effort.seconds, effort.patience_seconds
        ),
        head: vec![
            "model", "engine", "p50", "p90", "p95", "p99", "p99.9", "slowest", "n", "trials", "faster",
        ],
        rows: measured(report).map(cells).collect(),
    }
}

fn missing(report: &BenchReport) -> Section {
    let cells = |row: &Row| match &row.outcome {
        Outcome::Missing(reason) => Some(vec![name(row), row.title(), reason.clone()]),
        Outcome::Figures(_) => None,
    };
    Section {
        title: "Rows that were not measured",
        note: String::new(),
        head: vec!["model", "engine", "why, and what mends it"],
        rows: report.rows.iter().filter_map(cells).collect(),
    }
}

fn offline(report: &BenchReport) -> Section {
    let cells = |(row, figures): (&Row, &Figures)| {
        let throughput = &figures.throughput;
        vec![
            name(row),
            row.title(),
            format!("{:.0}", throughput.pictures_per_second),
            throughput.batch.to_string(),
            (throughput.count * throughput.batch).to_string(),
            throughput.energy.text(),
        ]
    };
    let why = measured(report).find_map(|(_, figures)| match &figures.throughput.energy {
        Energy::NotMeasured(reason) => Some(format!(" Energy: {reason}.")),
        Energy::JoulesPerPicture(_) => None,
    });
    Section {
        title: "Offline",
        note: format!(
            "Batches as fast as they go, by turns. Energy is the whole processor's, from RAPL's counters where they \
             can be read.{}",
            why.unwrap_or_default()
        ),
        head: vec!["model", "engine", "pictures/s", "batch", "pictures", "energy of a picture"],
        rows: measured(report).map(cells).collect(),
    }
}

fn accuracy(report: &BenchReport) -> Section {
    let cells = |row: &Row| {
        let why = match &row.accuracy {
            Accuracy::NotMeasured { reason } => reason.clone(),
            known => known.share().map(|share| share.pictures.clone()).unwrap_or_default(),
        };
        vec![
            name(row),
            row.title(),
            row.accuracy.text(),
            why,
            row.file.as_ref().map_or("in memory".into(), |file| file.path.clone()),
            row.file.as_ref().map_or("-".into(), |file| file.bytes.to_string()),
            row.file.as_ref().map_or("-".into(), |file| file.sha256.clone()),
        ]
    };
    Section {
        title: "Accuracy of these very files",
        note: "Measured means: now, on the row's own engine and file. Recorded means: by whoever wrote the file, whose \
               hash is the one here."
            .into(),
        head: vec!["model", "engine", "accuracy", "of", "file", "bytes", "SHA-256"],
        rows: report.rows.iter().filter(|row| row.figures().is_some()).map(cells).collect(),
    }
}

fn stages(report: &BenchReport) -> Section {
    let cells = |row: &Row, stages: &Stages| {
        let p50 = |latency: &Latency| time(latency.at(50.0));
        vec![
            name(row),
            row.title(),
            stages.format.clone(),
            p50(&stages.decode),
            p50(&stages.preprocess),
            p50(&stages.inference),
            p50(&stages.together),
            stages.http.as_ref().map_or("-".into(), p50),
            stages.http.as_ref().map_or("-".into(), |http| time(http.at(99.0))),
            stages.http_overhead_us.map_or("-".into(), time),
            stages.together.count.to_string(),
        ]
    };
    let rows = measured(report)
        .flat_map(|(row, figures)| figures.stages.iter().map(move |stages| cells(row, stages)));
    Section {
        title: "Stages of a picture file",
        note: "Medians, all by turns on the same files of the network's size. HTTP: a server of one worker in this \
               process, one connection, one request after the other, bytes of the file to labels. Overhead: HTTP's \
               median less those of decode, preprocess and inference."
            .into(),
        head: vec![
            "model", "engine", "file", "decode", "preprocess", "inference", "together", "HTTP p50", "HTTP p99",
            "HTTP overhead", "n",
        ],
        rows: rows.collect(),
    }
}

fn served(load: &LoadReport) -> Vec<String> {
    vec![load.model.clone(), load.engine.clone()]
}

fn closed(report: &BenchReport) -> Section {
    let mut rows = Vec::new();
    for load in &report.http {
        for closed in &load.closed {
            let limit = load.generator_limit.iter().find(|limit| limit.connections == closed.connections);
            let mut cells = served(load);
            cells.push(closed.connections.to_string());
            cells.push(format!("{:.0}", closed.answers_per_second));
            cells.extend(closed.latency.as_ref().map_or(vec!["-".into(); PERCENTS.len()], percentiles));
            cells.push(closed.codes.text());
            cells.push(limit.map_or("-".into(), |limit| format!("{:.0}", limit.requests_per_second)));
            rows.push(cells);
        }
    }
    let servers: Vec<String> = report
        .http
        .iter()
        .map(|load| {
            let workers = load.workers.map(|workers| format!(", {workers} workers")).unwrap_or_default();
            format!("{} {}{workers}, {} files", load.model, load.server, load.picture)
        })
        .collect();
    Section {
        title: "HTTP, closed loop",
        note: format!(
            "Each connection sends a request once the one before is answered. {}. The generator's limit is what it \
             reaches against a responder that does nothing; it shares the machine with servers in this process.",
            servers.join("; ")
        ),
        head: vec![
            "model",
            "engine",
            "connections",
            "requests/s",
            "p50",
            "p90",
            "p95",
            "p99",
            "p99.9",
            "failed",
            "generator's limit",
        ],
        rows,
    }
}

fn open(report: &BenchReport) -> Section {
    let mut rows = Vec::new();
    for load in &report.http {
        for open in &load.open {
            let mut cells = served(load);
            cells.push(format!("{}", open.rate));
            cells.push(format!("{:.0}", open.answers_per_second));
            cells.push(if open.held { "yes" } else { "NO" }.into());
            cells.extend(open.latency.as_ref().map_or(vec!["-".into(); PERCENTS.len()], percentiles));
            cells.push(open.unsent.to_string());
            cells.push(open.codes.text());
            cells.push(open.generator_late.as_ref().map_or("-".into(), |late| time(late.at(99.0))));
            rows.push(cells);
        }
    }
    Section {
        title: "HTTP, open loop",
        note: format!(
            "Requests come at the stated rate (Poisson, seed {}) whether or not those before are answered. A latency \
             counts from when its request was due, so a stall is charged for all who would have waited; those never \
             sent count with their wait. A rate is held if answers keep 95 % of the arrivals' pace and none fails. \
             Lateness is the generator's own, where a connection was free.",
            report.made_by.seed
        ),
        head: vec![
            "model",
            "engine",
            "rate",
            "requests/s",
            "held",
            "p50",
            "p90",
            "p95",
            "p99",
            "p99.9",
            "unsent",
            "failed",
            "generator late, p99",
        ],
        rows,
    }
}

fn batched(report: &BenchReport) -> Section {
    let mut rows = Vec::new();
    for load in &report.http {
        for batched in &load.batched {
            let [low, high] = batched.ratio_range;
            let mut cells = served(load);
            cells.extend([
                batched.how.clone(),
                format!("{} x {}", batched.connections, batched.pictures),
                format!("{:.0}", batched.pictures_per_second),
                format!("{:.0}", batched.offline_per_second),
                format!("{:.1} % ({:.1} to {:.1})", batched.ratio * 100.0, low * 100.0, high * 100.0),
                batched.failed.to_string(),
            ]);
            rows.push(cells);
        }
    }
    Section {
        title: "HTTP, throughput with batching",
        note: "A server of one worker in this process, several pictures in a request, against the same engine offline \
               in batches as large, by turns; medians of the rounds."
            .into(),
        head: vec![
            "model", "engine", "sent as", "connections x pictures", "pictures/s", "engine offline", "ratio", "failed",
        ],
        rows,
    }
}

fn stability(report: &BenchReport) -> Section {
    let cells = |(row, figures): (&Row, &Figures)| {
        let stability = &figures.latency.stability;
        let trial = |trial: &Trial| {
            let mark = if trial.stable == Some(false) { "!" } else { "" };
            format!("{}{mark}", time(trial.p50_us))
        };
        let trials: Vec<String> = stability.trials.iter().map(trial).collect();
        vec![name(row), row.title(), stability.word().into(), trials.join(", ")]
    };
    Section {
        title: "Stability",
        note: "The single stream in the order it was taken, cut into trials: their medians. Stable means that the last \
               three lie within 10 % of their mean, in median and mean; ! marks a trial that does not agree with the \
               two before it."
            .into(),
        head: vec!["model", "engine", "verdict", "trials"],
        rows: measured(report).map(cells).collect(),
    }
}

fn engines(report: &BenchReport) -> Section {
    let cells = |(row, _): (&Row, &Figures)| {
        let [channels, height, width] = row.input;
        vec![
            name(row),
            row.title(),
            row.runtime.clone().unwrap_or_else(|| "unknown".into()),
            row.threads.clone(),
            format!("{channels}x{height}x{width}"),
            row.params.map_or("-".into(), |params| params.to_string()),
            row.macs.map_or("-".into(), count_of),
        ]
    };
    Section {
        title: "Engines",
        note: "ONNX Runtime runs with its CPU provider and all graph optimizations, its default.".into(),
        head: vec!["model", "engine", "version", "threads", "input", "parameters", "multiply-adds"],
        rows: measured(report).map(cells).collect(),
    }
}

fn conditions(report: &BenchReport) -> Section {
    let made_by = &report.made_by;
    let load = |load: &Load| load.minute.map_or("unknown".into(), |minute| format!("{minute:.2}"));
    let row = |what: &str, value: String| vec![what.to_string(), value];
    Section {
        title: "Machine and command",
        note: String::new(),
        head: vec!["what", "value"],
        rows: vec![
            row("machine", report.machine.text()),
            row("load average before, after", report.load.iter().map(load).collect::<Vec<_>>().join(", ")),
            row("command", made_by.command.join(" ")),
            row("effort", report.effort.name.clone()),
            row("seed", made_by.seed.to_string()),
            row("version", made_by.version.clone()),
            row("commit", made_by.commit.clone().unwrap_or_else(|| "unknown".into())),
            row("started, seconds since 1970", made_by.unix_time.to_string()),
            row(
                "samples",
                "samples/NAME.npy: nanoseconds, u64, in the order taken; numpy.load reads them".into(),
            ),
        ],
    }
}
