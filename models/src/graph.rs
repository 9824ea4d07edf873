//! A network as a plain value: named nodes in topological order, each with its operation, its inputs and the shape
//! that follows from them. A graph holds no tensor; a wrong network is an error that names the node and the shapes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// Index of a node in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(usize);

impl NodeId {
    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// Shape of one sample's value at a node; the batch dimension is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A feature map (or the picture) of `channels` x `height` x `width`.
    Map {
        /// Number of channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A vector of `0` values.
    Flat(usize),
}

impl Shape {
    /// Number of values in one sample.
    pub fn elements(self) -> usize {
        match self {
            Shape::Map { channels, height, width } => channels * height * width,
            Shape::Flat(length) => length,
        }
    }

    /// Channels of a map, length of a vector: the dimension that parameters run along.
    pub fn channels(self) -> usize {
        match self {
            Shape::Map { channels, .. } => channels,
            Shape::Flat(length) => length,
        }
    }

    /// Rows and columns; 1 x 1 for a vector.
    pub fn spatial(self) -> [usize; 2] {
        match self {
            Shape::Map { height, width, .. } => [height, width],
            Shape::Flat(_) => [1, 1],
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Map { channels, height, width } => write!(f, "[{channels}, {height}, {width}]"),
            Shape::Flat(length) => write!(f, "[{length}]"),
        }
    }
}

/// How a weight starts. Biases start at zero unless the weight's entry says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with variance `2 / (out_channels * kernel area)`: torchvision's for its convolutions
    /// (`kaiming_normal_`, mode `fan_out`). PyTorch does not divide by the groups, so neither does this.
    KaimingFanOut,
    /// Uniform within `sqrt(6 / ((1 + a^2) * fan_in))`, `a = sqrt(5)`, and the bias uniform within
    /// `1 / sqrt(fan_in)`: PyTorch's own default for convolutions and linear layers.
    TorchDefault,
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform within plus and minus this bound.
    Uniform(f32),
    /// Glorot's normal: variance `2 / (fan_in + fan_out)`.
    GlorotNormal,
}

/// What a weight's or bias's first values are drawn from; the mean is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Normal with this standard deviation.
    Normal(f64),
    /// Uniform within plus and minus this bound; 0 means zeros.
    Uniform(f64),
}

impl Init {
    /// The distribution of a weight of `shape` (`[out, in / groups, kernel, kernel]` or `[out, in]`).
    pub fn weight(self, shape: &[usize]) -> Distribution {
        let (fan_in, fan_out) = fans(shape);
        match self {
            Init::KaimingFanOut => Distribution::Normal((2.0 / fan_out).sqrt()),
            Init::TorchDefault => Distribution::Uniform(1.0 / fan_in.sqrt()), // sqrt(6 / ((1 + 5) * fan_in))
            Init::Normal(deviation) => Distribution::Normal(f64::from(deviation)),
            Init::Uniform(bound) => Distribution::Uniform(f64::from(bound)),
            Init::GlorotNormal => Distribution::Normal((2.0 / (fan_in + fan_out)).sqrt()),
        }
    }

    /// The distribution of the bias beside a weight of `shape`.
    pub fn bias(self, shape: &[usize]) -> Distribution {
        match self {
            Init::TorchDefault => Distribution::Uniform(1.0 / fans(shape).0.sqrt()),
            _ => Distribution::Uniform(0.0),
        }
    }
}

/// Fan-in and fan-out of a weight as `torch.nn.init` counts them, at least 1.
fn fans(shape: &[usize]) -> (f64, f64) {
    let area: usize = shape.iter().skip(2).product();
    let fan = |axis: usize| (shape.get(axis).copied().unwrap_or(1) * area).max(1) as f64;
    (fan(1), fan(0))
}

