//! What a distillation has to say for itself: the `summary.json` of the job.

use std::path::{Path, PathBuf};
use std::time::Instant;

use data::score::{agreement, best_classes};
use data::{Partition, Selection};
use engine::{Device, Images, Model, Runtime};
use models::{Graph, Weights};
use serde::{Deserialize, Serialize};
use train::{Summary, TrainError, folder::write_atomically};

use crate::error::Result;

/// A finished distillation. Accuracies are shares, 0..1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Folder of the job, which is the student's run.
    pub run: PathBuf,
    /// Distillation method.
    pub distillation: String,
    /// Data set.
    pub data: String,
    /// Labels trained on.
    pub labels: usize,
    /// Seed.
    pub seed: u64,
    /// Whom the student learned from; several teachers are one, that averages.
    pub teacher: Side,
    /// The network to use.
    pub student: Side,
    /// The same network trained on the labels alone; `None` if it was not asked for.
    pub baseline: Option<Side>,
    /// How well the student imitates.
    pub fidelity: Option<Fidelity>,
    /// Seconds of all trainings.
    pub seconds: f64,
    /// Pictures trained on per second, of the student.
    pub pictures_per_second: f64,
    /// Largest resident memory of the process, in bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// One network of a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Architecture; `a + b` for several.
    pub arch: String,
    /// Method it was trained by, where known.
    pub method: String,
    /// Folder of its run.
    pub run: PathBuf,
    /// Trainable parameters.
    pub params: u64,
    /// Multiply-accumulates for one picture.
    pub macs: u64,
    /// Accuracy on the labeled training pictures.
    pub train_accuracy: f64,
    /// Accuracy on the validation pictures.
    pub val_accuracy: Option<f64>,
    /// Accuracy on the test pictures.
    pub test_accuracy: Option<f64>,
    /// Training accuracy less validation accuracy (test accuracy where there is no validation).
    pub gap: Option<f64>,
    /// Median microseconds for one picture: native engine, one thread.
    pub latency_us: f64,
    /// Optimizer steps, where known.
    pub steps: Option<u64>,
    /// Seconds of its training, where known.
    pub seconds: Option<f64>,
    /// Pictures trained on per second, where known.
    pub pictures_per_second: Option<f64>,
}

/// Agreement of student and teacher on the test pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fidelity {
    /// Share of pictures to which both give the same answer, 0..1.
    pub agreement: f64,
    /// Mean KL(teacher || student) at temperature 1, in nats.
    pub kl: f64,
}

impl Report {
    /// Writes the file atomically.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| TrainError::malformed(path, error.to_string()))?;
        Ok(write_atomically(path, text.as_bytes())?)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// If the file is missing or no report of a distillation.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file("reading", path))?;
        let wrong =
            |error| TrainError::malformed(path, format!("not the summary of a distillation: {error}"));
        Ok(serde_json::from_str(&text).map_err(wrong)?)
    }
}

impl Side {
    /// A network that was trained here.
    pub(crate) fn trained(summary: &Summary, latency_us: f64) -> Self {
        Self {
            arch: summary.arch.clone(),
            method: summary.method.clone(),
            run: summary.run.clone(),
            params: summary.params,
            macs: summary.macs,
            train_accuracy: summary.train_accuracy,
            val_accuracy: summary.val_accuracy,
            test_accuracy: summary.test_accuracy,
            gap: gap(summary.train_accuracy, summary.val_accuracy, summary.test_accuracy),
            latency_us,
            steps: Some(summary.steps),
            seconds: Some(summary.seconds),
            pictures_per_second: Some(summary.pictures_per_second),
        }
    }
}

pub(crate) fn gap(train: f64, val: Option<f64>, test: Option<f64>) -> Option<f64> {
    val.or(test).map(|held_out| train - held_out)
}

/// Median microseconds that a network takes for one picture: native engine, one thread, batch 1.
///
/// # Errors
/// The engine's.
pub fn latency_us(graph: &Graph, weights: &Weights) -> Result<f64> {
    const WARM_UP: usize = 20;
    const MEASURED: usize = 200;
    let mut model = Model::new(graph, weights, &Runtime::new(Device::Cpu, 1)?)?;
    // The time does not depend on the values; these are no denormals.
    let picture: Vec<u8> =
        (0..graph.input_shape().elements()).map(|index| (index * 37 % 256) as u8).collect();
    let mut times = Vec::with_capacity(MEASURED);
    for round in 0..WARM_UP + MEASURED {
        let began = Instant::now();
        model.run(Images::U8(&picture))?;
        if round >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[MEASURED / 2])
}

/// Compares two networks' probabilities, row by row.
pub(crate) fn fidelity(teacher: &[f32], student: &[f32], classes: usize) -> Option<Fidelity> {
    let rows = || teacher.chunks_exact(classes).zip(student.chunks_exact(classes));
    let count = rows().count();
    if count == 0 {
        return None;
    }
    let same = agreement(&best_classes(teacher, classes), &best_classes(student, classes));
    let kl: f64 = rows().map(|(teacher, student)| divergence(teacher, student)).sum();
    Some(Fidelity { agreement: same, kl: kl / count as f64 })
}

fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (f64::from(p), f64::from(q).max(1e-12));
        if p > 0.0 { p * (p / q).ln() } else { 0.0 }
    };
    p.iter().zip(q).map(term).sum()
}

/// Pictures of the training part that a report measures at most.
pub(crate) const TRAIN_PICTURES: usize = 10_000;

/// The selections that a report measures: training, validation, test.
pub(crate) fn selections(partition: &Partition) -> [Selection<'_>; 3] {
    [
        partition.labeled_pictures().first(TRAIN_PICTURES),
        partition.val_pictures(),
        partition.dataset.test_pictures(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fidelity_of_numbers_worked_by_hand() {
        let found = fidelity(&[0.5, 0.5, 0.9, 0.1], &[0.75, 0.25, 0.1, 0.9], 2).unwrap();
        assert_eq!(found.agreement, 0.5);
        let first = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
        let second = 0.9 * 9f64.ln() - 0.1 * 9f64.ln();
        assert!((found.kl - (first + second) / 2.0).abs() < 1e-6);
        assert!(fidelity(&[], &[], 2).is_none());
    }

    #[test]
    fn the_gap_prefers_validation() {
        assert_eq!(gap(0.75, Some(0.5), Some(0.25)), Some(0.25));
        assert_eq!(gap(0.75, None, Some(0.25)), Some(0.5));
        assert_eq!(gap(0.75, None, None), None);
    }
}
