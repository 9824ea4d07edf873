//! Networks on disk: a safetensors file with the [`Manifest`] as JSON in its metadata, under the key `distill`.
//!
//! Bytes from outside can fail, never panic. The same network is the same bytes; a file is written beside its place
//! and renamed, so that whoever looks finds a whole one. PyTorch's pickles are not read here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, View};
use sha2::{Digest, Sha256};

use crate::manifest::{FORMAT, ManifestError};
use crate::{Array, Manifest, Weights, half};

/// Key of the manifest in the safetensors metadata.
pub const METADATA_KEY: &str = "distill";

/// Bytes that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// Not a safetensors file, or a damaged one.
    #[error("not a whole safetensors file: {0}")]
    Safetensors(String),
    /// A safetensors file of somebody else.
    #[error(
        "metadata key `{METADATA_KEY}`: expected the manifest that `distill` writes, found none; \
         foreign weights start a run with --init FILE"
    )]
    NoManifest,
    /// A manifest that is not JSON or lacks something.
    #[error("metadata key `{METADATA_KEY}`: expected a manifest of format {FORMAT}, found {reason}")]
    Json {
        /// What the JSON reader stumbled on.
        reason: String,
    },
    /// A manifest that contradicts itself or the weights.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A tensor that cannot be read as `f32`.
    #[error("tensor `{key}`: expected {expected}, found {found}")]
    Tensor {
        /// Its name.
        key: String,
        /// What can be read.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What is in it is wrong.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<FormatError>,
    },
}

impl FileError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    fn format(path: &Path) -> impl FnOnce(FormatError) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Format { path, source: Box::new(source) }
    }
}

/// Saves a network at `path`, atomically.
///
/// # Errors
/// [`FileError`] if the manifest and the weights do not fit each other, or the system refuses.
pub fn save(path: &Path, manifest: &Manifest, weights: &Weights) -> Result<(), FileError> {
    let bytes = to_bytes(manifest, weights).map_err(FileError::format(path))?;
    write_atomically(path, &bytes).map_err(FileError::io(path))
}

/// Loads a network that [`save`] wrote; its weights fit the graph that its manifest builds.
///
/// # Errors
/// [`FileError`] naming the file, the key, what was expected and what was found.
pub fn load(path: &Path) -> Result<(Manifest, Weights), FileError> {
    let bytes = fs::read(path).map_err(FileError::io(path))?;
    from_bytes(&bytes).map_err(FileError::format(path))
}

/// Reads the arrays of any safetensors file (`f32`, `f64`, `f16` or `bf16`), for [`crate::init`].
///
/// # Errors
/// [`FileError`] naming the file and the tensor.
pub fn load_foreign(path: &Path) -> Result<Weights, FileError> {
    let bytes = fs::read(path).map_err(FileError::io(path))?;
    foreign_from_bytes(&bytes).map_err(FileError::format(path))
}

/// A network as the bytes of its file.
///
/// # Errors
/// [`FormatError::Manifest`] if the weights are not the manifest's.
pub fn to_bytes(manifest: &Manifest, weights: &Weights) -> Result<Vec<u8>, FormatError> {
    to_bytes_in(manifest, weights, Precision::Single)
}

/// The same with weights stored in `precision`.
///
/// # Errors
/// As [`to_bytes`]; [`FormatError::Tensor`] for a value that half precision cannot hold.
pub fn to_bytes_in(
    manifest: &Manifest,
    weights: &Weights,
    precision: Precision,
) -> Result<Vec<u8>, FormatError> {
    manifest.graph_for(weights)?;
    for (name, array) in weights.iter().filter(|(_, array)| precision.of(array) == Dtype::F16) {
        check_range(name, array)?;
    }
    let json =
        serde_json::to_string(manifest).map_err(|error| FormatError::Json { reason: error.to_string() })?;
    // one key: a map of several has no order, and the bytes would differ from run to run
    let metadata = HashMap::from([(METADATA_KEY.to_string(), json)]);
    let arrays = weights.iter().map(|(name, array)| (name, Stored(array, precision.of(array))));
    safetensors::serialize(arrays, Some(metadata))
        .map_err(|error| FormatError::Safetensors(error.to_string()))
}

/// Refuses what would become infinite in half precision.
fn check_range(name: &str, array: &Array) -> Result<(), FormatError> {
    match array.data.iter().find(|value| !half::holds(**value)) {
        None => Ok(()),
        Some(value) => Err(FormatError::Tensor {
            key: name.into(),
            expected: "values within +-65504 for half precision",
            found: value.to_string(),
        }),
    }
}

