//! Where each parameter lies in the flat vectors: `theta` holds what an optimizer moves, `statistics` what batch norm
//! remembers. Arrays cross between torch's layout and the engine's here, through one pack/unpack pair.
//!
//! Nothing here computes: the vectors belong to the network that owns the table.

use std::collections::HashMap;

use models::nearest::nearest;
use models::{Array, Distribution, Graph, NodeId, Op, Parameter, Role, Shape, Weights};

use crate::buffer::{Buffer, rounded};
use crate::kernels::conv::{ConvShape, WeightOrder, pack_weight, scale_outputs, unpack_weight};
use crate::plan::conv_shape;
use crate::random::Stream;
use crate::{EngineError, Result};

/// How values of a flattened map are ordered: torch counts channels outermost, the engine's maps innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapOrder {
    /// Channels of the map that was flattened.
    pub channels: usize,
    /// Its rows times columns.
    pub positions: usize,
}

impl MapOrder {
    /// Copies `rows` vectors from torch's order to the engine's.
    pub(crate) fn to_engine(self, torch: &[f32], engine: &mut [f32]) {
        transpose_rows(torch, engine, self.channels, self.positions);
    }

    /// Copies `rows` vectors from the engine's order to torch's.
    pub(crate) fn to_torch(self, engine: &[f32], torch: &mut [f32]) {
        transpose_rows(engine, torch, self.positions, self.channels);
    }
}

/// Transposes each `outer` x `inner` block of `from` into `to`.
fn transpose_rows(from: &[f32], to: &mut [f32], outer: usize, inner: usize) {
    for (from, to) in from.chunks_exact(outer * inner).zip(to.chunks_exact_mut(outer * inner)) {
        for (i, values) in from.chunks_exact(inner).enumerate() {
            for (j, &value) in values.iter().enumerate() {
                to[j * outer + i] = value;
            }
        }
    }
}

/// The order of every node's vector; `None` where torch's and the engine's are the same.
#[derive(Clone, Debug)]
pub(crate) struct FlatOrders {
    /// By node index.
    pub orders: Vec<Option<MapOrder>>,
    /// Whether flattening must really transpose, because two orders meet in one node.
    pub explicit: bool,
}

impl FlatOrders {
    /// Follows the flattened maps of `graph`.
    pub(crate) fn of(graph: &Graph) -> Self {
        let mut orders: Vec<Option<MapOrder>> = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            let of_input = |index: usize| orders[node.inputs[index].index()];
            let order = match &node.op {
                Op::Flatten => flattened(graph.node(node.inputs[0]).shape),
                Op::BatchNorm(_) | Op::Activation(_) | Op::Dropout(_) | Op::StochasticDepth(_) => of_input(0),
                Op::Add | Op::Mul if of_input(0) == of_input(1) => of_input(0),
                Op::Add | Op::Mul => return Self { orders: vec![None; graph.nodes().len()], explicit: true },
                Op::Input
                | Op::Normalize { .. }
                | Op::Conv2d(_)
                | Op::MaxPool(_)
                | Op::AvgPool(_)
                | Op::GlobalAvgPool
                | Op::Linear(_) => None,
            };
            orders.push(order);
        }
        Self { orders, explicit: false }
    }

    /// The order in which the node's value lies in memory, if it is not torch's.
    pub(crate) fn of_node(&self, node: NodeId) -> Option<MapOrder> {
        self.orders[node.index()]
    }
}

fn flattened(map: Shape) -> Option<MapOrder> {
    let (channels, [height, width]) = (map.channels(), map.spatial());
    let positions = height * width;
    (channels > 1 && positions > 1).then_some(MapOrder { channels, positions })
}

/// How one array lies in the engine's vectors.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    /// One value per channel, in this order.
    Vector(Option<MapOrder>),
    /// The weight of a convolution, or of a linear layer, whose columns then follow the order of what it reads.
    Weight {
        /// Sizes, of which the layout depends on channels, kernel and groups alone.
        shape: ConvShape,
        /// Which index is innermost.
        order: WeightOrder,
        /// Order of a linear layer's input.
        columns: Option<MapOrder>,
    },
}

impl Layout {
    /// Floats that an array of `elements` values takes.
    fn len(&self, elements: usize) -> usize {
        match self {
            Layout::Vector(_) => elements,
            Layout::Weight { shape, order, .. } => order.len(shape),
        }
    }

    /// Writes an array of torch's layout into `engine`.
    pub(crate) fn pack(&self, torch: &[f32], engine: &mut [f32]) {
        match self {
            Layout::Vector(None) => engine.copy_from_slice(torch),
            Layout::Vector(Some(order)) => order.to_engine(torch, engine),
            Layout::Weight { shape, order, columns: None } => pack_weight(shape, *order, torch, engine),
            Layout::Weight { shape, order, columns: Some(columns) } => {
                let mut ordered = vec![0.0; torch.len()];
                columns.to_engine(torch, &mut ordered);
                pack_weight(shape, *order, &ordered, engine);
            }
        }
    }

