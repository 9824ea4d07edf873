//! Building blocks that torchvision's families share, under the names that its modules give them.
//! Never knows a particular network.

use crate::{Activation, BatchNorm, Conv2d, Graph, GraphError, NodeId, Op, Shape, Task};

/// The task's picture, normalized: every network begins with it.
pub(super) fn normalized(task: &Task) -> Result<(Graph, NodeId), GraphError> {
    let mut graph = Graph::new(task.channels, task.height, task.width);
    let input = graph.input();
    let x = graph.normalize("normalize", input, &task.mean, &task.std)?;
    Ok((graph, x))
}

/// torchvision's `Conv2dNormActivation`.
pub(super) struct ConvNorm {
    pub(super) conv: Conv2d,
    pub(super) norm: BatchNorm,
    pub(super) activation: Option<Activation>,
}

impl ConvNorm {
    /// Appends `NAME.0` (convolution), `NAME.1` (norm) and, if there is one, `NAME.2` (activation).
    pub(super) fn append(self, graph: &mut Graph, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        let x = graph.conv2d(format!("{name}.0"), x, self.conv)?;
        let x = graph.batch_norm(format!("{name}.1"), x, self.norm)?;
        match self.activation {
            Some(activation) => graph.activation(format!("{name}.2"), x, activation),
            None => Ok(x),
        }
    }
}

/// Squeeze-and-excitation (arXiv 1709.01507): a gate per channel from the map's own means.
#[derive(Clone, Copy)]
pub(super) struct SqueezeExcitation {
    pub(super) channels: usize,
    pub(super) activation: Activation,
    pub(super) gate: Activation,
}

impl SqueezeExcitation {
    /// Appends `NAME.avgpool`, `.fc1`, `.activation`, `.fc2`, `.scale_activation` and the product, `NAME.scale`.
    pub(super) fn append(self, graph: &mut Graph, name: &str, map: NodeId) -> Result<NodeId, GraphError> {
        let channels = graph.node(map).shape.channels();
        let x = graph.add(format!("{name}.avgpool"), Op::GlobalAvgPool, &[map])?;
        let x = graph.conv2d(format!("{name}.fc1"), x, Conv2d::new(self.channels, 1).bias())?;
        let x = graph.activation(format!("{name}.activation"), x, self.activation)?;
        let x = graph.conv2d(format!("{name}.fc2"), x, Conv2d::new(channels, 1).bias())?;
        let gate = graph.activation(format!("{name}.scale_activation"), x, self.gate)?;
        graph.scale(format!("{name}.scale"), map, gate)
    }
}

/// The inverted residual of MobileNetV3 and EfficientNet: widen by a 1x1 convolution, filter each channel by itself,
/// gate, narrow again, and add the input where shapes allow.
pub(super) struct InvertedResidual {
    pub(super) expanded: usize,
    pub(super) out: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) squeeze: Option<SqueezeExcitation>,
    pub(super) activation: Activation,
    pub(super) norm: BatchNorm,
    /// Probability that training drops the branch; 0 for none.
    pub(super) stochastic_depth: f32,
    /// Whether a block with a skip starts as the identity: its last norm's scale is 0.
    pub(super) starts_as_identity: bool,
}

impl InvertedResidual {
    /// Appends `NAME.block.0` and so on, then `NAME.stochastic_depth` and `NAME.add` where there is a skip.
    pub(super) fn append(self, graph: &mut Graph, name: &str, input: NodeId) -> Result<NodeId, GraphError> {
        let channels = graph.node(input).shape.channels();
        let mut units = (0..).map(|index| format!("{name}.block.{index}"));
        let mut next = || units.next().unwrap_or_default();
        let mut x = input;
        if self.expanded != channels {
            x = self.pointwise(self.expanded, Some(self.activation)).append(graph, &next(), x)?;
        }
        x = self.depthwise().append(graph, &next(), x)?;
        if let Some(squeeze) = self.squeeze {
            x = squeeze.append(graph, &next(), x)?;
        }
        let skips = self.stride == 1 && self.out == channels;
        let mut last = self.pointwise(self.out, None);
        if skips && self.starts_as_identity {
            last.norm = last.norm.zero();
        }
        x = last.append(graph, &next(), x)?;
        if skips { self.skip(graph, name, input, x) } else { Ok(x) }
    }

    fn pointwise(&self, out: usize, activation: Option<Activation>) -> ConvNorm {
        ConvNorm { conv: Conv2d::new(out, 1), norm: self.norm, activation }
    }

    fn depthwise(&self) -> ConvNorm {
        let conv = Conv2d::new(self.expanded, self.kernel)
            .stride(self.stride)
            .padding((self.kernel - 1) / 2)
            .groups(self.expanded);
        ConvNorm { conv, norm: self.norm, activation: Some(self.activation) }
    }

    fn skip(
        &self,
        graph: &mut Graph,
        name: &str,
        input: NodeId,
        branch: NodeId,
    ) -> Result<NodeId, GraphError> {
        let branch = match self.stochastic_depth {
            p if p > 0.0 => {
                graph.add(format!("{name}.stochastic_depth"), Op::StochasticDepth(p), &[branch])?
            }
            _ => branch,
        };
        graph.sum(format!("{name}.add"), branch, input)
    }
}

/// Global mean and `flatten`: the vector that torchvision's classifiers read.
pub(super) fn pooled_vector(graph: &mut Graph, x: NodeId) -> Result<NodeId, GraphError> {
    let x = graph.add("avgpool", Op::GlobalAvgPool, &[x])?;
    graph.add("flatten", Op::Flatten, &[x])
}

/// The nearest multiple of 8, never below nine tenths of `value`.
pub(super) fn make_divisible(value: f64) -> usize {
    let rounded = ((value + 4.0) as usize / 8 * 8).max(8);
    if (rounded as f64) < 0.9 * value { rounded + 8 } else { rounded }
}

/// What timm calls the modules of an inverted residual, as pairs (ours, timm's) of module names.
pub(super) fn timm_inverted_residual(graph: &Graph, ours: &str, timm: &str) -> Vec<(String, String)> {
    let expands = !is_depthwise(graph, &format!("{ours}.block.0.0"));
    let depthwise = usize::from(expands);
    let squeezes = graph.find(&format!("{ours}.block.{}.fc1", depthwise + 1)).is_some();
    let narrow = depthwise + 1 + usize::from(squeezes);
    let mut pairs = Vec::new();
    let mut pair =
        |unit: String, name: &str| pairs.push((format!("{ours}.block.{unit}"), format!("{timm}.{name}")));
    if expands {
        pair("0.0".into(), "conv_pw");
        pair("0.1".into(), "bn1");
    }
    pair(format!("{depthwise}.0"), "conv_dw");
    pair(format!("{depthwise}.1"), if expands { "bn2" } else { "bn1" });
    if squeezes {
        pair(format!("{}.fc1", depthwise + 1), "se.conv_reduce");
        pair(format!("{}.fc2", depthwise + 1), "se.conv_expand");
    }
    pair(format!("{narrow}.0"), if expands { "conv_pwl" } else { "conv_pw" });
    pair(format!("{narrow}.1"), if expands { "bn3" } else { "bn2" });
    pairs
}

fn is_depthwise(graph: &Graph, name: &str) -> bool {
    let node = graph.find(name).map(|id| graph.node(id));
    node.is_some_and(|node| match (&node.op, node.shape) {
        (Op::Conv2d(conv), Shape::Map { .. }) => conv.groups > 1,
        _ => false,
    })
}
