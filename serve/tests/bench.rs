//! The bench end to end, on small networks and few samples: what it reports, not how fast anything is.

#![cfg(feature = "bench")]
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::path::{Path, PathBuf};
use std::time::Duration;

use export::Format;
use models::manifest::Accuracy as Said;
use models::{Fit, Manifest, Task, formula};
use serve::bench::{
    Accuracy, Alone, BenchOptions, BenchReport, BenchTask, Effort, Host, HttpOptions, Row, SCHEMA, Share,
    Span, VARIANTS, Variant, bench,
};
use serve::{Card, Engine, LoadOptions, Options, Served};

fn options(models: &[&str]) -> BenchOptions {
    let span = |samples| Span { samples, time: Duration::ZERO, patience: Duration::from_secs(5) };
    BenchOptions {
        models: models.iter().map(|name| name.to_string()).collect(),
        rows: vec![Variant::NativeF32],
        task: BenchTask { channels: 1, size: Some(16), features: Some(16), ..BenchTask::default() },
        effort: Effort {
            warm_up: 1,
            single: span(70),
            offline: span(16),
            stage: span(5),
            load: Duration::from_millis(100),
            ..Effort::quick()
        },
        batch: 4,
        http: None,
        ..BenchOptions::default()
    }
}

fn over_http(models: &[&str]) -> BenchOptions {
    let http =
        HttpOptions { connections: vec![1, 2], rates: vec![50.0], pictures: 4, ..HttpOptions::default() };
    BenchOptions { http: Some(http), ..options(models) }
}

/// A run's folder with a network of three classes on pictures of 20 x 20.
struct Run {
    folder: tempfile::TempDir,
}

impl Run {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let labels = (0..3).map(|class| class.to_string()).collect();
        let task = Task { features: Some(8), ..Task::new(3, 3, 20) };
        let mut manifest = Manifest::new("small-cnn-2", &task, labels, Fit::Stretch).unwrap();
        manifest.accuracies = vec![Said { split: "test".into(), top1: 0.75, top5: None, count: 40 }];
        let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
        models::save(&folder.path().join("model.safetensors"), &manifest, &weights).unwrap();
        Self { folder }
    }

    fn name(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same with its ONNX file beside.
    fn exported() -> Self {
        let run = Self::new();
        onnx::runtime::find(None).unwrap_or_else(|missing| {
            panic!("this test needs ONNX Runtime; `cargo xtask test` brings it. {missing}")
        });
        export::export(run.folder.path(), &export::Options::new(Format::Onnx)).unwrap();
        run
    }
}

fn row<'r>(report: &'r BenchReport, title: &str) -> &'r Row {
    report.rows.iter().find(|row| row.title() == title).unwrap_or_else(|| panic!("no {title}: {report:?}"))
}

#[test]
fn architectures_and_runs_are_measured_against_a_reference_of_their_input() {
    let run = Run::new();
    let options = BenchOptions { against: Some("resnet".into()), ..over_http(&["small-cnn-3", run.name()]) };
    let report = bench(&options, &mut Alone).unwrap();

    let [small, own, reference, other_reference] = report.rows.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (small.input, small.random_weights, small.arch.as_deref()),
        ([1, 16, 16], true, Some("small-cnn-3"))
    );
    assert_eq!((own.input, own.random_weights, own.classes), ([3, 20, 20], false, 3));
    assert_eq!((reference.model.as_str(), reference.input), ("resnet18", [1, 16, 16]));
    assert_eq!((other_reference.input, other_reference.classes), ([3, 20, 20], 3));
    assert!(small.macs.unwrap() < reference.macs.unwrap());
    for row in &report.rows {
        let figures = row.figures().unwrap();
        let latency = &figures.latency;
        assert_eq!(latency.count, 70, "{row:?}");
        assert!(
            0.0 < latency.min_us
                && latency.at(50.0) <= latency.at(90.0)
                && latency.at(99.9) <= latency.max_us
        );
        let [p90, p99] = [90.0, 99.0].map(|percent| latency.percentile(percent).unwrap().bound_us);
        assert_eq!(
            (p90, p99),
            (Some(latency.max_us), None),
            "70 calls bound p90 by the slowest, p99 by nothing"
        );
        assert_eq!(figures.throughput.count, 4, "16 pictures in batches of 4");
        assert!(figures.throughput.pictures_per_second > 0.0);
        let formats: Vec<&str> = figures.stages.iter().map(|stages| stages.format.as_str()).collect();
        assert_eq!(formats, ["png", "jpeg"]);
        for stages in &figures.stages {
            let http = stages.http.as_ref().unwrap();
            assert_eq!((stages.decode.count, stages.together.count, http.count), (5, 5, 5));
            let parts = [&stages.decode, &stages.preprocess, &stages.inference].map(|stage| stage.at(50.0));
            let overhead = http.at(50.0) - parts.iter().sum::<f64>();
            assert!((stages.http_overhead_us.unwrap() - overhead).abs() < 1e-6);
        }
    }
    let ratio = small.figures().unwrap().ratio.as_ref().unwrap();
    let p50 = |row: &Row| row.figures().unwrap().latency.at(50.0);
    assert!((ratio.in_process / (p50(reference) / p50(small)) - 1.0).abs() < 1e-9);
    assert!(ratio.http.is_some() && ratio.against == "resnet18");
    assert!(own.figures().unwrap().ratio.is_some() && reference.figures().unwrap().ratio.is_none());
    assert!(matches!(&small.accuracy, Accuracy::NotMeasured { reason } if reason.contains("random")));
    assert!(matches!(&own.accuracy, Accuracy::Recorded(Share { top1: 0.75, count: 40, .. })));
    let bytes = std::fs::read(run.file("model.safetensors")).unwrap();
    assert_eq!(own.file.as_ref().unwrap().sha256, models::file::sha256(&bytes));
}

