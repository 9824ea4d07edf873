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

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgd => "sgd",
            Self::Adamw => "adamw",
        }
    }
}

/// Pictures of a batch where there are plenty.
pub const MOST_PER_BATCH: usize = 64;
const LEAST_PER_BATCH: usize = 16;
/// Steps that a walk over the pictures should have.
const STEPS_PER_EPOCH: usize = 16;

/// Default batch for a draw from `pictures` pictures: 64, but down to 16 where a walk would have fewer than 16 steps. A
/// few hundred labels are fitted in a given time far better by many small steps than by few large ones.
pub fn batch_size(pictures: usize) -> usize {
    (pictures / STEPS_PER_EPOCH).clamp(LEAST_PER_BATCH, MOST_PER_BATCH)
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

    /// Largest norm of the gradient; 0 for no limit. Adam's steps keep their size when a gradient is out of the ordinary,
    /// and with batches of 16 that is often: without a limit, seeds of one job end 12 points apart.
    pub fn clip_norm(self, optimizer: OptimizerKind) -> f64 {
        match optimizer {
            OptimizerKind::Sgd => 0.0,
            OptimizerKind::Adamw => 1.0,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pictures_make_small_batches() {
        let batches = [10, 250, 512, 1000, 1024, 50_000].map(batch_size);
        assert_eq!(batches, [16, 16, 32, 62, 64, 64]);
    }

    #[test]
    fn only_adam_is_limited() {
        let effnet = Recipe::of("effnet");
        assert_eq!((effnet.optimizer, effnet.clip_norm(effnet.optimizer)), (OptimizerKind::Adamw, 1.0));
        let mobilenet = Recipe::of("mobilenet");
        assert_eq!(
            (mobilenet.optimizer, mobilenet.clip_norm(mobilenet.optimizer)),
            (OptimizerKind::Sgd, 0.0)
        );
    }
}
