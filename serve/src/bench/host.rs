//! What the bench asks of whoever runs it, since this room links neither data nor export: accuracies, files of networks
//! that were never saved, and somebody to tell how far it is.

use std::path::PathBuf;

use models::{Manifest, Weights};
use serde::{Deserialize, Serialize};

use super::accuracy::Share;
use crate::{Card, Engine};

/// What made a report, to make it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeBy {
    /// Version of this toolkit.
    pub version: String,
    /// Its commit, where the build knew it.
    pub commit: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// Seed of everything drawn: the arrivals of the open loop. Pictures and random weights are by formula.
    pub seed: u64,
    /// Seconds since 1970 at the start.
    pub unix_time: u64,
}

/// Whoever runs the bench. By default nobody: no data, no files, silence.
pub trait Host {
    /// What is measured now.
    fn phase(&mut self, _what: &str) {}

    /// The accuracy of an engine's answers on the data that were named; `None` if none were. `seed` is that of the run
    /// that trained it: where a test part is split off, it says which pictures the run has not seen.
    ///
    /// # Errors
    /// What is wrong with the data, for the row to say.
    fn accuracy(
        &mut self,
        _card: &Card,
        _seed: u64,
        _engine: &mut dyn Engine,
    ) -> Option<Result<Share, String>> {
        None
    }

    /// Writes a network as `model.safetensors`, `model.onnx` and, where it can, `model.int8.onnx` into a folder that
    /// lasts as long as the host, so that other engines can run it.
    ///
    /// # Errors
    /// Why it cannot, for the rows to say.
    fn write_files(&mut self, _manifest: &Manifest, _weights: &Weights) -> Result<PathBuf, String> {
        Err("this program does not export; run `distill bench`, or export a run and measure that".into())
    }

    /// The command line and the build, for the report.
    fn made_by(&self) -> MadeBy {
        MadeBy { version: env!("CARGO_PKG_VERSION").into(), ..MadeBy::default() }
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Host for Alone {}
