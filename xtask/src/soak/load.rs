//! The clients that make the load, a file for each kind. Every one asks at a pace of its own and tells the tally what
//! came back; none of them decides whether the run was good.

mod burst;
mod fickle;
mod reload;
mod slow;
mod steady;
mod strangers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::answer;
use super::case::{Ask, Case};
use super::client::{self, Answer, Lost};
use super::tally::Tally;
use super::versions::{Known, Versions};

/// Every answer that is given is the right one.
pub const RIGHT: &str = "answers are right";
/// Every request that was sent in order is answered.
pub const KEPT: &str = "no answer is lost";
/// A bad request is refused with the status that it deserves.
pub const REFUSED: &str = "bad requests are refused as they should be";
/// A client that takes forever is sent away.
pub const CUT: &str = "stalled clients are cut off";
/// A reload takes effect, and a broken file does not.
pub const RELOADED: &str = "reloads take effect, broken files do not";
/// The server is alive, ready and measurable all the time.
pub const ALIVE: &str = "the server is alive and ready";

/// What all clients share.
pub struct Field {
    pub case: Case,
    pub address: SocketAddr,
    /// The model's name.
    pub model: String,
    /// The file that the server reads it from.
    pub file: PathBuf,
    pub tally: Tally,
    pub versions: Versions,
    pub limits_slowness: bool,
    /// Whether the server speaks the Open Inference Protocol.
    pub speaks_oip: bool,
    pub reload_every: Duration,
    /// Good requests in a second.
    pub rate: f64,
    pub over: AtomicBool,
}

/// Threads that send good requests.
const STEADY: usize = 4;

/// Starts them all; they end when the field is over.
pub fn start(field: &Arc<Field>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for index in 0..STEADY {
        let field = field.clone();
        threads.push(std::thread::spawn(move || steady::run(&field, index, field.rate / STEADY as f64)));
    }
    let others: [fn(&Field); 6] =
        [strangers::run, slow::run_patient, slow::run_stalled, fickle::run, burst::run, reload::run];
    for run in others {
        let field = field.clone();
        threads.push(std::thread::spawn(move || run(&field)));
    }
    threads
}

impl Field {
    /// Whether the run has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// The requests that are answered with probabilities, one after the other.
    fn good_asks(&self) -> Vec<&Ask> {
        let speaks = |ask: &&Ask| self.speaks_oip || ask.form.as_deref() != Some("oip");
        self.case.asks.iter().filter(|ask| !ask.is_bad() && !ask.is_burst()).filter(speaks).collect()
    }

    /// Tells the tally of an answer to a good request that was begun when `before` was known.
    fn judge(&self, ask: &Ask, kind: &str, before: Known, answer: &Result<Answer, Lost>) {
        let outcome = match answer {
            Err(lost) => {
                self.tally.broken(KEPT, kind, lost.name());
                lost.name().into()
            }
            Ok(answer) if answer.status == 200 => self.judge_answer(ask, kind, before, answer),
            Ok(answer) if answer.status == 429 => self.judge_busy(kind, answer),
            Ok(answer) => {
                let words = format!("status {}: {}", answer.status, excerpt(&answer.body));
                self.tally.broken(KEPT, kind, &words);
                format!("status {}", answer.status)
            }
        };
        self.tally.count(kind, outcome);
    }

    fn judge_answer(&self, ask: &Ask, kind: &str, before: Known, answer: &Answer) -> String {
        match answer::version_of(ask, answer, self.case.tolerance) {
            Ok(version) if before.allows(version, self.versions.now()) => {
                format!("right, version {}", self.case.versions[version])
            }
            Ok(version) => {
                let words =
                    format!("version {} answered when it no longer should", self.case.versions[version]);
                self.tally.broken(RIGHT, kind, &words);
                "of the wrong version".into()
            }
            Err(words) => {
                self.tally.broken(RIGHT, kind, &words);
                "wrong".into()
            }
        }
    }

    fn judge_busy(&self, kind: &str, answer: &Answer) -> String {
        if answer.header("retry-after").is_none() {
            self.tally.broken(REFUSED, kind, "429 without Retry-After");
        }
        "429, busy".into()
    }
}

/// A request's bytes.
fn bytes(ask: &Ask) -> Vec<u8> {
    [client::head("POST", &ask.path, &ask.headers, ask.body.len()), ask.body.clone()].concat()
}

/// The start of an answer's text.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(200).collect()
}

/// A pace: so many turns a second, no matter how long one takes; a late turn is not made up for.
struct Pace {
    period: Duration,
    next: Instant,
}

impl Pace {
    fn of(period: Duration) -> Self {
        Self { period, next: Instant::now() }
    }

    /// Sleeps until the next turn; false once the field is over.
    fn wait(&mut self, field: &Field) -> bool {
        /// So often the end is looked for.
        const NAP: Duration = Duration::from_millis(100);
        self.next = (self.next + self.period).max(Instant::now());
        loop {
            let left = self.next.saturating_duration_since(Instant::now());
            if field.is_over() {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}
