//! `cargo xtask peers`: training steps against PyTorch's best mode, paired: the two sides take turns, so that a machine
//! whose speed drifts slows both alike, and medians are compared.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::{Result, python, root, run as run_command};

/// What PyTorch is asked for; the fastest of them is the peer.
const MODES: &[&str] = &["eager", "channels_last", "compile"];

const USAGE: &str = "usage: cargo xtask peers [--arch NAME]... [--size PX] [--batch N] [--threads N] [--rounds N] \
                     [--steps N] [--python EXE] [--json FILE]";

struct Options {
    archs: Vec<String>,
    size: String,
    batch: String,
    threads: String,
    rounds: usize,
    steps: String,
    python: Option<String>,
    json: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            archs: Vec::new(),
            size: "32".into(),
            batch: "64".into(),
            threads: "2".into(),
            rounds: 5,
            steps: "20".into(),
            python: None,
            json: None,
        };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?.clone();
            match flag.as_str() {
                "--arch" => options.archs.push(value),
                "--size" => options.size = value,
                "--batch" => options.batch = value,
                "--threads" => options.threads = value,
                "--steps" => options.steps = value,
                "--python" => options.python = Some(value),
                "--json" => options.json = Some(value),
                "--rounds" => {
                    options.rounds =
                        value.parse().map_err(|_| format!("--rounds takes a number, found `{value}`"))?;
                }
                unknown => return Err(format!("unknown option {unknown}\n{USAGE}")),
            }
        }
        if options.archs.is_empty() {
            options.archs = ["mobilenet-v3-large", "resnet18", "efficientnet-b0"].map(String::from).to_vec();
        }
        Ok(options)
    }
}

/// Measures every architecture and prints a row for each.
pub fn run(arguments: &[String]) -> Result {
    let options = Options::parse(arguments)?;
    let python = match &options.python {
        Some(python) => python.into(),
        None => python::environment("peers", &["torch", "torchvision", "numpy"])?,
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build = ["build", "--release", "--package", "distill-engine", "--example", "step"];
    run_command(Command::new(cargo).current_dir(root()).args(build))?;
    let mut rows = Vec::new();
    println!(
        "{:<22}{:>12}{:>12}{:>8}  peer's best mode; spread of the ratio",
        "training step", "ours img/s", "peer img/s", "ratio"
    );
    for arch in &options.archs {
        let row = compare(arch, &options, &python)?;
        println!(
            "{:<22}{:>12.0}{:>12.0}{:>8.2}  {}; {:.2}..{:.2}",
            arch,
            number(&row, "ours"),
            number(&row, "theirs"),
            number(&row, "ratio"),
            row["peer"].as_str().unwrap_or_default(),
            number(&row, "ratio_min"),
            number(&row, "ratio_max"),
        );
        rows.push(row);
    }
    match &options.json {
        Some(path) => std::fs::write(path, format!("{:#}\n", Value::Array(rows)))
            .map_err(|error| format!("{path}: {error}")),
        None => Ok(()),
    }
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

fn compare(arch: &str, options: &Options, python: &Path) -> Result<Value> {
    let mut peer = Peer::start(python, arch, options)?;
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); MODES.len()];
    for _ in 0..options.rounds {
        for (mode, figures) in MODES.iter().zip(&mut theirs) {
            figures.push(peer.measure(mode)?);
        }
        ours.push(measure_ours(arch, options)?);
    }
    let (best, figures) = (0..MODES.len())
        .map(|index| (MODES[index], &theirs[index]))
        .max_by(|a, b| median(a.1).total_cmp(&median(b.1)))
        .ok_or("no mode was measured")?;
    let ratios: Vec<f64> = ours.iter().zip(figures).map(|(ours, theirs)| ours / theirs).collect();
    let extreme = |pick: fn(f64, f64) -> f64| ratios.iter().copied().reduce(pick).unwrap_or(f64::NAN);
    Ok(json!({
        "case": format!("train/{arch}/{}/b{}", options.size, options.batch),
        "peer": format!("pytorch {best}"),
        "ours": median(&ours),
        "theirs": median(figures),
        "unit": "pictures/s",
        "ratio": median(&ratios),
        "ratio_min": extreme(f64::min),
        "ratio_max": extreme(f64::max),
        "rounds": options.rounds,
        "threads": options.threads,
    }))
}

fn measure_ours(arch: &str, options: &Options) -> Result<f64> {
    let program = target().join("release/examples/step");
    let output = Command::new(&program)
        .args(["--arch", arch, "--size", &options.size, "--batch", &options.batch])
        .args(["--threads", &options.threads, "--iterations", &options.steps])
        .output()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figure = text.split_once(" pictures/s").and_then(|(before, _)| before.rsplit('(').next());
    figure.and_then(|figure| figure.parse().ok()).ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("{} printed no figure: {text}{errors}", program.display())
    })
}

fn target() -> std::path::PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// A Python process that holds the network in every mode and measures the one it is told, a line each.
struct Peer {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Peer {
    fn start(python: &Path, arch: &str, options: &Options) -> Result<Self> {
        let mut process = Command::new(python)
            .arg(root().join("xtask/peers/train.py"))
            .args([arch, &options.size, &options.batch, &options.threads, &options.steps])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", python.display()))?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output of the peer")?);
        Ok(Self { process, answers })
    }

    fn measure(&mut self, mode: &str) -> Result<f64> {
        let questions = self.process.stdin.as_mut().ok_or("the peer takes no input")?;
        writeln!(questions, "{mode}").map_err(|error| format!("the peer is gone: {error}"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("the peer is gone: {error}"))?;
        line.trim().parse().map_err(|_| format!("the peer answered `{}` for mode {mode}", line.trim()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Closing its input ends the process; waiting leaves no zombie.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
