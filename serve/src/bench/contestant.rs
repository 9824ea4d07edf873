//! A model that is measured: loaded from a run or a file, or built from an architecture's name at random weights.

use std::path::Path;

use models::{Architecture, Manifest, Task, cost};

use super::{BenchOptions, Latency, Ratio, Row, Throughput};
use crate::{Card, Engine, LoadOptions, Result, ServeError, Served};

/// A model with an engine, ready to run.
pub(super) struct Contestant {
    pub label: String,
    pub input: [usize; 3],
    pub classes: usize,
    /// Whether it is there to be compared with.
    pub reference: bool,
    pub engine: Box<dyn Engine>,
    served: Served,
    random_weights: bool,
}

impl Contestant {
    /// The model that a user named: what exists as a file or folder is one, anything else is an architecture.
    pub fn named(name: &str, options: &BenchOptions) -> Result<Self> {
        let path = Path::new(name);
        if path.exists() {
            return Self::loaded(name, path, options);
        }
        if name.contains(std::path::MAIN_SEPARATOR)
            || path.extension().is_some_and(|extension| extension == "onnx")
        {
            let reason = "no such run or file".into();
            return Err(ServeError::Source { path: path.into(), reason });
        }
        let architecture = Architecture::find(name)?;
        let size = options.task.size.unwrap_or(architecture.entry().image_size);
        let mut task =
            Task::new(options.task.classes, options.task.channels, size).with_stem(options.task.stem);
        task.features = options.task.features;
        Self::random(&architecture, &task, &options.load)
    }

    /// The network that others are compared with.
    pub fn reference(
        name: &str,
        [channels, height, width]: [usize; 3],
        classes: usize,
        threads: usize,
    ) -> Result<Self> {
        let architecture = Architecture::find(name)?;
        let mut task = Task::new(classes, channels, height);
        task.width = width;
        let contestant =
            Self::random(&architecture, &task, &LoadOptions { threads, ..LoadOptions::default() })?;
        Ok(Self { reference: true, ..contestant })
    }

    fn random(architecture: &Architecture, task: &Task, load: &LoadOptions) -> Result<Self> {
        let graph = architecture.build(task)?;
        let labels = (0..task.classes).map(|class| class.to_string()).collect();
        let manifest = Manifest::new(architecture.name(), task, labels, models::Fit::default())?;
        let card = Card::of(architecture.name().into(), &manifest);
        let served = Served::network(&graph, &models::formula::weights(&graph, 1.0), card, load)?;
        Ok(Self { random_weights: true, ..Self::ready(architecture.name(), served)? })
    }

    fn loaded(name: &str, path: &Path, options: &BenchOptions) -> Result<Self> {
        Self::ready(name, Served::open(path, &options.load)?)
    }

    fn ready(label: &str, served: Served) -> Result<Self> {
        let card = served.card();
        Ok(Self {
            label: label.into(),
            input: [card.channels, card.height, card.width],
            classes: card.labels.len(),
            reference: false,
            engine: served.engine()?,
            random_weights: false,
            served,
        })
    }

    /// The engine's name.
    pub fn engine_name(&self) -> &'static str {
        self.served.card().engine.name()
    }

    /// The model once more, for a server of its own.
    pub fn served_again(&self) -> Served {
        self.served.clone()
    }

    /// `count` pictures of the network's size, one after the other.
    pub fn pictures(&self, count: usize) -> Vec<u8> {
        let [channels, height, width] = self.input;
        (0..count).flat_map(|index| models::formula::picture(index, channels, height, width)).collect()
    }

    pub fn row(
        &self,
        latency: Latency,
        throughput: Throughput,
        http: Option<Latency>,
        ratio: Option<Ratio>,
    ) -> Row {
        let card = self.served.card();
        let cost = self.served.graph().map(cost::total);
        Row {
            model: self.label.clone(),
            arch: card.arch.clone(),
            engine: card.engine.name().into(),
            weights: card.weights.name().into(),
            stem: card.stem,
            input: self.input,
            classes: self.classes,
            random_weights: self.random_weights,
            params: cost.map(|cost| cost.parameters),
            macs: cost.map(|cost| cost.macs),
            latency,
            throughput,
            http,
            ratio,
        }
    }
}
