//! How fast models answer: single-stream latency and offline throughput in this process, latency over HTTP, and the
//! ratio to a reference network of the same input, measured by turns in the same run.
//!
//! What is measured, as MLPerf's scenarios have it: *single stream*, one picture after the other, each from call to
//! answer; *offline*, batches as fast as they go. Pictures are in memory and of the network's size; over HTTP they are
//! JPEG files of that size and every stage counts. All samples count, none is clipped; warm-up calls do not.

mod client;
mod contestant;
mod measure;
mod table;

use std::time::Duration;

use engine::machine::describe;
use engine::{Device, Profile, Runtime};
use models::{Machine, Stem};
use serde::{Deserialize, Serialize};

use crate::{LoadOptions, Result, ServeError};
use contestant::Contestant;
use measure::Samples;

/// What is measured, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// Runs, `.onnx` files, `model.safetensors` files or names of architectures at random weights.
    pub models: Vec<String>,
    /// Architecture to compare with, at random weights, on the native engine, with the `imagenet` stem and the input of
    /// the model that it is compared with.
    pub against: Option<String>,
    /// Input and layout of architectures given by name.
    pub task: BenchTask,
    /// Engine of the models, by default each one's own; its weights, threads and library. References have f32 weights.
    pub load: LoadOptions,
    /// Calls before the first that counts.
    pub warm_up: usize,
    /// Calls that count, per model.
    pub samples: usize,
    /// Longest time for them, per model; fewer samples are reported as such.
    pub budget: Duration,
    /// Pictures in a batch of the offline measurement.
    pub batch: usize,
    /// Whether to measure over HTTP too.
    pub http: bool,
    /// Whether to take the time of every node too, one picture at a time, after everything else.
    pub profile: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            against: None,
            task: BenchTask::default(),
            load: LoadOptions { threads: 1, ..LoadOptions::default() },
            warm_up: 20,
            samples: 1000,
            budget: Duration::from_secs(10),
            batch: 32,
            http: true,
            profile: false,
        }
    }
}

/// What architectures given by name are built for.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchTask {
    /// Classes.
    pub classes: usize,
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Side of the square picture; the architecture's own if `None`.
    pub size: Option<usize>,
    /// Layout of the first layers.
    pub stem: Stem,
    /// Length of the small CNNs' features layer; their own if `None`.
    pub features: Option<usize>,
}

impl Default for BenchTask {
    fn default() -> Self {
        Self { classes: 10, channels: 3, size: None, stem: Stem::Imagenet, features: None }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The machine.
    pub machine: Machine,
    /// Threads of each engine.
    pub threads: usize,
    /// One per model, the references last.
    pub rows: Vec<Row>,
    /// One per model, in the same order, if they were asked for.
    #[serde(skip)]
    pub profiles: Vec<ModelProfile>,
}

/// Where a model's time goes, one picture after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelProfile {
    /// As it was named.
    pub model: String,
    /// The engine that ran it.
    pub engine: &'static str,
    /// Its nodes; `None` for an engine that keeps their times to itself.
    pub profile: Option<Profile>,
}

/// A model and its figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As it was named.
    pub model: String,
    /// Its architecture, where it is known.
    pub arch: Option<String>,
    /// The engine that ran it.
    pub engine: String,
    /// How the engine stored its weights: `f32` or `bf16`.
    pub weights: String,
    /// Layout of its first layers, where it is known.
    pub stem: Option<Stem>,
    /// Channels, height and width of its pictures.
    pub input: [usize; 3],
    /// Classes.
    pub classes: usize,
    /// Whether its weights are random: speed is meant, accuracy is none.
    pub random_weights: bool,
    /// Parameters, where the graph is known.
    pub params: Option<u64>,
    /// Multiply-accumulates of one picture, where the graph is known.
    pub macs: Option<u64>,
    /// Single stream in this process.
    pub latency: Latency,
    /// Offline in this process.
    pub throughput: Throughput,
    /// Single stream over HTTP on the loopback, JPEG to labels.
    pub http: Option<Latency>,
    /// How many times faster than the reference.
    pub ratio: Option<Ratio>,
}

/// A distribution of latencies; percentiles are samples, by the nearest rank.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Calls that counted.
    pub count: usize,
    /// Half of the calls took at most this many microseconds.
    pub p50_us: f64,
    /// 90 % of them.
    pub p90_us: f64,
    /// 99 % of them.
    pub p99_us: f64,
}

/// Batches as fast as they go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Pictures in a batch.
    pub batch: usize,
    /// Batches that counted.
    pub count: usize,
    /// Pictures answered in a second.
    pub pictures_per_second: f64,
}

/// How many times faster than a reference: its median latency over the model's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The reference.
    pub against: String,
    /// In this process.
    pub in_process: f64,
    /// Over HTTP.
    pub http: Option<f64>,
}

/// Measures all models by turns.
///
/// # Errors
/// For a model that is not there or does not load, and for engines and servers that fail.
pub fn bench(options: &BenchOptions) -> Result<BenchReport> {
    check(options)?;
    let mut contestants = Vec::new();
    for name in &options.models {
        contestants.push(Contestant::named(name, options)?);
    }
    let references = add_references(&mut contestants, options)?;
    let latencies = measure::in_process(&mut contestants, options)?;
    let throughputs = measure::offline(&mut contestants, options)?;
    let over_http = if options.http { Some(measure::over_http(&contestants, options)?) } else { None };
    let profiles = match options.profile {
        true => measure::profiles(&mut contestants, options)?,
        false => Vec::new(),
    };
    let mut rows = Vec::new();
    for (index, contestant) in contestants.iter().enumerate() {
        let http = over_http.as_ref().map(|samples| &samples[index]);
        let reference = references[index];
        let ratio = reference.map(|reference| Ratio {
            against: contestants[reference].label.clone(),
            in_process: latencies[reference].median() / latencies[index].median(),
            http: over_http.as_ref().map(|samples| samples[reference].median() / samples[index].median()),
        });
        rows.push(contestant.row(
            latencies[index].summary(),
            throughputs[index],
            http.map(Samples::summary),
            ratio,
        ));
    }
    Ok(BenchReport {
        machine: describe(&Runtime::new(Device::Cpu, options.load.threads)?),
        threads: options.load.threads,
        rows,
        profiles,
    })
}

fn check(options: &BenchOptions) -> Result<()> {
    let BenchOptions { models, load, samples, batch, .. } = options;
    for (name, value) in
        [("models", models.len()), ("threads", load.threads), ("samples", *samples), ("batch", *batch)]
    {
        if value == 0 {
            return Err(ServeError::Setting { name, expected: "at least 1".into(), found: "0".into() });
        }
    }
    Ok(())
}

/// Appends a reference per distinct input; per contestant, the index of its reference.
fn add_references(contestants: &mut Vec<Contestant>, options: &BenchOptions) -> Result<Vec<Option<usize>>> {
    let Some(against) = &options.against else { return Ok(vec![None; contestants.len()]) };
    let mut references = Vec::new();
    for index in 0..contestants.len() {
        let (input, classes) = (contestants[index].input, contestants[index].classes);
        let same = |other: &Contestant| other.reference && other.input == input && other.classes == classes;
        let position = contestants.iter().position(same);
        if position.is_none() {
            contestants.push(Contestant::reference(against, input, classes, options.load.threads)?);
        }
        references.push(Some(position.unwrap_or(contestants.len() - 1)));
    }
    references.resize(contestants.len(), None);
    Ok(references)
}
