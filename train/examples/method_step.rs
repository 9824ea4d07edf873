//! Times a step of a method (its views through the network, its loss, backward, SGD, the moving average) on made-up
//! pictures; no data set is read, nothing is augmented. Pictures come from the processor's memory, as in training.
//!
//! `cargo run --release -p distill-train --example method_step -- --method fixmatch --arch wrn-28-2 --batch 64`
#![allow(clippy::print_stdout, clippy::print_stderr)] // an example prints

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use data::{Batch, Draw, Drawn, Loaded, Part, View};
use engine::{Device, Net, Optimizer, Precision, Runtime, Step};
use models::{Stem, Task, formula, zoo};
use train::{Method, MethodEntry, Nets, Options as MethodOptions, Progress};

#[path = "../../engine/examples/turns/mod.rs"]
mod turns;

const CLASSES: usize = 10;

struct Options {
    method: String,
    /// Options of the method.
    set: BTreeMap<String, String>,
    arch: String,
    small_stem: bool,
    size: usize,
    batch: usize,
    threads: usize,
    iterations: usize,
    device: Device,
    precision: Option<Precision>,
    turns: bool,
    json: Option<PathBuf>,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        method: "fixmatch".into(),
        set: BTreeMap::new(),
        arch: "wrn-28-2".into(),
        small_stem: false,
        size: 32,
        batch: 64,
        threads: 0,
        iterations: 20,
        device: Device::Cpu,
        precision: None,
        turns: false,
        json: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--method" => options.method = value()?,
            "--set" => {
                let pair = value()?;
                let (key, value) = pair.split_once('=').ok_or("--set takes NAME=VALUE")?;
                options.set.insert(key.into(), value.into());
            }
            "--arch" => options.arch = value()?,
            "--small-stem" => options.small_stem = true,
            "--size" => options.size = value()?.parse()?,
            "--batch" => options.batch = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--iterations" => options.iterations = value()?.parse()?,
            "--device" => options.device = value()?.parse()?,
            "--precision" => options.precision = Some(value()?.parse()?),
            "--turns" => options.turns = true,
            "--json" => options.json = Some(value()?.into()),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let precision = options.precision.unwrap_or(Precision::of(options.device));
    let runtime = Runtime::with_precision(options.device, options.threads, precision)?;
    let entry = train::methods::find(&options.method)?;
    let mut method = (entry.build)(&MethodOptions::parse(entry.name, entry.options, &options.set)?)?;
    let (student, average) = networks(&options, entry, &*method, &runtime)?;
    let Loaded { batch, pixels } = loaded(&method.draws(options.batch), options.size);
    let case = turns::Case {
        name: format!(
            "{} of {} at {} px, {} pictures",
            entry.name,
            options.arch,
            options.size,
            batch.pictures()
        ),
        runtime: &runtime,
        pictures: batch.pictures(),
        macs: models::cost::total(student.graph()).macs,
    };
    let mut step = 0;
    let work = || {
        let at = Progress { step, steps: 1 << 20, batch: step, seed: 0 };
        step += 1;
        let pictures = student.images(pixels.clone())?;
        let nets = Nets { student: &student, average: average.as_ref(), pictures: &pictures };
        method.loss(&nets, &batch, at)?.total.backward()?;
        student.update(&Step {
            optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true },
            lr: 0.03,
            weight_decay: 5e-4,
            grad_scale: 1.0,
            clip_norm: None,
            ema: average.as_ref().map(|average| (average, entry.ema)),
        })?;
        Ok(method.after_step(at)?)
    };
    turns::take(&case, options.iterations, options.turns, options.json.as_deref(), work)
}

/// The network that learns and, where the method keeps one, its moving average.
fn networks(
    options: &Options,
    entry: &MethodEntry,
    method: &dyn Method,
    runtime: &Runtime,
) -> Result<(Net, Option<Net>), Box<dyn Error>> {
    let stem = if options.small_stem { Stem::Small } else { Stem::Imagenet };
    let mut graph = zoo::build(&options.arch, &Task::new(CLASSES, 3, options.size).with_stem(stem))?;
    method.heads(&mut graph)?;
    let student = Net::new(graph.clone(), runtime, 0)?;
    let average = (entry.ema > 0.0).then(|| Net::new(graph, runtime, 0)).transpose()?;
    Ok((student, average))
}

/// Pictures by a formula, and labels where there are any.
fn loaded(draws: &[Draw], size: usize) -> Loaded {
    let label = |part, id: u32| if part == Part::Labeled { id % CLASSES as u32 } else { Drawn::NO_LABEL };
    let drawn = |(draw, views): (&Draw, Vec<View>)| Drawn {
        ids: (0..draw.count as u32).collect(),
        labels: (0..draw.count as u32).map(|id| label(draw.part, id)).collect(),
        views,
    };
    let batch = Batch { step: 0, draws: draws.iter().zip(Batch::views(draws)).map(drawn).collect() };
    let pixels = (0..batch.pictures()).flat_map(|index| formula::picture(index, 3, size, size)).collect();
    Loaded { batch, pixels }
}
