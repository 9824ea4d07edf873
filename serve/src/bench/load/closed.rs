//! The closed loop: each connection sends a request once the one before is answered. Its latencies are those of
//! patient clients; what happens to clients that do not wait for each other is in [`super::open`].

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::connection::{Connection, Request, Target};
use super::outcomes::{Codes, Seen, latency};
use crate::bench::latency::{Latency, Samples};
use crate::{Result, ServeError};

/// A number of connections, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClosedLoad {
    /// Connections.
    pub connections: usize,
    /// Seconds it lasted.
    pub seconds: f64,
    /// Answers with 200 in a second.
    pub answers_per_second: f64,
    /// Latency of those answers; `None` if there was none.
    pub latency: Option<Latency>,
    /// Requests by what came back.
    pub codes: Codes,
}

/// Sends requests over `connections` for so long.
///
/// # Errors
/// If the server cannot be reached at all.
pub(super) fn closed_loop(
    target: &Target,
    requests: &[Request],
    connections: usize,
    time: Duration,
) -> Result<(ClosedLoad, Samples)> {
    let mut open = Vec::new();
    for index in 0..connections {
        let what = || ServeError::io(format!("connect to {}", target.address));
        let mut connection = Connection::open(target).map_err(what())?;
        // The first request of a connection pays for the connection.
        connection.send(&requests[index % requests.len()]).map_err(what())?;
        open.push(connection);
    }
    let begun = Instant::now();
    let seen = std::thread::scope(|scope| {
        let run = |(index, connection)| scope.spawn(move || ask(connection, requests, index, begun, time));
        let threads: Vec<_> = open.into_iter().enumerate().map(run).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let seen = Seen::merged(seen);
    let samples = seen.samples();
    let load = ClosedLoad {
        connections,
        seconds,
        answers_per_second: seen.answered.len() as f64 / seconds,
        latency: latency(&samples),
        codes: seen.codes,
    };
    Ok((load, samples))
}

fn ask(
    mut connection: Connection,
    requests: &[Request],
    first: usize,
    begun: Instant,
    time: Duration,
) -> Seen {
    let mut seen = Seen::default();
    for request in requests.iter().cycle().skip(first) {
        let sent = begun.elapsed();
        if sent >= time {
            break;
        }
        let outcome = connection.send(request);
        let took = begun.elapsed() - sent;
        if seen.count(outcome) {
            seen.answered.push((sent, took));
        }
    }
    seen
}