    /// Multiplies the weights of every output in `engine` by its factor.
    pub(crate) fn scale_outputs(&self, engine: &mut [f32], factors: &[f32]) {
        match self {
            Layout::Vector(_) => engine.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor),
            Layout::Weight { shape, order, .. } => scale_outputs(shape, *order, engine, factors),
        }
    }

    /// Writes an array of the engine's layout into `torch`.
    pub(crate) fn unpack(&self, engine: &[f32], torch: &mut [f32]) {
        match self {
            Layout::Vector(None) => torch.copy_from_slice(engine),
            Layout::Vector(Some(order)) => order.to_torch(engine, torch),
            Layout::Weight { shape, order, columns: None } => unpack_weight(shape, *order, engine, torch),
            Layout::Weight { shape, order, columns: Some(columns) } => {
                let mut ordered = vec![0.0; torch.len()];
                unpack_weight(shape, *order, engine, &mut ordered);
                columns.to_torch(&ordered, torch);
            }
        }
    }
}

/// One array's place.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// What is stored.
    pub parameter: Parameter,
    /// How it lies.
    pub layout: Layout,
    /// First float in `theta`, or in `statistics` for a running statistic; on a cache line.
    pub offset: usize,
    /// Floats it takes in the engine's layout.
    pub length: usize,
}

impl Segment {
    /// Writes an array of torch's layout into this segment of `engine`.
    pub(crate) fn pack(&self, torch: &[f32], engine: &mut [f32]) {
        self.layout.pack(torch, &mut engine[self.offset..self.offset + self.length]);
    }

    /// The array of this segment of `engine` in torch's layout.
    pub(crate) fn unpack(&self, engine: &[f32]) -> Array {
        let mut torch = vec![0.0; self.parameter.elements()];
        self.layout.unpack(&engine[self.offset..self.offset + self.length], &mut torch);
        Array::new(self.parameter.shape.clone(), torch)
    }
}

/// The places of all arrays of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// In the graph's order.
    pub segments: Vec<Segment>,
    /// Floats in `theta`.
    pub theta_length: usize,
    /// Floats in `statistics`.
    pub statistics_length: usize,
    by_name: HashMap<String, usize>,
    by_node: HashMap<(usize, Role), usize>,
}

impl Table {
    /// Lays out everything `graph` stores.
    pub(crate) fn new(graph: &Graph, orders: &FlatOrders, order: WeightOrder) -> Self {
        let (mut theta_length, mut statistics_length) = (0, 0);
        let mut segments = Vec::new();
        for parameter in graph.parameters() {
            let layout = layout_of(graph, orders, order, &parameter);
            let length = layout.len(parameter.elements());
            let total = if parameter.role.trainable() { &mut theta_length } else { &mut statistics_length };
            let offset = *total;
            *total += rounded(length);
            segments.push(Segment { parameter, layout, offset, length });
        }
        let by_name = segments.iter().enumerate().map(|(i, s)| (s.parameter.name.clone(), i)).collect();
        let by_node = segments
            .iter()
            .enumerate()
            .map(|(i, s)| ((s.parameter.node.index(), s.parameter.role), i))
            .collect();
        Self { segments, theta_length, statistics_length, by_name, by_node }
    }

    /// The segment that this node stores in this role.
    pub(crate) fn index_of(&self, node: NodeId, role: Role) -> Option<usize> {
        self.by_node.get(&(node.index(), role)).copied()
    }

    /// The segment of this name.
    ///
    /// # Errors
    /// [`EngineError::Unknown`] with the nearest name.
    pub(crate) fn find(&self, name: &str) -> Result<usize> {
        self.by_name.get(name).copied().ok_or_else(|| EngineError::Unknown {
            kind: "parameter",
            name: name.into(),
            known: nearest(name, self.by_name.keys().map(String::as_str)).unwrap_or_default().into(),
        })
    }

    /// Checks names and shapes of `weights`, of which only the segments that `wanted` accepts are expected.
    ///
    /// # Errors
    /// [`EngineError::Weights`] listing what is missing, unexpected or of another shape.
    pub(crate) fn check(&self, weights: &Weights) -> Result<()> {
        let named = |segment: &Segment| segment.parameter.name.clone();
        let missing: Vec<String> =
            self.segments.iter().map(named).filter(|name| !weights.contains_key(name)).collect();
        let unexpected: Vec<String> =
            weights.keys().filter(|name| !self.by_name.contains_key(*name)).cloned().collect();
        let reshaped: Vec<String> =
            self.segments.iter().filter_map(|segment| reshaped(segment, weights)).collect();
        if missing.is_empty() && unexpected.is_empty() && reshaped.is_empty() {
            return Ok(());
        }
        Err(EngineError::Weights {
            missing: missing.join(", "),
            unexpected: unexpected.join(", "),
            reshaped: reshaped.join(", "),
        })
    }

