//! The bench end to end, on small networks and few samples: what it reports, not how fast anything is.

#![cfg(feature = "bench")]
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::time::Duration;

use models::{Fit, Manifest, Task, formula};
use serve::bench::{BenchOptions, BenchReport, BenchTask, bench};

fn options(models: &[&str]) -> BenchOptions {
    BenchOptions {
        models: models.iter().map(|name| name.to_string()).collect(),
        task: BenchTask { channels: 1, size: Some(16), features: Some(16), ..BenchTask::default() },
        warm_up: 1,
        samples: 30,
        budget: Duration::from_secs(5),
        batch: 4,
        ..BenchOptions::default()
    }
}

#[test]
fn architectures_and_runs_are_measured_against_a_reference_of_their_input() {
    let folder = tempfile::tempdir().unwrap();
    let labels = (0..3).map(|class| class.to_string()).collect();
    let task = Task { features: Some(8), ..Task::new(3, 3, 20) };
    let manifest = Manifest::new("small-cnn-2", &task, labels, Fit::Stretch).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    models::save(&folder.path().join("model.safetensors"), &manifest, &weights).unwrap();
    let run = folder.path().to_str().unwrap();
    let report =
        bench(&BenchOptions { against: Some("resnet".into()), ..options(&["small-cnn-3", run]) }).unwrap();

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
        let (latency, http) = (row.latency, row.http.unwrap());
        assert_eq!((latency.count, http.count), (30, 30), "{row:?}");
        assert!(0.0 < latency.p50_us && latency.p50_us <= latency.p90_us && latency.p90_us <= latency.p99_us);
        assert!(http.p50_us > latency.p50_us, "HTTP adds to inference: {row:?}");
        assert!(row.throughput.pictures_per_second > 0.0);
    }
    let ratio = small.ratio.as_ref().unwrap();
    let expected = reference.latency.p50_us / small.latency.p50_us;
    assert!((ratio.in_process / expected - 1.0).abs() < 1e-9 && ratio.against == "resnet18");
    assert!(own.ratio.is_some() && reference.ratio.is_none());

    let table = report.to_table();
    for expected in
        ["small-cnn-3*", "resnet18*", "imagenet", "1x16x16", "random weights", "x than resnet18", "(30)"]
    {
        assert!(table.contains(expected), "{table}");
    }
    let json = serde_json::to_string(&report).unwrap();
    let back: BenchReport = serde_json::from_str(&json).unwrap();
    assert_eq!(back.rows.len(), 4);
}

#[test]
fn what_is_no_model_is_named() {
    let message = |models: &[&str]| bench(&options(models)).unwrap_err().to_string();
    assert!(message(&["resnt18"]).contains("did you mean `resnet18`"), "{}", message(&["resnt18"]));
    assert!(message(&["runs/missing"]).contains("no such run or file"));
    assert!(message(&["missing.onnx"]).contains("no such run or file"));
    assert_eq!(message(&[]), "models: expected at least 1, found 0");
}
