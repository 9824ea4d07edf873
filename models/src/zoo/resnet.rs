//! ResNet (He et al. 2015, arXiv 1512.03385) as torchvision builds it: the "v1.5" that strides in the 3x3 convolution
//! of a bottleneck.

use super::blocks::{normalized, pooled_vector};
use crate::{Activation, BatchNorm, Conv2d, Graph, GraphError, Linear, NodeId, Op, Pool2d, Stem, Task};

/// A residual block's branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1 at a quarter of the width.
    Bottleneck,
}

impl Block {
    fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// A ResNet with `depths[i]` blocks in layer `i + 1`.
pub fn build(task: &Task, block: Block, depths: [usize; 4]) -> Result<Graph, GraphError> {
    let (mut graph, x) = normalized(task)?;
    let mut x = stem(&mut graph, x, task.stem)?;
    for (layer, depth) in depths.into_iter().enumerate() {
        for index in 0..depth {
            let stride = if layer > 0 && index == 0 { 2 } else { 1 };
            let residual = Residual { block, width: 64 << layer, stride };
            x = residual.append(&mut graph, &format!("layer{}.{index}", layer + 1), x)?;
        }
    }
    let features = pooled_vector(&mut graph, x)?;
    graph.set_output("features", features);
    let logits = graph.linear("fc", features, Linear::new(task.classes))?;
    graph.set_output("logits", logits);
    Ok(graph)
}

/// The small stem keeps the 7x7 kernel, so that weights fit both.
fn stem(graph: &mut Graph, x: NodeId, stem: Stem) -> Result<NodeId, GraphError> {
    let stride = match stem {
        Stem::Imagenet => 2,
        Stem::Small => 1,
    };
    let x = graph.conv2d("conv1", x, Conv2d::new(64, 7).stride(stride).padding(3))?;
    let x = graph.batch_norm("bn1", x, BatchNorm::default())?;
    let x = graph.activation("relu", x, Activation::Relu)?;
    match stem {
        Stem::Imagenet => graph.add("maxpool", Op::MaxPool(Pool2d::new(3).stride(2).padding(1)), &[x]),
        Stem::Small => Ok(x),
    }
}

struct Residual {
    block: Block,
    width: usize,
    stride: usize,
}

impl Residual {
    fn append(&self, graph: &mut Graph, name: &str, input: NodeId) -> Result<NodeId, GraphError> {
        let convs = self.convolutions();
        let mut x = input;
        for (index, conv) in convs.iter().enumerate() {
            x = graph.conv2d(format!("{name}.conv{}", index + 1), x, *conv)?;
            x = graph.batch_norm(format!("{name}.bn{}", index + 1), x, BatchNorm::default())?;
            if index + 1 < convs.len() {
                x = graph.activation(format!("{name}.relu{}", index + 1), x, Activation::Relu)?;
            }
        }
        let identity = self.identity(graph, name, input)?;
        let x = graph.sum(format!("{name}.add"), x, identity)?;
        graph.activation(format!("{name}.relu{}", convs.len()), x, Activation::Relu)
    }

    fn convolutions(&self) -> Vec<Conv2d> {
        let (width, stride) = (self.width, self.stride);
        let conv3x3 = |stride| Conv2d::new(width, 3).stride(stride).padding(1);
        match self.block {
            Block::Basic => vec![conv3x3(stride), conv3x3(1)],
            Block::Bottleneck => {
                vec![Conv2d::new(width, 1), conv3x3(stride), Conv2d::new(width * self.block.expansion(), 1)]
            }
        }
    }

    /// The input itself, or a strided 1x1 convolution of it where the shape changes.
    fn identity(&self, graph: &mut Graph, name: &str, input: NodeId) -> Result<NodeId, GraphError> {
        let out = self.width * self.block.expansion();
        if self.stride == 1 && graph.node(input).shape.channels() == out {
            return Ok(input);
        }
        let conv = Conv2d::new(out, 1).stride(self.stride);
        let x = graph.conv2d(format!("{name}.downsample.0"), input, conv)?;
        graph.batch_norm(format!("{name}.downsample.1"), x, BatchNorm::default())
    }
}
