//! Whole jobs: train, distil, and what they leave in the run's folder.

use tempfile::tempdir;

use crate::{fail, json, succeed, tiny_run};

#[test]
fn a_run_leaves_its_files() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    let run = folder.path().join("runs/a");
    for file in ["config.toml", "model.safetensors", "metrics.jsonl", "summary.json"] {
        assert!(run.join(file).is_file(), "no {file}");
    }
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    for line in [&last, &json(&run.join("summary.json"))] {
        for key in ["test_accuracy", "pictures_per_second", "seconds", "peak_memory_bytes"] {
            assert!(line[key].is_number(), "no {key} in {line}");
        }
    }
    let message = fail(folder.path(), "train --data synth --steps 1 --out runs/a");
    assert!(message.contains("runs/a") && message.contains("--resume"), "{message}");
}

#[test]
fn a_config_file_equals_the_flags() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "flags");
    succeed(folder.path(), "train --config runs/flags/config.toml --out runs/file");
    let model =
        |name: &str| std::fs::read(folder.path().join("runs").join(name).join("model.safetensors")).unwrap();
    assert_eq!(model("flags"), model("file"));
    std::fs::write(folder.path().join("bad.toml"), "lables = 4\n").unwrap();
    let message = fail(folder.path(), "train --config bad.toml");
    assert!(message.contains("lables") && message.contains("bad.toml"), "{message}");
}

#[test]
fn distillation_leaves_teacher_student_and_baseline() {
    let folder = tempdir().unwrap();
    let flags = "--data synth --labels 40 --steps 3 --batch-size 8 --threads 2 --out runs/d";
    let table = succeed(folder.path(), &format!("--teacher small-cnn-3 --student small-cnn-2 {flags}"));
    assert!(table.contains("teacher") && table.contains("student") && table.contains("baseline"), "{table}");
    assert!(table.contains("distill export runs/d") && table.contains("distill serve runs/d"), "{table}");
    let summary = json(&folder.path().join("runs/d/summary.json"));
    for part in ["teacher", "student", "baseline"] {
        for key in ["params", "macs", "train_accuracy", "val_accuracy", "test_accuracy", "latency_us"] {
            assert!(summary[part][key].is_number(), "no {part}.{key} in {summary}");
        }
        assert!(summary[part]["arch"].is_string());
    }
    for run in ["teacher", "baseline", "."] {
        assert!(
            folder.path().join("runs/d").join(run).join("model.safetensors").is_file(),
            "no model of {run}"
        );
    }
    let page = std::fs::read_to_string(folder.path().join("runs/d/report.html")).unwrap();
    assert!(page.contains("labels alone") && page.contains("small-cnn-3"), "{page}");
    let flags = "--data synth --labels 40 --steps 2 --batch-size 8 --no-baseline --out runs/again";
    succeed(folder.path(), &format!("distill --teacher runs/d/teacher --student small-cnn-2 {flags}"));
    assert!(
        !folder.path().join("runs/again/teacher/model.safetensors").exists(),
        "a finished teacher was trained again"
    );
}

#[test]
fn semi_supervised_methods_run_from_the_command_line() {
    let folder = tempdir().unwrap();
    for method in ["fixmatch", "mean-teacher", "comatch"] {
        let flags = "--data synth --labels 20 --steps 2 --batch-size 4 --threads 2";
        succeed(
            folder.path(),
            &format!("train --arch small-cnn-2 --method {method} {flags} --out runs/{method}"),
        );
        assert!(folder.path().join("runs").join(method).join("model.safetensors").is_file());
    }
}
