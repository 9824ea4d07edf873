//! Who accompanies a run from outside, and what they are told at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::event::{Event, Sink};
use crate::summary::Summary;

/// Who listens to a run and who may stop it.
pub struct Session<'a> {
    /// Takes every event.
    pub sink: &'a mut dyn Sink,
    /// Once true, the run finishes its step, saves and returns.
    pub interrupt: Arc<AtomicBool>,
    /// What events are labeled with: `train`, `teacher`, ...
    pub stage: &'a str,
    /// Whether a run that was begun goes on. Without it, its folder is an error.
    pub resume: bool,
}

impl<'a> Session<'a> {
    /// A session of a single new training.
    pub fn new(sink: &'a mut dyn Sink, interrupt: Arc<AtomicBool>) -> Self {
        Self { sink, interrupt, stage: "train", resume: false }
    }

    /// Passes an event on.
    ///
    /// # Errors
    /// The sink's.
    pub fn tell(&mut self, event: &Event) -> Result<()> {
        self.sink.receive(self.stage, event)
    }

    /// Whether the run is to stop.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is done.
    Finished(Box<Summary>),
    /// It was stopped, has saved, and can be resumed.
    Interrupted {
        /// Optimizer steps taken.
        step: u64,
        /// Optimizer steps of the whole run.
        steps: u64,
    },
}
