//! Stands for the engine's part on GPUs in builds without it: opening one is an error that says so.

use crate::home::Home;
use crate::{EngineError, Precision, Result};

/// No GPU: this build cannot make one.
#[derive(Debug)]
pub(crate) enum Executor {}

impl Executor {
    /// # Errors
    /// Always [`EngineError::Device`].
    pub(crate) fn open(index: usize, _: Precision) -> Result<Self> {
        Err(EngineError::Device {
            device: format!("cuda:{index}"),
            reason: "this build has no CUDA support; use --device cpu, or build with --features cuda".into(),
        })
    }

    pub(crate) fn varying(&self) -> Vec<String> {
        match *self {}
    }

    pub(crate) fn describe(&self) -> String {
        match *self {}
    }

    pub(crate) fn home(self: &std::sync::Arc<Self>) -> Result<Box<dyn Home>> {
        match **self {}
    }

    pub(crate) fn wait(&self) -> Result<()> {
        match *self {}
    }
}
