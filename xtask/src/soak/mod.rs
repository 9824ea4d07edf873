//! `cargo xtask soak`: an hour of everything that happens to a server at once. Good requests whose every answer is
//! checked, broken and oversized ones, slow and cancelled clients, bursts, a reload every minute; and the server's memory
//! all the while. It ends with an error if a promise was broken.
//!
//! The load is modest on purpose: one core is enough, and what is sought is what grows, gets lost or gets mixed up, not
//! how fast it goes (`distill bench` tells that).

mod answer;
mod case;
mod client;
mod load;
mod report;
mod server;
mod tally;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Result, target};
use case::Case;
use client::Client;
use load::{ALIVE, Field};
use report::{Reading, Report};
use server::Server;
use tally::Tally;
use versions::Versions;

const USAGE: &str =
    "usage: cargo xtask soak [--minutes N] [--rate N] [--folder FOLDER] [--json FILE] [--debug]
  --minutes N      how long; default 60
  --rate N         good requests a second, over four connections; default 40
  --folder FOLDER  where models, requests and logs go; default target/soak
  --json FILE      the report as JSON; default FOLDER/report.json
  --debug          drive a debug build: to try this chore, not to judge a server by";

/// How often the server's memory is read.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// A reload each; more often in a run that is too short for several.
const RELOAD_EVERY: Duration = Duration::from_secs(60);
const RELOADS_AT_LEAST: u32 = 6;

struct Options {
    time: Duration,
    rate: f64,
    folder: PathBuf,
    json: Option<PathBuf>,
    build: Build,
}

/// How what is driven is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Build {
    Release,
    Debug,
}

impl Build {
    /// Cargo's flags for it.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Release => &["--release"],
            Self::Debug => &[],
        }
    }

    /// The folder of its programs.
    fn folder(self) -> PathBuf {
        target().join(match self {
            Self::Release => "release",
            Self::Debug => "debug",
        })
    }
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            time: Duration::from_secs(3600),
            rate: 40.0,
            folder: target().join("soak"),
            json: None,
            build: Build::Release,
        };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            if flag == "--debug" {
                options.build = Build::Debug;
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--minutes" => options.time = Duration::from_secs_f64(60.0 * positive(flag, value)?),
                "--rate" => options.rate = positive(flag, value)?,
                "--folder" => options.folder = value.into(),
                "--json" => options.json = Some(value.into()),
                unknown => return Err(format!("unknown option {unknown}\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn positive(flag: &str, value: &str) -> Result<f64> {
    let number = value.parse().ok().filter(|&number: &f64| number > 0.0 && number.is_finite());
    number.ok_or_else(|| format!("{flag} takes a number above 0, found `{value}`"))
}

/// Drives a server and prints what came of it.
pub fn run(arguments: &[String]) -> Result {
    let options = Options::parse(arguments)?;
    let case = Case::make(&options.folder, options.build)?;
    let file = options.folder.join("soak.safetensors");
    std::fs::copy(case.model(&case.versions[0]), &file)
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let mut server = Server::start(&file, &options.folder.join("server.log"), options.build)?;
    let field = Arc::new(field(&options, case, file, &server)?);
    println!("driving {} for {:.0} s", server.address, options.time.as_secs_f64());
    let threads = load::start(&field);
    let readings = watch(&field, &mut server, options.time);
    field.over.store(true, Ordering::Relaxed);
    for thread in threads {
        if thread.join().is_err() {
            field.tally.broken(ALIVE, "the load", "a client panicked: a defect of this chore");
        }
    }
    stop(&field, &mut server);
    let report = Report { time: options.time, rate: options.rate, readings, counted: field.tally.counted() };
    let json = options.json.clone().unwrap_or_else(|| options.folder.join("report.json"));
    std::fs::write(&json, format!("{:#}\n", report.json()))
        .map_err(|error| format!("{}: {error}", json.display()))?;
    println!("{report}\nreport: {}\nserver's log: {}", json.display(), server.log.display());
    report.verdict()
}

/// Asks the server what it has, and lays out what the clients share.
fn field(options: &Options, case: Case, file: PathBuf, server: &Server) -> Result<Field> {
    let mut client = Client::new(server.address);
    let models = client.get("/v1/models").map_err(|lost| format!("/v1/models: {}", lost.name()))?;
    let models: Value =
        serde_json::from_slice(&models.body).map_err(|error| format!("/v1/models: {error}"))?;
    let model = models["models"][0]["name"].as_str().ok_or("/v1/models names no model")?.to_string();
    let speaks_oip = client.get("/v2/health/live").is_ok_and(|answer| answer.status == 200);
    let log = options.folder.join("soak.jsonl");
    Ok(Field {
        address: server.address,
        model,
        file,
        tally: Tally::new(&log)?,
        versions: Versions::new(0),
        limits_slowness: server.limits_slowness,
        speaks_oip,
        reload_every: RELOAD_EVERY.min(options.time / RELOADS_AT_LEAST),
        rate: options.rate,
        over: AtomicBool::new(false),
        case,
    })
}

/// Reads the server's memory and asks after its health until the time is over or it has ended.
fn watch(field: &Field, server: &mut Server, time: Duration) -> Vec<Reading> {
    let begun = Instant::now();
    let mut client = Client::new(field.address);
    let mut readings = Vec::new();
    while begun.elapsed() < time {
        std::thread::sleep(SAMPLE_EVERY.min(time.saturating_sub(begun.elapsed())));
        if let Some(status) = server.ended() {
            field.tally.broken(ALIVE, "the server", &format!("it ended with {status}"));
            break;
        }
        if let Some(sample) = server.sample() {
            let reading = Reading { seconds: begun.elapsed().as_secs_f64(), sample };
            field.tally.log("memory", &reading.json());
            readings.push(reading);
        }
        ask_after_health(field, &mut client);
    }
    readings
}

fn ask_after_health(field: &Field, client: &mut Client) {
    for path in ["/healthz", "/readyz", "/v1/models", "/metrics"] {
        match client.get(path) {
            Ok(answer) if answer.status == 200 => field.tally.count(path, "status 200"),
            // A build without metrics says so.
            Ok(answer) if answer.status == 404 && path == "/metrics" => field.tally.count(path, "not there"),
            Ok(answer) => field.tally.broken(ALIVE, path, &format!("status {}", answer.status)),
            Err(lost) => field.tally.broken(ALIVE, path, lost.name()),
        }
    }
}

/// Stops the server in order, and looks through what it said.
fn stop(field: &Field, server: &mut Server) {
    if server.ended().is_none() {
        match server.stop() {
            Ok(status) if status.success() => {}
            Ok(status) => field.tally.broken(ALIVE, "stopping", &format!("it ended with {status}")),
            Err(words) => field.tally.broken(ALIVE, "stopping", &words),
        }
    }
    let words = server.words();
    let panicked = words.lines().find(|line| line.contains("panicked at"));
    if let Some(line) = panicked {
        field.tally.broken(ALIVE, "the server's log", line);
    }
    field.tally.log("end", &json!({"panicked": panicked}));
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
        assert_eq!((plain.time, plain.rate, plain.build), (Duration::from_secs(3600), 40.0, Build::Release));
        let short = parse("--minutes 0.5 --debug --rate 8").unwrap();
        assert_eq!((short.time, short.rate, short.build), (Duration::from_secs(30), 8.0, Build::Debug));
        for line in ["--minutes 0", "--rate many", "--minutes", "--fast 1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
