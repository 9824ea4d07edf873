//! A [`Graph`] and its weights as an ONNX model: opset 17, `input` float32 [N, C, H, W] with N dynamic, `logits`
//! [N, classes]. Nodes keep their names. Nothing of training is left: dropout and stochastic depth are gone, and a
//! batch norm is folded into the convolution or linear layer before it wherever nothing else reads that layer, as the
//! inference engine does; elsewhere it stays a `BatchNormalization`. Normalization of the picture is inside.
//!
//! Only what the logits need is written. The same graph and weights give the same bytes.
//!
//! # Quantized
//! [`quantized_model`] writes the same nodes between static `QuantizeLinear` and `DequantizeLinear`. Activations are u8
//! and weights i8 with zero points of 0: the pair that processors with VNNI multiply as it is. (ONNX Runtime adds its
//! products in 16 bits, which may saturate, on processors with AVX2 and no VNNI; the native engine does not.) A map that
//! the quantized network names is rounded right behind its node, so that a runtime can fuse each node with the rounding
//! around it. Names of stored arrays, for a layer or node `NAME`:
//!
//! | name | what |
//! |---|---|
//! | `NAME.weight` | i8, in the float weight's shape |
//! | `NAME.weight_scale`, `NAME.weight_zero_point` | f32 and i8, one per output channel or one for all |
//! | `NAME.bias` | i32, one per output channel, in units of the input's scale times `NAME.weight_scale` |
//! | `NAME.bias_scale` | f32, that unit |
//! | `NAME.output_scale`, `NAME.output_zero_point` | f32 and u8 of the map that the node makes |

use std::collections::{HashMap, HashSet};

use models::{
    Activation, Array, BatchNorm, Conv2d, Granularity, Graph, Linear, Node, NodeId, Op, Pool2d, Quantization,
    QuantizedLayer, QuantizedNetwork, Weights,
};
use onnx::Contract;
use onnx::proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto,
};

use crate::{ExportError, Result};

/// Version of ONNX's operators that the file asks for.
pub const OPSET: i64 = 17;
/// Version of the file format: the one that came with the opset.
const IR_VERSION: i64 = 8;
const LOGITS: &str = "logits";

/// Writes `graph` with `weights` as an ONNX model that carries `contract`.
///
/// # Errors
/// [`ExportError::Weight`] for a weight that is missing or of another shape, [`ExportError::Graph`] if the graph has
/// no logits.
pub fn onnx_model(graph: &Graph, weights: &Weights, contract: &Contract) -> Result<ModelProto> {
    model(graph, Numbers::Real(weights), contract)
}

/// Writes `graph` quantized as `network` says, as an ONNX model that carries `contract`.
///
/// # Errors
/// [`ExportError::Weight`] for a layer, map or array that is missing or of another shape, [`ExportError::Graph`] if the
/// graph has no logits.
pub fn quantized_model(graph: &Graph, network: &QuantizedNetwork, contract: &Contract) -> Result<ModelProto> {
    model(graph, Numbers::Whole(network), contract)
}

fn model(graph: &Graph, numbers: Numbers<'_>, contract: &Contract) -> Result<ModelProto> {
    let mut writer = Writer::new(graph, numbers)?;
    for (id, node) in graph.iter() {
        if writer.plan.live.contains(&id) {
            writer.write(id, node)?;
        }
    }
    Ok(ModelProto {
        ir_version: IR_VERSION,
        producer_name: "distill".into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: String::new(),
        graph: Some(writer.finish()),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: contract.to_metadata(),
    })
}

/// What is written of a graph, and under which names.
struct Plan {
    /// Nodes that the logits need.
    live: HashSet<NodeId>,
    /// For a layer that swallows a batch norm: that batch norm; by index of the layer.
    swallows: Vec<Option<NodeId>>,
    /// Batch norms that a layer has swallowed.
    swallowed: HashSet<NodeId>,
    /// The node whose value is the output: the logits, or what they are the untouched value of.
    output: NodeId,
}

