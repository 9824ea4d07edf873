//! The trained network as a file: `model.safetensors` with its manifest.

use std::path::Path;

use models::manifest::{Accuracy, Training};
use models::{Manifest, Weights};

use crate::config::Config;
use crate::error::{Result, TrainError};
use crate::evaluate::Evaluation;
use crate::ground::{Ground, named};

/// What a network reached, split by split.
pub(crate) type Reached<'a> = [(&'static str, &'a Evaluation)];

/// Writes the network. Nothing in the file depends on when or where it was trained: the same run gives the same bytes.
pub(crate) fn save(
    path: &Path,
    ground: &Ground,
    config: &Config,
    steps: u64,
    weights: &Weights,
    reached: &Reached<'_>,
) -> Result<()> {
    let dataset = &ground.partition.dataset;
    let fit = named("fit", &config.fit)?;
    let mut manifest = Manifest::new(&config.arch, &ground.task(config), dataset.classes.clone(), fit)?;
    manifest.training = Some(Training {
        method: config.method.clone(),
        data: dataset.name.clone(),
        labels: ground.partition.labeled.len(),
        seed: config.seed,
        steps,
        recipe: recipe(config)?,
    });
    manifest.accuracies = reached.iter().map(|(split, evaluation)| accuracy(split, evaluation)).collect();
    Ok(models::save(path, &manifest, weights)?)
}

fn accuracy(split: &str, evaluation: &Evaluation) -> Accuracy {
    let Evaluation { accuracy, top5, pictures, .. } = *evaluation;
    Accuracy { split: split.into(), top1: accuracy, top5: Some(top5), count: pictures }
}

/// The configuration without what names a place or a machine.
fn recipe(config: &Config) -> Result<serde_json::Value> {
    let wrong =
        |error: serde_json::Error| TrainError::setting("configuration", "plain values", error.to_string());
    let mut recipe = serde_json::to_value(config).map_err(wrong)?;
    if let Some(recipe) = recipe.as_object_mut() {
        for key in ["out", "data", "data-dir", "threads", "checkpoint-steps", "budget"] {
            recipe.shift_remove(key);
        }
    }
    Ok(recipe)
}
