//! `cargo xtask peers`: training steps against PyTorch's best mode and inference against ONNX Runtime, paired: the two
//! sides take turns, so that a machine whose speed drifts slows both alike, and medians are compared.

mod case;
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Result, python, root, run as run_command, tools};
use case::{Case, Kind};
use process::Peer;

/// What PyTorch is asked for; the fastest of them is the peer.
const MODES: &[&str] = &["eager", "channels_last", "compile"];

const USAGE: &str =
    "usage: cargo xtask peers [--case TEXT]... [--threads N] [--rounds N] [--python EXE] [--json FILE]
  --case TEXT    cases whose names hold the text, such as train/ or resnet18; or a new one, named in full:
                 train/ARCH/SIZE/bBATCH or infer/ARCH/SIZE/tTHREADS; default all
  --threads N    threads of both sides in training; default 2
  --rounds N     turns of each side; default 5
  --python EXE   a Python that has the peers' packages; default one made in .tools/
  --json FILE    the rows as JSON";

struct Options {
    cases: Vec<Case>,
    threads: String,
    rounds: usize,
    python: Option<String>,
    json: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options =
            Self { cases: Vec::new(), threads: "2".into(), rounds: 5, python: None, json: None };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--case" => options.cases.extend(case::named(value)?),
                "--threads" => options.threads.clone_from(value),
                "--python" => options.python = Some(value.clone()),
                "--json" => options.json = Some(value.clone()),
                "--rounds" => {
                    options.rounds = value
                        .parse()
                        .ok()
                        .filter(|&rounds| rounds > 0)
                        .ok_or_else(|| format!("--rounds takes a number, at least 1, found `{value}`"))?;
                }
                unknown => return Err(format!("unknown option {unknown}\n{USAGE}")),
            }
        }
        if options.cases.is_empty() {
            options.cases = case::all();
        }
        Ok(options)
    }
}

/// Figures of both sides, a pair for each round. Ratios above 1 are in our favor.
struct Paired {
    peer: String,
    unit: &'static str,
    ours: Vec<f64>,
    theirs: Vec<f64>,
    ratios: Vec<f64>,
    macs: f64,
}

/// Measures every case and prints a row for each.
pub fn run(arguments: &[String]) -> Result {
    let options = Options::parse(arguments)?;
    let python = match &options.python {
        Some(python) => python.into(),
        None => python::environment("peers", &["torch", "torchvision", "onnxruntime", "numpy"])?,
    };
    build()?;
    let mut rows = Vec::new();
    println!(
        "{:<30}{:>12}{:>12}  {:<11}{:>6}{:>14}  {:>9}  peer",
        "case", "ours", "peer", "unit", "ratio", "spread", "MACs"
    );
    for case in &options.cases {
        let pair = match case.kind {
            Kind::Train => training(case, &options, &python)?,
            Kind::Infer => inference(case, &options, &python)?,
        };
        let spread =
            [f64::min, f64::max].map(|pick| pair.ratios.iter().copied().reduce(pick).unwrap_or(f64::NAN));
        println!(
            "{:<30}{:>12.4}{:>12.4}  {:<11}{:>6.2}{:>14}  {:>7.1} M  {}",
            case.name(),
            median(&pair.ours),
            median(&pair.theirs),
            pair.unit,
            median(&pair.ratios),
            format!("{:.2}..{:.2}", spread[0], spread[1]),
            pair.macs / 1e6,
            pair.peer,
        );
        rows.push(json!({
            "case": case.name(),
            "peer": pair.peer,
            "ours": median(&pair.ours),
            "theirs": median(&pair.theirs),
            "unit": pair.unit,
            "ratio": median(&pair.ratios),
            "ratio_min": spread[0],
            "ratio_max": spread[1],
            "rounds": options.rounds,
            "macs": pair.macs,
        }));
    }
    match &options.json {
        Some(path) => std::fs::write(path, format!("{:#}\n", Value::Array(rows)))
            .map_err(|error| format!("{path}: {error}")),
        None => Ok(()),
    }
}

/// Builds the programs that are our side.
fn build() -> Result {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let what = [
        "--package",
        "distill-engine",
        "--package",
        "distill-export",
        "--example",
        "step",
        "--example",
        "network",
    ];
    run_command(Command::new(cargo).current_dir(root()).args(["build", "--release"]).args(what))
}

fn program(example: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    target.join("release/examples").join(example)
}

/// Pictures per second of training steps.
fn training(case: &Case, options: &Options, python: &Path) -> Result<Paired> {
    const STEPS: &str = "20";
    let (size, batch) = (case.size.to_string(), case.number.to_string());
    let script = root().join("xtask/peers/training.py");
    let mut peer = Peer::start(python, &script, &[&case.arch, &size, &batch, &options.threads, STEPS])?;
    let flags = ["--batch", &batch, "--threads", &options.threads, "--iterations", STEPS];
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); MODES.len()];
    let mut macs = 0.0;
    for _ in 0..options.rounds {
        for (mode, figures) in MODES.iter().zip(&mut theirs) {
            figures.push(peer.measure(mode)?);
        }
        let (milliseconds, counted) = step(case, &flags)?;
        ours.push(case.number as f64 / milliseconds * 1e3);
        macs = counted;
    }
    let (best, theirs) = MODES
        .iter()
        .zip(theirs)
        .max_by(|a, b| median(&a.1).total_cmp(&median(&b.1)))
        .ok_or("no mode was measured")?;
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    Ok(Paired { peer: format!("PyTorch, {best}"), unit: "pictures/s", ours, theirs, ratios, macs })
}

/// Milliseconds of a call with one picture.
fn inference(case: &Case, options: &Options, python: &Path) -> Result<Paired> {
    let (size, threads) = (case.size.to_string(), case.number.to_string());
    let folder = tools().join("peers-networks");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = folder.join(format!("{}-{size}.onnx", case.arch));
    run_command(
        Command::new(program("network"))
            .args([&case.arch, &size])
            .arg(&file)
            .stdout(std::process::Stdio::null()),
    )?;
    // About a second a round, on either side.
    let calls = (2_000_000 / (case.size * case.size)).clamp(30, 1000).to_string();
    let script = root().join("xtask/peers/inference.py");
    let mut peer = Peer::start(python, &script, &[&file.display().to_string(), &threads, &calls])?;
    let flags = ["--infer", "--wall", "--batch", "1", "--threads", &threads, "--iterations", &calls];
    let (mut ours, mut theirs, mut macs) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..options.rounds {
        theirs.push(peer.measure("go")?);
        let (milliseconds, counted) = step(case, &flags)?;
        ours.push(milliseconds);
        macs = counted;
    }
    let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours).collect();
    Ok(Paired { peer: format!("ONNX Runtime, {threads} thread(s)"), unit: "ms", ours, theirs, ratios, macs })
}

/// Median milliseconds that our side takes, and the network's multiply-accumulates.
fn step(case: &Case, flags: &[&str]) -> Result<(f64, f64)> {
    let program = program("step");
    let output = Command::new(&program)
        .args(["--arch", &case.arch, "--size", &case.size.to_string()])
        .args(flags)
        .output()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let before =
        |mark: &str| -> Option<f64> { text.split_once(mark)?.0.rsplit([' ', '\n']).next()?.parse().ok() };
    before(" ms (").zip(before(" multiply-accumulates")).ok_or_else(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!("{} printed no figure: {text}{errors}", program.display())
    })
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