impl Plan {
    fn new(graph: &Graph) -> Result<Self> {
        let logits = graph.output(LOGITS)?;
        let live = ancestors(graph, logits);
        let readers = readers(graph, &live);
        let mut swallows = vec![None; graph.nodes().len()];
        let mut swallowed = HashSet::new();
        for (id, node) in
            graph.iter().filter(|(id, node)| live.contains(id) && matches!(node.op, Op::BatchNorm(_)))
        {
            let layer = node.inputs[0];
            let foldable = matches!(graph.node(layer).op, Op::Conv2d(_) | Op::Linear(_));
            if foldable && readers[layer.index()] == 1 {
                swallows[layer.index()] = Some(id);
                swallowed.insert(id);
            }
        }
        Ok(Self { live, swallows, swallowed, output: untouched(graph, logits) })
    }
}

fn ancestors(graph: &Graph, of: NodeId) -> HashSet<NodeId> {
    let mut live = HashSet::new();
    let mut waiting = vec![of];
    while let Some(id) = waiting.pop() {
        if live.insert(id) {
            waiting.extend(&graph.node(id).inputs);
        }
    }
    live
}

fn readers(graph: &Graph, live: &HashSet<NodeId>) -> Vec<usize> {
    let mut readers = vec![0; graph.nodes().len()];
    for (_, node) in graph.iter().filter(|(id, _)| live.contains(id)) {
        for input in &node.inputs {
            readers[input.index()] += 1;
        }
    }
    readers
}

/// The node that makes the value of `id` once everything that only acts in training is gone.
fn untouched(graph: &Graph, id: NodeId) -> NodeId {
    match graph.node(id).op {
        Op::Dropout(_) | Op::StochasticDepth(_) => untouched(graph, graph.node(id).inputs[0]),
        _ => id,
    }
}

/// What fills the graph.
#[derive(Clone, Copy)]
enum Numbers<'a> {
    Real(&'a Weights),
    Whole(&'a QuantizedNetwork),
}

impl<'a> Numbers<'a> {
    /// Arrays in f32.
    fn real(self) -> &'a Weights {
        match self {
            Numbers::Real(weights) => weights,
            Numbers::Whole(network) => &network.norms,
        }
    }
}

struct Writer<'a> {
    graph: &'a Graph,
    numbers: Numbers<'a>,
    shapes: HashMap<String, Vec<usize>>,
    plan: Plan,
    nodes: Vec<NodeProto>,
    stored: Vec<TensorProto>,
}

impl<'a> Writer<'a> {
    fn new(graph: &'a Graph, numbers: Numbers<'a>) -> Result<Self> {
        let shapes =
            graph.parameters().into_iter().map(|parameter| (parameter.name, parameter.shape)).collect();
        Ok(Self { graph, numbers, shapes, plan: Plan::new(graph)?, nodes: Vec::new(), stored: Vec::new() })
    }

    /// One node; the match is exhaustive on purpose: a new operation must say how it is written.
    fn write(&mut self, id: NodeId, node: &Node) -> Result<()> {
        match &node.op {
            Op::Dropout(_) | Op::StochasticDepth(_) => return Ok(()),
            Op::Input => {}
            Op::Normalize { mean, std } => self.normalize(id, node, mean, std),
            Op::Conv2d(conv) => self.convolution(id, node, conv)?,
            Op::BatchNorm(_) if self.plan.swallowed.contains(&id) => return Ok(()),
            Op::BatchNorm(norm) => self.batch_norm(id, node, norm)?,
            Op::Activation(activation) => self.activation(id, node, *activation),
            Op::MaxPool(pool) => self.emit(id, node, "MaxPool", &[], window(pool)),
            Op::AvgPool(pool) => {
                let attributes = [window(pool), vec![AttributeProto::int("count_include_pad", 1)]].concat();
                self.emit(id, node, "AveragePool", &[], attributes);
            }
            Op::GlobalAvgPool => self.emit(id, node, "GlobalAveragePool", &[], Vec::new()),
            Op::Flatten => self.emit(id, node, "Flatten", &[], vec![AttributeProto::int("axis", 1)]),
            Op::Linear(linear) => self.linear(id, node, linear)?,
            Op::Add => self.emit(id, node, "Add", &[], Vec::new()),
            Op::Mul => self.emit(id, node, "Mul", &[], Vec::new()),
        }
        self.round(self.made(id));
        Ok(())
    }

