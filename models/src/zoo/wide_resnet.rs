//! Wide ResNet (Zagoruyko and Komodakis 2016, arXiv 1605.07146) as the official FixMatch code has it: three groups of
//! 16K, 32K and 64K channels, pre-activation, leaky ReLU 0.1, convolutions with bias, batch norm at momentum 0.001
//! and eps 0.001. Only the very first block activates its input before the shortcut leaves.
//!
//! Where the picture is halved TensorFlow pads below and right alone; this pads all sides, as the PyTorch ports do.

use super::blocks::{normalized, pooled_vector};
use crate::{Activation, BatchNorm, Conv2d, Graph, GraphError, Init, Linear, NodeId, Task};

const NORM: BatchNorm = BatchNorm::new(0.001, 0.001);
const LEAKY: Activation = Activation::LeakyRelu(0.1);
const STEM: usize = 16;

/// Whether `[depth, width]` make a network: depth 6n + 4, both within what memory holds.
pub fn check(numbers: &[usize]) -> Result<(), String> {
    match numbers {
        [depth, 1..=64] if (10..=1000).contains(depth) && depth % 6 == 4 => Ok(()),
        _ => Err("a depth D of 6n + 4 from 10 to 1000 and a width K from 1 to 64, as in wrn-28-2".into()),
    }
}

/// WRN-`depth`-`width`; the numbers have passed [`check`].
pub fn build(task: &Task, depth: usize, width: usize) -> Result<Graph, GraphError> {
    let (mut graph, x) = normalized(task)?;
    let mut x = graph.conv2d("conv1", x, conv3x3(STEM, 1))?;
    for group in 0..3 {
        for index in 0..(depth - 4) / 6 {
            let block = Block {
                channels: (STEM * width) << group,
                stride: if group > 0 && index == 0 { 2 } else { 1 },
                activates_shortcut: group == 0 && index == 0,
            };
            x = block.append(&mut graph, &format!("group{}.{index}", group + 1), x)?;
        }
    }
    let x = graph.batch_norm("bn", x, NORM)?;
    let x = graph.activation("relu", x, LEAKY)?;
    let features = pooled_vector(&mut graph, x)?;
    graph.set_output("features", features);
    let logits = graph.linear("fc", features, Linear::new(task.classes).init(Init::GlorotNormal))?;
    graph.set_output("logits", logits);
    Ok(graph)
}

fn conv3x3(channels: usize, stride: usize) -> Conv2d {
    Conv2d::new(channels, 3).stride(stride).padding(1).bias()
}

struct Block {
    channels: usize,
    stride: usize,
    activates_shortcut: bool,
}

impl Block {
    fn append(&self, graph: &mut Graph, name: &str, input: NodeId) -> Result<NodeId, GraphError> {
        let x = graph.batch_norm(format!("{name}.bn1"), input, NORM)?;
        let activated = graph.activation(format!("{name}.relu1"), x, LEAKY)?;
        let x = graph.conv2d(format!("{name}.conv1"), activated, conv3x3(self.channels, self.stride))?;
        let x = graph.batch_norm(format!("{name}.bn2"), x, NORM)?;
        let x = graph.activation(format!("{name}.relu2"), x, LEAKY)?;
        let x = graph.conv2d(format!("{name}.conv2"), x, conv3x3(self.channels, 1))?;
        let shortcut = self.shortcut(graph, name, if self.activates_shortcut { activated } else { input })?;
        graph.sum(format!("{name}.add"), x, shortcut)
    }

    /// The value itself, or a 1x1 convolution of it where the number of channels changes.
    fn shortcut(&self, graph: &mut Graph, name: &str, from: NodeId) -> Result<NodeId, GraphError> {
        if graph.node(from).shape.channels() == self.channels {
            return Ok(from);
        }
        let conv = Conv2d::new(self.channels, 1).stride(self.stride).bias();
        graph.conv2d(format!("{name}.shortcut"), from, conv)
    }
}
