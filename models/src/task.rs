//! What a network is built for: the pictures that go in and the classes that come out.

use serde::{Deserialize, Serialize};

/// How a network's first layers treat the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// The paper's layout, made for ImageNet's 224 px: the stem halves or quarters the picture.
    #[default]
    Imagenet,
    /// Keeps resolution (stride 1, no stem pooling): more accurate at 64 px or less, 4 to 15 times the arithmetic.
    Small,
}

/// Everything a zoo entry needs to know to build its graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Number of classes: the length of the `logits` output.
    pub classes: usize,
    /// Channels of the input picture: 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Height of the input picture in pixels.
    pub height: usize,
    /// Width of the input picture in pixels.
    pub width: usize,
    /// Layout of the first layers.
    #[serde(default)]
    pub stem: Stem,
    /// Mean of each channel that the graph subtracts, on the scale 0..1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel that the graph divides by, on the scale 0..1.
    pub std: Vec<f32>,
    /// Length of the features layer of the small CNNs (1024 or 128 in their paper); other networks ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<usize>,
}

impl Task {
    /// A task on square pictures of `size` pixels with ImageNet's channel statistics (their average for gray).
    pub fn new(classes: usize, channels: usize, size: usize) -> Self {
        let (mean, std) = if channels == 3 {
            (vec![0.485, 0.456, 0.406], vec![0.229, 0.224, 0.225])
        } else {
            (vec![0.449; channels], vec![0.226; channels])
        };
        Self { classes, channels, height: size, width: size, stem: Stem::Imagenet, mean, std, features: None }
    }

    /// The same task with another stem.
    pub fn with_stem(mut self, stem: Stem) -> Self {
        self.stem = stem;
        self
    }
}
