//! MobileNetV3 (Howard et al. 2019, arXiv 1905.02244) as torchvision builds it.

use super::blocks::{
    ConvNorm, InvertedResidual, SqueezeExcitation, make_divisible, normalized, pooled_vector,
    timm_inverted_residual,
};
use crate::{Activation, BatchNorm, Conv2d, Graph, GraphError, Init, Linear, NodeId, Op, Stem, Task};

/// torchvision's batch norm for this family.
const NORM: BatchNorm = BatchNorm::new(0.001, 0.01);
const RELU: Activation = Activation::Relu;
const SWISH: Activation = Activation::HardSwish;

/// One line of the paper's tables 1 and 2.
type Row = (Kernel, Expanded, Out, Squeeze, Activation, Stride);
type Kernel = usize;
type Expanded = usize;
type Out = usize;
type Squeeze = bool;
type Stride = usize;

/// A variant: its blocks, the width of its classifier, and how many blocks each of timm's stages holds.
pub struct Variant {
    rows: &'static [Row],
    classifier: usize,
    timm_stages: &'static [usize],
}

/// Table 1 of the paper.
pub const LARGE: Variant = Variant {
    rows: &[
        (3, 16, 16, false, RELU, 1),
        (3, 64, 24, false, RELU, 2),
        (3, 72, 24, false, RELU, 1),
        (5, 72, 40, true, RELU, 2),
        (5, 120, 40, true, RELU, 1),
        (5, 120, 40, true, RELU, 1),
        (3, 240, 80, false, SWISH, 2),
        (3, 200, 80, false, SWISH, 1),
        (3, 184, 80, false, SWISH, 1),
        (3, 184, 80, false, SWISH, 1),
        (3, 480, 112, true, SWISH, 1),
        (3, 672, 112, true, SWISH, 1),
        (5, 672, 160, true, SWISH, 2),
        (5, 960, 160, true, SWISH, 1),
        (5, 960, 160, true, SWISH, 1),
    ],
    classifier: 1280,
    timm_stages: &[1, 2, 3, 4, 2, 3],
};

/// Table 2 of the paper.
pub const SMALL: Variant = Variant {
    rows: &[
        (3, 16, 16, true, RELU, 2),
        (3, 72, 24, false, RELU, 2),
        (3, 88, 24, false, RELU, 1),
        (5, 96, 40, true, SWISH, 2),
        (5, 240, 40, true, SWISH, 1),
        (5, 240, 40, true, SWISH, 1),
        (5, 120, 48, true, SWISH, 1),
        (5, 144, 48, true, SWISH, 1),
        (5, 288, 96, true, SWISH, 2),
        (5, 576, 96, true, SWISH, 1),
        (5, 576, 96, true, SWISH, 1),
    ],
    classifier: 1024,
    timm_stages: &[1, 2, 3, 2, 3],
};

/// A MobileNetV3.
pub fn build(task: &Task, variant: &Variant) -> Result<Graph, GraphError> {
    let (mut graph, x) = normalized(task)?;
    let stride = if task.stem == Stem::Imagenet { 2 } else { 1 };
    let conv = Conv2d::new(16, 3).stride(stride).padding(1);
    let mut x = ConvNorm { conv, norm: NORM, activation: Some(SWISH) }.append(&mut graph, "features.0", x)?;
    for (index, row) in variant.rows.iter().enumerate() {
        x = block(row).append(&mut graph, &format!("features.{}", index + 1), x)?;
    }
    let conv = Conv2d::new(6 * graph.node(x).shape.channels(), 1);
    let name = format!("features.{}", variant.rows.len() + 1);
    x = ConvNorm { conv, norm: NORM, activation: Some(SWISH) }.append(&mut graph, &name, x)?;
    classifier(&mut graph, x, variant.classifier, task.classes)?;
    Ok(graph)
}

fn block(&(kernel, expanded, out, squeezes, activation, stride): &Row) -> InvertedResidual {
    let squeeze = squeezes.then(|| SqueezeExcitation {
        channels: make_divisible((expanded / 4) as f64),
        activation: RELU,
        gate: Activation::HardSigmoid,
    });
    InvertedResidual {
        expanded,
        out,
        kernel,
        stride,
        squeeze,
        activation,
        norm: NORM,
        stochastic_depth: 0.0,
        starts_as_identity: false,
    }
}

fn classifier(graph: &mut Graph, x: NodeId, width: usize, classes: usize) -> Result<(), GraphError> {
    let init = Init::Normal(0.01);
    let x = pooled_vector(graph, x)?;
    let x = graph.linear("classifier.0", x, Linear::new(width).init(init))?;
    let features = graph.activation("classifier.1", x, SWISH)?;
    graph.set_output("features", features);
    let x = graph.add("classifier.2", Op::Dropout(0.2), &[features])?;
    let logits = graph.linear("classifier.3", x, Linear::new(classes).init(init))?;
    graph.set_output("logits", logits);
    Ok(())
}

/// timm's module names for `mobilenetv3_large_100` and `mobilenetv3_small_100`, as pairs (ours, timm's). Its
/// `conv_head` is our `classifier.0`, kept there as a 1x1 convolution.
pub fn timm_names(graph: &Graph, variant: &Variant) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut pair = |ours: String, timm: &str| pairs.push((ours, timm.to_string()));
    let last = variant.rows.len() + 1;
    let last_stage = variant.timm_stages.len();
    pair("features.0.0".into(), "conv_stem");
    pair("features.0.1".into(), "bn1");
    pair(format!("features.{last}.0"), &format!("blocks.{last_stage}.0.conv"));
    pair(format!("features.{last}.1"), &format!("blocks.{last_stage}.0.bn1"));
    pair("classifier.0".into(), "conv_head");
    pair("classifier.3".into(), "classifier");
    let places = variant.timm_stages.iter().enumerate();
    let places =
        places.flat_map(|(stage, &depth)| (0..depth).map(move |index| format!("blocks.{stage}.{index}")));
    for (index, timm) in places.enumerate() {
        pairs.extend(timm_inverted_residual(graph, &format!("features.{}", index + 1), &timm));
    }
    pairs
}
