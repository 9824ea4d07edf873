//! Starting from weights that are there already: a run, a safetensors file, or a PyTorch state dict.

use std::path::Path;

use engine::Net;
use models::init::Report;
use models::{Architecture, Graph, Weights};

use crate::error::{Result, TrainError};
use crate::folder::RunFolder;
use crate::state_dict;

/// Loads `source` into `net`, whose graph without heads is `graph`, and reports what was taken over. Heads keep their
/// random start.
///
/// # Errors
/// If the file cannot be read, or lists what is missing, extra and of another shape.
pub fn load(net: &Net, graph: &Graph, arch: &str, source: &Path) -> Result<Report> {
    let fresh = net.weights()?;
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

fn read_pickle(path: &Path) -> Result<Weights> {
    let bytes = std::fs::read(path).map_err(TrainError::file("reading", path))?;
    let wrong = |source| TrainError::StateDict { path: path.to_path_buf(), source: Box::new(source) };
    state_dict::from_bytes(&bytes).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.save` of `conv.weight`, 0..4 of shape [2, 1, 1, 2], and a counter.
    const PLAIN: &[u8] = include_bytes!("../../fuzz/seeds/state_dict/plain.pth");

    #[test]
    fn a_files_name_says_whether_it_is_pytorchs() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["weights.pth", "weights.pt", "pytorch_model.bin"] {
            let path = folder.path().join(name);
            std::fs::write(&path, PLAIN).unwrap();
            assert_eq!(read(&path).unwrap()["conv.weight"].data, [0.0, 1.0, 2.0, 3.0]);
            std::fs::write(&path, &PLAIN[..1000]).unwrap();
            let error = read(&path).unwrap_err();
            assert!(
                error.mendable() && error.to_string().starts_with(&path.display().to_string()),
                "{error}"
            );
        }
    }
}
