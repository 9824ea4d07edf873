//! `distill serve`: answers over HTTP until told to stop.

use std::net::{SocketAddr, ToSocketAddrs};

use serve::http::{self, StartInfo};

use super::predict::open;
use crate::args::ServeArgs;
use crate::failure::{Failure, Result};
use crate::print;

/// Serves one model.
pub fn run(args: &ServeArgs) -> Result {
    let served = open(&args.model, &args.engine)?;
    let options = http::Options {
        workers: args.workers,
        queue: args.queue,
        max_batch: args.max_batch,
        max_body_bytes: args.max_body << 20,
        top: args.top,
        ..http::Options::default()
    };
    http::run(served, &options, address(&args.addr)?, started).map_err(Failure::mendable)
}

fn address(text: &str) -> Result<SocketAddr> {
    let wrong =
        |reason: String| Failure::mendable(format!("--addr: expected HOST:PORT, found `{text}`: {reason}"));
    let mut addresses = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    addresses.next().ok_or_else(|| wrong("no such host".into()))
}

fn started(info: &StartInfo) {
    let StartInfo { address, model, engine, workers, curl } = info;
    print::announce(format!(
        "{model} at http://{address}, engine {engine}, {workers} workers; Ctrl-C stops\nTry:\n  {curl}"
    ));
}
