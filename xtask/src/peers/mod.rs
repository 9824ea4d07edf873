//! `cargo xtask peers`: training steps against PyTorch's best mode and inference against ONNX Runtime, paired: the sides
//! take turns, so that a machine whose speed drifts slows all alike, and medians are compared. Beside each stands how near
//! we are to what this machine can do at most.

mod case;
mod ours;
mod process;
mod rival;
mod row;
mod serving;

use std::path::Path;

use serde_json::Value;

use crate::{Result, python};
use case::{Case, Kind, Weights};
use ours::{Bound, Timing};
use rival::{Extra, Ground, Rival};
use row::{Ours, Row, Theirs};

const USAGE: &str =
    "usage: cargo xtask peers [--case TEXT]... [--with LIST] [--threads N] [--rounds N] [--python EXE] [--json FILE]
  --case TEXT    cases whose names hold the text, such as train/ or resnet18; or one named in full:
                 train/ARCH/SIZE/bBATCH or infer/ARCH/SIZE/tTHREADS, with /bf16 for our weights in bfloat16, or
                 /int8 for quantized networks on our side and ONNX Runtime's; default all
  --with LIST    further peers, all or some of candle,tract,bf16: candle's own layers, tract (inference), PyTorch
                 under bfloat16 autocast (training, for information); the first two compile for minutes, once
  --threads N    threads of all sides in training; default 2
  --rounds N     turns of each side; default 5
  --python EXE   a Python that has the peers' packages; default one made in .tools/
  --json FILE    the rows as JSON

       cargo xtask peers serving    our server beside FastAPI and uvicorn, under wrk; its options by --help";

struct Options {
    cases: Vec<Case>,
    extras: Vec<Extra>,
    threads: usize,
    rounds: usize,
    python: Option<String>,
    json: Option<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options =
            Self { cases: Vec::new(), extras: Vec::new(), threads: 2, rounds: 5, python: None, json: None };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--case" => options.cases.extend(case::named(value)?),
                "--with" => options.extras = Extra::parse_list(value)?,
                "--threads" => options.threads = at_least_one(flag, value)?,
                "--rounds" => options.rounds = at_least_one(flag, value)?,
                "--python" => options.python = Some(value.clone()),
                "--json" => options.json = Some(value.clone()),
                unknown => return Err(format!("unknown option {unknown}\n{USAGE}")),
            }
        }
        if options.cases.is_empty() {
            options.cases = case::all();
        }
        Ok(options)
    }
}

fn at_least_one(flag: &str, value: &str) -> Result<usize> {
    let number = value.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("{flag} takes a number, at least 1, found `{value}`"))
}

/// Measures every case and prints a row for each of its peers. What fails is named, and the rest goes on.
pub fn run(arguments: &[String]) -> Result {
    if let Some(("serving", rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return serving::run(rest);
    }
    let options = Options::parse(arguments)?;
    let python = match &options.python {
        Some(python) => python.into(),
        None => python::environment("peers", &["torch", "torchvision", "onnx", "onnxruntime", "numpy"])?,
    };
    ours::build()?;
    rival::build(&options.extras)?;
    println!("{}", row::heading());
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for case in &options.cases {
        match measure(case, &options, &python, &mut failures) {
            Ok((ours, all_theirs)) => rows.extend(shown(&ours, &all_theirs)),
            Err(error) => failures.push(format!("{}: {error}", case.name())),
        }
    }
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", Value::Array(rows));
        std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))?;
    }
    if failures.is_empty() { Ok(()) } else { Err(format!("not measured:\n  {}", failures.join("\n  "))) }
}

/// Prints a case's lines and returns them as JSON.
fn shown(ours: &Ours, all_theirs: &[Theirs]) -> Vec<Value> {
    let rows: Vec<Row> = all_theirs.iter().map(|theirs| Row { ours, theirs }).collect();
    for row in &rows {
        println!("{}", row.line());
    }
    if let Some(warning) = ours.warning() {
        println!("{warning}");
    }
    rows.iter().map(Row::json).collect()
}

/// Lets our side and the peers of a case take turns. A peer that fails is left out and named in `failures`.
fn measure(
    case: &Case,
    options: &Options,
    python: &Path,
    failures: &mut Vec<String>,
) -> Result<(Ours, Vec<Theirs>)> {
    let threads = case.threads(options.threads);
    let network = match case.kind {
        Kind::Train => None,
        Kind::Infer => Some(ours::network(case)?),
    };
    let ground = Ground { case, threads, python, network: network.as_deref() };
    let mut fail = |error: String| failures.push(format!("{}, {error}", case.name()));
    let started = ground.rivals(&options.extras).into_iter();
    let mut rivals: Vec<Rival> = started.filter_map(|rival| rival.map_err(&mut fail).ok()).collect();
    let mut turns = Vec::new();
    let mut whole = Vec::new();
    for round in 0..options.rounds {
        eprintln!("{}: round {} of {}", case.name(), round + 1, options.rounds);
        // Who goes first changes, so that a steady drift favors nobody.
        if round % 2 == 1 {
            turns.push((Timing::measure(case, threads)?, Bound::measure(case, threads)?));
        }
        rivals.retain_mut(|rival| rival.take_turn().map_err(&mut fail).is_ok());
        if round % 2 == 0 {
            turns.push((Timing::measure(case, threads)?, Bound::measure(case, threads)?));
        }
        if case.weights != Weights::F32 {
            whole.push(in_f32(case, threads)?);
        }
    }
    let theirs = rivals.into_iter().filter_map(|rival| result(rival, &ground).map_err(&mut fail).ok());
    let mut theirs: Vec<Theirs> = theirs.collect();
    if !whole.is_empty() {
        theirs.push(Theirs {
            label: "distill, f32 weights".into(),
            figures: whole,
            memory: None,
            information: false,
        });
    }
    Ok((Ours { case: case.clone(), turns }, theirs))
}

/// Our own figure for a case with weights in f32.
fn in_f32(case: &Case, threads: usize) -> Result<f64> {
    let case = Case { weights: Weights::F32, ..case.clone() };
    Ok(Timing::measure(&case, threads)?.figure(&case))
}

/// What a peer has done, and the memory of its best mode, measured once it is gone.
fn result(rival: Rival, ground: &Ground<'_>) -> Result<Theirs> {
    let (mode, figures) = rival.best(ground.case.kind).ok_or("no mode was measured")?;
    let (label, figures) = (rival.label(mode), figures.to_vec());
    let (information, tells_memory) = (rival.information, rival.tells_memory());
    drop(rival);
    let memory = if tells_memory { ground.pytorch_memory(mode)? } else { None };
    Ok(Theirs { label, figures, memory, information })
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
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
        assert_eq!((plain.threads, plain.rounds, plain.extras.len()), (2, 5, 0));
        assert_eq!(plain.cases, case::all());
        let full =
            parse("--case train/ --case infer/resnet50/64/t2 --with tract,bf16 --rounds 1 --threads 4")
                .unwrap();
        assert_eq!((full.threads, full.rounds, full.cases.len()), (4, 1, 6));
        assert_eq!(full.extras, [Extra::Tract, Extra::Bf16]);
    }

    #[test]
    fn options_that_mean_nothing_are_refused() {
        for line in ["--rounds 0", "--threads two", "--with torch", "--case nothing", "--fast 1", "--json"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_both() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
