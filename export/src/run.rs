//! The export itself: a run's network to a file that has been checked before it stands under its name.

use std::path::{Path, PathBuf};

use engine::{Device, Model, Runtime};
use models::file::{Precision, sha256, to_bytes, to_bytes_in, write_atomically};
use models::{Graph, Manifest, Weights};
use onnx::{Contract, Element, Input};
use serde::{Deserialize, Serialize};

use crate::parity::{self, Answer, ONNX_RUNTIME};
use crate::writer::onnx_model;
use crate::{ExportError, Format, Parity, Result, half, input};

/// What is exported, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The format.
    pub format: Format,
    /// The file to write; [`Format::file`] beside the run's weights if not given.
    pub out: Option<PathBuf>,
    /// What an ONNX file takes.
    pub input: Element,
    /// Whether ONNX Runtime has to confirm an ONNX file.
    pub require_parity: bool,
    /// ONNX Runtime's library, or the folder that holds it; sought if not given.
    pub ort_lib: Option<PathBuf>,
    /// Pictures of the network's size, HWC, to compare on besides the procedural ones.
    pub pictures: Vec<u8>,
    /// Threads of the engine that is compared with; 0 means one per core.
    pub threads: usize,
}

impl Options {
    /// An export to `format` with nothing else asked for.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            out: None,
            input: Element::Float32,
            require_parity: false,
            ort_lib: None,
            pictures: Vec::new(),
            threads: 0,
        }
    }
}

/// What was written, and what others say to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The files.
    pub files: Vec<Written>,
    /// The answers of the runtimes that were asked; none for safetensors in single precision.
    pub parity: Vec<Parity>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

impl Written {
    /// A file of these bytes.
    pub fn of(path: PathBuf, bytes: &[u8]) -> Self {
        Self { path, bytes: bytes.len() as u64, sha256: sha256(bytes) }
    }
}

/// A file's bytes that no runtime contradicts.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The answers of the runtimes that were asked.
    pub parity: Vec<Parity>,
}

/// The file that holds the network of a run's folder or a `model.safetensors`.
pub fn weights_file(source: &Path) -> PathBuf {
    if source.is_dir() { source.join(Format::Safetensors.file()) } else { source.to_path_buf() }
}

/// The run's name: its folder's, or the file's.
pub fn run_name(source: &Path) -> String {
    let full = source.canonicalize().unwrap_or_else(|_| source.to_path_buf());
    let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
    let name = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match (name.as_str(), full.parent().and_then(Path::file_name)) {
        ("model", Some(folder)) => folder.to_string_lossy().into_owned(),
        _ => name,
    }
}

/// Exports a run's folder or a `model.safetensors` as one file; a bundle is [`crate::bundle`]'s.
///
/// # Errors
/// [`ExportError::Source`] for what is neither, [`ExportError::Differs`] and [`ExportError::ParityRequired`] for a
/// file that was not confirmed and therefore not written.
pub fn export(source: &Path, options: &Options) -> Result<Report> {
    let file = weights_file(source);
    let (manifest, weights) = models::load(&file)?;
    let out = options.out.clone().unwrap_or_else(|| file.with_file_name(options.format.file()));
    export_network(&manifest, &weights, &out, options)
}

/// Exports a network in memory to `out`; [`Options::out`] is not looked at.
///
/// # Errors
/// As [`export`].
pub fn export_network(
    manifest: &Manifest,
    weights: &Weights,
    out: &Path,
    options: &Options,
) -> Result<Report> {
    let Encoded { bytes, parity } = encode(manifest, weights, out, options)?;
    Ok(Report { files: vec![write(out, &bytes)?], parity })
}

/// Writes a file atomically.
///
/// # Errors
/// The system's.
pub fn write(out: &Path, bytes: &[u8]) -> Result<Written> {
    write_atomically(out, bytes).map_err(|source| ExportError::File { path: out.into(), source })?;
    Ok(Written::of(out.into(), bytes))
}

/// The bytes of a network's file, confirmed as far as there is somebody to ask; nothing is written. `out` is what errors
/// call the file.
///
/// # Errors
/// As [`export`].
pub fn encode(manifest: &Manifest, weights: &Weights, out: &Path, options: &Options) -> Result<Encoded> {
    let encoded = match options.format {
        Format::Safetensors => {
            return Ok(Encoded { bytes: to_bytes(manifest, weights)?, parity: Vec::new() });
        }
        Format::SafetensorsFp16 => half_weights(manifest, weights, options)?,
        Format::Onnx => onnx_file(manifest, weights, parity::TOLERANCE, options)?,
        Format::OnnxFp16 => onnx_file(manifest, weights, parity::HALF_TOLERANCE, options)?,
        Format::OnnxInt8 => return Err(ExportError::NeedsPictures { path: out.into() }),
        Format::Bundle => return Err(ExportError::Folder { path: out.into() }),
    };
    judge(&encoded.parity, out, options)?;
    Ok(encoded)
}

