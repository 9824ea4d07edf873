//! Listeners that write into the run's folder: `metrics.jsonl` and TensorBoard's event file.
//!
//! Both only append, and both can be cut back to where a checkpoint left them, so that a resumed run doubles no line.
//! Progress on the terminal is the command line's business.

mod metrics;
mod tensorboard;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};

pub use metrics::Metrics;
pub use tensorboard::TensorBoard;

/// A file that only grows.
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Opens or creates `path` and cuts it to its first `keep` bytes.
    fn open(path: &Path, keep: u64) -> Result<Self> {
        let open = || {
            let mut file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
            let length = keep.min(file.metadata()?.len());
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok((file, length))
        };
        let (file, length) = open().map_err(TrainError::file("opening", path))?;
        Ok(Self { path: path.to_path_buf(), file, length })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(TrainError::file("writing", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Flushes to the disk and returns the length.
    fn sync(&mut self) -> Result<u64> {
        self.file.sync_all().map_err(TrainError::file("writing", &self.path))?;
        Ok(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_back_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, 0).unwrap();
        log.append(b"one\n").unwrap();
        let kept = log.sync().unwrap();
        log.append(b"two\n").unwrap();
        Log::open(&path, kept).unwrap().append(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nthree\n");
    }
}