    /// The node whose value is there once `id` is written.
    fn made(&self, id: NodeId) -> NodeId {
        self.plan.swallows[id.index()].unwrap_or(id)
    }

    /// Rounds a node's value to bytes and back, if it is to be bytes.
    fn round(&mut self, id: NodeId) {
        let Some(Quantization { scale, zero_point }) = self.map(id) else { return };
        let name = &self.graph.node(id).name;
        let (raw, bytes, value) = (self.raw(id), format!("{name}.quantized"), self.value(id));
        let scale = self.store(format!("{name}.output_scale"), &[], &[scale]);
        let zero_point =
            self.keep(TensorProto::bytes(format!("{name}.output_zero_point"), &[], &[zero_point]));
        let how = vec![scale, zero_point];
        let inputs = |from: String| [vec![from], how.clone()].concat();
        self.push(&format!("{name}.quantize"), "QuantizeLinear", inputs(raw), bytes.clone(), Vec::new());
        self.push(&format!("{name}.dequantize"), "DequantizeLinear", inputs(bytes), value, Vec::new());
    }

    /// How the bytes of a node's value are to be read, if it is to be bytes.
    fn map(&self, id: NodeId) -> Option<Quantization> {
        match self.numbers {
            Numbers::Real(_) => None,
            Numbers::Whole(network) => network.maps.get(&self.graph.node(id).name).copied(),
        }
    }

    fn normalize(&mut self, id: NodeId, node: &Node, mean: &[f32], std: &[f32]) {
        let shape = [1, mean.len(), 1, 1];
        let mean = self.store(format!("{}.mean", node.name), &shape, mean);
        let std = self.store(format!("{}.std", node.name), &shape, std);
        let centered = format!("{}.centered", node.name);
        let input = self.value(node.inputs[0]);
        self.push(&format!("{}.sub", node.name), "Sub", vec![input, mean], centered.clone(), Vec::new());
        self.push(&node.name, "Div", vec![centered, std], self.raw(id), Vec::new());
    }

    fn convolution(&mut self, id: NodeId, node: &Node, conv: &Conv2d) -> Result<()> {
        let stored = self.layer(id, node, conv.bias)?;
        let attributes = vec![
            AttributeProto::ints("dilations", [1, 1]),
            AttributeProto::int("group", conv.groups as i64),
            AttributeProto::ints("kernel_shape", conv.kernel),
            AttributeProto::ints("pads", both_sides(conv.padding)),
            AttributeProto::ints("strides", conv.stride),
        ];
        self.emit(id, node, "Conv", &stored, attributes);
        Ok(())
    }

    fn linear(&mut self, id: NodeId, node: &Node, linear: &Linear) -> Result<()> {
        let mut stored = self.layer(id, node, linear.bias)?;
        if stored.len() == 1 {
            // candle-onnx indexes the third input without asking whether it is there.
            stored.push(self.store(
                format!("{}.bias", node.name),
                &[linear.out_features],
                &vec![0.0; linear.out_features],
            ));
        }
        let attributes = vec![
            AttributeProto::float("alpha", 1.0),
            AttributeProto::float("beta", 1.0),
            AttributeProto::int("transB", 1),
        ];
        self.emit(id, node, "Gemm", &stored, attributes);
        Ok(())
    }

