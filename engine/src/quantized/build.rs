//! From a quantized network's value to the steps that run it. What comes from a file is checked here: nothing is taken on
//! trust, and nothing panics.
//!
//! Never here: floats to bytes by ranges; that is the observer's.

use models::{
    Activation, Array, Graph, NodeId, Op, Quantization, QuantizedLayer, QuantizedNetwork, Role, Weights,
};

use super::points::{Maps, passes_on};
use super::{Shared, Work};
use crate::buffer::Buffer;
use crate::kernels::conv::{WeightOrder, unpack_weight};
use crate::kernels::int8::{Conv, Layer, Output, Table, activation_table};
use crate::kernels::norm::{After, Norm, Rows, normalize};
use crate::plan::fold::{Folding, Forms};
use crate::plan::{ConvStep, Kind, Place, Plan, Purpose, Step, ValueId, lower};
use crate::pool::Pool;
use crate::theta::{FlatOrders, Table as Segments};
use crate::{EngineError, Result};

/// Everything that clones of a quantized network share.
pub(super) fn build(graph: &Graph, network: &QuantizedNetwork, pool: &Pool) -> Result<Shared> {
    let orders = FlatOrders::of(graph);
    let segments = Segments::new(graph, &orders, WeightOrder::Blocked);
    let folding = Folding::new(graph, &segments, Forms::Plain);
    let frozen = vec![false; graph.nodes().len()];
    let want = [graph.output("logits")?];
    let plan = lower(graph, &segments, &orders, &Purpose::answering(1, &folding, &frozen, &want));
    check_plan(graph, &plan)?;
    check_network(graph, &plan, network)?;
    let (theta, folded) = vectors(graph, &segments, &folding, network, pool);
    let quantizations = vec![Quantization { scale: 1.0, zero_point: 0 }; plan.values()];
    let mut builder = Builder {
        pool,
        graph,
        plan: &plan,
        segments: &segments,
        network,
        theta: &theta,
        folded: &folded,
        quantizations,
        steps: Vec::new(),
    };
    for step in &plan.steps {
        builder.add(step)?;
    }
    let Builder { quantizations, steps, .. } = builder;
    let picture = graph.input_shape().elements();
    Ok(Shared { plan, steps, quantizations, picture })
}

/// Whether every step has a kernel over bytes.
pub(super) fn check_plan(graph: &Graph, plan: &Plan) -> Result<()> {
    if plan.outputs.iter().any(|output| output.order.is_some()) {
        return Err(refusal("the logits are a map whose order differs from the engine's".into()));
    }
    let outputs: Vec<ValueId> = plan.outputs.iter().map(|output| output.value).collect();
    for step in &plan.steps {
        let missing = match &step.kind {
            Kind::Conv(conv) if conv.shape.is_depthwise() && conv.residual.is_some() => {
                Some("a depthwise convolution with a residual has no kernel over bytes")
            }
            Kind::Conv(conv) if conv.shape.is_depthwise() && outputs.contains(&conv.y) => {
                Some("a depthwise convolution as the answer has no kernel over bytes")
            }
            Kind::Folded { residual: Some(_), .. }
            | Kind::Affine { .. }
            | Kind::Norm(_)
            | Kind::Dropout { .. }
            | Kind::Depth { .. }
            | Kind::Transpose { .. } => Some("it has no kernel over bytes"),
            _ => None,
        };
        if let Some(reason) = missing {
            return Err(refusal(format!("step `{}`: {reason}", graph.node(step.last()).name)));
        }
    }
    Ok(())
}

fn refusal(reason: String) -> EngineError {
    EngineError::Quantization { reason }
}

