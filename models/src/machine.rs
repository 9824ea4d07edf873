//! The machine that a figure was measured on: a value that stands beside every latency. It is filled in by whoever
//! measures; nothing is looked up here.

use serde::{Deserialize, Serialize};

/// A machine, in the words that a reader needs to judge a latency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor, as it calls itself.
    pub cpu: String,
    /// Logical cores.
    pub cores: usize,
    /// Instruction set of the native engine's kernels.
    pub kernels: String,
    /// Operating system and architecture.
    pub system: String,
}
