//! The files of one model: what lies beside the one that was named. Never here: reading a network.

use std::path::{Path, PathBuf};

use models::Manifest;
use serde::{Deserialize, Serialize};

use super::variant::Artefact;
use crate::{Result, ServeError};

/// A file that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Where.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// A model's files, each where there is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// What they are called but for the endings: `runs/a/model`.
    base: PathBuf,
    /// Whether they were made for this run of the bench and go with it.
    temporary: bool,
}

/// Longest first: an ending may end in another.
const ENDINGS: [(Artefact, &str); 3] =
    [(Artefact::OnnxInt8, ".int8.onnx"), (Artefact::Onnx, ".onnx"), (Artefact::Safetensors, ".safetensors")];

impl Files {
    /// The files beside what a user named: a folder's, or those of the same name but for the ending.
    pub fn of(path: &Path) -> Self {
        if path.is_dir() {
            return Self { base: path.join("model"), temporary: false };
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let stem = ENDINGS.iter().find_map(|(_, ending)| name.strip_suffix(ending));
        Self { base: path.with_file_name(stem.unwrap_or(&name)), temporary: false }
    }

    /// The files of a folder that somebody made for this run of the bench.
    pub fn temporary(folder: &Path) -> Self {
        Self { temporary: true, ..Self::of(folder) }
    }

    /// Where an artefact lies, or would.
    pub fn path(&self, artefact: Artefact) -> PathBuf {
        let ending = ENDINGS.iter().find(|(known, _)| *known == artefact).map_or("", |(_, ending)| ending);
        let mut name = self.base.file_name().unwrap_or_default().to_os_string();
        name.push(ending);
        self.base.with_file_name(name)
    }

    /// Seed of the run that trained the network, if a file says so.
    pub fn training_seed(&self) -> Option<u64> {
        let manifest = match models::load(&self.path(Artefact::Safetensors)) {
            Ok((manifest, _)) => manifest,
            Err(_) => {
                [Artefact::Onnx, Artefact::OnnxInt8].into_iter().find_map(|onnx| self.contract(onnx))?
            }
        };
        Some(manifest.training?.seed)
    }

    /// The manifest in an exported file.
    fn contract(&self, artefact: Artefact) -> Option<Manifest> {
        let model = onnx::ModelProto::read(&std::fs::read(self.path(artefact)).ok()?).ok()?;
        serde_json::from_str(&onnx::Contract::of(&model).ok()?.manifest).ok()
    }

    /// What is written down of one that ran.
    pub fn describe(&self, path: &Path) -> Result<ModelFile> {
        let shown = if self.temporary { path.file_name().map(Path::new) } else { None };
        Ok(ModelFile { path: shown.unwrap_or(path).display().to_string(), ..described(path)? })
    }

    /// An artefact, or why there is none and what makes one.
    pub fn find(&self, artefact: Artefact) -> std::result::Result<PathBuf, String> {
        let path = self.path(artefact);
        let format = match artefact {
            _ if path.is_file() => return Ok(path),
            Artefact::Safetensors => "safetensors",
            Artefact::Onnx => "onnx",
            Artefact::OnnxInt8 => "onnx-int8",
        };
        if self.temporary {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(format!(
                "no {name} was made of random weights; measure a run or bundle that has one"
            ));
        }
        Err(format!("no {}; `distill export RUN --format {format}` writes one", path.display()))
    }
}

fn described(path: &Path) -> Result<ModelFile> {
    let bytes = std::fs::read(path)
        .map_err(|error| ServeError::Source { path: path.into(), reason: error.to_string() })?;
    Ok(ModelFile {
        path: path.display().to_string(),
        bytes: bytes.len() as u64,
        sha256: models::file::sha256(&bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_share_a_name_but_for_the_ending() {
        for named in ["r/net.onnx", "r/net.int8.onnx", "r/net.safetensors"] {
            let files = Files::of(Path::new(named));
            assert_eq!(files.path(Artefact::OnnxInt8), Path::new("r/net.int8.onnx"), "{named}");
            assert_eq!(files.path(Artefact::Safetensors), Path::new("r/net.safetensors"), "{named}");
        }
        let folder = tempfile::tempdir().unwrap();
        let files = Files::of(folder.path());
        assert_eq!(files.path(Artefact::Onnx), folder.path().join("model.onnx"));
        let reason = files.find(Artefact::OnnxInt8).unwrap_err();
        assert!(reason.contains("model.int8.onnx; `distill export RUN --format onnx-int8`"), "{reason}");
    }
}