    /// Theta and statistics with these weights.
    ///
    /// # Errors
    /// As [`Table::check`].
    pub(crate) fn packed(&self, weights: &Weights) -> Result<(Buffer, Buffer)> {
        self.check(weights)?;
        let (mut theta, mut statistics) =
            (Buffer::zeros(self.theta_length), Buffer::zeros(self.statistics_length));
        self.pack(weights, &mut theta, &mut statistics);
        Ok((theta, statistics))
    }

    /// Writes checked weights into both vectors.
    pub(crate) fn pack(&self, weights: &Weights, theta: &mut [f32], statistics: &mut [f32]) {
        for segment in &self.segments {
            let Some(array) = weights.get(&segment.parameter.name) else { continue };
            let vector = if segment.parameter.role.trainable() { &mut *theta } else { &mut *statistics };
            segment.pack(&array.data, vector);
        }
    }

    /// Both vectors by name, in torch's layout.
    pub(crate) fn unpack(&self, theta: &[f32], statistics: &[f32]) -> Weights {
        let array = |segment: &Segment| {
            let vector = if segment.parameter.role.trainable() { theta } else { statistics };
            (segment.parameter.name.clone(), segment.unpack(vector))
        };
        self.segments.iter().map(array).collect()
    }
}

fn reshaped(segment: &Segment, weights: &Weights) -> Option<String> {
    let Parameter { name, shape, .. } = &segment.parameter;
    let found = &weights.get(name)?.shape;
    (found != shape).then(|| format!("{name}: expected {shape:?}, found {found:?}"))
}

fn layout_of(graph: &Graph, orders: &FlatOrders, order: WeightOrder, parameter: &Parameter) -> Layout {
    let node = graph.node(parameter.node);
    match (&node.op, parameter.role) {
        (Op::Conv2d(_), Role::Weight) => {
            Layout::Weight { shape: conv_shape(graph, parameter.node, 1), order, columns: None }
        }
        (Op::Linear(_), Role::Weight) => Layout::Weight {
            shape: conv_shape(graph, parameter.node, 1),
            order,
            columns: orders.of_node(node.inputs[0]),
        },
        _ => Layout::Vector(orders.of_node(parameter.node)),
    }
}

/// Starting weights of `graph`, each drawn from (seed, its own name), so that adding a head moves no other weight.
pub(crate) fn initial_weights(graph: &Graph, seed: u64) -> Weights {
    let stream = Stream::new(seed);
    let start = |parameter: Parameter| {
        let array = initial_array(graph, &parameter, stream.named(&parameter.name));
        (parameter.name, array)
    };
    graph.parameters().into_iter().map(start).collect()
}

fn initial_array(graph: &Graph, parameter: &Parameter, stream: Stream) -> Array {
    let shape = parameter.shape.clone();
    match parameter.role {
        Role::Scale => Array::full(shape, initial_scale(&graph.node(parameter.node).op)),
        Role::RunningVar => Array::full(shape, 1.0),
        Role::Shift | Role::RunningMean => Array::full(shape, 0.0),
        Role::Weight | Role::Bias => {
            let distribution = distribution(graph, parameter);
            let draw = |position: usize| draw(distribution, stream, position as u64);
            Array::new(shape, (0..parameter.elements()).map(draw).collect())
        }
    }
}

fn initial_scale(op: &Op) -> f32 {
    match op {
        Op::BatchNorm(norm) => norm.scale,
        _ => 1.0, // no other operation has a scale
    }
}

fn draw(distribution: Distribution, stream: Stream, position: u64) -> f32 {
    match distribution {
        Distribution::Normal(deviation) => deviation as f32 * stream.normal(position),
        Distribution::Uniform(bound) => bound as f32 * (2.0 * stream.uniform(position) - 1.0),
    }
}

/// How a weight or bias starts; a bias goes by its weight's shape.
fn distribution(graph: &Graph, parameter: &Parameter) -> Distribution {
    let node = graph.node(parameter.node);
    let inputs = node.inputs.first().map_or(0, |&input| graph.node(input).shape.channels());
    let (init, shape) = match &node.op {
        Op::Conv2d(conv) => {
            (conv.init, vec![conv.out_channels, inputs / conv.groups, conv.kernel[0], conv.kernel[1]])
        }
        Op::Linear(linear) => (linear.init, vec![linear.out_features, inputs]),
        _ => return Distribution::Uniform(0.0),
    };
    if parameter.role == Role::Bias { init.bias(&shape) } else { init.weight(&shape) }
}

