//! `last.ckpt`: everything a run needs to go on as if it had never stopped.
//!
//! A safetensors file. Names begin with whose arrays they are: `student/`, `average/`, `optimizer/`, `method/`, `best/`;
//! all in torch's layout, so that a checkpoint loads on any kernel set and device. Its metadata has one entry, `state`:
//! [`Position`] as JSON. No random state is stored: all randomness is a function of the seed and the step.

use std::collections::HashMap;
use std::path::Path;

use models::{Array, Weights};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::folder::write_atomically;

const VERSION: u32 = 1;

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Version of this format.
    pub version: u32,
    /// Optimizer steps taken.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Seconds spent so far, over all sessions.
    pub seconds: f64,
    /// Of these, seconds spent in training steps.
    pub training_seconds: f64,
    /// Of these, seconds spent waiting for pictures.
    #[serde(default)] // checkpoints from before it was counted
    pub waited_seconds: f64,
    /// Pictures trained on so far.
    pub pictures: u64,
    /// Steps skipped so far because a loss or gradient was not finite.
    pub skipped: u64,
    /// Of these, how many were the last ones, in a row.
    pub skipped_in_a_row: u32,
    /// Best validation accuracy so far (0..1) and its step.
    pub best: Option<(f64, u64)>,
    /// Length of `metrics.jsonl` in bytes: what lies beyond was written after this checkpoint.
    pub metrics_bytes: u64,
    /// Length of TensorBoard's file in bytes.
    pub tensorboard_bytes: u64,
}

impl Position {
    /// The start of a run of `steps` steps.
    pub fn start(steps: u64) -> Self {
        Self {
            version: VERSION,
            step: 0,
            steps,
            seconds: 0.0,
            training_seconds: 0.0,
            waited_seconds: 0.0,
            pictures: 0,
            skipped: 0,
            skipped_in_a_row: 0,
            best: None,
            metrics_bytes: 0,
            tensorboard_bytes: 0,
        }
    }
}

/// A run's whole state.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where it stands.
    pub position: Position,
    /// Parameters and statistics of the student, heads included.
    pub student: Weights,
    /// Those of its moving average; empty without one.
    pub average: Weights,
    /// Moments.
    pub optimizer: Weights,
    /// The method's queues and banks.
    pub method: Weights,
    /// The best network so far, as it would be saved; empty before the first evaluation.
    pub best: Weights,
}

impl Checkpoint {
    fn groups(&self) -> [(&'static str, &Weights); 5] {
        [
            ("student/", &self.student),
            ("average/", &self.average),
            ("optimizer/", &self.optimizer),
            ("method/", &self.method),
            ("best/", &self.best),
        ]
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let wrong = |reason: String| TrainError::malformed(path, reason);
        let mut arrays = Vec::new();
        for (prefix, weights) in self.groups() {
            for (name, array) in weights {
                let bytes: Vec<u8> = array.data.iter().flat_map(|value| value.to_le_bytes()).collect();
                arrays.push((format!("{prefix}{name}"), &array.shape, bytes));
            }
        }
        let view = |shape: &Vec<usize>, bytes| TensorView::new(Dtype::F32, shape.clone(), bytes);
        let mut views = Vec::new();
        for (name, shape, bytes) in &arrays {
            views.push((name.as_str(), view(shape, bytes).map_err(|error| wrong(error.to_string()))?));
        }
        let state = serde_json::to_string(&self.position).map_err(|error| wrong(error.to_string()))?;
        let metadata = HashMap::from([("state".to_string(), state)]);
        let bytes =
            safetensors::serialize(views, Some(metadata)).map_err(|error| wrong(error.to_string()))?;
        write_atomically(path, &bytes)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`TrainError::Malformed`] if the file is not one, or of another version.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_bytes(path, &std::fs::read(path).map_err(TrainError::file("reading", path))?)
    }

    /// The checkpoint that the bytes of a file hold; `path` is only what errors call it.
    ///
    /// # Errors
    /// [`TrainError::Malformed`] if they are not one, or of another version.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let wrong =
            |error: &dyn std::fmt::Display| TrainError::malformed(path, format!("not a checkpoint: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| wrong(&error))?;
        let state = header.metadata().as_ref().and_then(|metadata| metadata.get("state"));
        let state = state.ok_or_else(|| wrong(&"expected `state` in its metadata, found none"))?;
        let position: Position = serde_json::from_str(state).map_err(|error| wrong(&error))?;
        if position.version != VERSION {
            let reason = format!("expected version {VERSION} of the format, found {}", position.version);
            return Err(TrainError::malformed(path, reason));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| wrong(&error))?;
        if let Some((name, view)) = tensors.iter().find(|(_, view)| view.dtype() != Dtype::F32) {
            return Err(wrong(&format!("expected `{name}` in F32, found {:?}", view.dtype())));
        }
        let group = |prefix: &str| group(&tensors, prefix);
        Ok(Self {
            position,
            student: group("student/"),
            average: group("average/"),
            optimizer: group("optimizer/"),
            method: group("method/"),
            best: group("best/"),
        })
    }
}

fn group(tensors: &SafeTensors<'_>, prefix: &str) -> Weights {
    let named = tensors.iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?, view)));
    named.map(|(name, view)| (name.to_string(), array(&view))).collect()
}

fn array(view: &TensorView<'_>) -> Array {
    let (values, _) = view.data().as_chunks::<4>();
    Array::new(view.shape().to_vec(), values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let weights = |values: &[f32]| {
            Weights::from([("features.0.weight".to_string(), Array::new([1, values.len()], values.to_vec()))])
        };
        Checkpoint {
            position: Position {
                step: 7,
                best: Some((0.1 + 0.2, 6)),
                metrics_bytes: 123,
                ..Position::start(9)
            },
            student: weights(&[1.0, -0.0, f32::MIN_POSITIVE]),
            average: Weights::new(),
            optimizer: Weights::from([("adam.steps".into(), Array::new([], vec![7.0]))]),
            method: Weights::new(),
            best: weights(&[0.3]),
        }
    }

    #[test]
    fn what_is_written_is_read_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.ckpt");
        checkpoint().write(&path).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap(), checkpoint());
    }

    #[test]
    fn a_checkpoint_with_doubles_is_refused() {
        let state = serde_json::to_string(&Position::start(9)).unwrap();
        let metadata = HashMap::from([("state".to_string(), state)]);
        let doubles = TensorView::new(Dtype::F64, vec![2], &[0; 16]).unwrap();
        let bytes = safetensors::serialize([("student/fc.bias", doubles)], Some(metadata)).unwrap();
        let error = Checkpoint::from_bytes(Path::new("last.ckpt"), &bytes).unwrap_err().to_string();
        assert!(error.contains("expected `student/fc.bias` in F32, found F64"), "{error}");
    }

    #[test]
    fn a_truncated_or_foreign_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.ckpt");
        checkpoint().write(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for content in [&bytes[..bytes.len() - 3], &bytes[..5], b"", b"{}"] {
            std::fs::write(&path, content).unwrap();
            let error = Checkpoint::read(&path).unwrap_err().to_string();
            assert!(error.contains("last.ckpt: not a checkpoint"), "{error}");
        }
        let future = Checkpoint { position: Position { version: 9, ..Position::start(1) }, ..checkpoint() };
        future.write(&path).unwrap();
        assert!(
            Checkpoint::read(&path).unwrap_err().to_string().contains("version 1 of the format, found 9")
        );
    }
}
