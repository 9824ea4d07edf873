//! Starting from weights that are there already: a run, a safetensors file, or a PyTorch state dict.

use std::path::{Path, PathBuf};

use candle_core::{DType, pickle};
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

fn read_pickle(path: &PathBuf) -> Result<Weights> {
    let wrong =
        |error: candle_core::Error| TrainError::malformed(path, format!("not a PyTorch state dict: {error}"));
    std::fs::metadata(path).map_err(TrainError::file("reading", path))?;
    let mut found = pickle::read_all(path).map_err(wrong)?;
    for key in NESTED {
        if found.is_empty() {
            found = pickle::read_all_with_key(path, Some(key)).unwrap_or_default();
        }
    }
    let floats = found.into_iter().filter(|(_, tensor)| tensor.dtype().is_float());
    floats
        .map(|(name, tensor)| {
            let shape = tensor.dims().to_vec();
            let values = tensor.to_dtype(DType::F32).and_then(|tensor| tensor.flatten_all()?.to_vec1());
            let name = name.strip_prefix("module.").unwrap_or(&name).to_string();
            Ok((name, Array::new(shape, values.map_err(wrong)?)))
        })
        .collect()
}
