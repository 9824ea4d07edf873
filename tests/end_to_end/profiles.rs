//! Where time and memory go, as the commands tell it.

use serde_json::Value;
use tempfile::tempdir;

use crate::{fail, json, succeed, tiny_run};

/// Nodes of the first network of a profile, after a look at its limits.
fn nodes(profile: &Value) -> &Vec<Value> {
    assert!(profile["limits"]["flops_per_second"].as_f64().unwrap() > 0.0, "{profile}");
    profile["networks"][0]["nodes"].as_array().unwrap()
}

#[test]
fn a_training_tells_where_its_time_went() {
    let folder = tempdir().unwrap();
    let flags = "--data synth --labels 40 --steps 5 --batch-size 8 --threads 1 --out runs/a";
    let command = format!("train --arch small-cnn-2 {flags} --profile=profile.json");
    let printed = succeed(folder.path(), &command);
    for part in ["part of a step", "waiting for data", "backward ms", "of limit", "GFLOP/s; reads"] {
        assert!(printed.contains(part), "no {part} in {printed}");
    }
    let profile = json(&folder.path().join("profile.json"));
    assert_eq!(profile["networks"][0]["turns"], 4, "the first step warms up");
    let conv = nodes(&profile).iter().find(|node| node["name"] == "conv2").unwrap();
    assert_eq!(conv["fused"], serde_json::json!(["activation"]));
    for way in ["forward", "backward"] {
        assert_eq!(conv[way]["calls"], 4);
        assert!(conv[way]["seconds"].as_f64().unwrap() > 0.0, "{conv}");
        assert!(conv[way]["least_seconds"].as_f64().unwrap() > 0.0, "{conv}");
    }
    assert_eq!(conv["forward"]["flops"].as_f64().unwrap(), 4.0 * 8.0 * 2.0 * (16 * 16 * 64 * 288) as f64);
    let page = std::fs::read_to_string(folder.path().join("runs/a/report.html")).unwrap();
    assert!(page.contains("waiting for pictures"), "{page}");
    assert!(json(&folder.path().join("runs/a/summary.json"))["wait_share"].is_number());
}

#[test]
fn answers_are_profiled_as_tables_and_as_json() {
    let folder = tempdir().unwrap();
    let flags =
        "bench small-cnn-2 --image-size 16 --rows native --against none --samples 5 --no-http --profile";
    let table = succeed(folder.path(), flags);
    assert!(table.contains("conv1") && table.contains("kind") && table.contains("of limit"), "{table}");
    let report: Value = serde_json::from_str(&succeed(folder.path(), &format!("{flags} --json"))).unwrap();
    let nodes = nodes(&report["profile"]);
    assert!(nodes.iter().all(|node| node["backward"].is_null()), "{report}");
    assert!(report["rows"].is_array(), "{report}");

    let message = fail(folder.path(), "bench small-cnn-2 --profile=missing/profile.json");
    assert!(message.contains("missing/profile.json") && message.contains("folder"), "{message}");
}

#[test]
fn an_exported_file_has_no_profile() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    std::fs::write(folder.path().join("picture.png"), crate::answers::png()).unwrap();
    let printed = succeed(folder.path(), "predict runs/a picture.png --profile --json");
    let answer: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(answer["pictures"][0]["path"], "picture.png");
    assert!(nodes(&answer["profile"]).iter().all(|node| node["forward"]["calls"] == 1), "{answer}");
    succeed(folder.path(), "export runs/a --require-parity -o a.onnx");
    let message = fail(folder.path(), "predict a.onnx picture.png --profile");
    assert!(message.contains("native") && message.contains("`ort`"), "{message}");
}

#[test]
fn a_network_says_what_memory_it_takes() {
    let folder = tempdir().unwrap();
    let of_batch = |batch: u32| -> Value {
        let flags = format!("models effnet --cost --json --image-size 32 --batch-size {batch}");
        serde_json::from_str(&succeed(folder.path(), &flags)).unwrap()
    };
    let (small, large) = (of_batch(8), of_batch(64));
    let training = |answer: &Value, key: &str| answer["memory_bytes"]["training"][key].as_u64().unwrap();
    assert_eq!(small["memory_bytes"]["training"]["optimizer"], "adamw");
    assert_eq!(training(&small, "moments"), 2 * training(&small, "parameters"));
    assert_eq!(training(&small, "gradient"), training(&large, "gradient"));
    assert!(training(&large, "arena") > 7 * training(&small, "arena"));
    let table = succeed(folder.path(), "models effnet --cost");
    assert!(table.contains("moments of adamw") && table.contains("batch 64"), "{table}");
}
