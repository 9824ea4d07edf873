//! What can go wrong in a distillation beyond what can go wrong in a training.

use std::path::PathBuf;

use train::TrainError;

/// A distillation that could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DistillError {
    /// No teacher was given.
    #[error("no teacher; give an architecture or a finished run with --teacher")]
    NoTeacher,
    /// Several teachers, one of which is an architecture.
    #[error(
        "teacher `{name}` is an architecture; of several teachers each must be a finished run: train it first with `distill train --arch {name}`"
    )]
    SeveralNeedRuns {
        /// The architecture.
        name: String,
    },
    /// A teacher that is neither.
    #[error("teacher `{name}` is neither the folder of a finished run nor an architecture: {reason}")]
    UnknownTeacher {
        /// What was given.
        name: String,
        /// Why it is no architecture, with the nearest name.
        reason: String,
    },
    /// A run that has no model yet.
    #[error("{} holds no model.safetensors; finish it first with --resume {}", path.display(), path.display())]
    Unfinished {
        /// The run.
        path: PathBuf,
    },
    /// A teacher for other classes.
    #[error("teacher {} knows other classes than data `{data}`: expected [{expected}], found [{found}]", path.display())]
    Classes {
        /// The teacher's file.
        path: PathBuf,
        /// The data set.
        data: String,
        /// The data's classes.
        expected: String,
        /// The teacher's classes.
        found: String,
    },
    /// A teacher for pictures of another size.
    #[error("teacher {} takes pictures of {found}, data `{data}` has {expected}; set --image-size", path.display())]
    Pictures {
        /// The teacher's file.
        path: PathBuf,
        /// The data set.
        data: String,
        /// The data's size.
        expected: String,
        /// The teacher's size.
        found: String,
    },
    /// A distillation method that is not registered.
    #[error("no distillation method `{name}`{suggestion} (known: {known})")]
    UnknownMethod {
        /// What was asked for.
        name: String,
        /// `; did you mean X?` or nothing.
        suggestion: String,
        /// What there is.
        known: String,
    },
    /// A training's own error.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl DistillError {
    /// Whether the user can mend it (exit code 2).
    pub fn mendable(&self) -> bool {
        match self {
            Self::Train(error) => error.mendable(),
            _ => true,
        }
    }
}

impl From<engine::EngineError> for DistillError {
    fn from(error: engine::EngineError) -> Self {
        Self::Train(error.into())
    }
}

impl From<models::FileError> for DistillError {
    fn from(error: models::FileError) -> Self {
        Self::Train(error.into())
    }
}

/// Result of a call of this crate.
pub type Result<T, E = DistillError> = std::result::Result<T, E>;
