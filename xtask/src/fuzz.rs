//! `cargo xtask fuzz`: the fuzzers of `fuzz/`, one after the other, each on its committed seeds and on what it has found
//! before. Memory, time and length of an input are limited, so that a bomb or a slow input is a finding too.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, root, run as run_command};

const USAGE: &str = "usage: cargo xtask fuzz [PARSER]... [--minutes N]
  PARSER       which fuzzers, by the names in fuzz/Cargo.toml; default all
  --minutes N  how long each; default 10";

/// Fixtures of other tests that are good seeds.
const MORE_SEEDS: &[(&str, &str)] =
    &[("picture", "picture/tests/fixtures"), ("parquet", "data/tests/fixtures")];
/// Memory of a fuzzer, in MiB.
const MEMORY: usize = 2048;
/// Seconds that one input may take.
const SECONDS: usize = 10;
/// Bytes of an input at least; twice its largest seed where that is more.
const LENGTH: u64 = 4096;

struct Options {
    parsers: Vec<String>,
    minutes: f64,
}

impl Options {
    fn parse(arguments: &[String], known: &[String]) -> Result<Self> {
        let mut options = Self { parsers: Vec::new(), minutes: 10.0 };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--minutes" {
                let value = rest.next().ok_or_else(|| format!("--minutes needs a value\n{USAGE}"))?;
                let number = value.parse().ok().filter(|&minutes: &f64| minutes > 0.0);
                options.minutes =
                    number.ok_or_else(|| format!("--minutes takes a number, found `{value}`"))?;
            } else if known.contains(argument) {
                options.parsers.push(argument.clone());
            } else {
                return Err(format!("no parser `{argument}`; known: {}\n{USAGE}", known.join(", ")));
            }
        }
        if options.parsers.is_empty() {
            options.parsers = known.to_vec();
        }
        Ok(options)
    }
}

/// Builds and runs them; what one finds does not keep the next from its turn.
pub fn run(arguments: &[String]) -> Result {
    let known =
        fuzzers(&std::fs::read_to_string(folder().join("Cargo.toml")).map_err(|error| error.to_string())?);
    let options = Options::parse(arguments, &known)?;
    check_tools()?;
    run_command(
        cargo_fuzz("build").args(options.parsers.iter().take(1).filter(|_| options.parsers.len() == 1)),
    )?;
    println!(
        "{:<14}{:>14}{:>10}{:>10}{:>10}  findings",
        "parser", "executions", "per s", "coverage", "corpus"
    );
    let mut failed = Vec::new();
    for parser in &options.parsers {
        let outcome = fuzz(parser, options.minutes)?;
        println!("{}", outcome.line(parser));
        if !outcome.findings.is_empty() {
            failed.push(format!("{parser}: {}", outcome.findings.join(", ")));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("found\n  {}", failed.join("\n  "))) }
}

fn folder() -> PathBuf {
    root().join("fuzz")
}

/// Names of the fuzzers in a manifest.
fn fuzzers(manifest: &str) -> Vec<String> {
    let bins = manifest.split("[[bin]]").skip(1);
    bins.filter_map(|bin| bin.split('"').nth(1)).map(String::from).collect()
}

/// What is needed besides the workspace's own toolchain.
fn check_tools() -> Result {
    let works = |arguments: &[&str]| {
        Command::new("cargo").args(arguments).output().is_ok_and(|output| output.status.success())
    };
    if !works(&["+nightly", "--version"]) {
        return Err("fuzzers are built with a nightly toolchain: `rustup toolchain install nightly`".into());
    }
    if !works(&["fuzz", "--version"]) {
        return Err("fuzzers are built and run by cargo-fuzz: `cargo install cargo-fuzz`".into());
    }
    Ok(())
}

fn cargo_fuzz(verb: &str) -> Command {
    let mut command = Command::new("cargo");
    // Set by the cargo that runs this chore, and meant for its toolchain.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTDOC"] {
        command.env_remove(variable);
    }
    command.current_dir(root()).args(["+nightly", "fuzz", verb]);
    command
}

/// What came of a fuzzer.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    executions: u64,
    per_second: u64,
    coverage: u64,
    corpus: u64,
    findings: Vec<String>,
}

impl Outcome {
    fn line(&self, parser: &str) -> String {
        let Self { executions, per_second, coverage, corpus, findings } = self;
        let findings = if findings.is_empty() { "none".to_string() } else { findings.join(", ") };
        format!("{parser:<14}{executions:>14}{per_second:>10}{coverage:>10}{corpus:>10}  {findings}")
    }

