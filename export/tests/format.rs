//! `docs/format.md` against the code: every key that is written is in the document, and the other way round.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::collections::BTreeSet;
use std::path::Path;

use export::Format;
use export::bundle::{BundleOptions, write};
use models::manifest::{Accuracy, Teacher, Training};
use models::{Fit, Manifest, Task, formula};
use serde_json::{Value, json};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md");
    std::fs::read_to_string(path).unwrap()
}

/// Names in backticks in the first column of the table below a heading.
fn keys(heading: &str) -> BTreeSet<String> {
    let document = document();
    let section = document.split(&format!("\n{heading}\n")).nth(1).unwrap();
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let first = rows.map(|row| row.split('|').nth(1).unwrap());
    first.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(String::from).collect()
}

fn names(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// A manifest in which everything that may be there is.
fn full_manifest() -> Value {
    let folder = tempfile::tempdir().unwrap();
    let labels = ["cat", "dog"].map(String::from).to_vec();
    let task = Task { features: Some(8), ..Task::new(2, 3, 16) };
    let mut manifest = Manifest::new("small-cnn-3", &task, labels, Fit::Stretch).unwrap();
    let accuracies = vec![Accuracy { split: "test".into(), top1: 0.5, top5: Some(1.0), count: 10 }];
    manifest.training = Some(Training {
        method: "supervised".into(),
        data: "pets".into(),
        labels: 10,
        seed: 1,
        steps: 2,
        recipe: json!({}),
    });
    manifest.accuracies = accuracies.clone();
    manifest.teacher = Some(Teacher { architecture: "resnet18".into(), name: "big".into(), accuracies });
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    models::save(&folder.path().join("model.safetensors"), &manifest, &weights).unwrap();
    let options = BundleOptions {
        forms: vec![Format::Safetensors],
        latency: Some(std::time::Duration::from_millis(1)),
        ..BundleOptions::default()
    };
    let folder = write(folder.path(), None, &options).unwrap().folder;
    let mut value: Value =
        serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
    value["refused"] = json!([{"file": "model.int8.onnx", "reason": "slower"}]);
    value["accuracy"][0]["agreement"] = json!(1.0);
    value
}

#[test]
fn every_key_of_the_manifest_is_in_the_document() {
    let manifest = full_manifest();
    for (heading, value) in [
        ("## manifest.json", &manifest),
        ("### model", &manifest["model"]),
        ("### files", &manifest["files"][0]),
        ("### accuracy", &manifest["accuracy"][0]),
        ("### latency", &manifest["latency"][0]),
        ("### probe", &manifest["probe"]),
    ] {
        assert_eq!(keys(heading), names(value), "{heading}");
    }
    let document = document();
    for inner in [
        &manifest["model"]["task"],
        &manifest["model"]["input"],
        &manifest["model"]["training"],
        &manifest["model"]["teacher"],
        &manifest["latency"][0]["machine"],
        &manifest["probe"]["answers"][0],
        &manifest["refused"][0],
    ] {
        for key in names(inner) {
            assert!(document.contains(&format!("`{key}`")), "the document lacks `{key}`");
        }
    }
}

#[test]
fn every_key_of_an_onnx_file_is_in_the_document() {
    let written: BTreeSet<String> = onnx::contract::KEYS.map(String::from).into();
    let listed: BTreeSet<String> =
        keys("## ONNX").into_iter().filter(|key| key.starts_with("distill.")).collect();
    assert_eq!(listed, written);
    let input = serde_json::to_value(onnx::Input::new(3, 8, 8, "crop")).unwrap();
    for key in names(&input) {
        assert!(document().contains(&format!("`{key}`")), "the document lacks `{key}`");
    }
}

#[test]
fn versions_and_limits_are_those_of_the_code() {
    let document = document();
    assert!(document.contains(&format!("Version {}.", models::bundle::FORMAT)));
    assert!(document.contains(&format!("`{}`", onnx::contract::FORMAT)));
    let share = export::verify::ACCURACY_SHARE * 100.0;
    assert!(document.contains(&format!("{share} % of them")), "{share}");
}

/// The formula of the document, worked with nothing but what it says.
#[test]
fn the_probes_pictures_are_those_of_the_document() {
    fn h(name: &str) -> u64 {
        name.bytes().fold(0xcbf29ce484222325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100000001b3))
    }
    fn u(seed: u64, n: u64) -> f64 {
        let mut z = seed.wrapping_add((n + 1).wrapping_mul(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 24)
    }
    let (i, row, column, channel) = (3_u64, 17_u64, 9_u64, 2_u64);
    let p = 64 * i + channel;
    let byte = (128.0 * u(h("base"), p)).floor()
        + (64.0 * u(h("tile"), (1024 * p + row / 8) * 1024 + column / 8)).floor()
        + ((row * (i + 1) + column * (channel + 2)) % 64) as f64;
    let picture = formula::picture(3, 3, 20, 12);
    assert_eq!(f64::from(picture[(17 * 12 + 9) * 3 + 2]), byte % 256.0);
}
