//! Bundles: written, verified, served from, and tampered with in every way that has a name.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod found;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data::{Dataset, OpenOptions};
use export::accuracy::Pictures;
use export::bundle::{BundleOptions, BundleReport, CARD, Int8, write};
use export::quantize;
use export::verify::{Check, Outcome, Verification, VerifyOptions, verify};
use export::{ExportError, Format, Options};
use models::bundle::{Bundle, MANIFEST};
use models::file::sha256;
use models::manifest::{Accuracy, Training};
use models::{Fit, Manifest, Task, Weights, formula};
use onnx::{Element, ModelProto};
use serde_json::{Value, json};

/// A run in a folder, as far as an export looks at one.
fn run(folder: &Path) -> PathBuf {
    let run = folder.join("pets.1@20-supervised");
    fs::create_dir(&run).unwrap();
    let (manifest, weights) = network();
    models::save(&run.join("model.safetensors"), &manifest, &weights).unwrap();
    run
}

fn network() -> (Manifest, Weights) {
    let data = dataset();
    let task = Task { features: Some(16), ..Task::new(data.classes.len(), 3, 32) };
    let mut manifest = Manifest::new("small-cnn-3", &task, data.classes, Fit::Stretch).unwrap();
    manifest.training = Some(Training {
        method: "supervised".into(),
        data: data.name,
        labels: 20,
        seed: 1,
        steps: 5,
        recipe: json!({"labels": "20", "val": "auto", "lr": 0.1}),
    });
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    (manifest, weights)
}

fn dataset() -> Dataset {
    data::open("synth:60/40", &OpenOptions { image_size: Some(32), seed: 1, ..OpenOptions::default() })
        .unwrap()
}

fn pictures() -> Pictures {
    Pictures::new(dataset(), &network().0).unwrap()
}

fn options() -> BundleOptions {
    found::library();
    let files = Options { require_parity: true, threads: 1, ..Options::new(Format::Bundle) };
    BundleOptions { latency: Some(Duration::from_millis(1)), files, ..BundleOptions::default() }
}

fn written(folder: &Path, options: &BundleOptions) -> BundleReport {
    write(&run(folder), Some(&pictures()), options).unwrap()
}

fn verified(path: &Path, pictures: Option<&Pictures>) -> Verification {
    let library = found::library().path;
    let options = VerifyOptions { ort_lib: Some(library), require_ort: true, pictures, threads: 1 };
    verify(path, &options).unwrap()
}

fn failures(verification: &Verification) -> Vec<&Check> {
    verification.checks.iter().filter(|check| check.outcome == Outcome::Failed).collect()
}

#[test]
fn a_bundle_is_whole_and_verified_by_every_engine() {
    let folder = tempfile::tempdir().unwrap();
    let forms = vec![Format::Safetensors, Format::Onnx, Format::OnnxFp16, Format::SafetensorsFp16];
    let report = written(folder.path(), &BundleOptions { forms, ..options() });
    let bundle = Bundle::open(&report.folder).unwrap();
    bundle.check().unwrap();
    assert_eq!(bundle.name, "pets.1@20-supervised");
    assert_eq!(bundle.files.len(), 5);
    let verification = verified(&report.folder, Some(&pictures()));
    assert!(verification.passed(), "{:#?}", failures(&verification));
    let count = |name| verification.checks.iter().filter(|check| check.check == name).count();
    assert_eq!((count("hash"), count("metadata"), count("probe"), count("accuracy")), (5, 4, 5, 8));
    assert_eq!(fs::read_dir(report.folder.parent().unwrap()).unwrap().count(), 2, "nothing is left beside");
}

