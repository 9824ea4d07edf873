//! What came of a run: memory at ten minutes and at the end, requests by outcome, promises kept or broken.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::server::Sample;
use super::tally::Counted;
use crate::Result;

/// The memory after this time is what the end is held against, in a run of at least [`JUDGED`].
const SETTLED: Duration = Duration::from_secs(600);
/// Shorter runs say how memory went and are not judged by it: caches and pools still fill.
const JUDGED: Duration = Duration::from_secs(1800);
/// How much more there may be at the end.
const GROWTH: f64 = 1.05;
/// Memory is read as the mean over so much time, or a tenth of a short run: it goes up and down by a third with every burst
/// and reload, and the means of single minutes by a tenth.
const WINDOW: Duration = Duration::from_secs(300);

/// The server's memory at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Since the start.
    pub seconds: f64,
    pub sample: Sample,
}

impl Reading {
    pub fn json(&self) -> Value {
        let Sample { resident, peak, threads, files } = self.sample;
        json!({"seconds": self.seconds, "resident": resident, "peak": peak, "threads": threads, "files": files})
    }
}

/// A whole run.
pub struct Report {
    pub time: Duration,
    pub rate: f64,
    pub readings: Vec<Reading>,
    pub counted: Counted,
}

/// Memory early and late, in bytes.
struct Growth {
    early: f64,
    late: f64,
}

impl Report {
    fn window(&self) -> f64 {
        WINDOW.min(self.time / 10).as_secs_f64()
    }

    /// When memory is first looked at: after ten minutes, or a sixth of a short run.
    fn settled(&self) -> f64 {
        SETTLED.min(self.time / 6).as_secs_f64()
    }

    fn growth(&self) -> Option<Growth> {
        let end = self.readings.last()?.seconds;
        Some(Growth { early: self.mean_until(self.settled())?, late: self.mean_until(end)? })
    }

    /// Mean memory over the window that ends at `end`.
    fn mean_until(&self, end: f64) -> Option<f64> {
        let within = |reading: &&Reading| (end - self.window()..=end).contains(&reading.seconds);
        let bytes: Vec<f64> =
            self.readings.iter().filter(within).map(|reading| reading.sample.resident as f64).collect();
        (!bytes.is_empty()).then(|| bytes.iter().sum::<f64>() / bytes.len() as f64)
    }

    fn total(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let outcomes = self.counted.outcomes.iter();
        outcomes.filter(|((_, outcome), _)| wanted(outcome)).map(|(_, count)| count).sum()
    }

    /// An error that names what was broken.
    pub fn verdict(&self) -> Result {
        let mut broken: Vec<String> = self
            .counted
            .broken
            .iter()
            .map(|(promise, count)| format!("{promise}: broken {count} times"))
            .collect();
        if self.time >= JUDGED {
            match self.growth() {
                Some(Growth { early, late }) if late <= GROWTH * early => {}
                Some(Growth { early, late }) => broken.push(format!(
                    "memory: {:.3} times what it was at {:.0} s, expected at most {GROWTH}",
                    late / early,
                    self.settled()
                )),
                None => broken.push("memory: it could not be read".into()),
            }
        }
        if self.total(|outcome| outcome.starts_with("right")) == 0 {
            broken.push("nothing was answered".into());
        }
        if self.total(|outcome| outcome.starts_with("429")) == 0 {
            broken.push("the queue never overflowed: the bursts show nothing".into());
        }
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n  ")) }
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let outcomes = self.counted.outcomes.iter();
        let outcomes = outcomes
            .map(|((kind, outcome), count)| json!({"kind": kind, "outcome": outcome, "count": count}));
        json!({
            "seconds": self.time.as_secs_f64(),
            "rate": self.rate,
            "resident_early": self.growth().map(|growth| growth.early),
            "resident_late": self.growth().map(|growth| growth.late),
            "growth": self.growth().map(|growth| growth.late / growth.early),
            "peak": self.readings.last().map(|reading| reading.sample.peak),
            "outcomes": outcomes.collect::<Vec<_>>(),
            "broken": self.counted.broken,
            "words": self.counted.words,
            "verdict": self.verdict().err(),
            "memory": self.readings.iter().map(Reading::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<26}{:<44}{:>10}", "request", "outcome", "count")?;
        for ((kind, outcome), count) in &self.counted.outcomes {
            writeln!(f, "{kind:<26}{outcome:<44}{count:>10}")?;
        }
        let (answers, requests) = (self.total(|outcome| outcome.starts_with("right")), self.total(|_| true));
        writeln!(f, "\n{requests} requests, {answers} answers with pictures, each checked")?;
        for (promise, count) in &self.counted.broken {
            writeln!(f, "BROKEN {count} times: {promise}")?;
        }
        for words in &self.counted.words {
            writeln!(f, "  {words}")?;
        }
        self.fmt_memory(f)
    }
}

impl Report {
    fn fmt_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1048576.0;
        let (Some(Growth { early, late }), Some(last)) = (self.growth(), self.readings.last()) else {
            return write!(f, "memory: never read");
        };
        writeln!(
            f,
            "memory: {:.1} MiB after {:.0} s, {:.1} MiB after {:.0} s, {:.3} times as much; peak {:.1} MiB",
            early / MIB,
            self.settled(),
            late / MIB,
            last.seconds,
            late / early,
            last.sample.peak as f64 / MIB
        )?;
        let first = self.readings.first().map(|reading| reading.sample).unwrap_or_default();
        write!(
            f,
            "threads {} to {}, open files {} to {}",
            first.threads, last.sample.threads, first.files, last.sample.files
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seconds: u64, memory: impl Fn(f64) -> f64) -> Report {
        let reading = |second: u64| Reading {
            seconds: second as f64,
            sample: Sample { resident: memory(second as f64) as u64, ..Sample::default() },
        };
        let mut counted = Counted::default();
        counted.outcomes.insert(("png".into(), "right, version a".into()), 5);
        counted.outcomes.insert(("burst".into(), "429, busy".into()), 1);
        let readings = (2..=seconds).step_by(2).map(reading).collect();
        Report { time: Duration::from_secs(seconds), rate: 1.0, readings, counted }
    }

    #[test]
    fn memory_may_not_grow_by_more_than_a_twentieth_after_ten_minutes() {
        assert_eq!(report(3600, |_| 1e8).verdict(), Ok(()));
        let leak = report(3600, |second| 1e8 + 1e4 * second);
        // Means over the last minutes: at 450 s and at 3450 s.
        assert!((leak.growth().unwrap().late / leak.growth().unwrap().early - 1.287).abs() < 1e-3);
        assert!(leak.verdict().unwrap_err().contains("memory: 1.287 times"));
        assert_eq!(report(3600, |second| if second < 290.0 { 5e7 } else { 1e8 }).verdict(), Ok(()));
        assert_eq!(report(120, |second| 1e8 + 1e7 * second).verdict(), Ok(()), "too short to judge");
    }

    #[test]
    fn a_broken_promise_and_a_run_that_shows_nothing_are_errors() {
        let mut broken = report(120, |_| 1e8);
        broken.counted.broken.insert("no answer is lost", 2);
        assert!(broken.verdict().unwrap_err().contains("no answer is lost: broken 2 times"));
        let mut idle = report(120, |_| 1e8);
        idle.counted.outcomes.clear();
        assert!(idle.verdict().unwrap_err().contains("nothing was answered"));
    }
}
