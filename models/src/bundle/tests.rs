//! Bundles that are whole, and every way in which one can be broken.

use super::*;
use crate::{Fit, Task, file, formula};
use serde_json::{Value, json};

fn network() -> (Manifest, Weights) {
    let labels = ["cat", "dog", "fox"].map(String::from).to_vec();
    let task = Task { features: Some(4), ..Task::new(3, 1, 8) };
    let manifest = Manifest::new("small-cnn-3", &task, labels, Fit::Stretch).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    (manifest, weights)
}

fn machine() -> Machine {
    Machine { cpu: "any".into(), cores: 2, kernels: "avx2".into(), system: "linux x86_64".into() }
}

/// A bundle whose ONNX file is none: nobody runs it here.
fn raw() -> (RawBundle, Vec<(&'static str, Vec<u8>)>) {
    let (model, weights) = network();
    let contents = vec![
        ("model.safetensors", file::to_bytes(&model, &weights).unwrap()),
        ("model.onnx", b"an onnx file".to_vec()),
        ("MODEL_CARD.md", b"# a card".to_vec()),
    ];
    let roles = [FileRole::Weights, FileRole::Onnx, FileRole::Card];
    let files = contents.iter().zip(roles).map(|((path, bytes), role)| BundleFile::of(*path, role, bytes));
    let answer = |file: &str| Answer::new(file, 1e-4, &[0.5, -1.0, 2.0, 0.0, 1.0, 3.0], 3);
    let raw = RawBundle {
        bundle: FORMAT,
        name: "pets".into(),
        version: "1".into(),
        producer: "distill".into(),
        model,
        files: files.collect(),
        accuracy: vec![Measured {
            file: "model.onnx".into(),
            engine: "onnxruntime".into(),
            data: "pets".into(),
            split: "test".into(),
            count: 10,
            top1: 0.9,
            top5: None,
            agreement: Some(1.0),
        }],
        latency: vec![Latency {
            file: "model.safetensors".into(),
            engine: "native".into(),
            threads: 1,
            batch: 1,
            statistic: Statistic::P50,
            count: 100,
            microseconds: 81.5,
            machine: machine(),
        }],
        refused: vec![Refused { file: "model.int8.onnx".into(), reason: "loses 3 points".into() }],
        probe: Probe {
            kind: Kind::Formula,
            count: 2,
            answers: vec![answer("model.safetensors"), answer("model.onnx")],
        },
    };
    (raw, contents)
}

fn written() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (raw, contents) = raw();
    for (name, bytes) in contents {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let manifest = BundleManifest::try_from(raw).unwrap();
    fs::write(folder.path().join(MANIFEST), manifest.to_json().unwrap()).unwrap();
    folder
}

/// Changes the manifest on the disk.
fn tampered(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = written();
    let path = folder.path().join(MANIFEST);
    let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
    folder
}

#[test]
fn a_whole_bundle_opens_and_checks() {
    let folder = written();
    let bundle = Bundle::open(folder.path()).unwrap();
    bundle.check().unwrap();
    assert_eq!(**bundle.manifest(), raw().0);
    assert_eq!((bundle.name.as_str(), bundle.probe.count), ("pets", 2));
    assert_eq!(bundle.weights().unwrap(), network());
    let onnx = bundle.file(FileRole::Onnx).unwrap();
    assert_eq!(bundle.path(onnx), folder.path().join("model.onnx"));
    assert_eq!(bundle.probe.pictures(&bundle.model.task).len(), 2 * 64);
}

#[test]
fn what_a_later_version_adds_is_read_over() {
    let folder = tampered(|value| {
        value["motto"] = json!("new");
        value["files"][2]["role"] = json!("hologram");
    });
    let bundle = Bundle::open(folder.path()).unwrap();
    assert_eq!(bundle.files[2].role, FileRole::Other);
    bundle.check().unwrap();
}

#[test]
fn every_contradiction_of_the_manifest_is_named() {
    type Slip = fn(&mut Value);
    let slips: [(&str, Slip); 30] = [
        ("key `bundle`: expected format 1, found 2", |v| v["bundle"] = json!(2)),
        ("key `name`: expected 1 to 128", |v| v["name"] = json!("a/b")),
        ("key `version`", |v| v["version"] = json!("")),
        ("key `model`: manifest key `labels`: expected 3 names, found 1", |v| {
            v["model"]["labels"] = json!(["cat"])
        }),
        ("key `model`: manifest key `format`", |v| v["model"]["format"] = json!(9)),
        ("key `files`: expected one file of role `weights`", |v| v["files"] = json!([])),
        ("`files[1].path`: expected it once, found `model.safetensors`", |v| {
            v["files"][1]["path"] = json!("model.safetensors");
        }),
        ("`files[1].role`: expected it once, found `weights`", |v| v["files"][1]["role"] = json!("weights")),
        ("`files[0].sha256`: expected 64 lower-case", |v| v["files"][0]["sha256"] = json!("ABC")),
        ("found `../model.onnx`", |v| v["files"][1]["path"] = json!("../model.onnx")),
        ("found `a/../../b`", |v| v["files"][1]["path"] = json!("a/../../b")),
        ("found `/etc/passwd`", |v| v["files"][1]["path"] = json!("/etc/passwd")),
        ("found `C:\\x`", |v| v["files"][1]["path"] = json!("C:\\x")),
        ("found `a//b`", |v| v["files"][1]["path"] = json!("a//b")),
        ("found ``: it is empty", |v| v["files"][1]["path"] = json!("")),
        ("its own hash", |v| v["files"][2]["path"] = json!("manifest.json")),
        ("`accuracy[0].file`: expected a network among `files`, found `MODEL_CARD.md`", |v| {
            v["accuracy"][0]["file"] = json!("MODEL_CARD.md");
        }),
        ("`accuracy[0].top1`: expected a share of 0..1, found 90", |v| v["accuracy"][0]["top1"] = json!(90)),
        ("`accuracy[0].count`: expected at least 1", |v| v["accuracy"][0]["count"] = json!(0)),
        ("`accuracy[1]`: expected it once, found `model.onnx on pets test`", |v| {
            v["accuracy"] = json!([v["accuracy"][0], v["accuracy"][0]]);
        }),
        ("`latency[0].microseconds`: expected a time above 0", |v| {
            v["latency"][0]["microseconds"] = json!(-1)
        }),
        ("`latency[0].threads`", |v| v["latency"][0]["threads"] = json!(0)),
        ("found number out of range", |v| v["latency"][0]["microseconds"] = json!("1e999")),
        ("`refused[0].file`", |v| v["refused"][0]["file"] = json!("model.onnx")),
        ("`probe.count`: expected 1 to 4096, found 0", |v| v["probe"]["count"] = json!(0)),
        ("`probe.count`", |v| v["probe"]["count"] = json!(1_000_000_000)),
        ("`probe.answers[0].tolerance`", |v| v["probe"]["answers"][0]["tolerance"] = json!(0)),
        ("`probe.answers[0].logits`: expected 2 rows, found 1", |v| {
            v["probe"]["answers"][0]["logits"] = json!([[1, 2, 3]]);
        }),
        ("expected rows of 3, found a row of 2", |v| v["probe"]["answers"][1]["logits"][1] = json!([1, 2])),
        ("`probe.answers`: expected an answer of `model.onnx`", |v| {
            v["probe"]["answers"] = json!([v["probe"]["answers"][0]]);
        }),
    ];
    for (expected, slip) in slips {
        let folder = tampered(slip);
        let path = folder.path().join(MANIFEST);
        if expected.contains("out of range") {
            let text = fs::read_to_string(&path).unwrap().replace("\"1e999\"", "1e999");
            fs::write(&path, text).unwrap();
        }
        let message = Bundle::open(folder.path()).unwrap_err().to_string();
        assert!(
            message.contains(expected) && message.contains("manifest.json"),
            "{message} lacks {expected}"
        );
    }
}

#[test]
fn logits_that_are_not_finite_are_named() {
    let (mut raw, _) = raw();
    raw.probe.answers[1].logits[0][2] = f32::NAN;
    let message = BundleManifest::try_from(raw).unwrap_err().to_string();
    assert!(message.contains("`probe.answers[1].logits`: expected finite values, found NaN"), "{message}");
}

#[test]
fn a_file_that_is_gone_cut_or_changed_is_named() {
    let folder = written();
    let onnx = folder.path().join("model.onnx");
    fs::write(&onnx, b"an onnx fil").unwrap();
    let message = Bundle::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("model.onnx: expected 12 bytes, found 11"), "{message}");
    fs::write(&onnx, b"an ONNX file").unwrap();
    let bundle = Bundle::open(folder.path()).unwrap();
    assert!(matches!(bundle.check().unwrap_err(), BundleError::Hash { path, .. } if path == onnx));
    fs::remove_file(&onnx).unwrap();
    assert!(matches!(bundle.check().unwrap_err(), BundleError::Missing { path } if path == onnx));
    assert!(matches!(Bundle::open(folder.path()).unwrap_err(), BundleError::Missing { .. }));
    fs::create_dir(&onnx).unwrap();
    assert!(matches!(Bundle::open(folder.path()).unwrap_err(), BundleError::NotPlain { .. }));
}

