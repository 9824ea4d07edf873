//! How a server behaves: every limit and time, with its default, and what makes no sense.

use std::path::PathBuf;
use std::time::Duration;

use picture::Limits;

use crate::{Result, ServeError};

/// How a server behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Threads with an engine each, per version of a model; 0 means as many as the cores have room for engines of the
    /// model's threads.
    pub workers: usize,
    /// Pictures of a version under way at most, those in the engines included; more are refused.
    pub queue: usize,
    /// Pictures that an engine runs together at most.
    pub max_batch: usize,
    /// Longest time that a picture waits for company, if company is likely. See `queue`.
    pub max_delay: Duration,
    /// Time for an answer; a request's `x-request-timeout-ms` may lower it.
    pub timeout: Duration,
    /// Pictures in one request at most.
    pub max_pictures: usize,
    /// Bytes of a body at most.
    pub max_body_bytes: usize,
    /// Bytes of all bodies under way at most.
    pub max_bodies_bytes: usize,
    /// Pixels of a picture at most.
    pub max_pixels: u64,
    /// Classes answered if the request does not say.
    pub top: usize,
    /// Connections at most.
    pub max_connections: usize,
    /// Bytes of a request's head at most.
    pub max_header_bytes: usize,
    /// Time for a request's head.
    pub header_timeout: Duration,
    /// Time for a request's body, and for a client to take more of its answer.
    pub body_timeout: Duration,
    /// Time that a connection may do nothing between two requests.
    pub keep_alive: Duration,
    /// How long a server that was told to stop goes on taking requests while it says that it is not ready.
    pub drain_delay: Duration,
    /// How long it then finishes what is under way.
    pub drain_timeout: Duration,
    /// How often files are looked at for changes; never if `None`.
    pub watch: Option<Duration>,
    /// File of API keys; anybody may ask if `None`.
    pub api_keys: Option<PathBuf>,
    /// Certificate and key; plain HTTP if `None`.
    pub tls: Option<TlsFiles>,
}

/// Where certificate and private key are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its root.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 0,
            queue: 256,
            max_batch: 16,
            // What waits anyway is run together; more of a wait has cost more than it gave on two cores.
            max_delay: Duration::ZERO,
            timeout: Duration::from_secs(30),
            max_pictures: 64,
            max_body_bytes: 32 << 20,
            max_bodies_bytes: 256 << 20,
            max_pixels: Limits::default().max_pixels,
            top: 5,
            max_connections: 1024,
            max_header_bytes: 64 << 10,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            watch: None,
            api_keys: None,
            tls: None,
        }
    }
}

/// Least room for a request's head: what the HTTP library starts with.
const LEAST_HEADER_BYTES: usize = 8 << 10;

impl Options {
    /// Threads with an engine each for engines of so many threads.
    pub(crate) fn worker_count(&self, threads: usize) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.workers == 0 { (cores() / threads.max(1)).max(1) } else { self.workers }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let positive = [
            ("queue", self.queue),
            ("max-batch", self.max_batch),
            ("max-pictures", self.max_pictures),
            ("max-body-bytes", self.max_body_bytes),
            ("max-bodies-bytes", self.max_bodies_bytes),
            ("max-connections", self.max_connections),
            ("top", self.top),
            ("timeout-ms", self.timeout.as_millis() as usize),
            ("header-timeout-ms", self.header_timeout.as_millis() as usize),
            ("body-timeout-ms", self.body_timeout.as_millis() as usize),
            ("keep-alive-ms", self.keep_alive.as_millis() as usize),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ServeError::Setting { name, expected: "at least 1".into(), found: "0".into() });
            }
        }
        self.check_sizes()
    }

    fn check_sizes(&self) -> Result<()> {
        let at_least = [
            ("max-header-bytes", self.max_header_bytes, LEAST_HEADER_BYTES, "bytes"),
            ("max-bodies-bytes", self.max_bodies_bytes, self.max_body_bytes, "(max-body-bytes)"),
        ];
        for (name, found, least, unit) in at_least {
            if found < least {
                let expected = format!("at least {least} {unit}");
                return Err(ServeError::Setting { name, expected, found: found.to_string() });
            }
        }
        Ok(())
    }
}
