//! What was measured, as it is written to `report.json`: [`SCHEMA`] is its version. Never here: text for people.

use engine::Profile;
use models::Stem;
use serde::{Deserialize, Serialize};

use super::accuracy::Accuracy;
use super::energy::Energy;
use super::files::ModelFile;
use super::host::MadeBy;
use super::latency::{Latency, Series};
use super::load::LoadReport;
use super::machine::{Conditions, Load};

/// Name and version of the report's format. A new key leaves it; a key that goes or changes its meaning raises it.
pub const SCHEMA: &str = "distill-bench/1";

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// What made it.
    pub made_by: MadeBy,
    /// The machine.
    pub machine: Conditions,
    /// How busy it was before and after.
    pub load: [Load; 2],
    /// How long everything was measured.
    pub effort: EffortUsed,
    /// What a reader has to know before believing a figure.
    pub warnings: Vec<String>,
    /// Threads of each engine.
    pub threads: usize,
    /// By model and variant, the references last.
    pub rows: Vec<Row>,
    /// Servers under load, by model.
    pub http: Vec<LoadReport>,
    /// One per measured row, in the same order, if they were asked for.
    #[serde(skip)]
    pub profiles: Vec<ModelProfile>,
    /// Every sample that counted.
    #[serde(skip)]
    pub samples: Vec<Series>,
}

/// The effort as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EffortUsed {
    /// `quick`, `default`, `mlperf` or `own`.
    pub name: String,
    /// Calls of each engine before the first that counts.
    pub warm_up: usize,
    /// Calls of the single stream at least, within its patience.
    pub samples: usize,
    /// Seconds of the single stream at least.
    pub seconds: f64,
    /// Seconds of the single stream at most.
    pub patience_seconds: f64,
    /// Pictures in a batch offline.
    pub batch: usize,
}

/// A model on an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// As it was named.
    pub model: String,
    /// Its architecture, where it is known.
    pub arch: Option<String>,
    /// The engine that ran it.
    pub engine: String,
    /// Version of the engine.
    pub runtime: Option<String>,
    /// How the engine stored its weights: `f32`, `bf16` or `int8`.
    pub weights: String,
    /// Threads of the engine, and whether idle ones spin.
    pub threads: String,
    /// Layout of its first layers, where it is known.
    pub stem: Option<Stem>,
    /// Channels, height and width of its pictures.
    pub input: [usize; 3],
    /// Classes.
    pub classes: usize,
    /// Whether its weights are random: speed is meant, accuracy is none.
    pub random_weights: bool,
    /// Seed of the run that trained it; 0 where it is not known.
    pub training_seed: u64,
    /// Whether it is there to be compared with.
    pub reference: bool,
    /// Parameters, where the graph is known.
    pub params: Option<u64>,
    /// Multiply-accumulates of one picture, where the graph is known.
    pub macs: Option<u64>,
    /// The file that ran; `None` for a network that was never a file.
    pub file: Option<ModelFile>,
    /// Accuracy of that very file on that engine.
    pub accuracy: Accuracy,
    /// The figures, or why there are none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Figures(Box<Figures>),
    /// It could not run, and what mends that.
    Missing(String),
}

/// A row's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Single stream: one picture after the other, from call to answer, in this process.
    pub latency: Latency,
    /// Offline: batches as fast as they go, in this process.
    pub throughput: Throughput,
    /// From the bytes of a picture file, by its format.
    pub stages: Vec<Stages>,
    /// How many times faster than the reference.
    pub ratio: Option<Ratio>,
}

/// Batches as fast as they go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Pictures in a batch.
    pub batch: usize,
    /// Batches that counted.
    pub count: usize,
    /// Pictures answered in a second.
    pub pictures_per_second: f64,
    /// What the processor took for a picture, or why nobody knows.
    pub energy: Energy,
}

/// Where the time of a picture file goes. All are measured by turns, on the same files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stages {
    /// `png` or `jpeg`.
    pub format: String,
    /// Bytes to pixels.
    pub decode: Latency,
    /// Pixels to the network's size and channels.
    pub preprocess: Latency,
    /// Pixels to logits.
    pub inference: Latency,
    /// All of them, one after the other, timed as one.
    pub together: Latency,
    /// All of them over HTTP on the loopback: one connection, one request after the other, answers with labels.
    pub http: Option<Latency>,
    /// Median over HTTP less the medians of decode, preprocess and inference, in microseconds.
    pub http_overhead_us: Option<f64>,
}

/// How many times faster than a reference: its median latency over the model's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The reference.
    pub against: String,
    /// In this process.
    pub in_process: f64,
    /// Over HTTP, by PNG.
    pub http: Option<f64>,
}

/// Where a model's time goes, one picture after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelProfile {
    /// As it was named.
    pub model: String,
    /// The engine that ran it.
    pub engine: String,
    /// Its nodes; `None` for an engine that keeps their times to itself.
    pub profile: Option<Profile>,
}

impl Row {
    /// Its figures, if it was measured.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Figures(figures) => Some(figures),
            Outcome::Missing(_) => None,
        }
    }

    /// Its engine and format: `native f32`.
    pub fn title(&self) -> String {
        format!("{} {}", self.engine, self.weights)
    }
}
