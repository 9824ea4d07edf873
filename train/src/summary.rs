//! What a finished run has to say for itself: `summary.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::folder::write_atomically;

/// A finished run. Accuracies are shares, 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its folder.
    pub run: PathBuf,
    /// Architecture.
    pub arch: String,
    /// Method.
    pub method: String,
    /// Data set.
    pub data: String,
    /// Seed.
    pub seed: u64,
    /// Labels trained on.
    pub labels: usize,
    /// Pictures without a label to train on.
    pub unlabeled: usize,
    /// Trainable parameters of the saved network.
    pub params: u64,
    /// Multiply-accumulates for one picture.
    pub macs: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Walks over the main draw's pictures.
    pub epochs: f64,
    /// The step whose network was kept.
    pub kept_step: u64,
    /// Accuracy on the labeled training pictures, without augmentation (on the first 10,000 where there are more).
    pub train_accuracy: f64,
    /// Accuracy on the validation pictures that selected the step; `None` with `--val none`.
    pub val_accuracy: Option<f64>,
    /// Accuracy on the test pictures; `None` if there are none.
    pub test_accuracy: Option<f64>,
    /// Share of test pictures whose class is among the five best answers.
    pub test_top5: Option<f64>,
    /// Mean cross-entropy on the test pictures, in nats.
    pub test_loss: Option<f64>,
    /// Pictures (views count) trained on per second of training.
    pub pictures_per_second: f64,
    /// Share of the training time spent waiting for pictures, 0..1.
    #[serde(default)] // summaries from before it was counted
    pub wait_share: f64,
    /// Seconds of the whole run, over all its sessions.
    pub seconds: f64,
    /// Largest resident memory of the process, in bytes; `None` where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// Threads that computed.
    pub threads: usize,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Where the networks lived, and what they computed in.
    #[serde(default)] // summaries from before there was a choice
    pub device: String,
    /// Passes whose last bits may differ from run to run on that device; empty where a run repeats exactly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub varying: Vec<String>,
    /// Steps left out because something was not finite.
    pub skipped_steps: u64,
    /// Class names.
    pub classes: Vec<String>,
    /// Test pictures by true class (row) and answer (column); empty above 200 classes.
    pub confusion: Vec<Vec<u32>>,
}

impl Summary {
    /// Writes the file atomically.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| TrainError::malformed(path, error.to_string()))?;
        write_atomically(path, text.as_bytes())
    }

    /// Reads a summary.
    ///
    /// # Errors
    /// If the file is missing or not one.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file("reading", path))?;
        serde_json::from_str(&text)
            .map_err(|error| TrainError::malformed(path, format!("not the summary of a training: {error}")))
    }
}

/// A share as a percentage with two digits, `-` where there is none.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{:.2}", share * 100.0))
}

/// Largest resident memory of this process so far, in bytes, where the system says (Linux's `VmHWM`).
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
