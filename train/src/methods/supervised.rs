//! Supervised training: `mean CE(y, p(w(x)))` over weakly augmented labeled pictures.
//!
//! The reference that every other method has to beat on the same labels. Label smoothing is off by default.

use candle_core::Tensor;
use data::{Augment, Batch, Draw, Part};
use engine::{BatchNormMode, Fwd, Grad};

use super::{Loss, Method, MethodEntry, Nets, OptionSpec, Options, Progress};
use crate::error::Result;
use crate::loss;

/// The registry's line.
pub static ENTRY: MethodEntry = MethodEntry {
    name: "supervised",
    summary: "cross-entropy on the labeled pictures alone",
    paper: "the baseline of every paper",
    uses_unlabeled: false,
    ema: 0.0,
    options: &[OptionSpec {
        key: "label-smoothing",
        default: "0",
        help: "share of each label spread evenly over all classes, 0..1",
    }],
    build: |options| Ok(Box::new(Supervised::new(options)?)),
};

/// Cross-entropy on labels.
pub struct Supervised {
    label_smoothing: f32,
}

impl Supervised {
    /// From its options.
    ///
    /// # Errors
    /// A value out of range.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self { label_smoothing: options.number("label-smoothing", 0.0..=1.0)? as f32 })
    }

    fn objective(&self, logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
        let classes = logits.dim(1)?;
        let targets = loss::smoothed_one_hot(labels, classes, self.label_smoothing, logits.device())?;
        Ok(loss::cross_entropy(logits, &targets)?)
    }
}

impl Method for Supervised {
    fn draws(&self, batch: usize) -> Vec<Draw> {
        vec![Draw { part: Part::Labeled, count: batch, views: vec![Augment::Weak] }]
    }

    fn loss(&mut self, nets: &Nets<'_>, batch: &Batch, at: Progress) -> Result<Loss> {
        let labeled = &batch.draws[0];
        let images = nets.images(&labeled.views)?;
        let fwd = Fwd {
            grad: Grad::Params,
            bn: BatchNormMode::Train { update: true },
            want: &["logits"],
            step: at.batch,
            pass: 0,
        };
        let outputs = nets.student.forward(&images, fwd)?;
        let total = self.objective(outputs.get("logits")?, &labeled.labels)?;
        Ok(Loss::new(total.clone(), &[("labeled", &total)]))
    }
}
