//! What a network costs, counted from its graph: parameters, multiply-adds and activation bytes, per node and in all.
//! Counts what the mathematics asks for, not what an engine does: a latency is measured, never worked out here.

use std::ops::Add;

use crate::{Graph, Node, Op, Shape};

/// What one picture costs, and what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trainable values: weights, biases, batch norm's scale and shift.
    pub parameters: u64,
    /// Running means and variances.
    pub statistics: u64,
    /// Multiply-adds of convolutions and linear layers for one picture (torchvision's "GFLOPS").
    pub macs: u64,
    /// Bytes of `f32` values that evaluating one picture makes; what only passes a value on makes none.
    pub activation_bytes: u64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            parameters: self.parameters + other.parameters,
            statistics: self.statistics + other.statistics,
            macs: self.macs + other.macs,
            activation_bytes: self.activation_bytes + other.activation_bytes,
        }
    }
}

/// The cost of every node, in the graph's order.
pub fn per_node(graph: &Graph) -> Vec<Cost> {
    let made =
        |node: &Node| Cost { macs: macs(graph, node), activation_bytes: bytes(node), ..Cost::default() };
    let mut costs: Vec<Cost> = graph.nodes().iter().map(made).collect();
    for parameter in graph.parameters() {
        let cost = &mut costs[parameter.node.index()];
        let counter = if parameter.role.trainable() { &mut cost.parameters } else { &mut cost.statistics };
        *counter += parameter.elements() as u64;
    }
    costs
}

/// The cost of the whole network.
pub fn total(graph: &Graph) -> Cost {
    per_node(graph).into_iter().fold(Cost::default(), Cost::add)
}

fn macs(graph: &Graph, node: &Node) -> u64 {
    let outputs = node.shape.elements() as u64;
    let channels_in = node.inputs.first().map_or(Shape::Flat(0), |&input| graph.node(input).shape).channels();
    match &node.op {
        Op::Conv2d(conv) => outputs * (channels_in / conv.groups * conv.kernel[0] * conv.kernel[1]) as u64,
        Op::Linear(_) => outputs * channels_in as u64,
        Op::Input
        | Op::Normalize { .. }
        | Op::BatchNorm(_)
        | Op::Activation(_)
        | Op::MaxPool(_)
        | Op::AvgPool(_)
        | Op::GlobalAvgPool
        | Op::Flatten
        | Op::Dropout(_)
        | Op::StochasticDepth(_)
        | Op::Add
        | Op::Mul => 0,
    }
}

fn bytes(node: &Node) -> u64 {
    match node.op {
        Op::Input | Op::Flatten | Op::Dropout(_) | Op::StochasticDepth(_) => 0,
        _ => 4 * node.shape.elements() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, zoo};

    /// torchvision's own figures (`_ops` and `num_params` of the IMAGENET1K_V1 weights, at their crop).
    const PUBLISHED: [(&str, usize, f64, u64); 14] = [
        ("resnet18", 224, 1.814, 11_689_512),
        ("resnet34", 224, 3.664, 21_797_672),
        ("resnet50", 224, 4.089, 25_557_032),
        ("resnet152", 224, 11.514, 60_192_808),
        ("mobilenet-v3-small", 224, 0.057, 2_542_856),
        ("mobilenet-v3-large", 224, 0.217, 5_483_032),
        ("efficientnet-b0", 224, 0.386, 5_288_548),
        ("efficientnet-b1", 240, 0.687, 7_794_184),
        ("efficientnet-b2", 288, 1.088, 9_109_994),
        ("efficientnet-b3", 300, 1.827, 12_233_232),
        ("efficientnet-b4", 380, 4.394, 19_341_616),
        ("efficientnet-b5", 456, 10.266, 30_389_784),
        ("efficientnet-b6", 528, 19.068, 43_040_704),
        ("efficientnet-b7", 600, 37.746, 66_347_960),
    ];

    #[test]
    fn costs_are_torchvisions() {
        for (name, size, giga, parameters) in PUBLISHED {
            let cost = total(&zoo::build(name, &Task::new(1000, 3, size)).unwrap());
            assert_eq!(cost.parameters, parameters, "{name}");
            assert_eq!((cost.macs as f64 / 1e6).round() / 1e3, giga, "{name}");
        }
    }

    #[test]
    fn a_small_cnn_is_counted_by_hand() {
        let graph = zoo::build("small-cnn-2", &Task::new(10, 3, 32)).unwrap();
        let cost = total(&graph);
        assert_eq!(cost.macs, 32 * 32 * 32 * 27 + 16 * 16 * 64 * 288 + 4096 * 1024 + 1024 * 10);
        let maps = 3 * 32 * 32 + 2 * 32 * 32 * 32 + 32 * 16 * 16 + 2 * 64 * 16 * 16 + 64 * 8 * 8;
        assert_eq!(cost.activation_bytes, 4 * (maps + 2 * 1024 + 10));
        assert_eq!(cost.statistics, 0);
        let node = graph.find("conv2").unwrap().index();
        assert_eq!(per_node(&graph)[node].parameters, 64 * 288 + 64);
    }
}
