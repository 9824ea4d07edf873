//! The open loop: requests come at a stated rate whether or not those before are answered, as clients that do not know
//! of each other send them. A latency counts from when its request was due: a server that stalls is charged for
//! everybody who would have waited meanwhile (what Gil Tene calls coordinated omission is charging it for one).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::connection::{Connection, Request, Target};
use super::outcomes::{Codes, Seen, latency};
use crate::bench::latency::{Latency, Samples};
use crate::{Result, ServeError};

/// Share of the arrivals' pace that answers must keep for a rate to be held.
const HELD: f64 = 0.95;
/// The last of a wait is spent looking at the clock: the system wakes sleepers later than they ask.
const WATCHED: Duration = Duration::from_micros(80);

/// A rate, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenLoad {
    /// Requests per second that were meant.
    pub rate: f64,
    /// Requests that were due: Poisson arrivals, so not exactly the rate times the time.
    pub arrivals: usize,
    /// Connections that carried them.
    pub connections: usize,
    /// Seconds of arrivals.
    pub seconds: f64,
    /// Answers with 200 in a second, until the last answer.
    pub answers_per_second: f64,
    /// Whether answers kept the arrivals' pace and none failed.
    pub held: bool,
    /// From when a request was due to its answer; those never sent count with their wait, as a lower bound.
    pub latency: Option<Latency>,
    /// How much later than due the generator itself sent where a connection was free.
    pub generator_late: Option<Latency>,
    /// Requests that were never sent, because the answers before took too long.
    pub unsent: usize,
    /// Requests by what came back.
    pub codes: Codes,
}

/// When requests are due: gaps of a Poisson process, the same for the same seed. The server has no part in it.
pub(super) fn arrivals(rate: f64, time: Duration, seed: u64) -> Vec<Duration> {
    let mut due = Vec::new();
    let mut at = 0.0;
    for index in 0.. {
        at -= (1.0 - uniform(seed, index)).ln() / rate;
        if at >= time.as_secs_f64() {
            break;
        }
        due.push(Duration::from_secs_f64(at));
    }
    due
}

/// Number `index` of the stream `seed`, in 0..1 (SplitMix64 of a counter).
fn uniform(seed: u64, index: u64) -> f64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}

/// A load that is to be sent.
pub(super) struct Plan<'a> {
    pub target: &'a Target,
    pub requests: &'a [Request],
    pub rate: f64,
    pub time: Duration,
    pub connections: usize,
    pub seed: u64,
}

impl Plan<'_> {
    /// Sends requests as they come due; gives up on those still unsent after twice the time.
    ///
    /// # Errors
    /// If the server cannot be reached at all.
    pub fn run(&self) -> Result<(OpenLoad, Samples)> {
        let due = arrivals(self.rate, self.time, self.seed);
        let mut open = Vec::new();
        for index in 0..self.connections.min(due.len().max(1)) {
            let what = || ServeError::io(format!("connect to {}", self.target.address));
            let mut connection = Connection::open(self.target).map_err(what())?;
            connection.send(&self.requests[index % self.requests.len()]).map_err(what())?;
            open.push(connection);
        }
        let connections = open.len();
        let next = AtomicUsize::new(0);
        let begun = Instant::now();
        let seen = std::thread::scope(|scope| {
            let (due, next) = (&due, &next);
            let run = |connection| scope.spawn(move || self.carry(connection, due, next, begun));
            let threads: Vec<_> = open.into_iter().map(run).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        Ok(self.judged(Seen::merged(seen), due.len(), connections))
    }

    /// One connection: takes the next request that is due, waits for its time, sends it.
    fn carry(
        &self,
        mut connection: Connection,
        due: &[Duration],
        next: &AtomicUsize,
        begun: Instant,
    ) -> Seen {
        let mut seen = Seen::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(&at) = due.get(index) else { return seen };
            let free = begun.elapsed();
            if free > self.time * 2 {
                seen.unsent.push((at, free - at));
                continue;
            }
            wait_until(begun, at);
            if free <= at {
                seen.late.push(begun.elapsed() - at);
            }
            let outcome = connection.send(&self.requests[index % self.requests.len()]);
            let took = begun.elapsed() - at;
            if seen.count(outcome) {
                seen.answered.push((at, took));
            }
        }
    }

    fn judged(&self, seen: Seen, arrivals: usize, connections: usize) -> (OpenLoad, Samples) {
        let samples = seen.samples();
        let last = seen.answered.iter().map(|(at, took)| *at + *took).max().unwrap_or_default();
        let answers_per_second = seen.answered.len() as f64 / last.max(self.time).as_secs_f64();
        let offered = arrivals as f64 / self.time.as_secs_f64();
        let load = OpenLoad {
            rate: self.rate,
            arrivals,
            connections,
            seconds: self.time.as_secs_f64(),
            answers_per_second,
            held: answers_per_second >= HELD * offered && seen.codes.failed() == 0 && seen.unsent.is_empty(),
            latency: latency(&samples),
            generator_late: latency(&seen.late),
            unsent: seen.unsent.len(),
            codes: seen.codes,
        };
        (load, samples)
    }
}