/// A 2-d convolution with zero padding; weights `[out, in / groups, kernel, kernel]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    /// Channels of the result.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between outputs, vertically and horizontally.
    pub stride: [usize; 2],
    /// Zeros added above and below, left and right.
    pub padding: [usize; 2],
    /// Number of groups; `in_channels` of them make it depthwise.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// How the weight starts.
    pub init: Init,
}

impl Conv2d {
    /// A square kernel at stride 1, without padding, groups or bias, started by [`Init::KaimingFanOut`].
    pub fn new(out_channels: usize, kernel: usize) -> Self {
        Self {
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [0; 2],
            groups: 1,
            bias: false,
            init: Init::KaimingFanOut,
        }
    }

    /// The same with this stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// The same with this padding on all sides.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// The same in this many groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// The same with a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// The same, started differently.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }
}

/// Batch normalization with affine parameters, as torch has it: the running variance is unbiased, and
/// `running = (1 - momentum) * running + momentum * batch`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f32,
    /// Share of the batch's statistics in the running ones.
    pub momentum: f32,
    /// What the scale starts as: 1, or 0 behind a branch that is to start as nothing.
    pub scale: f32,
}

impl BatchNorm {
    /// A normalization whose scale starts as 1.
    pub const fn new(eps: f32, momentum: f32) -> Self {
        Self { eps, momentum, scale: 1.0 }
    }

    /// The same, its scale started as 0 (Goyal et al. 2017, arXiv 1706.02677, section 5.1).
    pub const fn zero(mut self) -> Self {
        self.scale = 0.0;
        self
    }
}

impl Default for BatchNorm {
    fn default() -> Self {
        Self::new(1e-5, 0.1)
    }
}

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`
    Relu,
    /// `min(max(x, 0), 6)`
    Relu6,
    /// `x` where positive, else this slope times `x`.
    LeakyRelu(f32),
    /// `x * sigmoid(x)`
    Silu,
    /// `x * relu6(x + 3) / 6`
    HardSwish,
    /// `relu6(x + 3) / 6`
    HardSigmoid,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
}

/// Window of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool2d {
    /// Rows and columns of the window.
    pub kernel: [usize; 2],
    /// Step between windows.
    pub stride: [usize; 2],
    /// Padding on each side, at most half the window; never wins a maximum, counts as zeros in an average
    /// (torch's `count_include_pad`).
    pub padding: [usize; 2],
}

impl Pool2d {
    /// A square window that moves by its own size.
    pub fn new(kernel: usize) -> Self {
        Self { kernel: [kernel; 2], stride: [kernel; 2], padding: [0; 2] }
    }

    /// The same with this stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// The same with this padding.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }
}

/// A dense layer; weight `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Length of the result.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// How the weight starts.
    pub init: Init,
}

impl Linear {
    /// A dense layer with bias, started as PyTorch does by default.
    pub fn new(out_features: usize) -> Self {
        Self { out_features, bias: true, init: Init::TorchDefault }
    }

    /// The same, started differently.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The picture, values 0..1.
    Input,
    /// `(x - mean) / std` per channel: the only place where pictures are normalized.
    Normalize {
        /// Mean of each channel.
        mean: Vec<f32>,
        /// Standard deviation of each channel.
        std: Vec<f32>,
    },
    /// Convolution of a map.
    Conv2d(Conv2d),
    /// Batch normalization of a map per channel, or of a vector per value.
    BatchNorm(BatchNorm),
    /// An elementwise function.
    Activation(Activation),
    /// Largest value of each window.
    MaxPool(Pool2d),
    /// Mean of each window.
    AvgPool(Pool2d),
    /// Mean over all positions: `[c, h, w]` to `[c, 1, 1]`.
    GlobalAvgPool,
    /// A map as a vector, channels first (torch's `flatten`).
    Flatten,
    /// Dense layer on a vector.
    Linear(Linear),
    /// In training, zero with this probability, else divided by `1 - p`; identity in evaluation.
    Dropout(f32),
    /// In training, a whole sample's branch is zero with this probability, else divided by `1 - p`
    /// (torchvision's mode `row`); identity in evaluation.
    StochasticDepth(f32),
    /// Sum of two values of one shape.
    Add,
    /// Product of a map with a `[c, 1, 1]` map (squeeze-and-excitation's gate: first input the map, second the gate)
    /// or of two values of one shape.
    Mul,
}

