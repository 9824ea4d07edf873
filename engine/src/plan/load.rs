//! What a step computes and moves, counted from its plan: for comparing its time with what the machine can do.
//!
//! Counts what the definition asks for, every operand of a pass over memory once: a kernel that multiplies less
//! (Winograd) or finds its operands in a cache may be faster than a count suggests. Never here: time.

use super::{BackwardStep, ConvStep, GradientRef, Kind, NormStep, Plan, Step, ValueId, norm_slope_value};
use crate::kernels::activation::derives_from_output;
use crate::kernels::norm::Rows;

const FLOAT: usize = size_of::<f32>();

/// Operations and bytes of a step in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Of convolutions and linear layers, a multiply-add being two; all else counts none.
    pub operations: usize,
    /// Bytes of parameters that are read, or of their gradients that are written.
    pub weights: usize,
    /// Bytes of maps that are read.
    pub read: usize,
    /// Bytes of maps that are written.
    pub written: usize,
}

impl Plan {
    fn bytes(&self, value: ValueId) -> usize {
        self.place(value).len * FLOAT
    }

    fn optional_bytes(&self, value: Option<ValueId>) -> usize {
        value.map_or(0, |value| self.bytes(value))
    }

    /// Of a step's forward pass. Pictures are bytes.
    pub(crate) fn forward_load(&self, step: &Step) -> Load {
        let inputs: usize = step.kind.inputs().into_iter().flatten().map(|input| self.bytes(input)).sum();
        let result = self.bytes(step.kind.result());
        let plain = Load { read: inputs, written: result, ..Load::default() };
        match &step.kind {
            Kind::Input { .. } => Load { read: result / FLOAT, ..plain },
            Kind::Conv(conv) => {
                Load { operations: 2 * conv.shape.macs(), weights: parameter_bytes(conv), ..plain }
            }
            Kind::Norm(norm) => {
                // Batch statistics want a walk of their own.
                let again = if norm.batch { self.bytes(norm.z) } else { 0 };
                Load { weights: norm_parameter_bytes(norm), read: inputs + again, ..plain }
            }
            Kind::Folded { saved, .. } => Load { weights: saved.len * FLOAT, ..plain },
            Kind::MaxPool { taps, .. } => Load { written: result + self.optional_bytes(*taps), ..plain },
            _ => plain,
        }
    }

    /// Of a step's backward pass.
    pub(crate) fn backward_load(&self, step: &BackwardStep) -> Load {
        let dy = self.bytes(step.dy);
        let [first, second] = step.dx.map(|dx| dx.map(|dx| self.gradient_load(dx)).unwrap_or_default());
        match &self.steps[step.step].kind {
            Kind::Input { .. } => Load { read: dy, written: dy, ..Load::default() },
            Kind::Conv(conv) => self.conv_backward(conv, step, first).and(second),
            Kind::Norm(norm) => {
                // A walk for the sums, which passes the residual's gradient on, and one for the input's gradient.
                let sums = dy + self.bytes(norm.z) + self.optional_bytes(norm_slope_value(norm));
                let apply = if step.dx[0].is_some() { dy + self.bytes(norm.z) } else { 0 };
                let own = Load { weights: norm_parameter_bytes(norm), read: sums + apply, ..Load::default() };
                own.and(first).and(second)
            }
            Kind::Gate { x, gate, .. } => self.factors_backward(step, [*x, *gate]).and(first).and(second),
            Kind::Product { a, b, .. } => self.factors_backward(step, [*a, *b]).and(first).and(second),
            Kind::Sum { y, activation, .. } => {
                let inner = activation.map_or(0, |_| dy + self.bytes(*y));
                let passed = dy * step.dx.iter().flatten().count();
                let written = activation.map_or(0, |_| dy);
                Load { read: inner + passed, written, ..Load::default() }.and(first).and(second)
            }
            Kind::Activation { x, y, activation } => {
                let kept = if derives_from_output(*activation) { *y } else { *x };
                Load { read: dy + self.bytes(kept), ..Load::default() }.and(first)
            }
            Kind::MaxPool { taps, .. } => {
                Load { read: dy + self.optional_bytes(*taps), ..Load::default() }.and(first)
            }
            Kind::Affine { .. }
            | Kind::Folded { .. }
            | Kind::AvgPool { .. }
            | Kind::GlobalAvgPool { .. }
            | Kind::Dropout { .. }
            | Kind::Depth { .. }
            | Kind::Transpose { .. } => Load { read: dy, ..Load::default() }.and(first),
        }
    }