fn wait_until(begun: Instant, at: Duration) {
    loop {
        let now = begun.elapsed();
        if now >= at {
            return;
        }
        match (at - now).checked_sub(WATCHED) {
            Some(rest) if !rest.is_zero() => std::thread::sleep(rest),
            _ => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::super::closed::closed_loop;
    use super::super::generator::Responder;
    use super::*;

    #[test]
    fn arrivals_are_poisson_at_the_rate_and_the_same_for_a_seed() {
        let due = arrivals(1000.0, Duration::from_secs(100), 7);
        assert_eq!(due, arrivals(1000.0, Duration::from_secs(100), 7));
        assert_ne!(due, arrivals(1000.0, Duration::from_secs(100), 8));
        // 100,000 arrivals are expected, give or take 5 standard deviations of 316.
        assert!((98_419..=101_581).contains(&due.len()), "{}", due.len());
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The gaps of a Poisson process have a standard deviation of their mean; those of a metronome none.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "{variance} {mean}");
    }

    /// A server that answers one request at a time and stalls for a while at one of them.
    fn stalling(at: usize, stall: Duration) -> Responder {
        let served = Arc::new(Mutex::new(0));
        Responder::with(move || {
            let mut served = served.lock().unwrap();
            *served += 1;
            if *served == at {
                std::thread::sleep(stall);
            }
        })
        .unwrap()
    }

    #[test]
    fn a_stall_is_charged_for_everybody_who_would_have_waited() {
        let stall = Duration::from_millis(300);
        let requests = [Request::classify("image/png", b"x")];
        let charged = |samples: &Samples| samples.0.iter().filter(|&&took| took >= stall / 3).count();

        let server = stalling(20, stall);
        let target = Target::new(server.address, "test", &[]);
        let time = Duration::from_millis(1200);
        let plan = Plan { target: &target, requests: &requests, rate: 200.0, time, connections: 8, seed: 3 };
        let (load, open) = plan.run().unwrap();
        // Of about 60 requests that are due during the stall, those of its first two thirds wait a third of it or
        // more, whether a connection was free to carry them or not.
        assert!(charged(&open) >= 20, "{} of {}", charged(&open), open.len());
        assert_eq!((load.arrivals, load.codes.answered(), load.unsent), (open.len(), open.len(), 0));

        let server = stalling(20, stall);
        let target = Target::new(server.address, "test", &[]);
        let (_, closed) = closed_loop(&target, &requests, 1, time).unwrap();
        assert!(charged(&closed) >= 1, "the closed loop asks once and waits");
    }

    #[test]
    fn a_rate_beyond_the_server_is_not_held_and_who_was_never_asked_counts() {
        let slow = Arc::new(Mutex::new(()));
        let server = Responder::with(move || {
            let _one_at_a_time = slow.lock().unwrap();
            std::thread::sleep(Duration::from_millis(20));
        })
        .unwrap();
        let target = Target::new(server.address, "test", &[]);
        let requests = [Request::classify("image/png", b"x")];
        let time = Duration::from_millis(400);
        let plan = Plan { target: &target, requests: &requests, rate: 500.0, time, connections: 4, seed: 1 };
        let (load, samples) = plan.run().unwrap();
        assert!(!load.held && load.unsent > 0, "{load:?}");
        assert_eq!(load.codes.answered() + load.unsent, load.arrivals);
        assert_eq!(samples.len(), load.arrivals);
        assert!(load.answers_per_second <= 50.0 + 1.0, "20 ms each: {load:?}");
    }
}