#[test]
fn the_manifest_says_how_well_and_how_fast() {
    let folder = tempfile::tempdir().unwrap();
    let report = written(folder.path(), &options());
    let test: Vec<_> = report.accuracy.iter().filter(|row| row.split == "test").collect();
    let engines: Vec<&str> = test.iter().map(|row| row.engine.as_str()).collect();
    assert_eq!(engines, ["native", "onnxruntime"]);
    assert!(test.iter().all(|row| row.count == 40 && row.top1 == test[0].top1), "{test:?}");
    assert_eq!((test[0].agreement, test[1].agreement), (None, Some(1.0)));
    assert!(report.accuracy.iter().any(|row| row.split == "val"), "the recipe's own validation pictures");
    assert!(report.latency.iter().all(|row| row.microseconds > 0.0 && !row.machine.cpu.is_empty()));
    assert_eq!(report.latency.len(), 4, "two statistics of two files");
    let card = fs::read_to_string(report.folder.join(CARD)).unwrap();
    assert!(card.starts_with("---\nlibrary_name: distill\n"), "{card}");
    for expected in
        ["# pets.1@20-supervised", "| model.onnx | onnxruntime |", "split: test", "seed 1", "curl "]
    {
        assert!(card.contains(expected), "the card lacks {expected}:\n{card}");
    }
}

#[test]
fn a_bundle_takes_the_place_of_a_bundle_and_of_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let source = run(folder.path());
    let out = folder.path().join("out");
    let options = BundleOptions { out: Some(out.clone()), latency: None, ..options() };
    write(&source, None, &options).unwrap();
    let again = BundleOptions { version: "2".into(), ..options.clone() };
    write(&source, None, &again).unwrap();
    assert_eq!(Bundle::open(&out).unwrap().version, "2");
    let photos = folder.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat.jpg"), "a cat").unwrap();
    let error = write(&source, None, &BundleOptions { out: Some(photos.clone()), ..options }).unwrap_err();
    assert!(matches!(error, ExportError::NotABundle { .. }), "{error}");
    assert_eq!(fs::read_dir(&photos).unwrap().count(), 1);
}

#[test]
fn without_pictures_the_run_speaks_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let source = run(folder.path());
    let report = write(&source, None, &BundleOptions { latency: None, ..options() }).unwrap();
    assert!(report.accuracy.is_empty() && report.latency.is_empty());
    let card = fs::read_to_string(report.folder.join(CARD)).unwrap();
    assert!(
        card.contains("No accuracy on test pictures is known") && card.contains("Not measured."),
        "{card}"
    );
    let verification = verified(&report.folder, Some(&pictures()));
    let skipped: Vec<_> =
        verification.checks.iter().filter(|check| check.outcome == Outcome::Skipped).collect();
    assert!(verification.passed() && skipped.iter().all(|check| check.check == "accuracy"), "{skipped:?}");
}

#[test]
fn whom_a_network_learned_from_is_told_by_the_job_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = run(folder.path());
    let teacher = source.join("teacher");
    fs::create_dir(&teacher).unwrap();
    let (mut manifest, weights) = network();
    manifest.accuracies = vec![Accuracy { split: "test".into(), top1: 0.875, top5: None, count: 40 }];
    models::save(&teacher.join("model.safetensors"), &manifest, &weights).unwrap();
    let summary = json!({"teacher": {"arch": "resnet18", "run": "elsewhere/teacher"}});
    fs::write(source.join("summary.json"), summary.to_string()).unwrap();
    let report = write(&source, None, &BundleOptions { latency: None, ..options() }).unwrap();
    let found = Bundle::open(&report.folder).unwrap().model.teacher.clone().unwrap();
    assert_eq!((found.architecture.as_str(), found.name.as_str()), ("resnet18", "teacher"));
    assert_eq!(found.accuracies, manifest.accuracies);
    let card = fs::read_to_string(report.folder.join(CARD)).unwrap();
    assert!(card.contains("Its teacher: `teacher` (resnet18, 87.50 % on 40 test pictures)."), "{card}");
    assert!(verified(&report.folder, None).passed(), "every file says so of itself");
}

#[test]
fn an_onnx_file_alone_and_one_that_takes_pixels_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let files = Options { input: Element::Uint8, ..options().files };
    let report = written(folder.path(), &BundleOptions { files, ..options() });
    assert!(verified(&report.folder, None).passed());
    let elsewhere = folder.path().join("alone.onnx");
    fs::copy(report.folder.join("model.onnx"), &elsewhere).unwrap();
    let alone = verified(&elsewhere, None);
    assert!(alone.passed(), "{alone:#?}");
    assert_eq!(alone.checks.iter().map(|check| check.check).collect::<Vec<_>>(), ["metadata", "probe"]);
    assert!(verified(&report.folder.join("model.safetensors"), None).passed());
}