    /// Reads what libFuzzer says.
    fn read(log: &str) -> Self {
        let last = |mark: &str| {
            let line = log.lines().rev().find(|line| line.contains(mark))?;
            line.split_once(mark)?.1.trim().split([' ', '/']).next()?.parse().ok()
        };
        let findings = log.lines().filter_map(|line| line.split_once("Test unit written to "));
        Self {
            executions: last("stat::number_of_executed_units:").unwrap_or(0),
            per_second: last("stat::average_exec_per_sec:").unwrap_or(0),
            coverage: last(" cov: ").unwrap_or(0),
            corpus: last(" corp: ").unwrap_or(0),
            findings: findings.map(|(_, path)| path.trim().to_string()).collect(),
        }
    }
}

/// Runs a fuzzer; its words go to `fuzz/artifacts/PARSER.log`.
fn fuzz(parser: &str, minutes: f64) -> Result<Outcome> {
    let corpus = folder().join("corpus").join(parser);
    let artifacts = folder().join("artifacts").join(parser);
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = folder().join("artifacts").join(format!("{parser}.log"));
    let file = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = file.try_clone().map_err(|error| error.to_string())?;
    let seeds = seeds(parser);
    let status = cargo_fuzz("run")
        .arg(parser)
        .arg(&corpus)
        .args(&seeds)
        .arg("--")
        .args([format!("-max_total_time={:.0}", 60.0 * minutes), format!("-rss_limit_mb={MEMORY}")])
        .args([format!("-timeout={SECONDS}"), format!("-max_len={}", longest(&seeds))])
        // What a library says on standard error would fill the log.
        .args(["-print_final_stats=1", "-close_fd_mask=2"])
        .stdout(file)
        .stderr(errors)
        .status()
        .map_err(|error| format!("cargo fuzz: {error}"))?;
    let outcome = Outcome::read(&String::from_utf8_lossy(&std::fs::read(&log).unwrap_or_default()));
    if !status.success() && outcome.findings.is_empty() {
        return Err(format!(
            "the fuzzer of {parser} ended with {status} and found nothing; see {}",
            log.display()
        ));
    }
    Ok(outcome)
}

fn seeds(parser: &str) -> Vec<PathBuf> {
    let more = MORE_SEEDS.iter().filter(|(name, _)| *name == parser).map(|(_, folder)| root().join(folder));
    std::iter::once(folder().join("seeds").join(parser)).chain(more).collect()
}

/// How long inputs may be.
fn longest(folders: &[PathBuf]) -> u64 {
    let sizes = folders.iter().flat_map(|folder| sizes(folder));
    sizes.map(|size| 2 * size).max().unwrap_or(0).max(LENGTH)
}

fn sizes(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|about| about.is_file())
        .map(|about| about.len())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "#5\tINITED cov: 12 ft: 30 corp: 3/10b exec/s: 0 rss: 30Mb
#4096\tpulse  cov: 345 ft: 600 corp: 42/9Kb lim: 100 exec/s: 1365 rss: 60Mb
artifact_prefix='a/'; Test unit written to a/crash-1
stat::number_of_executed_units: 4097
stat::average_exec_per_sec:     1365
";

    #[test]
    fn figures_and_findings_are_read_from_what_a_fuzzer_says() {
        let expected = Outcome {
            executions: 4097,
            per_second: 1365,
            coverage: 345,
            corpus: 42,
            findings: vec!["a/crash-1".into()],
        };
        assert_eq!(Outcome::read(LOG), expected);
        assert_eq!(Outcome::read(""), Outcome::default());
    }

    #[test]
    fn fuzzers_are_listed_in_their_manifest_and_chosen_by_name() {
        let known =
            fuzzers("[lib]\nname = \"fuzz\"\n[[bin]]\nname = \"a\"\npath = \"x\"\n[[bin]]\nname = \"b\"\n");
        assert_eq!(known, ["a", "b"]);
        let parse = |line: &str| {
            Options::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>(), &known)
        };
        assert_eq!(parse("").unwrap().parsers, known);
        let one = parse("b --minutes 0.5").unwrap();
        assert_eq!((one.parsers, one.minutes), (vec!["b".to_string()], 0.5));
        assert!(parse("c").is_err_and(|error| error.contains("known: a, b")));
        assert!(parse("--minutes 0").is_err() && parse("--minutes").is_err());
    }
}