/// Whether the value has what the plan needs, in the right shapes.
fn check_network(graph: &Graph, plan: &Plan, network: &QuantizedNetwork) -> Result<()> {
    for parameter in graph.parameters() {
        let read = |kind: fn(&Kind) -> bool| {
            plan.steps.iter().any(|step| kind(&step.kind) && step.nodes[0] == parameter.node)
        };
        let node = &graph.node(parameter.node).name;
        if parameter.role == Role::Weight && read(|kind| matches!(kind, Kind::Conv(_))) {
            let layer = network
                .layers
                .get(node)
                .ok_or_else(|| refusal(format!("layer `{node}`: expected its weights, found none")))?;
            check_layer(node, &parameter.shape, layer)?;
        }
        if read(|kind| matches!(kind, Kind::Folded { .. })) {
            check_norm(&parameter.name, &parameter.shape, network.norms.get(&parameter.name))?;
        }
    }
    let wrong = network.maps.iter().find(|(_, map)| !map.scale.is_finite() || map.scale <= 0.0);
    match wrong {
        Some((name, map)) => {
            Err(refusal(format!("map `{name}`: expected a scale above zero, found {}", map.scale)))
        }
        None => Ok(()),
    }
}

fn check_layer(node: &str, shape: &[usize], layer: &QuantizedLayer) -> Result<()> {
    let outputs = shape[0];
    let expected = |what: &str, expected: String, found: String| {
        Err(refusal(format!("layer `{node}`: expected {expected} {what}, found {found}")))
    };
    if layer.shape != shape || layer.weight.len() != shape.iter().product::<usize>() {
        return expected("weights", format!("{shape:?}"), format!("{:?}", layer.shape));
    }
    if layer.scales.len() != outputs || layer.bias.len() != outputs {
        let found = format!("{} and {}", layer.scales.len(), layer.bias.len());
        return expected("scales and biases", outputs.to_string(), found);
    }
    match layer.scales.iter().find(|scale| !scale.is_finite() || **scale <= 0.0) {
        Some(scale) => expected("above zero", "scales".into(), scale.to_string()),
        None => Ok(()),
    }
}

fn check_norm(name: &str, shape: &[usize], array: Option<&Array>) -> Result<()> {
    match array {
        Some(array) if array.shape == shape => Ok(()),
        found => {
            let found = found.map_or("none".into(), |array| format!("{:?}", array.shape));
            Err(refusal(format!("array `{name}`: expected {shape:?}, found {found}")))
        }
    }
}

/// Theta with the whole numbers of all layers, and the folded vector for the sake of the batch norms in it.
fn vectors(
    graph: &Graph,
    segments: &Segments,
    folding: &Folding,
    network: &QuantizedNetwork,
    pool: &Pool,
) -> (Buffer, Buffer) {
    let (mut theta, mut statistics) =
        (Buffer::zeros(segments.theta_length), Buffer::zeros(segments.statistics_length));
    segments.pack(&network.norms, &mut theta, &mut statistics);
    let folded = folding.fold(pool, graph, segments, &theta, &statistics);
    let known: Vec<String> = graph.parameters().into_iter().map(|parameter| parameter.name).collect();
    let whole = |(name, layer): (&String, &QuantizedLayer)| {
        let weight = layer.weight.iter().map(|&weight| f32::from(weight)).collect();
        (format!("{name}.weight"), Array::new(layer.shape.clone(), weight))
    };
    let needed = network.layers.iter().filter(|(name, layer)| {
        known.contains(&format!("{name}.weight"))
            && layer.weight.len() == layer.shape.iter().product::<usize>()
    });
    let weights: Weights = needed.map(whole).collect();
    segments.pack(&weights, &mut theta, &mut statistics);
    (theta, folded)
}

/// Makes the steps in order, and with them the quantization of every value.
struct Builder<'a> {
    pool: &'a Pool,
    graph: &'a Graph,
    plan: &'a Plan,
    segments: &'a Segments,
    network: &'a QuantizedNetwork,
    theta: &'a [f32],
    folded: &'a [f32],
    quantizations: Vec<Quantization>,
    steps: Vec<(Work, ValueId)>,
}

