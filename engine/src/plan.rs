//! A graph lowered for one batch size and purpose: fused steps in order, their backward in reverse, and where every
//! value lies in one arena that is reused by lifetime.
//!
//! A plan holds no numbers but constants of the graph. Never here: arithmetic, or a network's parameters.

pub(crate) mod fold;
pub(crate) mod load;
mod lower;
mod memory;

use models::{Activation, NodeId};

pub(crate) use lower::{Purpose, conv_shape, lower, norm_slope_value};

use crate::kernels::conv::{ConvShape, Form};
use crate::kernels::norm::{Norm, Rows};
use crate::kernels::pooling::PoolShape;
use crate::theta::MapOrder;

/// A value of a plan: an activation, a gradient, or working memory of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueId(usize);

impl ValueId {
    /// Its number in the plan.
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// Number format of maps and of their gradients. Parameters, their gradients, moments, statistics, and what a network
/// takes and answers are f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    #[default]
    F32,
    Bf16,
}

impl Format {
    /// Bytes of a number.
    #[cfg_attr(not(feature = "cuda-core"), allow(dead_code))]
    pub(crate) fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 => 2,
        }
    }
}

/// Floats at a place of a vector: of theta, the statistics, or the folded weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub offset: usize,
    pub len: usize,
}

impl Place {
    /// The floats at this place of `vector`.
    pub(crate) fn of(self, vector: &[f32]) -> &[f32] {
        &vector[self.offset..self.offset + self.len]
    }

    /// The same, to write.
    pub(crate) fn of_mut(self, vector: &mut [f32]) -> &mut [f32] {
        &mut vector[self.offset..self.offset + self.len]
    }
}

/// A parameter that a step reads: its place, and its segment in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParameterRef {
    pub place: Place,
    pub segment: usize,
}

/// Convolution or linear layer.
#[derive(Clone, Debug)]
pub(crate) struct ConvStep {
    pub shape: ConvShape,
    pub x: ValueId,
    pub y: ValueId,
    /// In theta, or in the folded weights.
    pub weight: ParameterRef,
    /// How the weight lies there.
    pub form: Form,
    pub bias: Option<ParameterRef>,
    pub residual: Option<ValueId>,
    pub activation: Option<Activation>,
}

/// Batch norm with what is fused behind it.
#[derive(Clone, Debug)]
pub(crate) struct NormStep {
    pub norm: Norm,
    pub z: ValueId,
    pub y: ValueId,
    pub residual: Option<ValueId>,
    pub activation: Option<Activation>,
    pub depth: Option<Depth>,
    /// Whether the batch's statistics are used, rather than the running ones.
    pub batch: bool,
    pub eps: f32,
    pub momentum: f32,
    pub scale: ParameterRef,
    pub shift: ParameterRef,
    /// In the statistics.
    pub running: [Place; 2],
    pub saved: ValueId,
    pub work: ValueId,
}

/// Stochastic depth: its probability, the node that names its draws, and the factors drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depth {
    pub p: f32,
    pub node: NodeId,
    pub factors: ValueId,
}

/// A fused operation. Names are those of its forward.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Pictures to floats, normalized; `bytes` holds the result for every byte and channel.
    Input {
        y: ValueId,
        scale: Vec<f32>,
        shift: Vec<f32>,
        bytes: Vec<f32>,
    },
    /// A normalization that is not at the input.
    Affine {
        x: ValueId,
        y: ValueId,
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Conv(ConvStep),
    Norm(NormStep),
    /// Batch norm in inference that no convolution took: its tables lie in the folded weights.
    Folded {
        norm: Norm,
        x: ValueId,
        y: ValueId,
        saved: Place,
        residual: Option<ValueId>,
        activation: Option<Activation>,
    },
    Activation {
        x: ValueId,
        y: ValueId,
        activation: Activation,
    },
    MaxPool {
        shape: PoolShape,
        x: ValueId,
        y: ValueId,
        taps: Option<ValueId>,
    },
    AvgPool {
        shape: PoolShape,
        x: ValueId,
        y: ValueId,
    },
    GlobalAvgPool {
        rows: Rows,
        x: ValueId,
        y: ValueId,
    },
    Gate {
        rows: Rows,
        x: ValueId,
        gate: ValueId,
        y: ValueId,
    },
    Product {
        a: ValueId,
        b: ValueId,
        y: ValueId,
    },
    Sum {
        a: ValueId,
        b: ValueId,
        y: ValueId,
        activation: Option<Activation>,
    },
    Dropout {
        x: ValueId,
        y: ValueId,
        p: f32,
        node: NodeId,
    },
    Depth {
        x: ValueId,
        y: ValueId,
        depth: Depth,
    },
    Transpose {
        x: ValueId,
        y: ValueId,
        order: MapOrder,
    },
}

