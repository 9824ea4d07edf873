//! What a run stands on: the divided data set and the device. Several trainings of one job share it.

use std::sync::Arc;

use data::{Dataset, OpenOptions, Partition};
use engine::Runtime;
use models::{BatchNorm, Graph, Op, Shape, Task};
use serde::de::{DeserializeOwned, value::StrDeserializer};

use crate::config::Config;
use crate::error::{Result, TrainError};

/// Data and device.
#[derive(Clone, Debug)]
pub struct Ground {
    /// The data set, divided by `labels`, `val` and the seed.
    pub partition: Arc<Partition>,
    /// Where networks run.
    pub runtime: Runtime,
}

impl Ground {
    /// Opens data and device as the configuration says.
    ///
    /// # Errors
    /// The data set's, the division's or the device's.
    pub fn open(config: &Config) -> Result<Self> {
        let runtime = config.runtime()?;
        let dataset = Arc::new(data::open(&config.data, &open_options(config)?)?);
        Self::on(dataset, config, runtime)
    }

    /// Divides a data set that is open already.
    ///
    /// # Errors
    /// The division's.
    pub fn on(dataset: Arc<Dataset>, config: &Config, runtime: Runtime) -> Result<Self> {
        let partition = Partition::new(dataset, &config.labels.parse()?, &config.val.parse()?, config.seed)?;
        Ok(Self { partition: Arc::new(partition), runtime })
    }

    /// What a network for this data has to do.
    pub fn task(&self, config: &Config) -> Task {
        let dataset = &self.partition.dataset;
        let mut task = Task::new(dataset.classes.len(), dataset.shape.channels, dataset.shape.height);
        task.width = dataset.shape.width;
        task.features = config.features;
        task.with_stem(config.stem)
    }

    /// The configured architecture for this data.
    ///
    /// # Errors
    /// An unknown architecture; pictures too small for it.
    pub fn graph(&self, config: &Config) -> Result<Graph> {
        Ok(models::zoo::build(&config.arch, &self.task(config))?)
    }
}

/// The same network whose batch normalizations take at least `least` of every batch into their running statistics.
/// Nothing else depends on it: an answer is the same.
pub(crate) fn with_momentum(graph: &Graph, least: f32) -> Result<Graph> {
    let Shape::Map { channels, height, width } = graph.input_shape() else {
        return Ok(graph.clone()); // a graph's input is a picture
    };
    let mut changed = Graph::new(channels, height, width);
    for node in graph.nodes().iter().skip(1) {
        let op = match node.op {
            Op::BatchNorm(norm) => Op::BatchNorm(BatchNorm { momentum: norm.momentum.max(least), ..norm }),
            ref op => op.clone(),
        };
        changed.add(node.name.clone(), op, &node.inputs)?;
    }
    for (name, node) in graph.outputs() {
        changed.set_output(name.clone(), *node);
    }
    Ok(changed)
}

/// How the configuration wants pictures read.
///
/// # Errors
/// An unknown `fit`.
pub fn open_options(config: &Config) -> Result<OpenOptions> {
    Ok(OpenOptions {
        data_dir: config.data_dir.clone(),
        image_size: config.image_size,
        fit: named("fit", &config.fit)?,
        seed: config.seed,
        threads: config.threads,
        strict: config.strict,
        ..OpenOptions::default()
    })
}

/// A value by its name in configuration files.
pub(crate) fn named<T: DeserializeOwned>(key: &str, name: &str) -> Result<T> {
    // serde's own words say what was found and which names there are.
    let wrong =
        |error: serde::de::value::Error| TrainError::Name { key: key.into(), reason: error.to_string() };
    T::deserialize(StrDeserializer::new(name)).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_another_momentum_differs_in_nothing_else() {
        let graph = models::zoo::build("mobilenet-v3-small", &Task::new(10, 3, 32)).unwrap();
        assert!(with_momentum(&graph, 0.0).unwrap() == graph);
        let changed = with_momentum(&graph, 0.05).unwrap();
        assert_eq!(changed.parameters(), graph.parameters());
        assert_eq!(changed.outputs(), graph.outputs());
        let momenta = changed.nodes().iter().filter_map(|node| match node.op {
            Op::BatchNorm(norm) => Some(norm.momentum),
            _ => None,
        });
        assert!(momenta.clone().count() > 30 && momenta.into_iter().all(|momentum| momentum == 0.05));
    }
}