/// The quantizations of a step's stages.
struct Stages {
    branch: Option<Quantization>,
    before: Option<Quantization>,
    /// Anything for a layer that answers in real numbers.
    after: Quantization,
}

impl Stages {
    /// What becomes of sums with this activation.
    fn output(&self, activation: Option<Activation>) -> Output {
        let output = match (activation, self.before) {
            (Some(activation), Some(before)) => {
                Output::new(before).then(activation_table(before, activation, self.after))
            }
            (Some(activation), None) => {
                Output::clamped(self.after, activation).unwrap_or_else(|| Output::new(self.after))
            }
            (None, _) => Output::new(self.after),
        };
        match self.branch {
            Some(branch) => output.of_branch(branch),
            None => output,
        }
    }
}

impl Builder<'_> {
    fn add(&mut self, step: &Step) -> Result<()> {
        let maps = Maps::of(self.graph, self.plan, step);
        let Some(after) = maps.after else { return self.answer(step) };
        let stages = Stages {
            branch: maps.branch.map(|node| self.map(node)).transpose()?,
            before: maps.before.map(|node| self.map(node)).transpose()?,
            after: self.map(after)?,
        };
        if let Some(value) = passes_on(&step.kind).filter(|&value| self.of(value) != stages.after) {
            let (name, from) = (&self.graph.node(after).name, self.of(value));
            let found = stages.after;
            return Err(refusal(format!(
                "map `{name}`: expected {from:?} as of the map it reads, found {found:?}"
            )));
        }
        let work = self.work(step, &stages)?;
        let y = step.kind.result();
        self.quantizations[y.index()] = stages.after;
        self.steps.push((work, y));
        Ok(())
    }

    fn work(&self, step: &Step, stages: &Stages) -> Result<Work> {
        let after = stages.after;
        Ok(match &step.kind {
            Kind::Input { scale, .. } => self.picture(step.last(), scale.len(), after),
            Kind::Conv(conv) => Work::Conv {
                conv: Box::new(self.packed(step.nodes[0], conv, stages.output(conv.activation))?),
                x: conv.x,
                residual: conv.residual,
            },
            Kind::Activation { x, activation, .. } => {
                Work::Map { x: *x, table: Box::new(activation_table(self.of(*x), *activation, after)) }
            }
            Kind::Folded { norm, x, saved, activation, .. } => Work::Channels {
                x: *x,
                tables: self.norm_tables(norm.rows.channels, *saved, *activation, [self.of(*x), after]),
            },
            Kind::MaxPool { shape, x, .. } => Work::MaxPool { shape: *shape, x: *x },
            Kind::AvgPool { shape, x, .. } => {
                Work::AvgPool { shape: *shape, x: *x, output: Output::new(after) }
            }
            Kind::GlobalAvgPool { rows, x, .. } => {
                Work::Mean { channels: rows.channels, x: *x, output: Output::new(after) }
            }
            Kind::Gate { rows, x, gate, .. } => Work::Product {
                sizes: [rows.positions, rows.channels],
                factors: [*x, *gate],
                output: Output::new(after),
            },
            Kind::Product { a, b, y } => Work::Product {
                sizes: [1, self.plan.place(*y).len],
                factors: [*a, *b],
                output: Output::new(after),
            },
            Kind::Sum { a, b, activation, .. } => {
                Work::Sum { terms: [*a, *b], output: stages.output(*activation) }
            }
            Kind::Affine { .. }
            | Kind::Norm(_)
            | Kind::Dropout { .. }
            | Kind::Depth { .. }
            | Kind::Transpose { .. } => {
                let name = &self.graph.node(step.last()).name;
                return Err(refusal(format!("step `{name}`: it has no kernel over bytes")));
            }
        })
    }

    fn answer(&mut self, step: &Step) -> Result<()> {
        let Kind::Conv(conv) = &step.kind else { return Ok(()) };
        let output = Output::new(Quantization { scale: 1.0, zero_point: 0 });
        let packed = Box::new(self.packed(step.nodes[0], conv, output)?);
        self.steps.push((Work::Answer { conv: packed, x: conv.x }, conv.y));
        Ok(())
    }

    fn map(&self, node: NodeId) -> Result<Quantization> {
        let name = &self.graph.node(node).name;
        let found = self.network.maps.get(name).copied();
        found.ok_or_else(|| refusal(format!("map `{name}`: expected its scale and zero point, found none")))
    }

    fn of(&self, value: ValueId) -> Quantization {
        self.quantizations[value.index()]
    }

    /// Pixels to bytes of the normalized picture, computed as the graph has it: `(x / 255 - mean) / std`.
    fn picture(&self, node: NodeId, channels: usize, y: Quantization) -> Work {
        let (mean, std) = match &self.graph.node(node).op {
            Op::Normalize { mean, std } => (mean.clone(), std.clone()),
            _ => (vec![0.0; channels], vec![1.0; channels]),
        };
        let entry =
            |channel: usize, pixel: usize| y.quantize((pixel as f32 / 255.0 - mean[channel]) / std[channel]);
        let tables =
            (0..channels).map(|channel| std::array::from_fn(|pixel| entry(channel, pixel))).collect();
        Work::Picture { tables, mean, std }
    }

    /// A normalization with its activation, computed for every byte of every channel.
    fn norm_tables(
        &self,
        channels: usize,
        saved: Place,
        activation: Option<Activation>,
        [x, y]: [Quantization; 2],
    ) -> Vec<Table> {
        let norm = Norm { rows: Rows { samples: 1, positions: 256, channels }, by_sample: false };
        let z: Vec<f32> = (0..256 * channels).map(|index| x.dequantize((index / channels) as u8)).collect();
        let mut values = vec![0.0; z.len()];
        let after = After { factors: None, residual: None, activation };
        normalize(self.pool, &norm, &z, saved.of(self.folded), &after, &mut values);
        let entry = |channel: usize, byte: usize| y.quantize(values[byte * channels + channel]);
        (0..channels).map(|channel| std::array::from_fn(|byte| entry(channel, byte))).collect()
    }

    fn packed(&self, node: NodeId, conv: &ConvStep, output: Output) -> Result<Conv> {
        let name = &self.graph.node(node).name;
        let segment = self.segments.index_of(node, Role::Weight).map(|index| &self.segments.segments[index]);
        let (Some(layer), Some(segment)) = (self.network.layers.get(name), segment) else {
            return Err(refusal(format!("layer `{name}`: expected its weights, found none")));
        };
        let mut floats = vec![0.0; layer.weight.len()];
        unpack_weight(
            &conv.shape,
            WeightOrder::Blocked,
            &self.theta[segment.offset..][..segment.length],
            &mut floats,
        );
        let weight: Vec<i8> = floats.into_iter().map(|weight| weight as i8).collect();
        let numbers =
            Layer { x: self.of(conv.x), weight: &weight, weight_scales: &layer.scales, bias: &layer.bias };
        Conv::new(&conv.shape, &numbers, output).map_err(|error| refusal(format!("layer `{name}`: {error}")))
    }
}

/// Activations that need a table have a map before them; [`Maps::of`] and [`Stages::output`] agree on which.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantized::points::needs_table;

    #[test]
    fn an_activation_without_a_table_is_a_range_of_bytes() {
        let map = Quantization { scale: 0.1, zero_point: 3 };
        for activation in [Activation::Relu, Activation::Relu6] {
            assert!(!needs_table(activation) && Output::clamped(map, activation).is_some());
        }
        for activation in [Activation::HardSwish, Activation::LeakyRelu(0.1), Activation::Sigmoid] {
            assert!(needs_table(activation) && Output::clamped(map, activation).is_none());
        }
    }
}