    /// Stores a layer's weight and, if it has one or gets one from its batch norm, its bias.
    fn layer(&mut self, id: NodeId, node: &Node, has_bias: bool) -> Result<Vec<String>> {
        if let Numbers::Whole(network) = self.numbers {
            return self.whole_layer(node, network);
        }
        let weight = self.weight(&node.name, "weight")?;
        let bias = if has_bias { Some(self.weight(&node.name, "bias")?) } else { None };
        let (weight, bias) = match self.plan.swallows[id.index()] {
            Some(norm) => {
                let norm = self.norm(norm)?;
                (norm.fold_weight(weight), Some(norm.fold_bias(bias)))
            }
            None => (weight.clone(), bias.cloned()),
        };
        let mut stored = vec![self.store(format!("{}.weight", node.name), &weight.shape, &weight.data)];
        if let Some(bias) = bias {
            stored.push(self.store(format!("{}.bias", node.name), &bias.shape, &bias.data));
        }
        Ok(stored)
    }

    /// Stores a layer's whole numbers and what they stand for.
    fn whole_layer(&mut self, node: &Node, network: &QuantizedNetwork) -> Result<Vec<String>> {
        let name = &node.name;
        let layer = whole_layer(network, name, &self.shapes[&format!("{name}.weight")])?;
        let source = untouched(self.graph, node.inputs[0]);
        let x =
            self.map(source).ok_or_else(|| missing(format!("map of {}", self.graph.node(source).name)))?;
        let scales = match layer.granularity() {
            Granularity::PerTensor => &layer.scales[..1],
            Granularity::PerChannel => &layer.scales,
        };
        let dims: &[usize] = if scales.len() == 1 { &[] } else { &[scales.len()] };
        let units: Vec<f32> = scales.iter().map(|scale| x.scale * scale).collect();
        let weight = TensorProto::signed_bytes(format!("{name}.weight"), &layer.shape, &layer.weight);
        let bias = TensorProto::whole(format!("{name}.bias"), &[layer.bias.len()], &layer.bias);
        let zero_points = vec![0; scales.len()];
        let weight = [
            self.keep(weight),
            self.store(format!("{name}.weight_scale"), dims, scales),
            self.keep(TensorProto::signed_bytes(format!("{name}.weight_zero_point"), dims, &zero_points)),
        ];
        let bias = [self.keep(bias), self.store(format!("{name}.bias_scale"), dims, &units)];
        Ok(vec![self.real(weight.to_vec(), dims), self.real(bias.to_vec(), dims)])
    }

    /// Stored whole numbers as real ones.
    fn real(&mut self, stored: Vec<String>, dims: &[usize]) -> String {
        let (name, value) = (format!("{}.dequantize", stored[0]), format!("{}.dequantized", stored[0]));
        let axis = if dims.is_empty() { Vec::new() } else { vec![AttributeProto::int("axis", 0)] };
        self.push(&name, "DequantizeLinear", stored, value.clone(), axis);
        value
    }

    fn norm(&self, id: NodeId) -> Result<Norm> {
        let node = self.graph.node(id);
        let Op::BatchNorm(BatchNorm { eps, .. }) = node.op else {
            unreachable!("only batch norms are swallowed")
        };
        let array = |suffix: &str| self.weight(&node.name, suffix);
        let (scale, shift) = (array("weight")?, array("bias")?);
        let (mean, variance) = (array("running_mean")?, array("running_var")?);
        Ok(Norm::new(&scale.data, &shift.data, &mean.data, &variance.data, eps))
    }

    fn batch_norm(&mut self, id: NodeId, node: &Node, norm: &BatchNorm) -> Result<()> {
        let mut stored = Vec::new();
        for suffix in ["weight", "bias", "running_mean", "running_var"] {
            let array = self.weight(&node.name, suffix)?;
            stored.push(self.store(format!("{}.{suffix}", node.name), &array.shape, &array.data));
        }
        self.emit(id, node, "BatchNormalization", &stored, vec![AttributeProto::float("epsilon", norm.eps)]);
        Ok(())
    }

