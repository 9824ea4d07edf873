//! Which pictures calibrate and which are held out to judge by: never the same, and never those of the test part.
//!
//! A run's own division of its data is made again from the recipe in its manifest, so the pictures held out are those
//! that it was not trained on. Never here: files, or decoding.

use std::sync::Arc;

use data::random::permutation;
use data::{Labels, Partition, Selection, Validation};
use models::{Manifest, Shape};

use crate::accuracy;
use crate::parity::varied_pictures;
use crate::{ExportError, Result};

/// Where [`Pictures::procedural`] come from, in options and reports.
pub const PROCEDURAL: &str = "procedural";
/// How many pictures calibrate where nothing is said.
pub const CALIBRATE: usize = 512;
/// How many pictures at most are held out to judge by where nothing is said.
pub const HELD_OUT: usize = 5000;
/// Draws the calibration pictures.
const DRAW: u64 = 0x0063_616c_6962;

/// Pictures of the network's size, HWC, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Name of the data set.
    pub source: String,
    /// `val`; `train` where the network has seen the pictures that it is judged by.
    pub split: String,
    /// What ranges come from.
    pub calibration: Vec<u8>,
    /// What is judged by.
    pub held_out: Vec<u8>,
    /// Of the pictures held out; none where nothing is known.
    pub labels: Vec<u32>,
    /// Bytes of a picture.
    pub each: usize,
}

impl Pictures {
    /// Pictures of a data set, divided as the training divided it: at most `calibrate` of what was trained on, at most
    /// `held_out` of its validation pictures. Where it held nothing out, a tenth of what it was trained on is judged by.
    ///
    /// # Errors
    /// [`ExportError::Pictures`] for a data set without labeled pictures.
    pub fn of(
        pictures: &accuracy::Pictures,
        manifest: &Manifest,
        [calibrate, held_out]: [usize; 2],
    ) -> Result<Self> {
        let seed = manifest.training.as_ref().map_or(0, |training| training.seed);
        if !pictures.partition.val.is_empty() {
            return Self::drawn(&pictures.partition, "val", seed, [calibrate, held_out]);
        }
        let dataset = Arc::clone(&pictures.partition.dataset);
        let partition = Partition::new(dataset, &Labels::All, &Validation::Auto, seed)?;
        Self::drawn(&partition, "train", seed, [calibrate, held_out])
    }

    fn drawn(
        partition: &Partition,
        split: &str,
        seed: u64,
        [calibrate, held_out]: [usize; 2],
    ) -> Result<Self> {
        let (dataset, each) = (&partition.dataset, partition.dataset.shape.bytes());
        let free: Vec<u32> = [&partition.labeled[..], &partition.unlabeled].concat();
        let order = permutation(free.len(), &[seed, DRAW]);
        let drawn = order.into_iter().take(calibrate).map(|index| free[index as usize]).collect();
        let (calibration, _) = pixels(&Selection::of(&dataset.train, dataset.shape, drawn));
        let order = permutation(partition.val.len(), &[seed, DRAW, 1]);
        let drawn = order.into_iter().take(held_out).map(|index| partition.val[index as usize]).collect();
        let part = if partition.val_is_own { &dataset.val } else { &dataset.train };
        let (held_out, labels) = pixels(&Selection::of(part, dataset.shape, drawn));
        if calibration.is_empty() || labels.is_empty() {
            return Err(ExportError::Pictures {
                data: dataset.name.clone(),
                expected: "pictures to calibrate with, and labeled ones to judge by".into(),
                found: format!("{} and {}", calibration.len() / each.max(1), labels.len()),
            });
        }
        Ok(Self { source: dataset.name.clone(), split: split.into(), calibration, held_out, labels, each })
    }

    /// Made by formula, for want of real ones: good for a try, not to judge by.
    pub fn procedural(shape: Shape, [calibrate, held_out]: [usize; 2]) -> Self {
        let (each, all) = (shape.elements(), varied_pictures(shape, calibrate + held_out));
        let (calibration, held_out) = all.split_at(calibrate * each);
        Self {
            source: PROCEDURAL.into(),
            split: "none".into(),
            calibration: calibration.to_vec(),
            held_out: held_out.to_vec(),
            labels: Vec::new(),
            each,
        }
    }

    /// Pictures held out.
    pub fn count(&self) -> usize {
        self.held_out.len() / self.each.max(1)
    }

    /// Share of the pictures held out to which these are the right answers.
    pub fn top1(&self, answers: &[usize]) -> Option<f64> {
        let right = answers.iter().zip(&self.labels).filter(|(answer, label)| **answer == **label as usize);
        let count = self.labels.len();
        (count > 0).then(|| right.count() as f64 / count as f64)
    }
}

/// Pictures one after the other, and the labels that there are: validation pictures all have one.
fn pixels(selection: &Selection<'_>) -> (Vec<u8>, Vec<u32>) {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for batch in selection.batches(256) {
        pixels.extend_from_slice(&batch.pixels);
        labels.extend(batch.labels.iter().flatten());
    }
    (pixels, labels)
}
