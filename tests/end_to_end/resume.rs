//! A run killed at any moment and resumed ends with the bytes of one never stopped.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::tempdir;

use crate::{command, succeed};

const FLAGS: &str = "train --arch small-cnn-2 --method fixmatch --data synth --labels 20 --steps 40 --batch-size 4 \
                     --threads 2 --checkpoint-steps 3";

fn model(folder: &Path, run: &str) -> Vec<u8> {
    std::fs::read(folder.join(run).join("model.safetensors")).unwrap()
}

/// Starts the run, kills it with SIGKILL once it has saved a checkpoint.
fn start_and_kill(folder: &Path, run: &str) {
    let mut child = command(folder, &format!("{FLAGS} --out {run}")).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !folder.join(run).join("last.ckpt").exists() {
        assert!(Instant::now() < deadline, "no checkpoint after two minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_and_resumed_is_never_stopped() {
    let folder = tempdir().unwrap();
    succeed(folder.path(), &format!("{FLAGS} --out whole"));
    start_and_kill(folder.path(), "killed");
    assert!(!folder.path().join("killed/summary.json").exists(), "the run was over before it was killed");
    succeed(folder.path(), "train --resume killed");
    assert!(
        model(folder.path(), "whole") == model(folder.path(), "killed"),
        "the resumed run has other weights"
    );
    let steps = |run: &str| {
        let text = std::fs::read_to_string(folder.path().join(run).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line["step"].as_u64()).collect::<Vec<_>>()
    };
    assert_eq!(steps("whole"), steps("killed"), "lines of metrics.jsonl were doubled or lost");
}