/// The network that these bytes hold.
///
/// # Errors
/// [`FormatError`] with the key at fault.
pub fn from_bytes(bytes: &[u8]) -> Result<(Manifest, Weights), FormatError> {
    let manifest = manifest_of(bytes)?;
    let weights = foreign_from_bytes(bytes)?;
    manifest.graph_for(&weights)?;
    Ok((manifest, weights))
}

fn manifest_of(bytes: &[u8]) -> Result<Manifest, FormatError> {
    let (_, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| FormatError::Safetensors(error.to_string()))?;
    let json = metadata.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
    let json = json.ok_or(FormatError::NoManifest)?;
    serde_json::from_str(json).map_err(|error| FormatError::Json { reason: error.to_string() })
}

/// The arrays of a safetensors file, `num_batches_tracked` left out.
///
/// # Errors
/// [`FormatError`] naming the tensor.
pub fn foreign_from_bytes(bytes: &[u8]) -> Result<Weights, FormatError> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| FormatError::Safetensors(error.to_string()))?;
    let wanted = file.iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
    wanted.map(|(name, tensor)| Ok((name.to_string(), read(name, &tensor)?))).collect()
}

fn read(name: &str, tensor: &TensorView<'_>) -> Result<Array, FormatError> {
    let data: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => decode(tensor.data(), f32::from_le_bytes),
        Dtype::F64 => decode(tensor.data(), |bytes| f64::from_le_bytes(bytes) as f32),
        Dtype::F16 => decode(tensor.data(), |bytes| half::decode(u16::from_le_bytes(bytes))),
        Dtype::BF16 => decode(tensor.data(), |[low, high]| f32::from_le_bytes([0, 0, low, high])),
        other => {
            let (key, expected) = (name.to_string(), "F32, F64, F16 or BF16");
            return Err(FormatError::Tensor { key, expected, found: format!("{other:?}") });
        }
    };
    Ok(Array::new(tensor.shape(), data))
}

fn decode<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| value(*chunk)).collect()
}

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// All in single precision.
    #[default]
    Single,
    /// Weights of convolutions and linear layers in half precision; biases and norms, which are few, as they are.
    Half,
}

impl Precision {
    fn of(self, array: &Array) -> Dtype {
        if self == Precision::Half && array.shape.len() > 1 { Dtype::F16 } else { Dtype::F32 }
    }
}

/// An array as safetensors stores it: little-endian.
struct Stored<'a>(&'a Array, Dtype);

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.1
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.0.data.iter();
        match self.1 {
            Dtype::F16 => values.flat_map(|&value| half::encode(value).to_le_bytes()).collect(),
            _ => values.flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.0.data.len() * if self.1 == Dtype::F16 { 2 } else { 4 }
    }
}

/// Writes `bytes` beside `path` and renames: at every moment `path` is the old file or the new one.
///
/// # Errors
/// The system's; what was begun is removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let beside = path.with_file_name(name);
    let written = write_through(&beside, bytes).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside); // the first error is the one to tell
    }
    written
}