impl Op {
    /// The operation's name for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Input => "input",
            Op::Normalize { .. } => "normalize",
            Op::Conv2d(_) => "conv2d",
            Op::BatchNorm(_) => "batch_norm",
            Op::Activation(_) => "activation",
            Op::MaxPool(_) => "max_pool",
            Op::AvgPool(_) => "avg_pool",
            Op::GlobalAvgPool => "global_avg_pool",
            Op::Flatten => "flatten",
            Op::Linear(_) => "linear",
            Op::Dropout(_) => "dropout",
            Op::StochasticDepth(_) => "stochastic_depth",
            Op::Add => "add",
            Op::Mul => "mul",
        }
    }

    fn arity(&self) -> usize {
        match self {
            Op::Input => 0,
            Op::Add | Op::Mul => 2,
            _ => 1,
        }
    }
}

/// A named operation on the results of earlier nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique in its graph; its parameters are called `NAME.weight` and so on.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The nodes it reads, all earlier than itself.
    pub inputs: Vec<NodeId>,
    /// Shape of its result for one sample.
    pub shape: Shape,
}

/// What a stored array is to its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Convolution's or linear layer's weight: the only role that weight decay touches.
    Weight,
    /// Convolution's or linear layer's bias.
    Bias,
    /// Batch norm's scale (`weight` in torch's names).
    Scale,
    /// Batch norm's shift (`bias` in torch's names).
    Shift,
    /// Batch norm's running mean: a statistic that no optimizer touches.
    RunningMean,
    /// Batch norm's running (unbiased) variance: a statistic that no optimizer touches.
    RunningVar,
}

impl Role {
    /// Whether the optimizer moves it.
    pub fn trainable(self) -> bool {
        !matches!(self, Role::RunningMean | Role::RunningVar)
    }

    /// Whether weight decay applies: to weights alone, neither to biases nor to batch norm.
    pub fn decays(self) -> bool {
        self == Role::Weight
    }

    fn suffix(self) -> &'static str {
        match self {
            Role::Weight | Role::Scale => "weight",
            Role::Bias | Role::Shift => "bias",
            Role::RunningMean => "running_mean",
            Role::RunningVar => "running_var",
        }
    }
}

/// An array that a node stores: a trainable parameter or a running statistic.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// torchvision's name, `NODE.weight` and so on.
    pub name: String,
    /// The node it belongs to.
    pub node: NodeId,
    /// What it is to that node.
    pub role: Role,
    /// Shape in torch's layout (OIHW; `[out, in]`; `[c]`).
    pub shape: Vec<usize>,
}

impl Parameter {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Why a graph could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two nodes of one name.
    #[error("node `{name}`: a node of this name is already in the graph; expected a unique name")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A wrong number of inputs.
    #[error("node `{name}` ({kind}): expected {expected} inputs, found {found}")]
    Arity {
        /// The node.
        name: String,
        /// Its operation.
        kind: &'static str,
        /// Inputs that the operation takes.
        expected: usize,
        /// Inputs it was given.
        found: usize,
    },
    /// Shapes that the operation cannot take.
    #[error("node `{name}` ({kind}): expected {expected}, found {found}")]
    Shape {
        /// The node.
        name: String,
        /// Its operation.
        kind: &'static str,
        /// What the operation needs.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// An output that is not in the graph.
    #[error("no output `{name}`; this graph has {known}")]
    NoOutput {
        /// What was asked for.
        name: String,
        /// The outputs there are.
        known: String,
    },
}

/// A network. Nodes are in topological order: each reads only earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    outputs: BTreeMap<String, NodeId>,
    by_name: HashMap<String, NodeId>,
}

