//! The load generator, wrk, which both sides are asked by. Never a figure of ours that is counted otherwise.

use std::process::Command;

use super::server::{Network, Server};
use crate::{Result, root};

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub requests_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// Whether wrk is there.
pub fn check() -> Result {
    // It answers --version with its usage and an exit code of its own.
    let answered = Command::new("wrk").arg("--version").output();
    answered.map(|_| ()).map_err(|error| format!("this needs wrk: {error} (Debian: apt-get install wrk)"))
}

/// Asks a server for so many seconds.
pub fn run(server: &Server, network: &Network, connections: usize, seconds: usize) -> Result<Figures> {
    let output = Command::new("wrk")
        .args(["--threads", "1", "--latency", "--script"])
        .arg(root().join("xtask/peers/post.lua"))
        .args(["--connections", &connections.to_string(), "--duration", &format!("{seconds}s")])
        .arg(server.url())
        .env("PICTURE", &network.picture)
        .output()
        .map_err(|error| format!("wrk: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    read(&said).map_err(|reason| format!("wrk against {}: {reason}\n{said}{errors}", server.url()))
}

/// The script's line: answers, microseconds, p50, p99, errors.
fn read(said: &str) -> Result<Figures> {
    let line = said.lines().find_map(|line| line.strip_prefix("figures ")).ok_or("it printed no figures")?;
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [answers, _, _, _, _] if *answers == 0.0 => Err("nothing was answered".into()),
        [answers, microseconds, p50, p99, 0.0] => {
            Ok(Figures { requests_per_second: answers / microseconds * 1e6, p50_us: *p50, p99_us: *p99 })
        }
        [_, _, _, _, failed] => Err(format!("{failed} requests failed")),
        _ => Err(format!("expected five figures, found `{line}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_line_is_read_and_failures_are_no_figures() {
        let figures = read("Running 5s test\nfigures 10000 5000000 412.5 900 0\n").unwrap();
        assert_eq!(figures, Figures { requests_per_second: 2000.0, p50_us: 412.5, p99_us: 900.0 });
        assert_eq!(read("figures 10 5 1 1 3").unwrap_err(), "3 requests failed");
        assert_eq!(read("figures 0 5 0 0 0").unwrap_err(), "nothing was answered");
        assert!(read("connection refused").is_err());
    }
}
