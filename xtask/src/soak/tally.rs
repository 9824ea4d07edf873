//! What happened: how often which kind of request came out how, and each promise that was broken, in words. It judges
//! nothing itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use crate::Result;

/// Broken promises that are kept in words; the rest is only counted.
const KEPT: usize = 50;

/// Counts and words of a run, told by any thread.
pub struct Tally {
    begun: Instant,
    counted: Mutex<Counted>,
    log: Mutex<File>,
}

/// What has been counted.
#[derive(Clone, Default)]
pub struct Counted {
    /// By kind of request and outcome.
    pub outcomes: BTreeMap<(String, String), u64>,
    /// Promises that were broken, by promise.
    pub broken: BTreeMap<&'static str, u64>,
    /// The first of them in words.
    pub words: Vec<String>,
}

impl Tally {
    /// An empty one that writes what happens to a file, a JSON object a line.
    pub fn new(log: &Path) -> Result<Self> {
        let file = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        Ok(Self { begun: Instant::now(), counted: Mutex::default(), log: Mutex::new(file) })
    }

    /// Seconds since it was made.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// A request of this kind came out so.
    pub fn count(&self, kind: &str, outcome: impl Into<String>) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.outcomes.entry((kind.into(), outcome.into())).or_default() += 1;
    }

    /// A promise was broken.
    pub fn broken(&self, promise: &'static str, kind: &str, words: &str) {
        self.log("broken", &json!({"promise": promise, "kind": kind, "words": words}));
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.broken.entry(promise).or_default() += 1;
        if counted.words.len() < KEPT {
            counted.words.push(format!("{:.1} s, {promise}: {kind}: {words}", self.seconds()));
        }
    }

    /// Something worth a line of the log.
    pub fn log(&self, event: &str, about: &Value) {
        let line = json!({"seconds": self.seconds(), "event": event, "about": about});
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A log on a full disk must not end an hour's run.
        let _ = writeln!(log, "{line}");
    }

    /// All so far.
    pub fn counted(&self) -> Counted {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