impl Graph {
    /// A graph of one node, `input`: pictures of `channels` x `height` x `width`.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        let shape = Shape::Map { channels, height, width };
        let input = Node { name: "input".into(), op: Op::Input, inputs: Vec::new(), shape };
        let by_name = HashMap::from([("input".to_string(), NodeId(0))]);
        Self { nodes: vec![input], outputs: BTreeMap::new(), by_name }
    }

    /// The input node.
    pub fn input(&self) -> NodeId {
        NodeId(0)
    }

    /// Shape of one input picture.
    pub fn input_shape(&self) -> Shape {
        self.nodes[0].shape
    }

    /// All nodes in topological order; the first is the input.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All nodes with their ids, in topological order.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(index, node)| (NodeId(index), node))
    }

    /// The node of this name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied()
    }

    /// Outputs by name: `logits`, `features` (what the classifier reads, before its dropout), and whatever heads
    /// a method has appended.
    pub fn outputs(&self) -> &BTreeMap<String, NodeId> {
        &self.outputs
    }

    /// The node of an output.
    ///
    /// # Errors
    /// [`GraphError::NoOutput`], with the outputs there are.
    pub fn output(&self, name: &str) -> Result<NodeId, GraphError> {
        self.outputs.get(name).copied().ok_or_else(|| GraphError::NoOutput {
            name: name.into(),
            known: self.outputs.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })
    }

    /// Names `node` as an output.
    pub fn set_output(&mut self, name: impl Into<String>, node: NodeId) {
        self.outputs.insert(name.into(), node);
    }

    /// Appends a node.
    ///
    /// # Errors
    /// [`GraphError`] with the node's name if the name is taken or the inputs do not fit the operation.
    ///
    /// # Panics
    /// If an input is not a node of this graph.
    pub fn add(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> Result<NodeId, GraphError> {
        let name = name.into();
        if self.by_name.contains_key(&name) {
            return Err(GraphError::DuplicateName { name });
        }
        if inputs.len() != op.arity() {
            let (kind, expected, found) = (op.kind(), op.arity(), inputs.len());
            return Err(GraphError::Arity { name, kind, expected, found });
        }
        let shapes: Vec<Shape> = inputs.iter().map(|&id| self.node(id).shape).collect();
        let shape = infer(&op, &shapes).map_err(|(expected, found)| GraphError::Shape {
            name: name.clone(),
            kind: op.kind(),
            expected,
            found,
        })?;
        let id = NodeId(self.nodes.len());
        self.by_name.insert(name.clone(), id);
        self.nodes.push(Node { name, op, inputs: inputs.to_vec(), shape });
        Ok(id)
    }

    /// The same network with every dropout and stochastic depth at probability 0: what comparisons and frozen
    /// features want from a training pass.
    pub fn without_noise(&self) -> Graph {
        let mut graph = self.clone();
        for node in &mut graph.nodes {
            if let Op::Dropout(p) | Op::StochasticDepth(p) = &mut node.op {
                *p = 0.0;
            }
        }
        graph
    }

    /// Everything the nodes store, in node order: per convolution or linear layer weight then bias, per batch norm
    /// scale, shift, running mean, running variance.
    pub fn parameters(&self) -> Vec<Parameter> {
        self.iter().flat_map(|(id, node)| self.node_parameters(id, node)).collect()
    }

    fn node_parameters(&self, id: NodeId, node: &Node) -> Vec<Parameter> {
        let channels_in = node.inputs.first().map_or(0, |&input| self.node(input).shape.channels());
        let arrays: Vec<(Role, Vec<usize>)> = match &node.op {
            Op::Conv2d(conv) => {
                let weight =
                    vec![conv.out_channels, channels_in / conv.groups, conv.kernel[0], conv.kernel[1]];
                let bias = conv.bias.then(|| (Role::Bias, vec![conv.out_channels]));
                [(Role::Weight, weight)].into_iter().chain(bias).collect()
            }
            Op::Linear(linear) => {
                let bias = linear.bias.then(|| (Role::Bias, vec![linear.out_features]));
                [(Role::Weight, vec![linear.out_features, channels_in])].into_iter().chain(bias).collect()
            }
            Op::BatchNorm(_) => [Role::Scale, Role::Shift, Role::RunningMean, Role::RunningVar]
                .into_iter()
                .map(|role| (role, vec![channels_in]))
                .collect(),
            Op::Input
            | Op::Normalize { .. }
            | Op::Activation(_)
            | Op::MaxPool(_)
            | Op::AvgPool(_)
            | Op::GlobalAvgPool
            | Op::Flatten
            | Op::Dropout(_)
            | Op::StochasticDepth(_)
            | Op::Add
            | Op::Mul => Vec::new(),
        };
        let name = |role: Role| format!("{}.{}", node.name, role.suffix());
        arrays
            .into_iter()
            .map(|(role, shape)| Parameter { name: name(role), node: id, role, shape })
            .collect()
    }
}

