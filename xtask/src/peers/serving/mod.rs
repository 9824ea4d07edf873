//! `cargo xtask peers serving`: the same network behind our server and behind Python's usual one, asked by the same load
//! generator (wrk), by turns. Both must give the same class first, or nothing is measured.

mod load;
mod server;
mod table;

use std::path::PathBuf;

use serde_json::json;

use self::load::Figures;
use self::server::{Network, Server, Side};
use super::{at_least_one, median};
use crate::{Result, python};

const USAGE: &str = "usage: cargo xtask peers serving [--arch NAME] [--channels N] [--size PX] [--connections LIST]
                              [--rounds N] [--seconds N] [--workers LIST] [--python EXE] [--json FILE]
  --arch NAME         network, at weights by formula; default small-cnn-3
  --channels N        1 for gray, 3 for RGB; default 1
  --size PX           side of its pictures; default 48
  --connections LIST  connections of wrk; default 1,16
  --rounds N          turns of each side; default 5
  --seconds N         of each turn; default 5
  --workers LIST      workers that the Python side is tried with; default 1 to twice the cores
  --python EXE        a Python that has fastapi, uvicorn[standard], onnxruntime, pillow and numpy; default one made in
                      .tools/
  --json FILE         the figures as JSON

It needs wrk (Debian: apt-get install wrk).";

/// What the Python side takes.
const PACKAGES: &[&str] = &["fastapi", "uvicorn[standard]", "onnxruntime", "pillow", "numpy"];

struct Options {
    arch: String,
    channels: usize,
    size: usize,
    connections: Vec<usize>,
    rounds: usize,
    seconds: usize,
    workers: Vec<usize>,
    python: Option<PathBuf>,
    json: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = Self {
            arch: "small-cnn-3".into(),
            channels: 1,
            size: 48,
            connections: vec![1, 16],
            rounds: 5,
            seconds: 5,
            workers: (1..=2 * cores).collect(),
            python: None,
            json: None,
        };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--arch" => options.arch = value.clone(),
                "--channels" => options.channels = at_least_one(flag, value)?,
                "--size" => options.size = at_least_one(flag, value)?,
                "--connections" => options.connections = list(flag, value)?,
                "--rounds" => options.rounds = at_least_one(flag, value)?,
                "--seconds" => options.seconds = at_least_one(flag, value)?,
                "--workers" => options.workers = list(flag, value)?,
                "--python" => options.python = Some(value.into()),
                "--json" => options.json = Some(value.clone()),
                unknown => return Err(format!("unknown option {unknown}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn list(flag: &str, value: &str) -> Result<Vec<usize>> {
    value.split(',').map(|number| at_least_one(flag, number.trim())).collect()
}

/// A number of connections, and each side's turns at it.
struct Case {
    connections: usize,
    /// Ours first; the Python side last.
    sides: Vec<(Side, Vec<Figures>)>,
}

/// Measures every number of connections and prints a line for each side.
pub fn run(arguments: &[String]) -> Result {
    let options = Options::parse(arguments)?;
    load::check()?;
    let python = match &options.python {
        Some(python) => python.clone(),
        None => python::environment("peers-serving", PACKAGES)?,
    };
    let network = Network::make(&options.arch, options.channels, options.size, &python)?;
    let mut cases = Vec::new();
    for &connections in &options.connections {
        let workers = best_workers(&network, &options, connections)?;
        let sides = vec![Side::Native, Side::OnnxRuntime, Side::Python { workers }];
        cases.push(measure(&network, sides, connections, &options)?);
    }
    println!("{}", table::text(&options.arch, &network, &cases));
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", json!({ "network": options.arch, "cases": table::json(&cases) }));
        std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// The number of workers with which the Python side is fastest here: by requests per second where several connections
/// ask, by its median latency where one does.
fn best_workers(network: &Network, options: &Options, connections: usize) -> Result<usize> {
    let mut tried = Vec::new();
    for &workers in &options.workers {
        let server = Server::start(network, Side::Python { workers })?;
        server.class()?;
        load::run(&server, network, connections, 1)?;
        let figures = load::run(&server, network, connections, options.seconds.min(3))?;
        eprintln!(
            "python, {workers} worker(s), {connections} connection(s): {:.0} requests/s, p50 {:.0} us",
            figures.requests_per_second, figures.p50_us
        );
        tried.push((workers, figures));
    }
    let worth = |figures: &Figures| match connections {
        1 => -figures.p50_us,
        _ => figures.requests_per_second,
    };
    let best = tried.iter().max_by(|(_, a), (_, b)| worth(a).total_cmp(&worth(b)));
    best.map(|(workers, _)| *workers).ok_or_else(|| "--workers: expected at least one number".into())
}

/// Lets the sides take turns: all servers run, one is asked at a time.
fn measure(network: &Network, sides: Vec<Side>, connections: usize, options: &Options) -> Result<Case> {
    let mut servers = Vec::new();
    for side in sides {
        servers.push((side, Server::start(network, side)?, Vec::new()));
    }
    agree(&servers)?;
    for (_, server, _) in &servers {
        load::run(server, network, connections, 1)?;
    }
    for round in 0..options.rounds {
        eprintln!("{connections} connection(s): round {} of {}", round + 1, options.rounds);
        let count = servers.len();
        for turn in 0..count {
            // Who goes first changes, so that a steady drift favors nobody.
            let (_, server, figures) = &mut servers[(turn + round) % count];
            figures.push(load::run(server, network, connections, options.seconds)?);
        }
    }
    let sides = servers.into_iter().map(|(side, _, figures)| (side, figures)).collect();
    Ok(Case { connections, sides })
}

/// All sides give the same class first.
fn agree(servers: &[(Side, Server, Vec<Figures>)]) -> Result {
    let mut answers = Vec::new();
    for (side, server, _) in servers {
        answers.push((side.name(), server.class()?));
    }
    match answers.iter().all(|(_, class)| *class == answers[0].1) {
        true => Ok(()),
        false => Err(format!("the sides do not answer the same class to the same picture: {answers:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_have_defaults_and_take_values() {
        let plain = parse("").unwrap();
        assert_eq!((plain.arch.as_str(), plain.channels, plain.size), ("small-cnn-3", 1, 48));
        assert_eq!((plain.connections, plain.rounds), (vec![1, 16], 5));
        let own = parse("--connections 1,4,64 --workers 2 --seconds 1 --rounds 2").unwrap();
        assert_eq!((own.connections, own.workers, own.seconds, own.rounds), (vec![1, 4, 64], vec![2], 1, 2));
        for line in ["--rounds 0", "--connections 1,no", "--fast 1", "--json"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