fn int8(max_drop: f64) -> Option<Int8> {
    let pictures = quantize::Pictures::of(&pictures(), &network().0, [16, 20]).unwrap();
    let tried = quantize::Options {
        calibrations: vec!["minmax".parse().unwrap()],
        granularities: vec![models::Granularity::PerChannel],
        max_drop,
        force: max_drop > 0.0, // on this machine, at this moment, it may be slower
        samples: 3,
        ..quantize::Options::default()
    };
    Some(Int8 { pictures, options: tried })
}

#[test]
fn a_quantized_file_is_in_the_bundle_and_verified_on_both_engines() {
    let folder = tempfile::tempdir().unwrap();
    let report = written(folder.path(), &BundleOptions { int8: int8(100.0), ..options() });
    let rows: Vec<_> = report.accuracy.iter().filter(|row| row.file == "model.int8.onnx").collect();
    let engines: Vec<&str> = rows.iter().map(|row| row.engine.as_str()).collect();
    assert_eq!(engines, ["native", "native", "onnxruntime", "onnxruntime"]);
    assert!(rows.iter().all(|row| row.agreement.is_some()), "{rows:?}");
    let verification = verified(&report.folder, Some(&pictures()));
    assert!(verification.passed(), "{:#?}", failures(&verification));
    let asked = |check: &&Check| check.check == "probe" && check.of.starts_with("model.int8.onnx on ");
    assert_eq!(verification.checks.iter().filter(asked).count(), 2);
    assert!(verified(&report.folder.join("model.int8.onnx"), None).passed(), "also alone");
}

#[test]
fn a_quantized_file_that_the_gate_refuses_leaves_the_bundle_without_it_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let report = written(folder.path(), &BundleOptions { int8: int8(-100.0), ..options() });
    assert_eq!(report.refused[0].file, "model.int8.onnx");
    let bundle = Bundle::open(&report.folder).unwrap();
    assert!(bundle.refused == report.refused && !bundle.folder().join("model.int8.onnx").exists());
    let card = fs::read_to_string(report.folder.join(CARD)).unwrap();
    assert!(card.contains("`model.int8.onnx` is not here: "), "{card}");
    assert!(verified(&report.folder, None).passed());
}

/// What a tamperer may do to a bundle: change a file, and the manifest with it.
struct Tampered {
    folder: PathBuf,
}

impl Tampered {
    fn of(original: &Path, folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(original).unwrap().flatten() {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        Self { folder }
    }

    fn manifest(&self, change: impl FnOnce(&mut Value)) {
        let path = self.folder.join(MANIFEST);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
    }

    /// Writes a file and makes the manifest agree with its size and hash.
    fn covered(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.join(name), bytes).unwrap();
        self.manifest(|value| {
            let file =
                value["files"].as_array_mut().unwrap().iter_mut().find(|file| file["path"] == name).unwrap();
            file["bytes"] = bytes.len().into();
            file["sha256"] = sha256(bytes).into();
        });
    }

    fn onnx(&self, change: impl FnOnce(&mut ModelProto)) {
        let mut model = ModelProto::read(&fs::read(self.folder.join("model.onnx")).unwrap()).unwrap();
        change(&mut model);
        self.covered("model.onnx", &model.bytes());
    }

    fn metadata(&self, key: &str, value: &str) {
        self.onnx(|model| {
            model.metadata_props.iter_mut().find(|entry| entry.key == key).unwrap().value = value.into();
        });
    }
}