#[cfg(unix)]
#[test]
fn a_link_out_of_the_folder_is_refused_even_to_the_same_bytes() {
    let (folder, outside) = (written(), tempfile::tempdir().unwrap());
    let (onnx, other) = (folder.path().join("model.onnx"), outside.path().join("model.onnx"));
    fs::rename(&onnx, &other).unwrap();
    std::os::unix::fs::symlink(&other, &onnx).unwrap();
    let message = Bundle::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("expected a plain file, found a link"), "{message}");
}

#[test]
fn weights_that_say_something_else_of_themselves_are_named() {
    let folder = tampered(|value| value["model"]["labels"][2] = json!("wolf"));
    let message = Bundle::open(folder.path()).unwrap().check().unwrap_err().to_string();
    assert!(message.contains("model.safetensors") && message.contains("another `labels`"), "{message}");
}

#[test]
fn a_folder_that_is_none_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let message = Bundle::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("--format bundle"), "{message}");
    fs::write(folder.path().join(MANIFEST), "{").unwrap();
    let message = Bundle::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains("expected the manifest of a bundle, found EOF"), "{message}");
}

#[test]
fn any_byte_of_the_manifest_may_flip_and_nothing_panics() {
    let (raw, _) = raw();
    let text = BundleManifest::try_from(raw).unwrap().to_json().unwrap().trim_end().as_bytes().to_vec();
    for place in 0..text.len() {
        for flip in [0x01, 0x10, 0x80] {
            let mut damaged = text.clone();
            damaged[place] ^= flip;
            let _ = BundleManifest::from_json(Path::new(MANIFEST), &damaged); // any answer, but an answer
        }
        let cut = BundleManifest::from_json(Path::new(MANIFEST), &text[..place]);
        assert!(cut.is_err(), "cut at {place}");
    }
}

#[test]
fn answers_are_held_against_the_probe_on_their_own_scale() {
    let answer = Answer::new("a", 0.01, &[100.0, 0.0, 1.0, 2.0], 2);
    assert!(answer.distance(&[100.9, 0.0, 1.0, 2.0]).agrees());
    assert!(!answer.distance(&[101.1, 0.0, 1.0, 2.0]).agrees());
    assert!(!answer.distance(&[100.0, 0.0, 1.0]).agrees());
    assert!(!answer.distance(&[f32::NAN, 0.0, 1.0, 2.0]).agrees());
    assert!(!Answer::new("a", 0.01, &[0.1], 1).distance(&[0.12]).agrees(), "the scale is at least one");
}

#[test]
fn a_name_becomes_one_that_may_stand_in_an_address() {
    assert_eq!(name_of("cifar10.3@250-1"), "cifar10.3@250-1");
    assert_eq!(name_of("my run/ü"), "my-run--");
    assert_eq!(name_of("..."), "model");
}
