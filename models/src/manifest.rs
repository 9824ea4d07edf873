//! The manifest: what travels with the weights so that a file alone is enough to run, serve and judge a network.
//! It describes; it holds no weights and reads no file (see [`crate::file`]).

use serde::{Deserialize, Serialize};

use crate::fit::{self, Misfit};
use crate::zoo::{Architecture, ZooError};
use crate::{Graph, Task, Weights};

/// The version of the format that this build writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// Bounds on what a file may claim, far above any real network and far below where arithmetic overflows.
const LARGEST_SIDE: usize = 16_384;
const MOST_CHANNELS: usize = 64;
const MOST_CLASSES: usize = 1_000_000;
const MOST_FEATURES: usize = 1_000_000;

/// How a picture of any shape becomes the network's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Both sides are resized on their own: nothing is cut, proportions change.
    #[default]
    Stretch,
    /// The shorter side is resized, then the middle is cut out.
    Crop,
}

/// How pixels are resampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Bilinear with antialiasing, as Pillow's `BILINEAR`.
    #[default]
    BilinearAntialias,
}

/// What the channels of the input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// One channel of luma.
    Gray,
}

/// Where pictures are normalized. There is one answer, written down for whoever reads the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalization {
    /// The graph's first node does it: feed values as the range says.
    #[default]
    InsideGraph,
}

/// What the network expects to be fed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Meaning of the channels.
    pub channels: Channels,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// How a picture of another shape is made to fit.
    pub fit: Fit,
    /// How it is resampled.
    pub resize: Resize,
    /// Smallest and largest value of a channel.
    pub range: [f32; 2],
    /// Where normalization happens.
    pub normalization: Normalization,
}

/// A named result of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// `logits`, `features`.
    pub name: String,
    /// Shape for one picture.
    pub shape: Vec<usize>,
}

/// How the weights came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Registered name of the method.
    pub method: String,
    /// Name of the data set.
    pub data: String,
    /// How many labels were trained on.
    pub labels: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Everything else, resolved.
    pub recipe: serde_json::Value,
}

/// An accuracy, with what it was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// `train`, `val` or `test`.
    pub split: String,
    /// Share of pictures whose label is the first answer, 0..1.
    pub top1: f64,
    /// Share of pictures whose label is among the first five answers, 0..1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    /// Pictures it was measured on.
    pub count: usize,
}

/// The network that a student learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Teacher {
    /// Its architecture.
    pub architecture: String,
    /// Its run.
    pub name: String,
    /// Its accuracies.
    pub accuracies: Vec<Accuracy>,
}

/// Everything about a saved network but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: [`FORMAT`].
    pub format: u32,
    /// Registered name of the architecture.
    pub architecture: String,
    /// What the graph was built for.
    pub task: Task,
    /// Name of each class, in the order of the logits.
    pub labels: Vec<String>,
    /// What to feed.
    pub input: Input,
    /// What comes out.
    pub outputs: Vec<Output>,
    /// How it was trained; absent for weights that were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    /// What it reached.
    #[serde(default)]
    pub accuracies: Vec<Accuracy>,
    /// Whom it learned from, if anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<Teacher>,
}