/// Shorthands, one per operation, for zoo entries and heads. Each fails as [`Graph::add`] does.
impl Graph {
    /// Appends [`Op::Normalize`].
    pub fn normalize(
        &mut self,
        name: &str,
        x: NodeId,
        mean: &[f32],
        std: &[f32],
    ) -> Result<NodeId, GraphError> {
        self.add(name, Op::Normalize { mean: mean.to_vec(), std: std.to_vec() }, &[x])
    }

    /// Appends [`Op::Conv2d`].
    pub fn conv2d(&mut self, name: impl Into<String>, x: NodeId, conv: Conv2d) -> Result<NodeId, GraphError> {
        self.add(name, Op::Conv2d(conv), &[x])
    }

    /// Appends [`Op::BatchNorm`].
    pub fn batch_norm(
        &mut self,
        name: impl Into<String>,
        x: NodeId,
        norm: BatchNorm,
    ) -> Result<NodeId, GraphError> {
        self.add(name, Op::BatchNorm(norm), &[x])
    }

    /// Appends [`Op::Activation`].
    pub fn activation(
        &mut self,
        name: impl Into<String>,
        x: NodeId,
        activation: Activation,
    ) -> Result<NodeId, GraphError> {
        self.add(name, Op::Activation(activation), &[x])
    }

    /// Appends [`Op::Linear`].
    pub fn linear(
        &mut self,
        name: impl Into<String>,
        x: NodeId,
        linear: Linear,
    ) -> Result<NodeId, GraphError> {
        self.add(name, Op::Linear(linear), &[x])
    }

    /// Appends [`Op::Add`].
    pub fn sum(&mut self, name: impl Into<String>, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.add(name, Op::Add, &[a, b])
    }

    /// Appends [`Op::Mul`]: `map` scaled by `gate`.
    pub fn scale(
        &mut self,
        name: impl Into<String>,
        map: NodeId,
        gate: NodeId,
    ) -> Result<NodeId, GraphError> {
        self.add(name, Op::Mul, &[map, gate])
    }
}

type Mismatch = (String, String);

