//! Where the time of a network goes: seconds, operations and bytes of every step of its plan, forward and backward.
//!
//! A step may be several nodes in one: a convolution with the batch norm, the sum and the activation behind it. Times are
//! taken around each step by the clock, while nobody asks for them not at all.
//!
//! ```
//! use engine::{Device, Images, Model, Runtime};
//! use models::{Task, formula, zoo};
//!
//! let graph = zoo::build("small-cnn-3", &Task::new(10, 3, 32))?;
//! let runtime = Runtime::new(Device::Cpu, 1)?;
//! let mut model = Model::new(&graph, &formula::weights(&graph, 1.0), &runtime)?;
//! model.start_profile();
//! model.run(Images::U8(&formula::picture(0, 3, 32, 32)))?;
//! let profile = model.profile();
//! let conv = profile.nodes.iter().find(|node| node.name == "conv1").unwrap();
//! assert!(conv.fused == ["activation"] && conv.forward.calls == 1 && conv.backward.calls == 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Never here: the machine's limits (see [`crate::limits`]), printing.

use std::collections::HashMap;
use std::ops::AddAssign;

use models::{Graph, NodeId, Op, Shape};

use crate::limits::Limits;
use crate::plan::load::Load;
use crate::plan::{Plan, Step};
use crate::run::Timings;

/// What the steps of a network took, in the order of the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    /// A record per step, each with all of its calls.
    pub nodes: Vec<NodeProfile>,
}

/// A node, or several that run as one step.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeProfile {
    /// The first node's name.
    pub name: String,
    /// What the step is: `conv`, `conv 1x1`, `linear`, `depthwise`, `norm`, `sum`, ...
    pub kind: &'static str,
    /// Operations of the nodes that are fused behind the first, in order.
    pub fused: Vec<&'static str>,
    /// Shape of the first input, without the batch.
    pub input: Shape,
    /// Shape of the result, without the batch.
    pub output: Shape,
    /// The forward pass.
    pub forward: Pass,
    /// The backward pass; no calls outside training.
    pub backward: Pass,
}

/// All calls of a step in one direction. Operations and bytes are counted from the plan, not measured: what the
/// definition asks for, every walk over an operand counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pass {
    /// Number of calls.
    pub calls: u64,
    /// Pictures of all calls.
    pub pictures: u64,
    /// Seconds of all calls.
    pub seconds: f64,
    /// Operations of convolutions and linear layers, a multiply-add being two. What is done element by element counts
    /// none: its limit is memory.
    pub flops: f64,
    /// Bytes of parameters read, and of their gradients written.
    pub weight_bytes: f64,
    /// Bytes of maps read.
    pub read_bytes: f64,
    /// Bytes of maps written.
    pub written_bytes: f64,
}

impl Pass {
    /// All bytes that are moved.
    pub fn bytes(&self) -> f64 {
        self.weight_bytes + self.read_bytes + self.written_bytes
    }

    /// The least seconds that these calls can take: the longer of arithmetic and memory. Weights come at the rate of
    /// `all_weights` bytes, for between two calls all other steps read theirs; maps at the rate of their own size.
    pub fn least_seconds(&self, limits: &Limits, all_weights: f64) -> f64 {
        let calls = self.calls.max(1) as f64;
        let maps = (self.read_bytes + self.written_bytes) / calls;
        let memory = limits.reading(self.weight_bytes / calls, all_weights, maps) * calls;
        memory.max(self.flops / limits.flops)
    }

    /// A call on so many pictures.
    fn call(pictures: usize, seconds: f64, load: &Load) -> Self {
        Self {
            calls: 1,
            pictures: pictures as u64,
            seconds,
            flops: load.operations as f64,
            weight_bytes: load.weights as f64,
            read_bytes: load.read as f64,
            written_bytes: load.written as f64,
        }
    }
}

impl AddAssign for Pass {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.pictures += other.pictures;
        self.seconds += other.seconds;
        self.flops += other.flops;
        self.weight_bytes += other.weight_bytes;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
    }
}

impl Profile {
    /// Seconds of all steps, forward and backward.
    pub fn seconds(&self) -> [f64; 2] {
        let sum = |pass: fn(&NodeProfile) -> f64| self.nodes.iter().map(pass).sum();
        [sum(|node| node.forward.seconds), sum(|node| node.backward.seconds)]
    }

    /// Bytes of the parameters that a forward pass reads.
    pub fn weight_bytes(&self) -> f64 {
        self.nodes.iter().map(|node| node.forward.weight_bytes / node.forward.calls.max(1) as f64).sum()
    }
}

/// Adds up the times of runs. Plans of several sizes or purposes meet in one record where they fuse the same nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    /// By first and last node.
    indices: HashMap<(NodeId, NodeId), usize>,
    profile: Profile,
}

impl Recorder {
    pub(crate) fn profile(&self) -> Profile {
        self.profile.clone()
    }

    /// Adds a forward pass over the whole plan.
    pub(crate) fn forward(&mut self, graph: &Graph, plan: &Plan, timings: &Timings) {
        for (step, time) in plan.steps.iter().zip(&timings.forward) {
            let load = plan.forward_load(step);
            self.node(graph, step).forward += Pass::call(plan.batch, time.as_secs_f64(), &load);
        }
    }

    /// Adds a backward pass over the whole plan.
    #[cfg_attr(not(feature = "candle"), allow(dead_code))]
    pub(crate) fn backward(&mut self, graph: &Graph, plan: &Plan, timings: &Timings) {
        for step in &plan.backward {
            let (load, time) = (plan.backward_load(step), timings.backward[step.step]);
            let node = self.node(graph, &plan.steps[step.step]);
            node.backward += Pass::call(plan.batch, time.as_secs_f64(), &load);
        }
    }

    fn node(&mut self, graph: &Graph, step: &Step) -> &mut NodeProfile {
        let nodes = &mut self.profile.nodes;
        let index = *self.indices.entry((step.nodes[0], step.last())).or_insert_with(|| {
            nodes.push(record(graph, step));
            nodes.len() - 1
        });
        &mut nodes[index]
    }
}

/// A step without calls.
fn record(graph: &Graph, step: &Step) -> NodeProfile {
    let first = graph.node(step.nodes[0]);
    let input = first.inputs.first().map_or(first.shape, |&input| graph.node(input).shape);
    NodeProfile {
        name: first.name.clone(),
        kind: if matches!(first.op, Op::Linear(_)) { "linear" } else { step.kind.name() },
        fused: step.nodes[1..].iter().map(|&node| graph.node(node).op.kind()).collect(),
        input,
        output: graph.node(step.last()).shape,
        forward: Pass::default(),
        backward: Pass::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Read;

    #[test]
    fn the_least_time_is_the_longer_of_arithmetic_and_memory() {
        let read = |bytes, rate| Read { bytes, rate };
        let limits = Limits { threads: 1, flops: 1e9, reads: vec![read(4096, 4e9), read(65536, 1e9)] };
        let pass =
            Pass { calls: 2, flops: 1e6, read_bytes: 4096.0, written_bytes: 4096.0, ..Pass::default() };
        assert!((pass.least_seconds(&limits, 1e9) - 1e-3).abs() < 1e-12, "arithmetic");
        let pass = Pass { flops: 0.0, ..pass };
        assert!((pass.least_seconds(&limits, 1e9) - 8192.0 / 4e9).abs() < 1e-12, "maps of 4 KB a call");
        let pass = Pass { weight_bytes: 1000.0, ..pass };
        assert!((pass.least_seconds(&limits, 1e9) - 8192.0 / 4e9 - 1e-6).abs() < 1e-12, "weights from afar");
    }
}
