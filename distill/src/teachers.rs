//! Finished networks that teach: loaded once, folded for inference, asked in every step.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use data::{Dataset, PictureShape};
use engine::{Model, Runtime};
use models::Manifest;
use train::{RunFolder, loss};

use crate::error::{DistillError, Result};

/// One or several teachers; several answer by the mean of their probabilities.
#[derive(Clone, Debug)]
pub struct Teachers {
    models: Vec<Model>,
    manifests: Vec<Manifest>,
    shape: PictureShape,
}

impl Teachers {
    /// Loads finished runs (or `model.safetensors` files) and checks that they answer for this data.
    ///
    /// # Errors
    /// A file that is missing or wrong; other classes; another picture size.
    pub fn load(runs: &[PathBuf], dataset: &Dataset, runtime: &Runtime) -> Result<Self> {
        let (mut models, mut manifests) = (Vec::new(), Vec::new());
        for run in runs {
            let path = model_file(run)?;
            let (manifest, weights) = models::load(&path)?;
            check(&manifest, &path, dataset)?;
            let graph = manifest.graph().map_err(train::TrainError::from)?;
            models.push(Model::new(&graph, &weights, runtime)?);
            manifests.push(manifest);
        }
        Ok(Self { models, manifests, shape: dataset.shape })
    }

    /// What is known about each.
    pub fn manifests(&self) -> &[Manifest] {
        &self.manifests
    }

    /// The networks.
    pub fn models_mut(&mut self) -> &mut [Model] {
        &mut self.models
    }

    /// Mean of the teachers' probabilities at a temperature, `[n, classes]`, for images `[n, height, width, channels]`, `u8`,
    /// where those lie; no gradient.
    ///
    /// # Errors
    /// The engine's.
    pub fn probabilities(&mut self, images: &Tensor, temperature: f64) -> train::Result<Tensor> {
        let share = 1.0 / self.models.len() as f64;
        let mut mean: Option<Tensor> = None;
        for model in &mut self.models {
            let probabilities = (loss::softmax(&(model.answer(images)? / temperature)?)? * share)?;
            mean = Some(match mean {
                None => probabilities,
                Some(sum) => (sum + probabilities)?,
            });
        }
        mean.ok_or_else(|| train::TrainError::setting("teacher", "at least one", "none"))
    }

    /// The same at temperature 1 for pixels of the host.
    ///
    /// # Errors
    /// The engine's.
    pub fn answers(&mut self, pixels: &[u8]) -> train::Result<Tensor> {
        let PictureShape { channels, height, width } = self.shape;
        let count = pixels.len() / (channels * height * width).max(1);
        let images = Tensor::from_slice(pixels, (count, height, width, channels), &Device::Cpu)?;
        self.probabilities(&images, 1.0)
    }
}

fn model_file(run: &Path) -> Result<PathBuf> {
    let path = if run.is_dir() { RunFolder::new(run).model() } else { run.to_path_buf() };
    if path.exists() { Ok(path) } else { Err(DistillError::Unfinished { path: run.into() }) }
}

fn check(manifest: &Manifest, path: &Path, dataset: &Dataset) -> Result<()> {
    let (path, data) = (path.to_path_buf(), dataset.name.clone());
    if manifest.labels != dataset.classes {
        let (expected, found) = (dataset.classes.join(", "), manifest.labels.join(", "));
        return Err(DistillError::Classes { path, data, expected, found });
    }
    let (shape, task) = (dataset.shape, &manifest.task);
    let size = |channels, height, width| format!("{height} x {width} px, {channels} channels");
    let expected = size(shape.channels, shape.height, shape.width);
    let found = size(task.channels, task.height, task.width);
    if expected != found { Err(DistillError::Pictures { path, data, expected, found }) } else { Ok(()) }
}