#[cfg(test)]
mod tests {
    use models::{BatchNorm, Conv2d, Init, Linear, Task, formula, zoo};

    use super::*;

    fn flattening_graph() -> Graph {
        let mut graph = Graph::new(3, 5, 4);
        let conv = graph.conv2d("conv", graph.input(), Conv2d::new(7, 3).bias()).unwrap();
        let grouped = graph.conv2d("grouped", conv, Conv2d::new(14, 1).groups(7)).unwrap();
        let flat = graph.add("flatten", Op::Flatten, &[grouped]).unwrap();
        let norm = graph.batch_norm("bn", flat, BatchNorm::default()).unwrap();
        let logits = graph.linear("fc", norm, Linear::new(5)).unwrap();
        graph.set_output("logits", logits);
        graph
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_values() {
        let graph = flattening_graph();
        let table = Table::new(&graph, &FlatOrders::of(&graph), WeightOrder::Blocked);
        let weights = initial_weights(&graph, 5);
        let (mut theta, mut statistics) = (vec![0.0; table.theta_length], vec![0.0; table.statistics_length]);
        table.check(&weights).unwrap();
        table.pack(&weights, &mut theta, &mut statistics);
        assert_eq!(table.unpack(&theta, &statistics), weights);
        assert!(table.segments.iter().all(|segment| segment.offset % 16 == 0));
    }

    #[test]
    fn every_family_of_the_zoo_packs_and_unpacks_to_the_same_values() {
        for name in
            ["small-cnn-3", "resnet18", "resnet50", "mobilenet-v3-small", "efficientnet-b0", "wrn-10-2"]
        {
            let graph = zoo::build(name, &Task::new(10, 3, 48)).unwrap();
            let table = Table::new(&graph, &FlatOrders::of(&graph), WeightOrder::Blocked);
            let weights = formula::weights(&graph, 1.0);
            let (mut theta, mut statistics) =
                (vec![0.0; table.theta_length], vec![0.0; table.statistics_length]);
            table.pack(&weights, &mut theta, &mut statistics);
            assert!(table.unpack(&theta, &statistics) == weights, "{name}");
        }
    }

    #[test]
    fn a_linear_layer_after_a_map_reads_channels_innermost() {
        let order = MapOrder { channels: 2, positions: 3 };
        let mut engine = [0.0; 6];
        order.to_engine(&[0.0, 1.0, 2.0, 10.0, 11.0, 12.0], &mut engine);
        assert_eq!(engine, [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]);
        let graph = flattening_graph();
        let orders = FlatOrders::of(&graph);
        assert!(orders.of_node(graph.find("bn").unwrap()).is_some());
        assert!(orders.of_node(graph.find("fc").unwrap()).is_none());
    }

    #[test]
    fn weights_that_do_not_fit_are_listed() {
        let graph = flattening_graph();
        let table = Table::new(&graph, &FlatOrders::of(&graph), WeightOrder::Blocked);
        let mut weights = initial_weights(&graph, 0);
        weights.remove("conv.bias");
        weights.insert("head.weight".into(), Array::full([1], 0.0));
        weights.insert("fc.bias".into(), Array::full([6], 0.0));
        let message = table.check(&weights).unwrap_err().to_string();
        for part in ["[conv.bias]", "[head.weight]", "fc.bias: expected [5], found [6]"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(table.find("conv.wieght").unwrap_err().to_string().contains("conv.weight"));
    }

    #[test]
    fn weights_start_with_the_stated_spread() {
        let mut graph = Graph::new(16, 4, 4);
        let conv = graph.conv2d("conv", graph.input(), Conv2d::new(64, 3)).unwrap();
        graph.conv2d("torch", conv, Conv2d::new(64, 1).bias().init(Init::TorchDefault)).unwrap();
        let weights = initial_weights(&graph, 1);
        let deviation = |name: &str| {
            let data = &weights[name].data;
            (data.iter().map(|v| f64::from(v * v)).sum::<f64>() / data.len() as f64).sqrt()
        };
        assert!((deviation("conv.weight") / (2.0f64 / 576.0).sqrt() - 1.0).abs() < 0.03);
        assert!((deviation("torch.weight") / (1.0f64 / (3.0 * 64.0)).sqrt() - 1.0).abs() < 0.05);
        assert!(weights["torch.bias"].data.iter().all(|v| v.abs() <= 0.125));
        assert_eq!(initial_weights(&graph, 1), weights);
        assert_ne!(initial_weights(&graph, 2), weights);
    }
}
