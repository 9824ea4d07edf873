//! Networks for comparisons: those of the zoo at weights that a formula gives, and one that no zoo has.

use models::{
    Activation, BatchNorm, Conv2d, Fit, Graph, GraphError, Linear, Manifest, Op, Pool2d, Task, Weights,
    formula,
};

/// A network of the zoo with its manifest.
pub fn labeled(architecture: &str, task: &Task) -> (Manifest, Weights) {
    let labels = (0..task.classes).map(|class| format!("class {class}")).collect();
    let manifest = Manifest::new(architecture, task, labels, Fit::Crop).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    (manifest, weights)
}

/// Everything that folding and naming could get wrong: a convolution that two nodes read, a batch norm after an
/// addition and on a vector (the addition only if `shared`), dropout where the logits are, a node called `logits` that they are not, dead branches.
pub fn odd_graph(shared: bool) -> Result<Graph, GraphError> {
    let mut graph = Graph::new(3, 13, 11);
    let input = graph.input();
    let x = graph.normalize("normalize", input, &[0.4, 0.5, 0.6], &[0.2, 0.3, 0.4])?;
    let x = graph.conv2d(
        "stem",
        x,
        Conv2d { kernel: [3, 5], stride: [1, 2], padding: [0, 2], ..Conv2d::new(8, 3) },
    )?;
    let normed = graph.batch_norm("stem_bn", x, BatchNorm::new(1e-3, 0.1))?;
    let x = if shared { graph.sum("shared", x, normed)? } else { normed };
    let x = graph.batch_norm("after_add", x, BatchNorm::default())?;
    let x = graph.activation("leaky", x, Activation::LeakyRelu(0.1))?;
    let x = graph.add("average", Op::AvgPool(Pool2d::new(3).stride(2).padding(1)), &[x])?;
    let gate = graph.add("squeeze", Op::GlobalAvgPool, &[x])?;
    let gate = graph.conv2d("gate", gate, Conv2d::new(8, 1).bias())?;
    let gate = graph.activation("gate_act", gate, Activation::Sigmoid)?;
    let x = graph.scale("scaled", x, gate)?;
    let x = graph.conv2d("depthwise", x, Conv2d::new(8, 3).padding(1).groups(8).bias())?;
    let x = graph.batch_norm("depthwise_bn", x, BatchNorm::default())?;
    let x = graph.activation("six", x, Activation::Relu6)?;
    let x = graph.conv2d("grouped", x, Conv2d::new(12, 1).groups(4))?;
    let x = graph.activation("six_again", x, Activation::Relu6)?;
    let x = graph.add("depth", Op::StochasticDepth(0.2), &[x])?;
    let x = graph.add("max", Op::MaxPool(Pool2d::new(3).stride(2).padding(1)), &[x])?;
    let x = graph.add("flatten", Op::Flatten, &[x])?;
    let x = graph.linear("logits", x, Linear { bias: false, ..Linear::new(16) })?;
    let x = graph.batch_norm("vector_bn", x, BatchNorm::default())?;
    let x = graph.activation("silu", x, Activation::Silu)?;
    let vector = graph.batch_norm("alone_bn", x, BatchNorm::default())?;
    let x = graph.linear("head", vector, Linear { bias: false, ..Linear::new(7) })?;
    let x = graph.add("dropout", Op::Dropout(0.5), &[x])?;
    graph.set_output("logits", x);
    let projection = graph.linear("projection", vector, Linear::new(5))?;
    graph.set_output("projection", projection);
    Ok(graph)
}
