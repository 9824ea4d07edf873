//! The export itself: a run's network to a file that has been checked before it stands under its name.

use std::path::{Path, PathBuf};

use engine::{Device, Model, Runtime};
use models::file::{sha256, to_bytes, write_atomically};
use models::{Graph, Manifest, Weights};
use onnx::{Contract, Input};
use serde::{Deserialize, Serialize};

use crate::parity::{self, Answer, ONNX_RUNTIME};
use crate::writer::onnx_model;
use crate::{ExportError, Format, Parity, Result};

/// What is exported, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The format.
    pub format: Format,
    /// The file to write; `model.FORMAT` beside the run's weights if not given.
    pub out: Option<PathBuf>,
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
        Self { format, out: None, require_parity: false, ort_lib: None, pictures: Vec::new(), threads: 0 }
    }
}

/// What was written, and what others say to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The files.
    pub files: Vec<Written>,
    /// The answers of the runtimes that were asked; none for safetensors.
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

/// Exports a run's folder or a `model.safetensors`.
///
/// # Errors
/// [`ExportError::Source`] for what is neither, [`ExportError::Differs`] and [`ExportError::ParityRequired`] for a
/// file that was not confirmed and therefore not written.
pub fn export(source: &Path, options: &Options) -> Result<Report> {
    let file = if source.is_dir() { source.join("model.safetensors") } else { source.to_path_buf() };
    let (manifest, weights) = models::load(&file)?;
    let out = options.out.clone().unwrap_or_else(|| file.with_extension(options.format.name()));
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
    let graph = manifest.graph()?;
    let stored = to_bytes(manifest, weights)?;
    let (bytes, parity) = match options.format {
        Format::Safetensors => (stored, Vec::new()),
        Format::Onnx => confirmed(manifest, &graph, weights, &sha256(&stored), out, options)?,
    };
    write_atomically(out, &bytes).map_err(|source| ExportError::File { path: out.into(), source })?;
    let written = Written { path: out.into(), bytes: bytes.len() as u64, sha256: sha256(&bytes) };
    Ok(Report { files: vec![written], parity })
}

/// An ONNX file's bytes that no runtime contradicts.
fn confirmed(
    manifest: &Manifest,
    graph: &Graph,
    weights: &Weights,
    weights_sha256: &str,
    out: &Path,
    options: &Options,
) -> Result<(Vec<u8>, Vec<Parity>)> {
    let bytes = onnx_model(graph, weights, &contract(manifest, weights_sha256)?)?.bytes();
    let mut model = Model::new(graph, weights, &Runtime::new(Device::Cpu, options.threads)?)?;
    let parity = parity::check(&mut model, &bytes, &options.pictures, options.ort_lib.as_deref())?;
    judge(&parity, out, options.require_parity)?;
    Ok((bytes, parity))
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
        producer: concat!("distill ", env!("CARGO_PKG_VERSION")).into(),
    })
}

fn judge(parity: &[Parity], out: &Path, required: bool) -> Result<()> {
    for parity in parity {
        if matches!(parity.answer, Answer::Differs(_) | Answer::Fails { .. }) {
            return Err(ExportError::Differs { path: out.into(), parity: parity.clone() });
        }
    }
    let confirmation = parity.iter().find(|parity| parity.runtime == ONNX_RUNTIME);
    match confirmation {
        Some(parity) if required && !matches!(parity.answer, Answer::Agrees(_)) => {
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
        let missing =
            || said(ONNX_RUNTIME, Answer::NotInstalled { reason: "nowhere".into(), command: "pip".into() });
        let lacking = || said("candle-onnx", Answer::CannotRun { ops: vec!["HardSigmoid".into()] });
        let agreeing = || said(ONNX_RUNTIME, Answer::Agrees(difference));
        assert!(judge(&[missing(), lacking()], out, false).is_ok());
        assert!(judge(&[agreeing(), lacking()], out, true).is_ok());
        let error = judge(&[missing(), lacking()], out, true).unwrap_err().to_string();
        assert!(
            error.contains("expected onnxruntime to agree") && error.contains("not installed"),
            "{error}"
        );
        for answer in [Answer::Differs(difference), Answer::Fails { reason: "no".into() }] {
            let error =
                judge(&[agreeing(), said("candle-onnx", answer)], out, false).unwrap_err().to_string();
            assert!(error.contains("candle-onnx") && error.contains("model.onnx was not written"), "{error}");
        }
    }
}