/// A manifest that says something impossible.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// A value that cannot be.
    #[error("manifest key `{key}`: expected {expected}, found {found}")]
    Value {
        /// Path of the key in the JSON.
        key: String,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// An architecture that this build does not have or cannot build.
    #[error("manifest key `architecture`: {0}")]
    Architecture(#[from] ZooError),
    /// Weights of another network.
    #[error(transparent)]
    Weights(#[from] Misfit),
}

impl Manifest {
    /// The manifest of an untrained network; training, accuracies and teacher are the caller's to fill in.
    ///
    /// # Errors
    /// [`ManifestError`] for an unknown architecture, or labels that are not as many as the classes.
    pub fn new(
        architecture: &str,
        task: &Task,
        labels: Vec<String>,
        fit: Fit,
    ) -> Result<Self, ManifestError> {
        let architecture = Architecture::find(architecture)?;
        let graph = architecture.build(task)?;
        let manifest = Self {
            format: FORMAT,
            architecture: architecture.name().into(),
            task: task.clone(),
            labels,
            input: Input::of(task, fit),
            outputs: outputs(&graph),
            training: None,
            accuracies: Vec::new(),
            teacher: None,
        };
        manifest.validate()?;
        Ok(manifest)
    }

    /// Rebuilds the graph through the registry.
    ///
    /// # Errors
    /// [`ManifestError`] if the manifest contradicts itself or the architecture cannot be built.
    pub fn graph(&self) -> Result<Graph, ManifestError> {
        self.validate()?;
        let graph = Architecture::find(&self.architecture)?.build(&self.task)?;
        let built = outputs(&graph);
        same("outputs", &format!("{built:?}"), &format!("{:?}", self.outputs))?;
        Ok(graph)
    }

    /// Rebuilds the graph and holds `weights` against it.
    ///
    /// # Errors
    /// As [`Manifest::graph`], and [`ManifestError::Weights`] listing what does not fit.
    pub fn graph_for(&self, weights: &Weights) -> Result<Graph, ManifestError> {
        let graph = self.graph()?;
        fit::check(&graph, weights)?;
        Ok(graph)
    }

    /// Looks for contradictions, without building anything.
    ///
    /// # Errors
    /// [`ManifestError::Value`] with the first key at fault.
    pub fn validate(&self) -> Result<(), ManifestError> {
        same("format", &FORMAT.to_string(), &self.format.to_string())?;
        validate_task(&self.task)?;
        same("labels", &format!("{} names", self.task.classes), &format!("{} names", self.labels.len()))?;
        let input = Input::of(&self.task, self.input.fit);
        same("input", &format!("{input:?}"), &format!("{:?}", self.input))?;
        let teachers = self.teacher.iter().flat_map(|teacher| &teacher.accuracies);
        self.accuracies.iter().chain(teachers).try_for_each(validate_accuracy)
    }
}

impl Input {
    /// What a task's pictures are, in 0..1, normalized inside the graph.
    pub fn of(task: &Task, fit: Fit) -> Self {
        Self {
            channels: if task.channels == 1 { Channels::Gray } else { Channels::Rgb },
            height: task.height,
            width: task.width,
            fit,
            resize: Resize::default(),
            range: [0.0, 1.0],
            normalization: Normalization::default(),
        }
    }
}

fn outputs(graph: &Graph) -> Vec<Output> {
    let shape = |shape: crate::Shape| match shape {
        crate::Shape::Map { channels, height, width } => vec![channels, height, width],
        crate::Shape::Flat(length) => vec![length],
    };
    let output = |(name, &id): (&String, &crate::NodeId)| Output {
        name: name.clone(),
        shape: shape(graph.node(id).shape),
    };
    graph.outputs().iter().map(output).collect()
}

fn validate_task(task: &Task) -> Result<(), ManifestError> {
    within("task.classes", task.classes, MOST_CLASSES)?;
    within("task.channels", task.channels, MOST_CHANNELS)?;
    within("task.height", task.height, LARGEST_SIDE)?;
    within("task.width", task.width, LARGEST_SIDE)?;
    within("task.features", task.features.unwrap_or(1), MOST_FEATURES)?;
    for (key, values) in [("task.mean", &task.mean), ("task.std", &task.std)] {
        same(key, &format!("{} values", task.channels), &format!("{} values", values.len()))?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(wrong(key, "finite values", &value.to_string()));
        }
    }
    Ok(())
}

fn validate_accuracy(accuracy: &Accuracy) -> Result<(), ManifestError> {
    let shares = [Some(accuracy.top1), accuracy.top5];
    match shares.into_iter().flatten().find(|share| !(0.0..=1.0).contains(share)) {
        Some(share) => Err(wrong("accuracies", "a share of 0..1", &share.to_string())),
        None => Ok(()),
    }
}

fn within(key: &str, value: usize, most: usize) -> Result<(), ManifestError> {
    if (1..=most).contains(&value) {
        Ok(())
    } else {
        Err(wrong(key, &format!("1 to {most}"), &value.to_string()))
    }
}

fn same(key: &str, expected: &str, found: &str) -> Result<(), ManifestError> {
    if expected == found { Ok(()) } else { Err(wrong(key, expected, found)) }
}

fn wrong(key: &str, expected: &str, found: &str) -> ManifestError {
    ManifestError::Value { key: key.into(), expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        Manifest::new("small-cnn", &Task::new(2, 1, 24), labels, Fit::Crop).unwrap()
    }

    #[test]
    fn the_input_contract_is_spelled_out() {
        let json = serde_json::to_value(manifest()).unwrap();
        assert_eq!(json["architecture"], "small-cnn-3", "aliases are resolved");
        let input = serde_json::json!({
            "channels": "gray", "height": 24, "width": 24, "fit": "crop", "resize": "bilinear-antialias",
            "range": [0.0, 1.0], "normalization": "inside-graph",
        });
        assert_eq!(json["input"], input);
        assert_eq!(json["outputs"][1], serde_json::json!({"name": "logits", "shape": [2]}));
    }

    #[test]
    fn contradictions_are_named_by_their_key() {
        type Slip = fn(&mut Manifest);
        let broken: [(&str, Slip); 9] = [
            ("`format`: expected 1, found 2", |m| m.format = 2),
            ("`labels`: expected 2 names, found 1 names", |m| m.labels.truncate(1)),
            ("`task.height`: expected 1 to 16384", |m| m.task.height = usize::MAX),
            ("`task.classes`", |m| m.task.classes = 0),
            ("`task.std`", |m| m.task.std.clear()),
            ("`task.mean`: expected finite", |m| m.task.mean[0] = f32::NAN),
            ("`input`", |m| m.input.width = 25),
            ("`accuracies`: expected a share of 0..1, found 93", |m| {
                m.accuracies.push(Accuracy { split: "test".into(), top1: 93.0, top5: None, count: 10 });
            }),
            ("did you mean `small-cnn-3`", |m| m.architecture = "small-cnn-33".into()),
        ];
        for (expected, slip) in broken {
            let mut manifest = manifest();
            slip(&mut manifest);
            let message = manifest.graph().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_deviation_of_zero_is_the_graphs_error() {
        let mut manifest = manifest();
        manifest.task.std[0] = 0.0;
        assert!(manifest.graph().unwrap_err().to_string().contains("node `normalize`"));
    }
}