fn infer(op: &Op, inputs: &[Shape]) -> Result<Shape, Mismatch> {
    let first = inputs.first().copied();
    match op {
        Op::Input => Err(("the one input that a graph starts with".into(), "another".into())),
        Op::Normalize { mean, std } => {
            let shape = map_of(first)?;
            let channels = shape.channels();
            if mean.len() != channels || std.len() != channels {
                let found = format!("{} means and {} deviations", mean.len(), std.len());
                return Err((format!("{channels} means and deviations, one per channel"), found));
            }
            match std.iter().find(|&&deviation| deviation.is_nan() || deviation <= 0.0) {
                Some(deviation) => Err(("positive deviations".into(), deviation.to_string())),
                None => Ok(shape),
            }
        }
        Op::Conv2d(conv) => convolved(conv, map_of(first)?),
        Op::MaxPool(pool) | Op::AvgPool(pool) => pooled(pool, map_of(first)?),
        Op::GlobalAvgPool => Ok(Shape::Map { channels: map_of(first)?.channels(), height: 1, width: 1 }),
        Op::Flatten => Ok(Shape::Flat(map_of(first)?.elements())),
        Op::Linear(linear) => match first {
            Some(Shape::Flat(_)) if linear.out_features > 0 => Ok(Shape::Flat(linear.out_features)),
            Some(Shape::Flat(_)) => Err(("at least one output".into(), "none".into())),
            other => Err(("a vector (flatten first)".into(), describe(other))),
        },
        Op::Dropout(p) | Op::StochasticDepth(p) if !(0.0..1.0).contains(p) => {
            Err(("a probability in 0..1".into(), p.to_string()))
        }
        Op::BatchNorm(_) | Op::Activation(_) | Op::Dropout(_) | Op::StochasticDepth(_) => {
            first.ok_or_else(|| ("an input".into(), "none".into()))
        }
        Op::Add if inputs[0] == inputs[1] => Ok(inputs[0]),
        Op::Add => Err(("two values of one shape".into(), format!("{} and {}", inputs[0], inputs[1]))),
        Op::Mul => {
            let gate = Shape::Map { channels: inputs[0].channels(), height: 1, width: 1 };
            let fits =
                inputs[0] == inputs[1] || (matches!(inputs[0], Shape::Map { .. }) && inputs[1] == gate);
            let found = || format!("{} and {}", inputs[0], inputs[1]);
            if fits {
                Ok(inputs[0])
            } else {
                Err(("one shape, or a map and its [c, 1, 1] gate".into(), found()))
            }
        }
    }
}

fn describe(shape: Option<Shape>) -> String {
    shape.map_or_else(|| "none".into(), |shape| shape.to_string())
}

fn map_of(shape: Option<Shape>) -> Result<Shape, Mismatch> {
    match shape {
        Some(shape @ Shape::Map { .. }) => Ok(shape),
        other => Err(("a map [channels, height, width]".into(), describe(other))),
    }
}

fn convolved(conv: &Conv2d, input: Shape) -> Result<Shape, Mismatch> {
    let (channels, out) = (input.channels(), conv.out_channels);
    if conv.groups == 0 || out == 0 || channels % conv.groups != 0 || out % conv.groups != 0 {
        let expected = format!("input and output channels that {} groups divide", conv.groups);
        return Err((expected, format!("{channels} and {out}")));
    }
    let [height, width] = windows(input, conv.kernel, conv.stride, conv.padding)?;
    Ok(Shape::Map { channels: out, height, width })
}

fn pooled(pool: &Pool2d, input: Shape) -> Result<Shape, Mismatch> {
    if (0..2).any(|axis| pool.padding[axis] * 2 > pool.kernel[axis]) {
        let expected = format!("padding of at most half the window {:?}", pool.kernel);
        return Err((expected, format!("{:?}", pool.padding)));
    }
    let [height, width] = windows(input, pool.kernel, pool.stride, pool.padding)?;
    Ok(Shape::Map { channels: input.channels(), height, width })
}

