//! What became of the requests of a load: answers by code, and how long each took. Never here: sending.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bench::latency::{Latency, Samples};

/// Requests by what came back: a status, or `connection` where nothing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codes(pub BTreeMap<String, usize>);

impl Codes {
    /// Requests that were answered with 200.
    pub fn answered(&self) -> usize {
        self.0.get("200").copied().unwrap_or(0)
    }

    /// Requests that were answered otherwise or not at all.
    pub fn failed(&self) -> usize {
        self.0.values().sum::<usize>() - self.answered()
    }

    /// As tables have it: `none`, or `429: 12, connection: 1`.
    pub fn text(&self) -> String {
        let failures = self.0.iter().filter(|(code, _)| code.as_str() != "200");
        let parts: Vec<String> = failures.map(|(code, count)| format!("{code}: {count}")).collect();
        if parts.is_empty() { "none".into() } else { parts.join(", ") }
    }
}

/// What a connection saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Latencies of answers with 200, with when they were due or sent.
    pub answered: Vec<(Duration, Duration)>,
    pub codes: Codes,
    /// How much later than due requests were sent that found their connection free.
    pub late: Samples,
    /// Requests that were never sent, and how long they had been due.
    pub unsent: Vec<(Duration, Duration)>,
}

impl Seen {
    pub fn count(&mut self, outcome: std::io::Result<u16>) -> bool {
        let code = outcome.map_or_else(|_| "connection".into(), |status| status.to_string());
        let answered = code == "200";
        *self.codes.0.entry(code).or_default() += 1;
        answered
    }

    pub fn merged(all: Vec<Self>) -> Self {
        let mut merged = Self::default();
        for seen in all {
            merged.answered.extend(seen.answered);
            merged.unsent.extend(seen.unsent);
            merged.late.0.extend(seen.late.0);
            for (code, count) in seen.codes.0 {
                *merged.codes.0.entry(code).or_default() += count;
            }
        }
        merged.answered.sort_unstable();
        merged
    }

    /// Latencies in the order that requests were sent or due, those never sent among them with the time they had
    /// waited already.
    pub fn samples(&self) -> Samples {
        let mut all = self.answered.clone();
        all.extend(&self.unsent);
        all.sort_unstable();
        Samples(all.into_iter().map(|(_, took)| took).collect())
    }
}

/// The distribution, unless nothing was answered.
pub(super) fn latency(samples: &Samples) -> Option<Latency> {
    (!samples.is_empty()).then(|| samples.summary())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_named_by_code() {
        let mut seen = Seen::default();
        for outcome in [Ok(200), Ok(429), Ok(429), Err(std::io::ErrorKind::BrokenPipe.into())] {
            seen.count(outcome);
        }
        assert_eq!((seen.codes.answered(), seen.codes.failed()), (1, 3));
        assert_eq!(seen.codes.text(), "429: 2, connection: 1");
        assert_eq!(Codes::default().text(), "none");
    }

    #[test]
    fn what_was_never_sent_counts_with_its_wait() {
        let seconds = Duration::from_secs;
        let seen = Seen {
            answered: vec![(seconds(1), seconds(2)), (seconds(3), seconds(4))],
            unsent: vec![(seconds(2), seconds(9))],
            ..Seen::default()
        };
        assert_eq!(seen.samples().0, [seconds(2), seconds(9), seconds(4)]);
    }
}
