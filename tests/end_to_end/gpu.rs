//! Training on a GPU through the program, on a real one or on the emulator: `cargo xtask cuda test` runs these, in a build
//! with the engine's part on GPUs.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::{TempDir, tempdir};

use crate::{command, fail, json, succeed};

/// Few and small, since the emulator runs a thread at a time. A checkpoint at every step, to be stopped after any.
const FLAGS: &str = "train --arch small-cnn-2 --data pictures --labels 12 --batch-size 4 --threads 1 \
                     --checkpoint-steps 1";
/// Pixels of a picture's side.
const SIZE: usize = 16;

/// A folder with a data set `pictures`: three classes that differ in color, each with 16 pictures to train on and 8 to
/// test on.
fn folder_with_pictures() -> TempDir {
    let folder = tempdir().unwrap();
    for (part, count) in [("train", 16), ("test", 8)] {
        for (class, name) in ["blue", "green", "red"].into_iter().enumerate() {
            let place = folder.path().join("pictures").join(part).join(name);
            std::fs::create_dir_all(&place).unwrap();
            for number in 0..count {
                std::fs::write(place.join(format!("{number}.bmp")), bitmap(class, number)).unwrap();
            }
        }
    }
    folder
}

/// A picture of one channel's color with stripes of its own, as a BMP: 24 bits a pixel, no compression.
fn bitmap(channel: usize, number: usize) -> Vec<u8> {
    let size = SIZE as u32;
    let mut file = b"BM".to_vec();
    for field in
        [54 + 3 * size * size, 0, 54, 40, size, size, 1 | 24 << 16, 0, 3 * size * size, 2835, 2835, 0, 0]
    {
        file.extend(field.to_le_bytes());
    }
    let value = |place: usize| {
        let (pixel, at) = (place / 3, place % 3);
        let stripe = (pixel * (number + 1) % 7 * 10) as u8;
        if at == channel { 160 + stripe } else { stripe }
    };
    file.extend((0..3 * SIZE * SIZE).map(value));
    file
}

fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|line| line["event"] == "step").map(|line| line["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_gpu_learns_what_the_processor_learns() {
    let folder = folder_with_pictures();
    let runs = [("cpu", "cpu"), ("f32", "cuda --precision f32"), ("bf16", "cuda")];
    let [cpu, f32, bf16] = runs.map(|(name, device)| {
        succeed(folder.path(), &format!("{FLAGS} --steps 8 --device {device} --out {name}"));
        losses(&folder.path().join(name))
    });
    assert!(!cpu.is_empty() && cpu.len() == f32.len() && cpu.len() == bf16.len(), "{cpu:?} {f32:?} {bf16:?}");
    for ((cpu, f32), bf16) in cpu.iter().zip(&f32).zip(&bf16) {
        assert!((cpu - f32).abs() < 1e-3 * cpu.abs().max(1.0), "{cpu} on the processor, {f32} on the GPU");
        assert!((cpu - bf16).abs() < 0.1 * cpu.abs().max(1.0), "{cpu} on the processor, {bf16} in bf16");
    }
    let accuracy = |device: &str| {
        let table = succeed(folder.path(), &format!("eval f32 --data pictures --device {device} --json"));
        serde_json::from_str::<serde_json::Value>(&table).unwrap()["accuracy"].as_f64().unwrap()
    };
    assert!((accuracy("cpu") - accuracy("cuda --precision f32")).abs() < 0.05, "one picture of 24 at most");
}

#[test]
fn killed_and_resumed_on_a_gpu_is_never_stopped() {
    let folder = folder_with_pictures();
    let flags = format!("{FLAGS} --device cuda --steps 40");
    succeed(folder.path(), &format!("{flags} --out whole"));
    let mut child = command(folder.path(), &format!("{flags} --out killed")).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(240);
    while !folder.path().join("killed/last.ckpt").exists() {
        assert!(Instant::now() < deadline, "no checkpoint after four minutes");
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its first checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("killed/summary.json").exists(), "the run was over before it was killed");
    succeed(folder.path(), "train --resume killed");
    let model = |run: &str| std::fs::read(folder.path().join(run).join("model.safetensors")).unwrap();
    assert!(model("whole") == model("killed"), "the resumed run has other weights");
}

#[test]
fn a_job_of_teacher_and_student_runs_on_a_gpu() {
    let folder = folder_with_pictures();
    let flags = "--data pictures --labels 12 --steps 2 --batch-size 4 --threads 1 --device cuda --out d";
    succeed(folder.path(), &format!("--teacher small-cnn-3 --student small-cnn-2 {flags}"));
    let summary = json(&folder.path().join("d/summary.json"));
    assert!(summary["student"]["test_accuracy"].is_number(), "{summary}");
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_that_counts_those_that_are() {
    let folder = tempdir().unwrap();
    let message = fail(folder.path(), "train --data synth --steps 1 --device cuda:63");
    assert!(message.contains("cuda:63") && message.contains("CUDA devices"), "{message}");
}
