//! Measures what this machine can do at most and, for a network, the least time that it can take, as one JSON object.
//!
//! `cargo run --release -p distill-engine --example limits -- --threads 2 [--arch resnet18 --size 32 [--batch 64 --train | --int8]]`
#![allow(clippy::print_stdout)] // an example prints

use std::error::Error;

use engine::limits::{Bound, Limits, Work};
use engine::{Device, Runtime};
use models::{Task, zoo};
use serde_json::{Value, json};

struct Options {
    threads: usize,
    arch: Option<String>,
    size: usize,
    work: Work,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options { threads: 1, arch: None, size: 32, work: Work::inference() };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--threads" => options.threads = value()?.parse()?,
            "--arch" => options.arch = Some(value()?),
            "--size" => options.size = value()?.parse()?,
            "--batch" => options.work.batch = value()?.parse()?,
            "--train" => options.work.trains = true,
            "--int8" => options.work = Work::quantized(),
            "--weight-bytes" => options.work.weight_bytes = value()?.parse()?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let runtime = Runtime::new(Device::Cpu, options.threads)?;
    let limits = Limits::measure(&runtime);
    let mut found = described(&limits, runtime.isa());
    if let Some(arch) = &options.arch {
        let graph = zoo::build(arch, &Task::new(10, 3, options.size))?;
        found["network"] = bound(&limits.bound(&graph, &options.work));
    }
    println!("{found:#}");
    Ok(())
}

fn described(limits: &Limits, isa: &str) -> Value {
    let read =
        |read: &engine::limits::Read| json!({ "bytes": read.bytes, "gigabytes_per_second": read.rate / 1e9 });
    json!({
        "threads": limits.threads,
        "isa": isa,
        "gflops": limits.flops / 1e9,
        "read": limits.reads.iter().map(read).collect::<Vec<_>>(),
    })
}

fn bound(bound: &Bound) -> Value {
    json!({
        "milliseconds": bound.seconds * 1e3,
        "by_memory": bound.by_memory(),
        "flops": bound.flops,
        "weight_bytes": bound.weight_bytes,
    })
}