impl Kind {
    /// For timings.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Kind::Input { .. } => "input",
            Kind::Affine { .. } => "affine",
            Kind::Conv(step) if step.shape.is_depthwise() => "depthwise",
            Kind::Conv(step) if step.shape.kernel == [1, 1] => "conv 1x1",
            Kind::Conv(_) => "conv",
            Kind::Norm(_) | Kind::Folded { .. } => "norm",
            Kind::Activation { .. } => "activation",
            Kind::MaxPool { .. } => "max pool",
            Kind::AvgPool { .. } => "average pool",
            Kind::GlobalAvgPool { .. } => "global pool",
            Kind::Gate { .. } => "gate",
            Kind::Product { .. } => "product",
            Kind::Sum { .. } => "sum",
            Kind::Dropout { .. } => "dropout",
            Kind::Depth { .. } => "stochastic depth",
            Kind::Transpose { .. } => "transpose",
        }
    }

    /// What forward makes.
    pub(crate) fn result(&self) -> ValueId {
        match self {
            Kind::Conv(step) => step.y,
            Kind::Norm(step) => step.y,
            Kind::Input { y, .. }
            | Kind::Affine { y, .. }
            | Kind::Folded { y, .. }
            | Kind::Activation { y, .. }
            | Kind::MaxPool { y, .. }
            | Kind::AvgPool { y, .. }
            | Kind::GlobalAvgPool { y, .. }
            | Kind::Gate { y, .. }
            | Kind::Product { y, .. }
            | Kind::Sum { y, .. }
            | Kind::Dropout { y, .. }
            | Kind::Depth { y, .. }
            | Kind::Transpose { y, .. } => *y,
        }
    }

    /// Values that carry gradient back: first and second.
    pub(crate) fn inputs(&self) -> [Option<ValueId>; 2] {
        match self {
            Kind::Input { .. } => [None, None],
            Kind::Conv(step) => [Some(step.x), step.residual],
            Kind::Norm(step) => [Some(step.z), step.residual],
            Kind::Folded { x, residual, .. } => [Some(*x), *residual],
            Kind::Gate { x, gate, .. } => [Some(*x), Some(*gate)],
            Kind::Product { a, b, .. } | Kind::Sum { a, b, .. } => [Some(*a), Some(*b)],
            Kind::Affine { x, .. }
            | Kind::Activation { x, .. }
            | Kind::MaxPool { x, .. }
            | Kind::AvgPool { x, .. }
            | Kind::GlobalAvgPool { x, .. }
            | Kind::Dropout { x, .. }
            | Kind::Depth { x, .. }
            | Kind::Transpose { x, .. } => [Some(*x), None],
        }
    }
}

/// A step with the nodes that are fused into it.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub kind: Kind,
    /// In order, at least one.
    pub nodes: Vec<NodeId>,
}

impl Step {
    /// The node that its result belongs to.
    pub(crate) fn last(&self) -> NodeId {
        self.nodes[self.nodes.len() - 1]
    }
}

/// A gradient that a backward step writes, or adds to if an earlier one has written it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GradientRef {
    pub value: ValueId,
    pub add: bool,
}

/// Backward of a step.
#[derive(Clone, Debug)]
pub(crate) struct BackwardStep {
    /// Index of its forward.
    pub step: usize,
    /// Gradient of the result; the step may overwrite it.
    pub dy: ValueId,
    /// Gradients of the inputs that need one.
    pub dx: [Option<GradientRef>; 2],
    /// Whether its own parameters need one.
    pub parameters: bool,
    pub work: Option<ValueId>,
}

/// An output's segment of the result.
#[derive(Clone, Debug)]
pub(crate) struct OutputRef {
    pub node: NodeId,
    pub value: ValueId,
    /// First float in the joint result.
    pub start: usize,
    pub len: usize,
    /// How the value lies in memory, if not in torch's order.
    pub order: Option<MapOrder>,
    /// Where its gradient starts.
    pub gradient: Option<GradientRef>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub batch: usize,
    pub steps: Vec<Step>,
    /// In the order of execution.
    pub backward: Vec<BackwardStep>,
    pub outputs: Vec<OutputRef>,
    /// Floats of all outputs together.
    pub output_len: usize,
    /// Floats of the arena; a map in bf16 takes half a float for each of its numbers.
    pub arena_len: usize,
    /// Of maps and their gradients.
    #[cfg_attr(not(feature = "cuda-core"), allow(dead_code))]
    pub maps: Format,
    /// Whether backward reaches the images.
    pub image_gradient: bool,
    places: Vec<Place>,
}

impl Plan {
    /// How many values there are.
    pub(crate) fn values(&self) -> usize {
        self.places.len()
    }

    /// Segments of the parameters that backward reaches.
    #[cfg_attr(not(feature = "cuda-core"), allow(dead_code))]
    pub(crate) fn trained(&self) -> impl Iterator<Item = usize> {
        let steps = self.backward.iter().filter(|step| step.parameters).map(|step| &self.steps[step.step]);
        steps
            .flat_map(|step| match &step.kind {
                Kind::Conv(conv) => [Some(conv.weight.segment), conv.bias.map(|bias| bias.segment)],
                Kind::Norm(norm) => [Some(norm.scale.segment), Some(norm.shift.segment)],
                _ => [None, None],
            })
            .flatten()
    }

    /// Where a value lies in the arena: its first float, and how many numbers it holds.
    pub(crate) fn place(&self, value: ValueId) -> Place {
        self.places[value.0]
    }
}
