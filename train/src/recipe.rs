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
    /// The defaults for an architecture: FixMatch's SGD, but AdamW for EfficientNets, which SGD at one rate for all
    /// networks leaves at chance for hundreds of steps on small pictures.
    pub fn of(arch: &str) -> Self {
        let adamw =
            models::Architecture::find(arch).is_ok_and(|found| found.entry().family == "EfficientNet");
        let optimizer = if adamw { OptimizerKind::Adamw } else { OptimizerKind::Sgd };
        Self { optimizer, schedule: Schedule::Cosine, warmup: 0.05, epochs: 30.0 }
    }

    /// Largest learning rate of an optimizer.
    pub fn lr(self, optimizer: OptimizerKind) -> f64 {
        match optimizer {
            OptimizerKind::Sgd => 0.03,
            OptimizerKind::Adamw => 0.003,
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
