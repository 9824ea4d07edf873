//! How a command fails: a message for standard error and an exit code.

use std::fmt::Display;

/// Exit code for what the user can mend: a flag, a file, a missing tool.
const MENDABLE: u8 = 2;
/// Exit code for everything else.
const BROKEN: u8 = 1;

/// A command that did not do what it was asked for.
#[derive(Debug)]
pub struct Failure {
    /// What is printed after `error: `.
    pub message: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// Something that the user can mend.
    pub fn mendable(message: impl Display) -> Self {
        Self { message: message.to_string(), code: MENDABLE }
    }

    /// Something that the user cannot mend by other flags or files.
    pub fn broken(message: impl Display) -> Self {
        Self { message: message.to_string(), code: BROKEN }
    }
}

/// Result of a command.
pub type Result<T = ()> = std::result::Result<T, Failure>;

impl From<train::TrainError> for Failure {
    fn from(error: train::TrainError) -> Self {
        let code = if error.mendable() { MENDABLE } else { BROKEN };
        Self { message: error.to_string(), code }
    }
}

impl From<distillation::DistillError> for Failure {
    fn from(error: distillation::DistillError) -> Self {
        let code = if error.mendable() { MENDABLE } else { BROKEN };
        Self { message: error.to_string(), code }
    }
}

impl From<export::ExportError> for Failure {
    /// A file that answers otherwise is our fault; all else can be mended by another path, flag or an installed runtime.
    fn from(error: export::ExportError) -> Self {
        match error {
            export::ExportError::Differs { .. } => Self::broken(error),
            _ => Self::mendable(error),
        }
    }
}
