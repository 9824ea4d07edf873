//! Defaults of the optimization: what is used where the user says nothing.

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// An optimizer by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Stochastic gradient descent with Nesterov momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay.
    Adamw,
}

impl OptimizerKind {
    /// Every optimizer with its name.
    pub const ALL: [(&'static str, Self); 2] = [("sgd", Self::Sgd), ("adamw", Self::Adamw)];
}

/// Defaults for an architecture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recipe {
    /// Optimizer.
    pub optimizer: OptimizerKind,
    /// Schedule of the learning rate.
    pub schedule: Schedule,
    /// Share of the run that warms up.
    pub warmup: f64,
    /// Walks over the main draw's pictures.
    pub epochs: f64,
}

impl Recipe {
    /// The defaults for an architecture: FixMatch's and the survey's SGD for all of them.
    pub fn of(_arch: &str) -> Self {
        Self { optimizer: OptimizerKind::Sgd, schedule: Schedule::Cosine, warmup: 0.05, epochs: 30.0 }
    }

    /// Largest learning rate of an optimizer.
    pub fn lr(self, optimizer: OptimizerKind) -> f64 {
        match optimizer {
            OptimizerKind::Sgd => 0.03,
            OptimizerKind::Adamw => 0.002,
        }
    }

    /// Weight decay of an optimizer: decoupled decay is multiplied by the learning rate, so it is larger.
    pub fn weight_decay(self, optimizer: OptimizerKind) -> f64 {
        match optimizer {
            OptimizerKind::Sgd => 5e-4,
            OptimizerKind::Adamw => 0.02,
        }
    }
}