    fn activation(&mut self, id: NodeId, node: &Node, activation: Activation) {
        match activation {
            Activation::Relu => self.emit(id, node, "Relu", &[], Vec::new()),
            Activation::Relu6 => {
                let bounds = [self.scalar("relu6.min", 0.0), self.scalar("relu6.max", 6.0)];
                self.emit(id, node, "Clip", &bounds, Vec::new());
            }
            Activation::LeakyRelu(slope) => {
                self.emit(id, node, "LeakyRelu", &[], vec![AttributeProto::float("alpha", slope)]);
            }
            Activation::Silu => self.silu(id, node),
            Activation::HardSwish => self.emit(id, node, "HardSwish", &[], Vec::new()),
            Activation::HardSigmoid => {
                let slope =
                    vec![AttributeProto::float("alpha", 1.0 / 6.0), AttributeProto::float("beta", 0.5)];
                self.emit(id, node, "HardSigmoid", &[], slope);
            }
            Activation::Sigmoid => self.emit(id, node, "Sigmoid", &[], Vec::new()),
        }
    }

    /// ONNX has no SiLU of its own before opset 24.
    fn silu(&mut self, id: NodeId, node: &Node) {
        let (input, gate) = (self.value(node.inputs[0]), format!("{}.sigmoid", node.name));
        self.push(&gate, "Sigmoid", vec![input.clone()], gate.clone(), Vec::new());
        self.push(&node.name, "Mul", vec![input, gate.clone()], self.raw(id), Vec::new());
    }

    /// A node of one operator: its graph inputs, then what is stored for it.
    fn emit(
        &mut self,
        id: NodeId,
        node: &Node,
        operator: &str,
        stored: &[String],
        attributes: Vec<AttributeProto>,
    ) {
        let inputs =
            node.inputs.iter().map(|&input| self.value(input)).chain(stored.iter().cloned()).collect();
        let output = self.raw(self.made(id));
        self.push(&node.name, operator, inputs, output, attributes);
    }

    fn push(
        &mut self,
        name: &str,
        operator: &str,
        input: Vec<String>,
        output: String,
        attribute: Vec<AttributeProto>,
    ) {
        let (name, op_type) = (name.to_string(), operator.to_string());
        self.nodes.push(NodeProto {
            input,
            output: vec![output],
            name,
            op_type,
            attribute,
            domain: String::new(),
        });
    }

    /// Name of a node's value as others read it: the node's own, but for the output and what went through bytes.
    fn value(&self, id: NodeId) -> String {
        let id = untouched(self.graph, id);
        match self.map(id) {
            Some(_) if id != self.plan.output => format!("{}.dequantized", self.graph.node(id).name),
            _ => self.own_name(id),
        }
    }

    /// Name of a node's value as the node makes it.
    fn raw(&self, id: NodeId) -> String {
        let made_here = id != self.plan.output || self.map(id).is_none();
        if made_here { self.own_name(id) } else { format!("{LOGITS}.raw") }
    }

    fn own_name(&self, id: NodeId) -> String {
        let name = &self.graph.node(id).name;
        match (id == self.plan.output, name == LOGITS) {
            (true, _) => LOGITS.into(),
            (false, true) => format!("{LOGITS}.value"),
            (false, false) => name.clone(),
        }
    }

