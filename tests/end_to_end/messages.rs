//! What the program says to a slip: the culprit, what was expected, the nearest name, and exit code 2.

use tempfile::tempdir;

use crate::{fail, run, succeed, text};

#[test]
fn without_arguments_it_helps_and_exits_with_2() {
    let folder = tempdir().unwrap();
    let output = run(folder.path(), "");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("distill --teacher effnet --student mobilenet"), "{}", text(&output));
}

#[test]
fn unknown_names_suggest_the_nearest() {
    let folder = tempdir().unwrap();
    for (arguments, suggestion) in [
        ("trian", "train"),
        ("train --arch resnet81", "resnet18"),
        ("train --method fixmach", "fixmatch"),
        ("train --data sinth", "synth"),
        ("train --set label-smoothin=0.1 --data synth", "did you mean `label-smoothing`?"),
        ("train --lables 4", "--labels"),
        ("--teacher efnet --student mobilenet", "effnet"),
        ("--teacher effnet --student mobilnet", "mobilenet"),
        ("models mobilenet-v3-larg", "mobilenet-v3-large"),
    ] {
        let message = fail(folder.path(), arguments);
        assert!(message.contains(suggestion), "distill {arguments}: {message}");
    }
}

#[test]
fn wrong_values_name_the_flag_and_what_is_expected() {
    let folder = tempdir().unwrap();
    for (arguments, expected) in [
        ("train --labels many --data synth", "labels"),
        ("train --labels 100000 --data synth --steps 1", "label"),
        ("train --device tpu --data synth --steps 1", "cpu"),
        ("train --device cuda:63 --data synth --steps 1", "cuda:63"),
        ("train --data /nowhere/at/all", "/nowhere/at/all"),
        ("train --config missing.toml", "missing.toml"),
        ("train --stem tiny --data synth", "imagenet"),
        ("--teacher effnet", "--student"),
        ("predict runs/none picture.png", "runs/none"),
        ("export runs/none", "runs/none"),
        ("serve runs/none", "runs/none"),
        ("bench runs/none", "runs/none"),
    ] {
        let message = fail(folder.path(), arguments);
        assert!(
            message.starts_with("error: ") && message.contains(expected),
            "distill {arguments}: {message}"
        );
    }
}

#[test]
fn every_long_option_is_in_the_help() {
    let folder = tempdir().unwrap();
    let train = succeed(folder.path(), "train --help");
    for flag in [
        "--arch",
        "--method",
        "--data",
        "--labels",
        "--val",
        "--image-size",
        "--epochs",
        "--steps",
        "--batch-size",
        "--lr",
        "--seed",
        "--threads",
        "--device",
        "--out",
        "--resume",
        "--budget",
        "--config",
        "--init",
        "--stem",
        "--clip-norm",
        "--accumulate",
        "--set",
    ] {
        assert!(train.contains(flag), "train --help lacks {flag}");
    }
    let distill = succeed(folder.path(), "distill --help");
    for flag in ["--teacher", "--student", "--baseline", "--temperature", "--method", "--budget"] {
        assert!(distill.contains(flag), "distill --help lacks {flag}");
    }
}

#[test]
fn lists_come_from_the_registries() {
    let folder = tempdir().unwrap();
    let models = succeed(folder.path(), "models");
    assert!(models.contains("efficientnet-b7") && models.contains("wrn-D-K"), "{models}");
    let cost = succeed(folder.path(), "models resnet18 --classes 1000 --image-size 224 --cost");
    assert!(cost.contains("11,689,512"), "{cost}");
    let methods = succeed(folder.path(), "methods");
    for method in ["supervised", "fixmatch", "mean-teacher", "comatch", "kl"] {
        assert!(methods.contains(method), "{methods}");
    }
    assert!(succeed(folder.path(), "methods fixmatch").contains("0.95"));
    assert!(succeed(folder.path(), "doctor").contains("ONNX Runtime"));
    assert!(succeed(folder.path(), "completions bash").contains("distill"));
}
