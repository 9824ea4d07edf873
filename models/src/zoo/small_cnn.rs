//! The small networks of "Improving small convolutional neural networks with semi-supervised learning": two or three
//! blocks of 3x3 convolution, ReLU and 2x2 max-pooling, one dropout before the features layer, and the output.
//!
//! The paper is silent about initialization: PyTorch's default.

use super::blocks::normalized;
use crate::{Activation, Conv2d, Graph, GraphError, Init, Linear, Op, Pool2d, Task};

const DROPOUT: f32 = 0.5;

/// A small CNN with a block per entry of `channels` and a features layer of `task.features` or `features` values.
pub fn build(task: &Task, channels: &[usize], features: usize) -> Result<Graph, GraphError> {
    let (mut graph, mut x) = normalized(task)?;
    for (index, &out) in channels.iter().enumerate() {
        let number = index + 1;
        let conv = Conv2d::new(out, 3).padding(1).bias().init(Init::TorchDefault);
        x = graph.conv2d(format!("conv{number}"), x, conv)?;
        x = graph.activation(format!("relu{number}"), x, Activation::Relu)?;
        x = graph.add(format!("pool{number}"), Op::MaxPool(Pool2d::new(2)), &[x])?;
    }
    x = graph.add("flatten", Op::Flatten, &[x])?;
    x = graph.add("dropout", Op::Dropout(DROPOUT), &[x])?;
    x = graph.linear("fc_features", x, Linear::new(task.features.unwrap_or(features)))?;
    let features = graph.activation("relu_features", x, Activation::Relu)?;
    graph.set_output("features", features);
    let logits = graph.linear("fc", features, Linear::new(task.classes))?;
    graph.set_output("logits", logits);
    Ok(graph)
}