    fn weight(&self, node: &str, suffix: &str) -> Result<&'a Array> {
        let name = format!("{node}.{suffix}");
        let expected = &self.shapes[&name];
        match self.numbers.real().get(&name) {
            Some(array) if array.shape == *expected => Ok(array),
            found => {
                let found = found.map_or("none".into(), |array| format!("{:?}", array.shape));
                Err(ExportError::Weight { name, expected: format!("{expected:?}"), found })
            }
        }
    }

    fn store(&mut self, name: String, shape: &[usize], data: &[f32]) -> String {
        self.keep(TensorProto::floats(name, shape, data))
    }

    fn keep(&mut self, tensor: TensorProto) -> String {
        let name = tensor.name.clone();
        self.stored.push(tensor);
        name
    }

    /// A constant, stored once however many nodes read it.
    fn scalar(&mut self, name: &str, value: f32) -> String {
        if self.stored.iter().any(|stored| stored.name == name) {
            name.into()
        } else {
            self.store(name.into(), &[], &[value])
        }
    }

    fn finish(self) -> GraphProto {
        let dims = |lengths: &[usize]| {
            let fixed = lengths.iter().map(|&length| Dimension::Length(length as i64));
            std::iter::once(Dimension::Name("N".into())).chain(fixed).collect::<Vec<_>>()
        };
        let shape = self.graph.input_shape();
        let [height, width] = shape.spatial();
        let classes = self.graph.node(self.plan.output).shape.elements();
        GraphProto {
            node: self.nodes,
            name: "distill".into(),
            initializer: self.stored,
            input: vec![ValueInfoProto::floats("input", dims(&[shape.channels(), height, width]))],
            output: vec![ValueInfoProto::floats(LOGITS, dims(&[classes]))],
        }
    }
}

/// A layer's whole numbers, checked.
fn whole_layer<'a>(network: &'a QuantizedNetwork, name: &str, shape: &[usize]) -> Result<&'a QuantizedLayer> {
    let layer = network.layers.get(name).ok_or_else(|| missing(format!("{name}.weight")))?;
    let outputs = shape[0];
    let fits = layer.shape == shape && layer.weight.len() == shape.iter().product::<usize>();
    if fits && layer.scales.len() == outputs && layer.bias.len() == outputs {
        return Ok(layer);
    }
    let (name, expected) = (format!("{name}.weight"), format!("{shape:?}"));
    Err(ExportError::Weight { name, expected, found: format!("{:?}", layer.shape) })
}

fn missing(name: String) -> ExportError {
    ExportError::Weight { name, expected: "a quantized one".into(), found: "none".into() }
}

fn both_sides(padding: [usize; 2]) -> [usize; 4] {
    let [vertical, horizontal] = padding;
    [vertical, horizontal, vertical, horizontal]
}

fn window(pool: &Pool2d) -> Vec<AttributeProto> {
    vec![
        AttributeProto::ints("kernel_shape", pool.kernel),
        AttributeProto::ints("pads", both_sides(pool.padding)),
        AttributeProto::ints("strides", pool.stride),
    ]
}

/// A batch norm as one factor and one offset per channel; `f64`, since it is done once and its error would stay.
struct Norm {
    factor: Vec<f64>,
    offset: Vec<f64>,
}

impl Norm {
    fn new(scale: &[f32], shift: &[f32], mean: &[f32], variance: &[f32], eps: f32) -> Self {
        let factor: Vec<f64> = scale
            .iter()
            .zip(variance)
            .map(|(&scale, &variance)| f64::from(scale) / (f64::from(variance) + f64::from(eps)).sqrt())
            .collect();
        let centers = shift.iter().zip(mean).zip(&factor);
        let offset =
            centers.map(|((&shift, &mean), factor)| f64::from(shift) - f64::from(mean) * factor).collect();
        Self { factor, offset }
    }

    /// Each output channel's weights times its factor.
    fn fold_weight(&self, weight: &Array) -> Array {
        let per_channel = weight.data.len() / self.factor.len().max(1);
        let factors = self.factor.iter().flat_map(|&factor| std::iter::repeat_n(factor, per_channel));
        let data = weight.data.iter().zip(factors).map(|(&value, factor)| (f64::from(value) * factor) as f32);
        Array::new(weight.shape.clone(), data.collect())
    }

    fn fold_bias(&self, bias: Option<&Array>) -> Array {
        let bias = |channel: usize| bias.map_or(0.0, |array| f64::from(array.data[channel]));
        let channels = self.factor.iter().zip(&self.offset).enumerate();
        let data = channels.map(|(channel, (factor, offset))| (bias(channel) * factor + offset) as f32);
        Array::new([self.factor.len()], data.collect())
    }
}
