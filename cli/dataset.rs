//! The data set that a network is measured on: the one asked for, or the one it was trained on, at the network's size.

use std::path::Path;

use data::{Dataset, OpenOptions};
use models::Manifest;

use crate::failure::{Failure, Result};

/// Opens `asked`, or what the manifest names.
///
/// # Errors
/// If nothing is named, it cannot be opened, or its classes are not the network's.
pub fn open(
    asked: Option<&str>,
    data_dir: &Path,
    threads: usize,
    model: &Path,
    manifest: &Manifest,
) -> Result<(String, Dataset)> {
    let trained_on = || manifest.training.as_ref().map(|training| training.data.clone());
    let source = asked.map(String::from).or_else(trained_on).ok_or_else(|| {
        Failure::mendable(format!(
            "{} does not say what it was trained on; name a data set with --data",
            model.display()
        ))
    })?;
    let options = OpenOptions {
        data_dir: data_dir.into(),
        image_size: Some(manifest.task.height),
        fit: match manifest.input.fit {
            models::Fit::Stretch => picture::Fit::Stretch,
            models::Fit::Crop => picture::Fit::Crop,
        },
        channels: Some(manifest.task.channels),
        seed: manifest.training.as_ref().map_or(0, |training| training.seed),
        threads,
        ..OpenOptions::default()
    };
    let dataset = data::open(&source, &options).map_err(Failure::mendable)?;
    if dataset.classes != manifest.labels {
        return Err(Failure::mendable(format!(
            "{source}: expected the network's classes [{}], found [{}]",
            manifest.labels.join(", "),
            dataset.classes.join(", ")
        )));
    }
    Ok((source, dataset))
}
