//! A float network to a static QDQ file in int8, through a gate: several ways to quantize are tried, the best one on
//! held-out pictures is kept, and a file that loses accuracy or time is not written.
//!
//! [`calibration`] turns what maps hold on calibration pictures into ranges; `measure` asks engines how well and how
//! fast they answer; [`gate`] decides. Pictures come from [`pictures`], where calibration, held-out and test pictures are
//! kept apart. Never here: weights of a layer as bytes (the engine's observer makes those), or a file's layout.

pub mod calibration;
pub mod gate;
mod measure;
pub mod pictures;

use std::path::{Path, PathBuf};

use data::score::agreement;
use engine::{Device, Images, Observer, Quantized, Runtime};
use models::file::{sha256, to_bytes};
use models::{Granularity, Graph, Manifest, QuantizedNetwork, Weights};
use onnx::proto::StringStringEntryProto;

pub use calibration::Calibration;
pub use gate::{Candidate, Gate, Speed};
pub use pictures::Pictures;

use crate::run::{weights_file, write};
use crate::writer::{onnx_model, quantized_model};
use crate::{ExportError, Format, Result, Written, contract};
use calibration::Spread;

/// Key of the metadata that says how a file was quantized and what the gate measured.
pub const KEY: &str = "distill.quantization";

/// What is tried, and what is allowed.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Ways to choose ranges.
    pub calibrations: Vec<Calibration>,
    /// Ways to scale weights.
    pub granularities: Vec<Granularity>,
    /// Most points of accuracy that int8 may lose against float, in per cent.
    pub max_drop: f64,
    /// Whether a file that the gate refuses is written all the same, marked.
    pub force: bool,
    /// Calls that a latency is the median of.
    pub samples: usize,
    /// ONNX Runtime's library, or the folder that holds it; sought if not given.
    pub ort_lib: Option<PathBuf>,
    /// Threads that calibrate and measure accuracy; 0 means one per core. Latency is that of one thread.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            calibrations: calibration::ALL.to_vec(),
            granularities: vec![Granularity::PerChannel, Granularity::PerTensor],
            max_drop: 1.0,
            force: false,
            samples: 300,
            ort_lib: None,
            threads: 0,
        }
    }
}

/// A quantized file and what the gate says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// The file.
    pub bytes: Vec<u8>,
    /// What was tried and measured.
    pub gate: Gate,
}

/// Quantizes a run's folder or a `model.safetensors`, and writes `out`, or `model.int8.onnx` beside the weights.
///
/// # Errors
/// As [`quantize`], [`ExportError::Source`] for what is no model.
pub fn export(
    source: &Path,
    out: Option<&Path>,
    pictures: &Pictures,
    options: &Options,
) -> Result<(Written, Gate)> {
    let file = weights_file(source);
    let (manifest, weights) = models::load(&file)?;
    let beside = || file.with_file_name(Format::OnnxInt8.file());
    let out = out.map_or_else(beside, Path::to_path_buf);
    let Quantization { bytes, gate } = quantize(&manifest, &weights, &out, pictures, options)?;
    Ok((write(&out, &bytes)?, gate))
}

/// Quantizes a network in memory; `out` is what errors call the file, nothing is written.
///
/// # Errors
/// [`ExportError::Refused`] with the gate's reasons, unless [`Options::force`] says otherwise; [`ExportError::Engine`] for a
/// network that cannot be quantized.
pub fn quantize(
    manifest: &Manifest,
    weights: &Weights,
    out: &Path,
    pictures: &Pictures,
    options: &Options,
) -> Result<Quantization> {
    let graph = manifest.graph()?;
    let runtime = Runtime::new(Device::Cpu, options.threads)?;
    let tried = tried(&graph, weights, &runtime, pictures, options)?;
    let said = contract(manifest, &sha256(&to_bytes(manifest, weights)?))?;
    let float = onnx_model(&graph, weights, &said)?.bytes();
    let best = tried.best();
    let mut model = quantized_model(&graph, &tried.networks[best], &said)?;
    let files = gate::Files { float: &float, int8: &model.bytes() };
    let gate = gate::judge(&graph, weights, &tried, &files, pictures, options)?;
    if !gate.passed() && !options.force {
        let reasons = gate.refusals.join("; ");
        return Err(ExportError::Refused { path: out.into(), reasons });
    }
    let value =
        serde_json::to_string(&gate).map_err(|error| ExportError::Manifest { reason: error.to_string() })?;
    model.metadata_props.push(StringStringEntryProto { key: KEY.into(), value });
    Ok(Quantization { bytes: model.bytes(), gate })
}

/// Every way that was tried, each with its network and its answers to the held-out pictures.
struct Tried {
    networks: Vec<QuantizedNetwork>,
    candidates: Vec<Candidate>,
    /// Best classes of the float network and of the candidates.
    float: Vec<usize>,
    answers: Vec<Vec<usize>>,
    float_top1: Option<f64>,
}

impl Tried {
    /// The most accurate one, of equals the one that agrees with float most, of those the first.
    fn best(&self) -> usize {
        let worth = |candidate: &Candidate| (candidate.top1.unwrap_or(0.0), candidate.agreement);
        let better = |best: usize, (index, candidate): (usize, &Candidate)| {
            if worth(candidate) > worth(&self.candidates[best]) { index } else { best }
        };
        self.candidates.iter().enumerate().fold(0, better)
    }
}

fn tried(
    graph: &Graph,
    weights: &Weights,
    runtime: &Runtime,
    pictures: &Pictures,
    options: &Options,
) -> Result<Tried> {
    let mut observer = Observer::new(graph, weights, runtime)?;
    let spreads = calibration::spreads(&mut observer, Images::U8(&pictures.calibration))?;
    let means: Vec<Vec<f32>> = spreads.iter().map(|spread| spread.means.clone()).collect();
    let float = measure::float_classes(graph, weights, runtime, pictures)?;
    let float_top1 = pictures.top1(&float);
    let mut tried =
        Tried { networks: Vec::new(), candidates: Vec::new(), float, answers: Vec::new(), float_top1 };
    for &calibration in &options.calibrations {
        let ranges: Vec<[f32; 2]> = spreads.iter().map(|spread: &Spread| spread.range(calibration)).collect();
        for &granularity in &options.granularities {
            let mut network = observer.quantize(&ranges, granularity)?;
            observer.correct_biases(&mut network, &means);
            let mut engine = Quantized::of(graph, &network, runtime)?;
            let answers = measure::classes(pictures, |batch| Ok(engine.run(Images::U8(batch))?.to_vec()))?;
            tried.candidates.push(Candidate {
                calibration: calibration.to_string(),
                granularity: granularity.name().into(),
                top1: pictures.top1(&answers),
                agreement: agreement(&tried.float, &answers),
            });
            tried.networks.push(network);
            tried.answers.push(answers);
        }
    }
    Ok(tried)
}
