//! Starting from weights that are there already: a run, a safetensors file, or a PyTorch state dict.

use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::pickle::{PthTensors, TensorInfo};
use engine::Net;
use models::init::Report;
use models::{Architecture, Array, Graph, Weights};

use crate::error::{Result, TrainError};
use crate::folder::RunFolder;

/// Loads `source` into `net`, whose graph without heads is `graph`, and reports what was taken over. Heads keep their
/// random start.
///
/// # Errors
/// If the file cannot be read, or lists what is missing, extra and of another shape.
pub fn load(net: &Net, graph: &Graph, arch: &str, source: &Path) -> Result<Report> {
    let fresh = net.weights();
    let (weights, report) = models::init::adapt(&Architecture::find(arch)?, graph, read(source)?, &fresh)
        .map_err(|misfit| TrainError::malformed(source, misfit.to_string()))?;
    let mut all = fresh;
    all.extend(weights);
    net.load(&all)?;
    Ok(report)
}

/// The arrays of a run, a safetensors file or a `.pth`, by the names they have there.
///
/// # Errors
/// If the file is missing or no state dict.
pub fn read(source: &Path) -> Result<Weights> {
    let path = if source.is_dir() { RunFolder::new(source).model() } else { source.to_path_buf() };
    let pickled = path
        .extension()
        .is_some_and(|extension| ["pth", "pt", "bin"].iter().any(|known| extension == *known));
    if pickled { read_pickle(&path) } else { Ok(models::file::load_foreign(&path)?) }
}

/// Keys under which training scripts keep the state dict beside other things.
const NESTED: [&str; 3] = ["state_dict", "model", "model_state_dict"];

/// A file is one of a stranger: candle's reader panics on some that are broken, and takes memory for what a tensor says
/// it is. What is caught here is that file's error.
fn read_pickle(path: &PathBuf) -> Result<Weights> {
    let length = std::fs::metadata(path).map_err(TrainError::file("reading", path))?.len();
    let read = std::panic::AssertUnwindSafe(|| read_state_dict(path, length));
    let broken =
        || TrainError::malformed(path, "not a PyTorch state dict: its records make no sense".to_string());
    std::panic::catch_unwind(read).unwrap_or_else(|_| Err(broken()))
}

fn read_state_dict(path: &PathBuf, length: u64) -> Result<Weights> {
    let wrong =
        |error: candle_core::Error| TrainError::malformed(path, format!("not a PyTorch state dict: {error}"));
    let mut tensors = PthTensors::new(path, None).map_err(wrong)?;
    for key in NESTED {
        if tensors.tensor_infos().is_empty() {
            tensors = PthTensors::new(path, Some(key)).unwrap_or(tensors);
        }
    }
    let infos = tensors.tensor_infos().values();
    let mut weights = Weights::new();
    for info in infos.filter(|info| info.dtype.is_float()) {
        check_size(path, info, length)?;
        let Some(tensor) = tensors.get(&info.name).map_err(wrong)? else { continue };
        let values = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1());
        let name = info.name.strip_prefix("module.").unwrap_or(&info.name).to_string();
        weights.insert(name, Array::new(tensor.dims().to_vec(), values.map_err(wrong)?));
    }
    Ok(weights)
}

/// PyTorch does not compress: no tensor is larger than its file.
fn check_size(path: &Path, info: &TensorInfo, length: u64) -> Result<()> {
    let dims = info.layout.dims();
    let width = info.dtype.size_in_bytes() as u64;
    let bytes = dims.iter().try_fold(width, |bytes, &dim| bytes.checked_mul(dim as u64));
    if bytes.is_none_or(|bytes| bytes > length) {
        let found = format!("`{}` of shape {dims:?} in a file of {length} bytes", info.name);
        return Err(TrainError::malformed(path, format!("not a PyTorch state dict: {found}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.save` of `conv.weight`, 0..4 of shape [2, 1, 1, 2], and a counter.
    const PLAIN: &[u8] = include_bytes!("../../fuzz/seeds/state_dict/plain.pth");
    /// The same of `{"state_dict": {"module.fc.bias": two ones in half precision}}`.
    const NESTED_ONE: &[u8] = include_bytes!("../../fuzz/seeds/state_dict/nested.pth");

    fn read_bytes(bytes: &[u8]) -> Result<Weights> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.pth");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    #[test]
    fn torchs_state_dicts_are_read_plain_and_nested() {
        let plain = read_bytes(PLAIN).unwrap();
        assert_eq!(plain["conv.weight"], Array::new([2, 1, 1, 2], vec![0.0, 1.0, 2.0, 3.0]));
        assert_eq!(plain.len(), 1, "a counter is no weight");
        assert_eq!(read_bytes(NESTED_ONE).unwrap()["fc.bias"], Array::new([2], vec![1.0, 1.0]));
    }

    #[test]
    fn a_tensor_that_is_larger_than_its_file_is_refused() {
        let shape = b"K\x02K\x01K\x01K\x02";
        let at = PLAIN.windows(shape.len()).position(|bytes| bytes == shape).unwrap();
        let mut bytes = PLAIN.to_vec();
        bytes[at + 1] = 255;
        bytes[at + 7] = 255;
        let error = read_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("`conv.weight` of shape [255, 1, 1, 255] in a file of 1877 bytes"), "{error}");
    }

    #[test]
    fn every_byte_of_a_state_dict_may_be_another_and_nothing_panics() {
        for at in 0..PLAIN.len() {
            let mut bytes = PLAIN.to_vec();
            bytes[at] ^= 0x15;
            let _ = read_bytes(&bytes); // some are values: any answer, but an answer
        }
    }
}