/// Weights in half precision, held against the engine on the weights that they were made from.
fn half_weights(manifest: &Manifest, weights: &Weights, options: &Options) -> Result<Encoded> {
    let bytes = to_bytes_in(manifest, weights, Precision::Half)?;
    let (_, rounded) = models::file::from_bytes(&bytes)?;
    let graph = manifest.graph()?;
    let mut asked = native(&graph, weights, options)?;
    let answer =
        parity::compare(&mut asked, &mut native(&graph, &rounded, options)?, parity::HALF_TOLERANCE)?;
    Ok(Encoded { bytes, parity: vec![Parity { runtime: parity::NATIVE.into(), answer }] })
}

fn onnx_file(manifest: &Manifest, weights: &Weights, tolerance: f32, options: &Options) -> Result<Encoded> {
    let graph = manifest.graph()?;
    let mut said = contract(manifest, &sha256(&to_bytes(manifest, weights)?))?;
    let Input { channels, height, width, ref fit, .. } = said.input;
    said.input = Input::of(options.input, [channels, height, width], fit);
    let mut model = onnx_model(&graph, weights, &said)?;
    if options.input == Element::Uint8 {
        input::take_pixels(&mut model, graph.input_shape());
    }
    if options.format == Format::OnnxFp16 {
        half::store_half(&mut model)?;
    }
    let (bytes, mut engine) = (model.bytes(), native(&graph, weights, options)?);
    let parity =
        parity::check(&mut engine, &bytes, &options.pictures, tolerance, options.ort_lib.as_deref())?;
    Ok(Encoded { bytes, parity })
}

fn native(graph: &Graph, weights: &Weights, options: &Options) -> Result<Model> {
    Ok(Model::new(graph, weights, &Runtime::new(Device::Cpu, options.threads)?)?)
}

/// The manifest in the metadata of an exported ONNX file.
///
/// # Errors
/// [`ExportError::File`] for a file that cannot be read, [`ExportError::Onnx`] for one without our contract.
pub fn manifest_of(file: &Path) -> Result<Manifest> {
    let bytes = std::fs::read(file).map_err(|source| ExportError::File { path: file.into(), source })?;
    let contract = Contract::of(&onnx::ModelProto::read(&bytes)?)?;
    serde_json::from_str(&contract.manifest)
        .map_err(|error| ExportError::Manifest { reason: error.to_string() })
}

/// What the file says of itself.
///
/// # Errors
/// If the manifest cannot be written as JSON.
pub fn contract(manifest: &Manifest, weights_sha256: &str) -> Result<Contract> {
    let task = &manifest.task;
    let fit = match manifest.input.fit {
        models::Fit::Stretch => "stretch",
        models::Fit::Crop => "crop",
    };
    let json = serde_json::to_string(manifest)
        .map_err(|error| ExportError::Manifest { reason: error.to_string() })?;
    Ok(Contract {
        labels: manifest.labels.clone(),
        input: Input::new(task.channels, task.height, task.width, fit),
        manifest: json,
        weights_sha256: weights_sha256.into(),
        producer: crate::PRODUCER.into(),
    })
}

fn judge(parity: &[Parity], out: &Path, options: &Options) -> Result<()> {
    for parity in parity {
        if matches!(parity.answer, Answer::Differs(_) | Answer::Fails { .. }) {
            return Err(ExportError::Differs { path: out.into(), parity: parity.clone() });
        }
    }
    let confirmation = parity.iter().find(|parity| parity.runtime == ONNX_RUNTIME);
    match confirmation {
        Some(parity) if options.require_parity && !matches!(parity.answer, Answer::Agrees(_)) => {
            Err(ExportError::ParityRequired { path: out.into(), parity: parity.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Difference;

    fn said(runtime: &str, answer: Answer) -> Parity {
        Parity { runtime: runtime.into(), answer }
    }

    #[test]
    fn who_differs_stops_the_export_and_who_is_missing_only_if_required() {
        let difference = Difference { pictures: 64, largest: 0.1, allowed: 1e-4, other_class: 3 };
        let out = Path::new("model.onnx");
        let (may, must) = (Options::new(Format::Onnx), Options::new(Format::Onnx));
        let must = Options { require_parity: true, ..must };
        let missing =
            || said(ONNX_RUNTIME, Answer::NotInstalled { reason: "nowhere".into(), command: "pip".into() });
        let lacking = || said("candle-onnx", Answer::CannotRun { ops: vec!["HardSigmoid".into()] });
        let agreeing = || said(ONNX_RUNTIME, Answer::Agrees(difference));
        assert!(judge(&[missing(), lacking()], out, &may).is_ok());
        assert!(judge(&[agreeing(), lacking()], out, &must).is_ok());
        let error = judge(&[missing(), lacking()], out, &must).unwrap_err().to_string();
        assert!(
            error.contains("expected onnxruntime to agree") && error.contains("not installed"),
            "{error}"
        );
        for answer in [Answer::Differs(difference), Answer::Fails { reason: "no".into() }] {
            let error = judge(&[agreeing(), said("candle-onnx", answer)], out, &may).unwrap_err().to_string();
            assert!(error.contains("candle-onnx") && error.contains("model.onnx was not written"), "{error}");
        }
    }
}
