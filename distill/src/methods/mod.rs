//! Ways for a student to learn from a teacher: a file each, and a line in [`DISTILLATIONS`].
//!
//! To the training loop they are methods like any other.

pub mod kl;

use data::Partition;
use train::{Method, OptionSpec, Options};

use crate::error::{DistillError, Result};
use crate::teachers::Teachers;

/// A registered distillation method.
pub struct DistillationEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// Decay of the student's moving average by default; 0 for none.
    pub ema: f32,
    /// Its options with their defaults.
    pub options: &'static [OptionSpec],
    /// Builds it from checked options, the teachers, and the labels there are.
    pub build: fn(&Options, Teachers, &Partition) -> train::Result<Box<dyn Method>>,
}

/// Every distillation method.
pub static DISTILLATIONS: &[&DistillationEntry] = &[&kl::ENTRY];

/// The registered method of this name.
///
/// # Errors
/// [`DistillError::UnknownMethod`] with the nearest name.
pub fn find(name: &str) -> Result<&'static DistillationEntry> {
    DISTILLATIONS.iter().copied().find(|entry| entry.name == name).ok_or_else(|| {
        let known = || DISTILLATIONS.iter().map(|entry| entry.name);
        DistillError::UnknownMethod {
            name: name.into(),
            suggestion: models::nearest::suggestion(name, known()),
            known: known().collect::<Vec<_>>().join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_once_and_by_no_training_method() {
        let mut names: Vec<&str> = DISTILLATIONS.iter().map(|entry| entry.name).collect();
        names.extend(train::METHODS.iter().map(|entry| entry.name));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_unknown_method_suggests_its_neighbor() {
        assert!(find("kll").err().unwrap().to_string().contains("did you mean `kl`?"));
    }
}
