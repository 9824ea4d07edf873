//! A run's folder: names of its files, and writing that never leaves half a file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};

/// The folder of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder {
    path: PathBuf,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Nothing of it is there.
    Fresh,
    /// Begun, not finished.
    Begun,
    /// Finished: the summary is there.
    Finished,
}

impl RunFolder {
    /// The run at `path`, whether or not it is there.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// A folder `base/name`, or `base/name-2` and so on where that is taken. Nothing is created.
    pub fn unique(base: &Path, name: &str) -> PathBuf {
        let numbered = (2..).map(|number| base.join(format!("{name}-{number}")));
        let mut candidates = std::iter::once(base.join(name)).chain(numbered);
        candidates.find(|path| !path.exists()).unwrap_or_else(|| base.join(name))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything resolved; equals the flags.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The trained network with its manifest.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// What a resumed run goes on from.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join("last.ckpt")
    }

    /// One JSON object a line: what happened.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// The result; written last.
    pub fn summary(&self) -> PathBuf {
        self.path.join("summary.json")
    }

    /// The page to look at.
    pub fn page(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// TensorBoard's event file.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tb").join("events.out.tfevents.distill")
    }

    /// How far the run has come.
    pub fn state(&self) -> RunState {
        match (self.config().exists(), self.summary().exists()) {
            (_, true) => RunState::Finished,
            (true, false) => RunState::Begun,
            (false, false) => RunState::Fresh,
        }
    }

    /// Creates the folder and `tb/` in it.
    ///
    /// # Errors
    /// The system's.
    pub fn create(&self) -> Result<()> {
        let tb = self.path.join("tb");
        fs::create_dir_all(&tb).map_err(TrainError::file("creating", &tb))
    }
}

/// Writes `bytes` beside `path` and renames: after a crash there is the old file or the new one.
///
/// # Errors
/// The system's, with the path.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    models::file::write_atomically(path, bytes).map_err(TrainError::file("writing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_gets_a_number() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(RunFolder::unique(base.path(), "synth.0"), base.path().join("synth.0"));
        fs::create_dir(base.path().join("synth.0")).unwrap();
        assert_eq!(RunFolder::unique(base.path(), "synth.0"), base.path().join("synth.0-2"));
    }

    #[test]
    fn writing_replaces_the_whole_file_and_leaves_nothing_beside() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("summary.json");
        write_atomically(&path, b"a long first text").unwrap();
        write_atomically(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
        let error = write_atomically(&base.path().join("no/such/file"), b"").unwrap_err();
        assert!(error.to_string().contains("no/such/file"), "{error}");
    }

    #[test]
    fn the_summary_makes_a_run_finished() {
        let base = tempfile::tempdir().unwrap();
        let run = RunFolder::new(base.path());
        assert_eq!(run.state(), RunState::Fresh);
        fs::write(run.config(), "").unwrap();
        assert_eq!(run.state(), RunState::Begun);
        fs::write(run.summary(), "{}").unwrap();
        assert_eq!(run.state(), RunState::Finished);
    }
}