#[test]
fn servers_are_put_under_load_closed_open_and_batched() {
    let report = bench(&over_http(&["small-cnn-3"]), &mut Alone).unwrap();
    let [load] = report.http.as_slice() else { panic!("{report:?}") };
    let connections: Vec<usize> = load.closed.iter().map(|closed| closed.connections).collect();
    assert_eq!((connections, load.generator_limit.len()), (vec![1, 2], 2));
    for closed in &load.closed {
        assert!(closed.codes.answered() > 0 && closed.codes.failed() == 0, "{closed:?}");
        assert_eq!(closed.latency.as_ref().unwrap().count, closed.codes.answered());
    }
    let [open] = load.open.as_slice() else { panic!("{load:?}") };
    assert_eq!((open.rate, open.codes.answered() + open.codes.failed() + open.unsent), (50.0, open.arrivals));
    let forms = load.batched.iter().find(|batched| batched.how == "forms of png files").unwrap();
    assert!(forms.pictures == 4 && forms.failed == 0 && forms.ratio > 0.0, "{forms:?}");
    for name in ["row-0-single-stream", "row-0-png-http", "row-0-closed-2", "row-0-open-50"] {
        assert!(report.samples.iter().any(|series| series.name == name), "no samples {name}");
    }
}

#[test]
fn a_server_that_runs_already_is_measured_by_its_url() {
    let run = Run::new();
    let served = Served::open(run.folder.path(), &LoadOptions::default()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = Options::default();
    let bound = serve::http::bind(served, &server, "127.0.0.1:0".parse().unwrap());
    let bound = runtime.block_on(bound).unwrap();
    let url = format!("http://{}", bound.info().address);
    runtime.spawn(bound.run(std::future::pending()));
    let watching = over_http(&[]);
    let http = HttpOptions { url: Some(url.parse().unwrap()), ..watching.http.unwrap() };
    let report = bench(&BenchOptions { http: Some(http), ..options(&[]) }, &mut Alone).unwrap();
    assert!(report.rows.is_empty());
    assert_eq!((report.http[0].server.as_str(), report.http[0].engine.as_str()), (url.as_str(), "native"));
    assert!(report.http[0].closed[0].codes.answered() > 0 && report.http[0].batched.is_empty());
    assert!(report.to_table().contains(&url), "{}", report.to_table());
}

#[test]
fn every_variant_has_a_row_and_those_that_cannot_run_say_what_mends_it() {
    let run = Run::exported();
    let all = VARIANTS.iter().map(|entry| entry.variant).collect();
    let report = bench(&BenchOptions { rows: all, ..options(&[run.name()]) }, &mut Alone).unwrap();
    assert_eq!(report.rows.len(), VARIANTS.len());
    for title in ["native f32", "native bf16", "ort f32"] {
        assert!(row(&report, title).figures().is_some(), "{title}");
    }
    let exported = std::fs::read(run.file("model.onnx")).unwrap();
    let ort = row(&report, "ort f32");
    assert_eq!(ort.file.as_ref().unwrap().sha256, models::file::sha256(&exported));
    assert!(ort.runtime.as_ref().unwrap().contains("ONNX Runtime"), "{ort:?}");
    assert!(matches!(&ort.accuracy, Accuracy::NotMeasured { reason } if reason.contains("--data")));

    let missing = |title: &str| match &row(&report, title).outcome {
        serve::bench::Outcome::Missing(reason) => reason.clone(),
        measured => panic!("{title}: {measured:?}"),
    };
    assert!(missing("ort int8").contains("model.int8.onnx; `distill export"), "{}", missing("ort int8"));
    assert_eq!(row(&report, "ort int8").input, [3, 20, 20], "of the same network as the others");
    let texts = [report.to_table(), report.to_markdown(), report.to_html()];
    assert!(texts.iter().all(|text| text.contains("model.int8.onnx")), "{texts:?}");
    #[cfg(not(feature = "candle-onnx"))]
    assert!(missing("candle-onnx f32").contains("--features candle-onnx"));
}

#[test]
fn networks_that_were_never_files_have_rows_for_other_engines_too() {
    let rows = vec![Variant::NativeF32, Variant::OrtF32];
    let report = bench(&BenchOptions { rows, ..options(&["small-cnn-2"]) }, &mut Alone).unwrap();
    assert!(row(&report, "native f32").figures().is_some());
    assert!(report.to_table().contains("does not export"), "{}", report.to_table());
}

/// A host that writes files and judges as a data set of four pictures would.
struct Judge {
    folder: tempfile::TempDir,
    phases: Vec<String>,
}

impl Host for Judge {
    fn phase(&mut self, what: &str) {
        self.phases.push(what.into());
    }

    fn accuracy(&mut self, card: &Card, _: u64, engine: &mut dyn Engine) -> Option<Result<Share, String>> {
        let pictures = vec![7; 4 * card.channels * card.height * card.width];
        let count = engine.run(&pictures).unwrap().len() / card.labels.len();
        Some(Ok(Share { top1: 0.5, count, pictures: "test part of four".into() }))
    }

    fn write_files(&mut self, manifest: &Manifest, weights: &models::Weights) -> Result<PathBuf, String> {
        models::save(&self.folder.path().join("model.safetensors"), manifest, weights).unwrap();
        Ok(self.folder.path().into())
    }
}

#[test]
fn the_host_judges_rows_and_writes_files() {
    let mut judge = Judge { folder: tempfile::tempdir().unwrap(), phases: Vec::new() };
    let run = Run::new();
    let report = bench(&options(&[run.name(), "small-cnn-2"]), &mut judge).unwrap();
    let [own, random] = report.rows.as_slice() else { panic!("{report:?}") };
    assert_eq!(own.accuracy.text(), "50.00 % (n 4, measured)");
    assert!(random.file.is_some() && random.accuracy.share().is_none());
    assert!(judge.phases.iter().any(|phase| phase == "single stream"), "{:?}", judge.phases);
}

#[test]
fn a_report_is_a_page_markdown_json_and_every_sample() {
    let run = Run::new();
    let report = bench(&over_http(&[run.name()]), &mut Alone).unwrap();
    let folder = tempfile::tempdir().unwrap();
    report.write(&folder.path().join("new/report")).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join("new/report").join(name)).unwrap();

    let page = read("report.html");
    for expected in [
        "<svg",
        "Single stream",
        "Offline",
        "Stages of a picture file",
        "HTTP, open loop",
        "SHA-256",
        "not measured: ",
        "governor",
        "prefers-color-scheme",
    ] {
        assert!(page.contains(expected), "no {expected} in the page");
    }
    for foreign in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(foreign), "the page asks for something else by {foreign}");
    }
    assert_eq!(page.matches("<svg").count(), 2, "accuracy over latency, and the distributions");

    let markdown = read("report.md");
    assert!(
        markdown.contains("| model | engine | p50 |") && markdown.contains("75.00 % (n 40, recorded)"),
        "{markdown}"
    );

    let back: BenchReport = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!((back.schema.as_str(), back.rows.len()), (SCHEMA, 1));
    assert_eq!(back.rows[0].figures().unwrap().latency, report.rows[0].figures().unwrap().latency);

    let samples = std::fs::read(folder.path().join("new/report/samples/row-0-single-stream.npy")).unwrap();
    assert_eq!(samples.len() % 64, 70 * 8 % 64, "a header of whole 64 bytes, then 70 samples of 8");
}

#[test]
fn what_is_no_model_is_named() {
    let message = |models: &[&str]| bench(&options(models), &mut Alone).unwrap_err().to_string();
    assert!(message(&["resnt18"]).contains("did you mean `resnet18`"), "{}", message(&["resnt18"]));
    assert!(message(&["runs/missing"]).contains("no such run or file"));
    assert!(message(&["missing.onnx"]).contains("no such run or file"));
    assert_eq!(message(&[]), "models: expected at least 1, found 0");
    let empty = tempfile::tempdir().unwrap();
    let text = message(&[empty.path().to_str().unwrap()]);
    assert!(text.contains("model.safetensors"), "{text}");
    assert!(!Path::new("missing.onnx").exists());
}
