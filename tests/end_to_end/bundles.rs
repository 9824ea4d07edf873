//! Deployment as a user meets it: a bundle written, verified, served, tampered with, packaged; files that go elsewhere.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::answers::{Server, png};
use crate::{fail, run, succeed, text, tiny_run};

fn parsed(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

/// The JSON of a whole answer, head and body.
fn answered(answer: &str) -> Value {
    parsed(answer.split_once("\r\n\r\n").unwrap().1)
}

/// Exports with a short look at the clock.
fn bundle(folder: &Path) -> String {
    succeed(folder, "export runs/a --format bundle --latency-seconds 0.05 --require-parity")
}

fn labels_of(answer: &Value) -> Vec<String> {
    let mut labels: Vec<String> =
        answer["predictions"][0]["top"].as_array().unwrap().iter().map(|c| c["label"].to_string()).collect();
    labels.sort();
    labels
}

#[test]
fn a_bundle_is_written_verified_and_served() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    let printed = bundle(folder.path());
    assert!(printed.contains("model.onnx") && printed.contains("distill verify runs/a/bundle"), "{printed}");
    let checks = succeed(folder.path(), "verify runs/a/bundle --require-ort --data synth");
    assert!(
        checks.contains("probe") && checks.contains("accuracy") && !checks.contains("FAILED"),
        "{checks}"
    );
    let server = Server::start(folder.path(), "runs/a/bundle");
    let (status, body) = server.send("POST", "/v1/classify?top=10", "image/png", &png());
    assert_eq!(status, 200, "{body}");
    assert_eq!(labels_of(&answered(&body)).len(), 10);
}

#[test]
fn a_bundle_that_was_changed_fails_with_exit_code_1_and_a_line_that_names_it() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    bundle(folder.path());
    let card = folder.path().join("runs/a/bundle/MODEL_CARD.md");
    fs::write(&card, fs::read_to_string(&card).unwrap().replace("seed 0", "seed 1")).unwrap();
    let output = run(folder.path(), "verify runs/a/bundle");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("FAILED   hash      MODEL_CARD.md"), "{}", text(&output));
    let report = run(folder.path(), "verify runs/a/bundle --json");
    let report = parsed(&String::from_utf8(report.stdout).unwrap());
    let failed = |check: &&Value| check["outcome"] == "failed";
    assert_eq!(report["checks"].as_array().unwrap().iter().filter(failed).count(), 1, "{report}");
}

/// The file and nothing else: labels, input and fit come from its own metadata.
#[test]
fn an_onnx_file_alone_answers_with_labels_wherever_it_is_copied_to() {
    let folder = tempdir().unwrap();
    let elsewhere = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    succeed(folder.path(), "export runs/a --format onnx,onnx-fp16 --require-parity");
    succeed(folder.path(), "export runs/a --input u8-nhwc --out pixels.onnx --require-parity");
    for (index, file) in ["runs/a/model.onnx", "runs/a/model.fp16.onnx", "pixels.onnx"].iter().enumerate() {
        fs::copy(folder.path().join(file), elsewhere.path().join(format!("{index}.onnx"))).unwrap();
    }
    drop(folder);
    let mut answers = Vec::new();
    for index in 0..3 {
        succeed(elsewhere.path(), &format!("verify {index}.onnx --require-ort"));
        let server = Server::start(elsewhere.path(), &format!("{index}.onnx"));
        let (status, body) = server.send("POST", "/v1/classify?top=10", "image/png", &png());
        assert_eq!(status, 200, "{body}");
        answers.push(answered(&body));
    }
    let first = |answer: &Value| answer["predictions"][0]["top"][0]["probability"].as_f64().unwrap();
    assert!(labels_of(&answers[0]).contains(&"\"heart\"".to_string()), "{}", answers[0]);
    assert!((first(&answers[0]) - first(&answers[2])).abs() < 1e-5, "{answers:?}");
    assert!((first(&answers[0]) - first(&answers[1])).abs() < 1e-2, "{answers:?}");
}

#[test]
fn several_formats_are_written_at_once_and_what_does_not_fit_is_said() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    let printed =
        succeed(folder.path(), "export runs/a --format safetensors-fp16,bundle --out all --data none --json");
    let report = parsed(&printed);
    assert!(report["bundle"]["files"].as_array().unwrap().len() >= 3, "{report}");
    assert!(folder.path().join("all/model.fp16.safetensors").exists());
    assert!(folder.path().join("all/bundle/manifest.json").exists());
    succeed(folder.path(), "verify all/model.fp16.safetensors");
    for (arguments, expected) in [
        ("export runs/a --format bundel", "did you mean `bundle`?"),
        ("export runs/a --input u8-nchw", "did you mean `u8-nhwc`?"),
        ("export runs/a --format safetensors --layout triton", "expected an ONNX format, found safetensors"),
        ("export runs/a --layout tritno", "expected --layout triton"),
        ("export runs/a --format bundle --model-name a/b --data none", "key `name`"),
        ("export runs/a --format bundle --out runs", "another place with --out"),
        ("export runs/a --format bundle --data nowhere", "nowhere"),
        ("verify none.onnx", "none.onnx"),
        ("package runs/a", "--format bundle"),
        ("package all/bundle --binary none", "cargo build --profile slim -p distill-serve"),
    ] {
        let message = fail(folder.path(), arguments);
        assert!(message.contains(expected), "{arguments}: {message}");
    }
}

#[test]
fn a_package_and_a_model_repository_are_whole_folders() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    succeed(folder.path(), "export runs/a --format bundle --data none --latency-seconds 0 --model-name pets");
    let mut program = b"\x7fELF\x02\x01".to_vec();
    program.resize(4096, 0);
    fs::write(folder.path().join("server"), program).unwrap();
    let printed = succeed(folder.path(), "package runs/a/bundle --binary server --out package");
    assert!(printed.contains("statically linked"), "{printed}");
    succeed(folder.path(), "verify package/model");
    for file in ["distill-serve", "distill-pets.service", "Containerfile", "README.md", "model/manifest.json"]
    {
        assert!(folder.path().join("package").join(file).is_file(), "{file}");
    }
    succeed(
        folder.path(),
        "export runs/a --layout triton --out repository --model-name pets --model-version 2",
    );
    let quick = "--format onnx-int8 --calibrate procedural --calibration-pictures 8 --held-out 8 --force";
    succeed(
        folder.path(),
        &format!("export runs/a {quick} --layout triton --out repository --model-name bytes"),
    );
    for file in ["pets/2/model.onnx", "bytes/1/model.onnx", "bytes/config.pbtxt", "bytes/labels.txt"] {
        assert!(folder.path().join("repository").join(file).is_file(), "{file}");
    }
    let of_bytes = "eval repository/bytes/1/model.onnx --data synth:60/40 --engine native";
    assert!(succeed(folder.path(), of_bytes).contains("accuracy"));
}