/// Rows and columns of window positions, rounded down as torch does.
fn windows(
    input: Shape,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> Result<[usize; 2], Mismatch> {
    let spatial = input.spatial();
    let mut out = [0; 2];
    for axis in 0..2 {
        let padded = spatial[axis] + 2 * padding[axis];
        if kernel[axis] == 0 || stride[axis] == 0 || padded < kernel[axis] {
            let expected =
                format!("a window {kernel:?} at stride {stride:?} that fits into the padded input");
            return Err((expected, format!("{input} padded by {padding:?}")));
        }
        out[axis] = (padded - kernel[axis]) / stride[axis] + 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv_then_linear() -> Graph {
        let mut graph = Graph::new(3, 8, 6);
        let conv =
            graph.conv2d("conv", graph.input(), Conv2d::new(4, 3).stride(2).padding(1).bias()).unwrap();
        let norm = graph.batch_norm("bn", conv, BatchNorm::default()).unwrap();
        let flat = graph.add("flatten", Op::Flatten, &[norm]).unwrap();
        let logits = graph.linear("fc", flat, Linear::new(5)).unwrap();
        graph.set_output("logits", logits);
        graph
    }

    #[test]
    fn shapes_follow_from_the_operations() {
        let graph = conv_then_linear();
        let shape = |name| graph.node(graph.find(name).unwrap()).shape;
        assert_eq!(shape("conv"), Shape::Map { channels: 4, height: 4, width: 3 });
        assert_eq!(shape("flatten"), Shape::Flat(48));
        assert_eq!(shape("fc"), Shape::Flat(5));
    }

    #[test]
    fn parameters_have_torch_names_and_shapes() {
        let parameters = conv_then_linear().parameters();
        let named: Vec<_> = parameters.iter().map(|p| (p.name.as_str(), p.shape.as_slice())).collect();
        assert_eq!(named[0], ("conv.weight", [4, 3, 3, 3].as_slice()));
        assert_eq!(named[1], ("conv.bias", [4].as_slice()));
        assert_eq!(named[2], ("bn.weight", [4].as_slice()));
        assert_eq!(named[5], ("bn.running_var", [4].as_slice()));
        assert_eq!(named[6], ("fc.weight", [5, 48].as_slice()));
        assert!(parameters.iter().filter(|p| p.role.decays()).all(|p| p.shape.len() > 1));
    }

    #[test]
    fn initial_spreads_are_torchs() {
        // torch.nn.init.kaiming_normal_(empty(8, 1, 3, 3), mode="fan_out"): fan_out = 8 * 9, whatever the groups.
        assert_eq!(Init::KaimingFanOut.weight(&[8, 1, 3, 3]), Distribution::Normal((2.0f64 / 72.0).sqrt()));
        assert_eq!(Init::TorchDefault.weight(&[10, 64]), Distribution::Uniform(0.125));
        assert_eq!(Init::TorchDefault.bias(&[10, 64]), Distribution::Uniform(0.125));
        assert_eq!(Init::GlorotNormal.weight(&[10, 190]), Distribution::Normal(0.1));
        assert_eq!(Init::KaimingFanOut.bias(&[8, 1, 3, 3]), Distribution::Uniform(0.0));
    }

    #[test]
    fn a_wrong_network_names_the_node_and_the_shapes() {
        let mut graph = Graph::new(3, 8, 8);
        let error = graph.conv2d("features.0", graph.input(), Conv2d::new(4, 11)).unwrap_err();
        assert!(
            error.to_string().contains("features.0") && error.to_string().contains("[3, 8, 8]"),
            "{error}"
        );
        let error = graph.linear("fc", graph.input(), Linear::new(4)).unwrap_err();
        assert!(error.to_string().contains("flatten first"), "{error}");
        let a = graph.conv2d("a", graph.input(), Conv2d::new(4, 1)).unwrap();
        let error = graph.sum("skip", a, graph.input()).unwrap_err();
        assert!(error.to_string().contains("[4, 8, 8] and [3, 8, 8]"), "{error}");
        assert!(graph.conv2d("a", graph.input(), Conv2d::new(4, 1)).is_err(), "a name was taken twice");
        assert!(
            graph.conv2d("g", graph.input(), Conv2d::new(4, 1).groups(3)).is_err(),
            "4 outputs in 3 groups"
        );
        assert!(graph.output("logits").unwrap_err().to_string().contains("no output `logits`"));
    }
}
