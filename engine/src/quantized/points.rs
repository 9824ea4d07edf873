//! Which maps of a network are bytes, and under which names: those between the steps of its plan, and within a step what
//! a residual is added to and what an activation reads that needs a table.
//!
//! Observer and builder both ask here, so what is calibrated is what is run. Never here: numbers.

use models::{Activation, Graph, NodeId, Op};

use crate::plan::{Kind, Plan, Step, ValueId};
use crate::run::Stage;

/// The nodes whose maps a step makes, by stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Maps {
    /// What a residual is added to.
    pub branch: Option<NodeId>,
    /// What a table reads.
    pub before: Option<NodeId>,
    /// The result; `None` of a layer that answers in real numbers.
    pub after: Option<NodeId>,
}

impl Maps {
    /// The maps of a step of `plan`.
    pub(crate) fn of(graph: &Graph, plan: &Plan, step: &Step) -> Self {
        let acts = |node: &&NodeId| !matches!(graph.node(**node).op, Op::Dropout(_) | Op::StochasticDepth(_));
        let nodes: Vec<NodeId> = step.nodes.iter().filter(acts).copied().collect();
        let before_last = |skip: usize| nodes.len().checked_sub(skip + 1).map(|index| nodes[index]);
        let (residual, activation) = match &step.kind {
            Kind::Conv(conv) => (conv.residual.is_some(), conv.activation),
            Kind::Sum { activation, .. } => (false, *activation),
            _ => (false, None),
        };
        let active = usize::from(activation.is_some());
        Self {
            branch: if residual { before_last(active + 1) } else { None },
            before: activation.filter(|&activation| needs_table(activation)).and_then(|_| before_last(1)),
            after: if answers(plan, &step.kind) { None } else { before_last(0) },
        }
    }

    /// Those there are, in the order of the stages.
    pub(crate) fn stages(self) -> impl Iterator<Item = (Stage, NodeId)> {
        let stages = [(Stage::Branch, self.branch), (Stage::Before, self.before), (Stage::After, self.after)];
        stages.into_iter().filter_map(|(stage, node)| Some((stage, node?)))
    }
}

/// Whether an activation is more than a range of bytes.
pub(crate) fn needs_table(activation: Activation) -> bool {
    !matches!(activation, Activation::Relu | Activation::Relu6)
}

/// Whether a step is the last layer, which answers in real numbers.
pub(crate) fn answers(plan: &Plan, kind: &Kind) -> bool {
    let Kind::Conv(conv) = kind else { return false };
    let plain = conv.activation.is_none() && conv.residual.is_none() && !conv.shape.is_depthwise();
    plain && plan.outputs.iter().any(|output| output.value == conv.y)
}

/// The value whose bytes a step passes on as they are.
pub(crate) fn passes_on(kind: &Kind) -> Option<ValueId> {
    match kind {
        Kind::MaxPool { x, .. } => Some(*x),
        _ => None,
    }
}