#[test]
fn whatever_is_tampered_with_has_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let report = written(folder.path(), &options());
    let (mut manifest, mut weights) = network();
    type Slip<'s> = &'s dyn Fn(&Tampered);
    let flipped = |name: &'static str| {
        move |at: &Tampered| {
            let mut bytes = fs::read(at.folder.join(name)).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(at.folder.join(name), bytes).unwrap();
        }
    };
    let (flipped_weights, flipped_card) = (flipped("model.safetensors"), flipped(CARD));
    weights.get_mut("fc.bias").unwrap().data[3] += 1.0;
    let other_weights = models::file::to_bytes(&manifest, &weights).unwrap();
    manifest.labels[0] = "wolf".into();
    let other_labels = models::file::to_bytes(&manifest, &weights).unwrap();
    let labels = serde_json::to_string(&manifest.labels).unwrap();
    let slips: [(&str, &str, Slip<'_>); 14] = [
        ("manifest", "expected format 1, found 7", &|at| at.manifest(|v| v["bundle"] = json!(7))),
        ("manifest", "`model`: manifest key `labels`", &|at| {
            at.manifest(|v| v["model"]["labels"] = json!([]))
        }),
        ("hash", "model.safetensors: expected sha256", &flipped_weights),
        ("hash", "MODEL_CARD.md: expected sha256", &flipped_card),
        ("hash", "model.onnx: expected the file", &|at| {
            fs::remove_file(at.folder.join("model.onnx")).unwrap()
        }),
        ("hash", "bytes, found 3", &|at| fs::write(at.folder.join("model.onnx"), "cut").unwrap()),
        ("metadata", "not a whole safetensors file", &|at| at.covered("model.safetensors", b"nothing")),
        ("metadata", "found another `labels`", &|at| at.covered("model.safetensors", &other_labels)),
        ("probe", "expected the logits on record", &|at| at.covered("model.safetensors", &other_weights)),
        ("metadata", "not an ONNX model", &|at| at.covered("model.onnx", b"nothing")),
        ("metadata", "`distill.labels`: expected the manifest's", &|at| {
            at.metadata("distill.labels", &labels)
        }),
        ("metadata", "`distill.weights_sha256`: expected the hash", &|at| {
            at.metadata("distill.weights_sha256", "00");
        }),
        ("metadata", "no `distill.input`", &|at| {
            at.onnx(|model| model.metadata_props.retain(|entry| entry.key != "distill.input"));
        }),
        ("probe", "expected the logits on record", &|at| {
            at.onnx(|model| {
                let stored = &mut model.graph.as_mut().unwrap().initializer;
                let bias = stored.iter_mut().find(|stored| stored.name == "fc.bias").unwrap();
                bias.raw_data[..4].copy_from_slice(&5.0_f32.to_le_bytes());
            });
        }),
    ];
    for (index, (check, expected, slip)) in slips.into_iter().enumerate() {
        let tampered = Tampered::of(&report.folder, folder.path().join(format!("tampered-{index}")));
        slip(&tampered);
        let verification = verified(&tampered.folder, None);
        let failed = failures(&verification);
        let named = failed.iter().any(|failed| failed.check == check && failed.detail.contains(expected));
        assert!(named, "expected a failed {check} with {expected}, found {failed:#?}");
    }
}

#[test]
fn an_accuracy_that_was_made_up_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let report = written(folder.path(), &options());
    let tampered = Tampered::of(&report.folder, folder.path().join("tampered"));
    tampered.manifest(|value| {
        for row in value["accuracy"].as_array_mut().unwrap() {
            row["top1"] = json!(1.0);
        }
    });
    assert!(verified(&tampered.folder, None).passed(), "nobody can know without pictures");
    let verification = verified(&tampered.folder, Some(&pictures()));
    let failed = failures(&verification);
    assert!(failed.len() == 4 && failed.iter().all(|check| check.check == "accuracy"), "{failed:#?}");
}

#[test]
fn a_file_of_somebody_else_fails_by_name_and_a_missing_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, b"\x89PNG\r\n").unwrap();
    let verification = verified(&path, None);
    assert!(failures(&verification)[0].detail.contains("not an ONNX model"), "{verification:?}");
    let error = verify(&folder.path().join("none.onnx"), &VerifyOptions::default()).unwrap_err();
    assert!(error.to_string().contains("none.onnx"), "{error}");
    assert!(failures(&verified(folder.path(), None))[0].detail.contains("--format bundle"));
}