fn write_through(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// SHA-256 of `bytes` in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, formula, manifest::Fit};

    fn network() -> (Manifest, Weights) {
        let labels = (0..3).map(|index| format!("class {index}")).collect();
        let task = Task { features: Some(4), ..Task::new(3, 1, 8) };
        let manifest = Manifest::new("small-cnn-3", &task, labels, Fit::Stretch).unwrap();
        let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
        (manifest, weights)
    }

    #[test]
    fn a_network_survives_the_disk_and_is_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (manifest, weights) = network();
        save(&path, &manifest, &weights).unwrap();
        let first = fs::read(&path).unwrap();
        save(&path, &manifest, &weights).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first);
        assert_eq!(load(&path).unwrap(), (manifest, weights));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
    }

    #[test]
    fn weights_that_do_not_fit_are_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (manifest, mut weights) = network();
        weights.remove("fc.bias");
        let message = save(&path, &manifest, &weights).unwrap_err().to_string();
        assert!(
            message.contains("model.safetensors") && message.contains("missing (1): fc.bias"),
            "{message}"
        );
        assert!(!path.exists());
    }

    #[test]
    fn cut_or_damaged_bytes_are_errors_never_panics() {
        let (manifest, weights) = network();
        let bytes = to_bytes(&manifest, &weights).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for length in (0..header + 16).step_by(7).chain([bytes.len() - 1]) {
            assert!(from_bytes(&bytes[..length]).is_err(), "cut at {length}");
        }
        for place in 0..header {
            for flip in [0x01, 0x10, 0x80] {
                let mut damaged = bytes.clone();
                damaged[place] ^= flip;
                let _ = from_bytes(&damaged); // some flips only rename a class: any answer, but an answer
            }
        }
    }

    #[test]
    fn a_number_in_the_manifest_may_be_anything_and_nothing_panics() {
        let (manifest, weights) = network();
        let header = serde_json::to_string(&manifest).unwrap();
        for key in ["classes", "channels", "height", "width", "features"] {
            for value in ["0", "18446744073709551615", "-1", "1e999", "null", "\"x\"", "[]"] {
                let pattern = format!("\"{key}\":");
                let Some(start) = header.find(&pattern).map(|at| at + pattern.len()) else { continue };
                let end = start + header[start..].find([',', '}']).unwrap();
                let json = format!("{}{value}{}", &header[..start], &header[end..]);
                let metadata = HashMap::from([(METADATA_KEY.to_string(), json)]);
                let arrays = weights.iter().map(|(name, array)| (name, Stored(array, Dtype::F32)));
                let bytes = safetensors::serialize(arrays, Some(metadata)).unwrap();
                assert!(from_bytes(&bytes).is_err(), "{key} = {value}");
            }
        }
    }

    #[test]
    fn a_foreign_file_says_how_to_use_it() {
        let (_, weights) = network();
        let arrays = weights.iter().map(|(name, array)| (name, Stored(array, Dtype::F32)));
        let bytes = safetensors::serialize(arrays, None).unwrap();
        assert!(from_bytes(&bytes).unwrap_err().to_string().contains("--init FILE"));
        assert_eq!(foreign_from_bytes(&bytes).unwrap(), weights);
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = load(Path::new("/nowhere/model.safetensors")).unwrap_err().to_string();
        assert!(message.contains("/nowhere/model.safetensors"), "{message}");
    }

    #[test]
    fn every_float_is_read_and_counters_are_left_out() {
        let view = |dtype, bytes: &'static [u8]| TensorView::new(dtype, vec![2], bytes).unwrap();
        let arrays = [
            ("double", view(Dtype::F64, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0])),
            ("half", view(Dtype::F16, &[0x00, 0x3e, 0x01, 0x80])),
            ("brain", view(Dtype::BF16, &[0xc0, 0x3f, 0x00, 0xc0])),
            ("bn.num_batches_tracked", view(Dtype::I16, &[1, 0, 0, 0])),
        ];
        let weights = foreign_from_bytes(&safetensors::serialize(arrays, None).unwrap()).unwrap();
        assert_eq!(weights["double"].data, [1.5, -2.0]);
        assert_eq!(weights["half"].data, [1.5, -(2f32.powi(-24))]);
        assert_eq!(weights["brain"].data, [1.5, -2.0]);
        assert_eq!(weights.len(), 3);
        let integers = [("table", view(Dtype::I16, &[1, 0, 0, 0]))];
        let error = foreign_from_bytes(&safetensors::serialize(integers, None).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "tensor `table`: expected F32, F64, F16 or BF16, found I16");
    }

    #[test]
    fn weights_in_half_precision_are_half_as_large_and_read_back_rounded() {
        let (manifest, weights) = network();
        let (single, half) =
            (to_bytes(&manifest, &weights), to_bytes_in(&manifest, &weights, Precision::Half));
        let (single, half) = (single.unwrap(), half.unwrap());
        let (back, rounded) = from_bytes(&half).unwrap();
        assert_eq!(back, manifest);
        let elements: usize = weights.values().filter(|a| a.shape.len() > 1).map(|a| a.data.len()).sum();
        let header = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(single.len() - header(&single), half.len() - header(&half) + 2 * elements);
        for (name, array) in &weights {
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= a.abs() / 2048.0 + 2f32.powi(-25);
            assert!(array.data.iter().zip(&rounded[name].data).all(near), "{name}");
            assert_eq!(array.data == rounded[name].data, array.shape.len() == 1, "{name}");
        }
        // The same rounding once more changes nothing.
        assert_eq!(to_bytes_in(&manifest, &rounded, Precision::Half).unwrap(), half);
    }

    #[test]
    fn a_weight_that_half_precision_cannot_hold_is_named() {
        let (manifest, mut weights) = network();
        weights.get_mut("fc.weight").unwrap().data[1] = -7e4;
        let message = to_bytes_in(&manifest, &weights, Precision::Half).unwrap_err().to_string();
        assert!(message.contains("`fc.weight`") && message.contains("found -70000"), "{message}");
    }

    #[test]
    fn sha256_of_the_published_example() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
