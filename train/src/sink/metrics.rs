//! `metrics.jsonl`: one JSON object a line; the last line of a finished run is its summary.

use std::path::Path;

use crate::error::{Result, TrainError};
use crate::event::{Event, Sink};

use super::Log;

/// Writes every event but most steps: of these about 500 over the run, enough for a curve.
pub struct Metrics {
    log: Log,
}

impl Metrics {
    /// Goes on after the first `keep` bytes of the file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, keep: u64) -> Result<Self> {
        Ok(Self { log: Log::open(path, keep)? })
    }

    /// Flushes to the disk and returns the file's length in bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> Result<u64> {
        self.log.sync()
    }
}

/// Whether a step is one of the about 500 that are logged.
pub(super) fn logged(step: u64, steps: u64) -> bool {
    step.is_multiple_of((steps / 500).max(1)) || step == steps
}

impl Sink for Metrics {
    fn receive(&mut self, _stage: &str, event: &Event) -> Result<()> {
        if matches!(event, Event::Step(report) if !logged(report.step, report.steps)) {
            return Ok(());
        }
        let text = serde_json::to_string(event);
        let text =
            text.map_err(|error| TrainError::Sink { sink: "metrics.jsonl", reason: error.to_string() })?;
        self.log.append(format!("{text}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_log_about_five_hundred_steps_and_the_last() {
        let count = |steps: u64| (1..=steps).filter(|&step| logged(step, steps)).count();
        assert_eq!((count(12), count(500)), (12, 500));
        assert!((500..=510).contains(&count(100_001)));
    }

    #[test]
    fn every_line_is_an_object_that_says_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&path, 0).unwrap();
        metrics.receive("train", &Event::Estimated { seconds: 2.5, steps: 10 }).unwrap();
        metrics.receive("train", &Event::Checkpointed { step: 4 }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["event"], &lines[0]["seconds"]), (&"estimated".into(), &2.5.into()));
        assert_eq!((&lines[1]["event"], &lines[1]["step"]), (&"checkpointed".into(), &4.into()));
    }
}
