//! Weights for inference: every convolution's with the batch norm behind it folded in, in the form that its kernel reads
//! fastest, in one vector.

use models::{Graph, NodeId, Op, Role};

use super::{Place, conv_shape};
use crate::buffer::{Buffer, rounded};
use crate::kernels::conv::{Form, WeightFormat};
use crate::kernels::norm::{Affine, Norm, Rows, prepare};
use crate::pool::Pool;
use crate::theta::Table;

/// One node's share of the folded vector.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share {
    /// A convolution's or linear layer's weight and bias; `norm` is folded in.
    Conv { weight: Place, form: Form, bias: Option<Place>, norm: Option<NodeId> },
    /// A batch norm that no convolution took.
    Norm { saved: Place },
    /// A batch norm that is folded into the convolution before it.
    Taken,
}

/// How the weights of convolutions lie in the folded vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forms {
    /// As in theta: soon to be folded anew.
    Plain,
    /// Prepared for many runs.
    Fastest(WeightFormat),
}

impl Forms {
    fn format(self) -> WeightFormat {
        match self {
            Forms::Plain => WeightFormat::F32,
            Forms::Fastest(format) => format,
        }
    }
}

/// Where everything lies in the folded vector.
#[derive(Clone, Debug)]
pub(crate) struct Folding {
    shares: Vec<Option<Share>>,
    forms: Forms,
    /// Floats of the vector.
    pub len: usize,
}

impl Folding {
    /// Lays out the folded weights of `graph`. What is folded does not depend on which outputs a run wants.
    pub(crate) fn new(graph: &Graph, table: &Table, forms: Forms) -> Self {
        let mut folding = Self { shares: vec![None; graph.nodes().len()], forms, len: 0 };
        for (id, node) in graph.iter() {
            match &node.op {
                Op::Conv2d(_) | Op::Linear(_) => folding.add_conv(graph, table, id),
                Op::BatchNorm(_) if folding.shares[id.index()].is_none() => {
                    let norm = channels_norm(node.shape.channels());
                    let saved = folding.place(norm.saved_len());
                    folding.shares[id.index()] = Some(Share::Norm { saved });
                }
                _ => {}
            }
        }
        folding
    }

    fn add_conv(&mut self, graph: &Graph, table: &Table, id: NodeId) {
        let norm = following_norm(graph, id);
        let shape = conv_shape(graph, id, 1);
        let form = match self.forms {
            Forms::Plain => Form::Plain,
            Forms::Fastest(format) => Form::of(&shape, format),
        };
        let weight = self.place(form.len(&shape));
        let has_bias = norm.is_some() || table.index_of(id, Role::Bias).is_some();
        let bias = has_bias.then(|| self.place(graph.node(id).shape.channels()));
        self.shares[id.index()] = Some(Share::Conv { weight, form, bias, norm });
        if let Some(norm) = norm {
            self.shares[norm.index()] = Some(Share::Taken);
        }
    }

    fn place(&mut self, len: usize) -> Place {
        let place = Place { offset: self.len, len };
        self.len += rounded(len);
        place
    }

    /// A node's share.
    pub(crate) fn share(&self, node: NodeId) -> Option<Share> {
        self.shares[node.index()]
    }

    /// Computes the folded weights.
    pub(crate) fn fold(
        &self,
        pool: &Pool,
        graph: &Graph,
        table: &Table,
        theta: &[f32],
        statistics: &[f32],
    ) -> Buffer {
        let mut folded = Buffer::zeros(self.len);
        let sources = Sources { graph, table, theta, statistics };
        for (id, _) in graph.iter() {
            match self.share(id) {
                Some(Share::Conv { weight, form, bias, norm }) => {
                    if let Some(mut packed) = sources.folded_weight(id, norm) {
                        let format = self.forms.format();
                        packed.iter_mut().for_each(|value| *value = format.round(*value));
                        form.store(pool, &conv_shape(graph, id, 1), &packed, weight.of_mut(&mut folded));
                    }
                    if let Some(bias) = bias {
                        sources.fold_bias(id, norm, bias.of_mut(&mut folded));
                    }
                }
                Some(Share::Norm { saved }) => {
                    let norm = channels_norm(graph.node(id).shape.channels());
                    prepare(&norm, &sources.affine(id), saved.of_mut(&mut folded));
                }
                Some(Share::Taken) | None => {}
            }
        }
        folded
    }
}

/// The tables of a normalization depend on the channels alone.
fn channels_norm(channels: usize) -> Norm {
    Norm { rows: Rows { samples: 1, positions: 1, channels }, by_sample: false }
}

/// The batch norm that alone reads this convolution, if the convolution itself is no output.
fn following_norm(graph: &Graph, conv: NodeId) -> Option<NodeId> {
    if graph.outputs().values().any(|&output| output == conv) {
        return None;
    }
    let mut readers = graph.iter().filter(|(_, node)| node.inputs.contains(&conv));
    let (id, node) = readers.next()?;
    (matches!(node.op, Op::BatchNorm(_)) && readers.next().is_none()).then_some(id)
}

struct Sources<'a> {
    graph: &'a Graph,
    table: &'a Table,
    theta: &'a [f32],
    statistics: &'a [f32],
}

impl<'a> Sources<'a> {
    fn array(&self, node: NodeId, role: Role) -> Option<&'a [f32]> {
        let segment = &self.table.segments[self.table.index_of(node, role)?];
        let vector = if role.trainable() { self.theta } else { self.statistics };
        Some(&vector[segment.offset..segment.offset + segment.length])
    }

    fn affine(&self, norm: NodeId) -> Affine<'a> {
        let eps = match &self.graph.node(norm).op {
            Op::BatchNorm(norm) => norm.eps,
            _ => 0.0,
        };
        let array = |role| self.array(norm, role).unwrap_or_default();
        Affine {
            mean: array(Role::RunningMean),
            variance: array(Role::RunningVar),
            eps,
            scale: array(Role::Scale),
            shift: array(Role::Shift),
        }
    }

    /// A convolution's weight times the slope of its norm, in the engine's layout.
    fn folded_weight(&self, conv: NodeId, norm: Option<NodeId>) -> Option<Vec<f32>> {
        let segment = &self.table.segments[self.table.index_of(conv, Role::Weight)?];
        let mut weight = self.theta[segment.offset..][..segment.length].to_vec();
        if let Some(affine) = norm.map(|norm| self.affine(norm)) {
            let factors: Vec<f32> = (0..affine.scale.len()).map(|channel| slope(&affine, channel)).collect();
            segment.layout.scale_outputs(&mut weight, &factors);
        }
        Some(weight)
    }

    fn fold_bias(&self, conv: NodeId, norm: Option<NodeId>, to: &mut [f32]) {
        let own = self.array(conv, Role::Bias);
        let affine = norm.map(|norm| self.affine(norm));
        for (channel, to) in to.iter_mut().enumerate() {
            let own = own.map_or(0.0, |bias| bias[channel]);
            *to = affine.as_ref().map_or(own, |affine| {
                (own - affine.mean[channel]) * slope(affine, channel) + affine.shift[channel]
            });
        }
    }
}

fn slope(affine: &Affine<'_>, channel: usize) -> f32 {
    let variance = f64::from(affine.variance[channel]) + f64::from(affine.eps);
    (f64::from(affine.scale[channel]) / variance.sqrt()) as f32
}