    /// The activation's slope, the bias's sums, the weight's gradient and the input's, each a walk.
    fn conv_backward(&self, conv: &ConvStep, step: &BackwardStep, of_input: Load) -> Load {
        let dy = self.bytes(step.dy);
        let mut load = of_input;
        if conv.activation.is_some() {
            load.read += dy + self.bytes(conv.y);
            load.written += dy;
        }
        if step.parameters {
            load.operations += 2 * conv.shape.macs();
            load.weights += parameter_bytes(conv);
            load.read += dy + self.bytes(conv.x);
            load.read += conv.bias.map_or(0, |_| dy);
        }
        if step.dx[0].is_some() {
            load.operations += 2 * conv.shape.macs();
            load.weights += conv.weight.place.len * FLOAT;
            load.read += dy;
        }
        load
    }

    /// Each factor's gradient reads the result's gradient and the other factor.
    fn factors_backward(&self, step: &BackwardStep, factors: [ValueId; 2]) -> Load {
        let other = |index: usize| self.bytes(step.dy) + self.bytes(factors[1 - index]);
        let read = (0..2).filter(|&index| step.dx[index].is_some()).map(other).sum();
        Load { read, ..Load::default() }
    }

    /// A gradient is written, and read before where it is added to.
    fn gradient_load(&self, gradient: GradientRef) -> Load {
        let bytes = self.bytes(gradient.value);
        Load { read: if gradient.add { bytes } else { 0 }, written: bytes, ..Load::default() }
    }
}

impl Load {
    fn and(self, other: Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            weights: self.weights + other.weights,
            read: self.read + other.read,
            written: self.written + other.written,
        }
    }
}

fn parameter_bytes(conv: &ConvStep) -> usize {
    (conv.weight.place.len + conv.bias.map_or(0, |bias| bias.place.len)) * FLOAT
}

/// Scale, shift, mean and variance of every channel.
fn norm_parameter_bytes(norm: &NormStep) -> usize {
    let Rows { channels, .. } = norm.norm.rows;
    4 * channels * FLOAT
}

#[cfg(test)]
mod tests {
    use models::{Conv2d, Graph, Linear, Op};

    use super::*;
    use crate::kernels::conv::WeightOrder;
    use crate::plan::{Format, Purpose, lower};
    use crate::theta::{FlatOrders, Table};

    /// A convolution 3x3 of 1 to 2 channels on 4x4 with batch norm and relu, then a linear layer of 32 to 5.
    fn graph() -> Graph {
        let mut graph = Graph::new(1, 4, 4);
        let input = graph.input();
        let x = graph.conv2d("conv", input, Conv2d::new(2, 3).padding(1)).unwrap();
        let x = graph.batch_norm("norm", x, models::BatchNorm::default()).unwrap();
        let x = graph.add("relu", Op::Activation(models::Activation::Relu), &[x]).unwrap();
        let x = graph.add("flatten", Op::Flatten, &[x]).unwrap();
        let x = graph.linear("fc", x, Linear::new(5)).unwrap();
        graph.set_output("logits", x);
        graph
    }

    fn training_plan(graph: &Graph, batch: usize) -> Plan {
        let orders = FlatOrders::of(graph);
        let table = Table::new(graph, &orders, WeightOrder::Blocked);
        let frozen = vec![false; graph.nodes().len()];
        let want = [graph.output("logits").unwrap()];
        let purpose = Purpose {
            batch,
            train: true,
            folding: None,
            parameters: true,
            images: false,
            frozen: &frozen,
            want: &want,
            maps: Format::F32,
        };
        lower(graph, &table, &orders, &purpose)
    }

    #[test]
    fn a_small_network_is_counted_by_hand() {
        let graph = graph();
        let plan = training_plan(&graph, 3);
        let names: Vec<Vec<&str>> = plan
            .steps
            .iter()
            .map(|step| step.nodes.iter().map(|&node| graph.node(node).name.as_str()).collect())
            .collect();
        assert_eq!(names[1..], [vec!["conv"], vec!["norm", "relu"], vec!["fc"]]);
        let forward: Vec<Load> = plan.steps.iter().map(|step| plan.forward_load(step)).collect();
        let (x, z) = (3 * 16 * 4, 3 * 32 * 4);
        assert_eq!((forward[0].read, forward[0].written), (3 * 16, x));
        assert_eq!(forward[1].operations, 2 * 3 * 32 * 9);
        assert_eq!((forward[1].read, forward[1].written), (x, z));
        assert_eq!((forward[2].read, forward[2].written, forward[2].operations), (2 * z, z, 0));
        assert_eq!(forward[3].operations, 2 * 3 * 32 * 5);

        let backward: Vec<Load> = plan.backward.iter().map(|step| plan.backward_load(step)).collect();
        assert_eq!(backward[0].operations, 2 * forward[3].operations, "both gradients of fc");
        assert_eq!((backward[1].read, backward[1].written), (4 * z, z), "twice dy and z");
        assert_eq!(backward[2].operations, forward[1].operations, "the images need no gradient");
        assert_eq!((backward[2].read, backward[2].written), (x + z, 0), "x and dy, once");
    }
}
