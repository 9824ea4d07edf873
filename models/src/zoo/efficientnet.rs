//! EfficientNet (Tan and Le 2019, arXiv 1905.11946) b0 to b7 as torchvision builds them: one network, scaled in width
//! and depth.

use super::blocks::{
    ConvNorm, InvertedResidual, SqueezeExcitation, make_divisible, normalized, pooled_vector,
    timm_inverted_residual,
};
use crate::{Activation, BatchNorm, Conv2d, Graph, GraphError, Init, Linear, Op, Stem, Task};

const SILU: Activation = Activation::Silu;
/// Probability of dropping the branch of the last block; it grows linearly from zero.
const STOCHASTIC_DEPTH: f64 = 0.2;

/// A stage of b0: (expansion, kernel, stride, channels in, channels out, blocks), the paper's table 1.
const STAGES: [(usize, usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
];

/// How far b0 is scaled.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    width: f64,
    depth: f64,
    dropout: f32,
    norm: BatchNorm,
}

impl Scale {
    /// Width and depth as multiples of b0's, the classifier's dropout, PyTorch's default batch norm.
    pub const fn new(width: f64, depth: f64, dropout: f32) -> Self {
        Self { width, depth, dropout, norm: BatchNorm::new(1e-5, 0.1) }
    }

    /// The batch norm that torchvision gives b5 to b7.
    pub const fn tensorflow_norm(mut self) -> Self {
        self.norm = BatchNorm::new(0.001, 0.01);
        self
    }

    fn channels(&self, channels: usize) -> usize {
        make_divisible(channels as f64 * self.width)
    }

    fn blocks(&self, blocks: usize) -> usize {
        (blocks as f64 * self.depth).ceil() as usize
    }
}

/// An EfficientNet.
pub fn build(task: &Task, scale: Scale) -> Result<Graph, GraphError> {
    let (mut graph, x) = normalized(task)?;
    let stride = if task.stem == Stem::Imagenet { 2 } else { 1 };
    let unit = |conv| ConvNorm { conv, norm: scale.norm, activation: Some(SILU) };
    let conv = Conv2d::new(scale.channels(STAGES[0].3), 3).stride(stride).padding(1);
    let mut x = unit(conv).append(&mut graph, "features.0", x)?;
    for (name, block) in blocks(scale) {
        x = block.append(&mut graph, &name, x)?;
    }
    let conv = Conv2d::new(4 * graph.node(x).shape.channels(), 1);
    x = unit(conv).append(&mut graph, "features.8", x)?;
    let features = pooled_vector(&mut graph, x)?;
    graph.set_output("features", features);
    let x = graph.add("classifier.0", Op::Dropout(scale.dropout), &[features])?;
    // torchvision's bound, 1 / sqrt(classes), is made for 1000 classes, where it is all but this one; at ten it starts
    // with logits of several units, and the first steps are spent on undoing them.
    let logits = graph.linear("classifier.1", x, Linear::new(task.classes).init(Init::TorchDefault))?;
    graph.set_output("logits", logits);
    Ok(graph)
}

/// All blocks in order, each with its torchvision name.
fn blocks(scale: Scale) -> Vec<(String, InvertedResidual)> {
    let total: usize = STAGES.iter().map(|stage| scale.blocks(stage.5)).sum();
    let mut blocks = Vec::with_capacity(total);
    for (stage, &(expansion, kernel, stride, channels_in, out, depth)) in STAGES.iter().enumerate() {
        for index in 0..scale.blocks(depth) {
            let first = index == 0;
            let channels = scale.channels(if first { channels_in } else { out });
            let squeeze = SqueezeExcitation {
                channels: (channels / 4).max(1),
                activation: SILU,
                gate: Activation::Sigmoid,
            };
            let block = InvertedResidual {
                expanded: make_divisible((channels * expansion) as f64),
                out: scale.channels(out),
                kernel,
                stride: if first { stride } else { 1 },
                squeeze: Some(squeeze),
                activation: SILU,
                norm: scale.norm,
                stochastic_depth: (STOCHASTIC_DEPTH * blocks.len() as f64 / total as f64) as f32,
                // torchvision starts all scales at 1; on maps of a few pixels 16 noisy branches then drown the signal for
                // hundreds of steps.
                starts_as_identity: true,
            };
            blocks.push((format!("features.{}.{index}", stage + 1), block));
        }
    }
    blocks
}

/// timm's module names for `efficientnet_b0` to `b7`, as pairs (ours, timm's).
pub fn timm_names(graph: &Graph, scale: Scale) -> Vec<(String, String)> {
    let ends = [
        ("features.0.0", "conv_stem"),
        ("features.0.1", "bn1"),
        ("features.8.0", "conv_head"),
        ("features.8.1", "bn2"),
        ("classifier.1", "classifier"),
    ];
    let mut pairs: Vec<_> = ends.map(|(ours, timm)| (ours.to_string(), timm.to_string())).into();
    for (stage, &(.., depth)) in STAGES.iter().enumerate() {
        for index in 0..scale.blocks(depth) {
            let ours = format!("features.{}.{index}", stage + 1);
            pairs.extend(timm_inverted_residual(graph, &ours, &format!("blocks.{stage}.{index}")));
        }
    }
    pairs
}
