//! The probe: pictures by formula, and what each file of a bundle has to answer to them. Whoever loads a file asks it
//! these before it may answer anybody. Nothing is run here.

use serde::{Deserialize, Serialize};

use super::{Contradiction, RawBundle, wrong};
use crate::{Task, formula};

/// Pictures at most; and bytes of all of them, so that a manifest cannot ask for all memory.
const MOST_PICTURES: usize = 4096;
const MOST_BYTES: usize = 256 << 20;

/// How the pictures come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// [`formula::picture`] of 0, 1, 2 and so on.
    #[default]
    Formula,
}

/// Pictures, and what is to be answered.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub struct Probe {
    /// How the pictures come about.
    pub kind: Kind,
    /// How many there are.
    pub count: usize,
    /// What each file has to answer: one entry for every file that is a network.
    pub answers: Vec<Answer>,
}

/// What a file has to answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The file.
    pub file: String,
    /// Largest difference between two logits that counts as the same, per unit of the largest expected logit (at least
    /// one unit).
    pub tolerance: f32,
    /// Logits, a row for each picture.
    pub logits: Vec<Vec<f32>>,
}

/// How far an answer is from what was expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distance {
    /// Largest difference between two logits; infinite for another number of logits or one that is not finite.
    pub largest: f32,
    /// What would still be the same.
    pub allowed: f32,
}

impl Distance {
    /// Whether this counts as the same.
    pub fn agrees(self) -> bool {
        self.largest <= self.allowed
    }
}

impl Probe {
    /// The pictures, `[count, height, width, channels]`.
    pub fn pictures(&self, task: &Task) -> Vec<u8> {
        let Task { channels, height, width, .. } = *task;
        (0..self.count).flat_map(|index| formula::picture(index, channels, height, width)).collect()
    }

    /// What a file has to answer.
    pub fn answer(&self, file: &str) -> Option<&Answer> {
        self.answers.iter().find(|answer| answer.file == file)
    }
}

impl Answer {
    /// The answer of a file to the pictures, as rows of `classes`.
    pub fn new(file: impl Into<String>, tolerance: f32, logits: &[f32], classes: usize) -> Self {
        let logits = logits.chunks(classes.max(1)).map(<[f32]>::to_vec).collect();
        Self { file: file.into(), tolerance, logits }
    }

    /// Holds logits, row after row, against this answer.
    pub fn distance(&self, found: &[f32]) -> Distance {
        let expected = || self.logits.iter().flatten();
        let scale = expected().fold(1.0_f32, |scale, logit| scale.max(logit.abs()));
        let apart = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
        let largest = match expected().count() == found.len() {
            true => expected().zip(found).map(apart).fold(0.0, f32::max),
            false => f32::INFINITY,
        };
        Distance { largest, allowed: self.tolerance * scale }
    }
}

/// Looks for contradictions in a manifest's probe.
pub(super) fn check(raw: &RawBundle) -> Result<(), Contradiction> {
    let (probe, task) = (&raw.probe, &raw.model.task);
    let picture = task.channels.saturating_mul(task.height).saturating_mul(task.width);
    let most = MOST_PICTURES.min(MOST_BYTES / picture.max(1)).max(1);
    if !(1..=most).contains(&probe.count) {
        return Err(wrong("probe.count", format!("1 to {most}"), probe.count));
    }
    for (index, answer) in probe.answers.iter().enumerate() {
        let key = |name: &str| format!("probe.answers[{index}].{name}");
        raw.listed(key("file"), &answer.file)?;
        if probe.answers[..index].iter().any(|other| other.file == answer.file) {
            return Err(Contradiction::Duplicate { key: key("file"), value: answer.file.clone() });
        }
        if !(answer.tolerance > 0.0 && answer.tolerance <= 1.0) {
            return Err(wrong(key("tolerance"), "a share above 0, at most 1", answer.tolerance));
        }
        check_logits(&key("logits"), &answer.logits, probe.count, task.classes)?;
    }
    match raw.networks().find(|file| probe.answer(&file.path).is_none()) {
        None => Ok(()),
        Some(file) => Err(wrong("probe.answers", format!("an answer of `{}`", file.path), "none")),
    }
}

fn check_logits(key: &str, rows: &[Vec<f32>], count: usize, classes: usize) -> Result<(), Contradiction> {
    if rows.len() != count {
        return Err(wrong(key, format!("{count} rows"), format!("{} rows", rows.len())));
    }
    if let Some(row) = rows.iter().find(|row| row.len() != classes) {
        return Err(wrong(key, format!("rows of {classes}"), format!("a row of {}", row.len())));
    }
    match rows.iter().flatten().find(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(logit) => Err(wrong(key, "finite values", logit)),
    }
}
