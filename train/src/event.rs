//! What a run reports while it works, and who listens. The loop never prints.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::Result;
use crate::profile::TrainingProfile;
use crate::summary::Summary;

/// Something that happened in a run.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The run is set up and about to train.
    Started(Started),
    /// How long the run will take, known within its first seconds.
    Estimated {
        /// Seconds of the whole run from its start, evaluations included.
        seconds: f64,
        /// Optimizer steps of the whole run.
        steps: u64,
    },
    /// An optimizer step was taken.
    Step(StepReport),
    /// The network was measured on pictures that it does not train on.
    Evaluated {
        /// Optimizer steps taken.
        step: u64,
        /// `val` or `test`.
        split: &'static str,
        /// Number of pictures.
        pictures: usize,
        /// Share of right answers, 0..1.
        accuracy: f64,
        /// Share of pictures whose class is among the five best answers, 0..1.
        top5: f64,
        /// Mean cross-entropy in nats.
        loss: f64,
        /// Whether this is the best network so far by validation accuracy.
        best: bool,
    },
    /// `last.ckpt` was written.
    Checkpointed {
        /// Optimizer steps taken.
        step: u64,
    },
    /// A step was left out because something was not finite.
    Skipped {
        /// The step.
        step: u64,
        /// The part of the loss, or the parameter whose gradient was not finite.
        culprit: String,
        /// How many steps in a row have been skipped.
        in_a_row: u32,
    },
    /// Something the user should know.
    Note {
        /// In lower case.
        text: String,
    },
    /// The run was stopped and can be resumed.
    Interrupted {
        /// Its folder.
        run: PathBuf,
        /// Optimizer steps taken.
        step: u64,
        /// Optimizer steps of the whole run.
        steps: u64,
    },
    /// Where the time of the steps went; only for a listener that [wants it](Sink::wants_profile), before the last event.
    #[serde(skip)]
    Profiled(Box<TrainingProfile>),
    /// The run is done.
    Finished(Box<Summary>),
}

/// A run at its start.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// Its folder.
    pub run: PathBuf,
    /// Architecture.
    pub arch: String,
    /// Method.
    pub method: String,
    /// Data set.
    pub data: String,
    /// Trainable parameters of the saved network.
    pub parameters: u64,
    /// Labels trained on.
    pub labeled: usize,
    /// Pictures without a label to train on.
    pub unlabeled: usize,
    /// Pictures held out to select the best step.
    pub val: usize,
    /// Pictures tested at the end.
    pub test: usize,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Optimizer steps of one walk over the main draw's pictures.
    pub steps_per_epoch: u64,
    /// The step that a resumed run goes on from; 0 for a new one.
    pub from_step: u64,
}

/// A step that was taken.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Optimizer steps taken, this one among them.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Walks over the main draw's pictures so far.
    pub epoch: f64,
    /// The loss.
    pub loss: f64,
    /// The method's named parts of it.
    pub parts: Vec<(&'static str, f64)>,
    /// Learning rate.
    pub lr: f64,
    /// Pictures (views count) that the network was trained on per second, lately.
    pub pictures_per_second: f64,
    /// Seconds to the end, evaluations included.
    pub eta_seconds: f64,
    /// Share of the time spent waiting for pictures, lately, 0..1.
    pub wait_share: f64,
}

/// A listener.
pub trait Sink {
    /// Takes an event of the run that works on `stage`: `train`, or `teacher`, `student`, `baseline` in a distillation.
    ///
    /// # Errors
    /// An error ends the run, without a checkpoint.
    fn receive(&mut self, stage: &str, event: &Event) -> Result<()>;

    /// Whether the time of every node is to be taken, for an [`Event::Profiled`].
    fn wants_profile(&self) -> bool {
        false
    }
}

/// Listens to nothing.
pub struct Silent;

impl Sink for Silent {
    fn receive(&mut self, _: &str, _: &Event) -> Result<()> {
        Ok(())
    }
}
