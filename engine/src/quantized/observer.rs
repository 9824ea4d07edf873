//! Looks at a float network the way a quantized one will run it: shows the maps that become bytes, and makes whole numbers
//! of its weights once their ranges are known.
//!
//! Never here: the choice of a range.

use std::collections::{BTreeMap, HashMap};

use models::{
    Activation, Granularity, Graph, NodeId, Op, Quantization, QuantizedLayer, QuantizedNetwork, Weights,
};

use super::points::{Maps, passes_on};
use crate::buffer::Buffer;
use crate::plan::{ConvStep, Kind, Plan, Step};
use crate::random::Stream;
use crate::run::{Run, Stage, observe};
use crate::{EngineError, Images, Model, Result, Runtime};

/// Largest bias in units of the sums; a channel of hardly any weight could ask for more than i32 holds.
const LARGEST_BIAS: f32 = 1e6;

/// A map that becomes bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Name of the node that makes it.
    pub name: String,
    /// Least and largest value, where they are known without pictures: the normalized picture itself.
    pub known: Option<[f32; 2]>,
    /// Another point whose bytes it has: a range is of no use here.
    pub like: Option<usize>,
    /// Channels of the map, its innermost dimension where it is shown.
    pub channels: usize,
    /// Least and largest value that the activation behind it tells apart.
    bounds: [f32; 2],
}

impl Point {
    /// The quantization of the range `[low, high]`, without what the activation behind it does not tell apart.
    pub fn quantization(&self, [low, high]: [f32; 2]) -> Quantization {
        Quantization::of_range(low.max(self.bounds[0]), high.min(self.bounds[1]))
    }
}

/// The numbers that an activation tells apart, or hardly.
fn bounds(activation: Activation) -> [f32; 2] {
    match activation {
        Activation::HardSwish => [-3.0, f32::MAX],
        Activation::HardSigmoid => [-3.0, 3.0],
        Activation::Silu => [-10.0, f32::MAX],
        Activation::Sigmoid => [-10.0, 10.0],
        Activation::Relu | Activation::Relu6 | Activation::LeakyRelu(_) => [f32::MIN, f32::MAX],
    }
}

/// A convolution or linear layer with batch norm folded in.
#[derive(Clone, Debug)]
struct FloatLayer {
    name: String,
    shape: Vec<usize>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// The point that it reads.
    x: usize,
}

/// A float network under observation.
///
/// ```
/// use engine::{Device, Images, Observer, Quantized, Runtime};
/// use models::{Granularity, Task, formula, zoo};
///
/// let graph = zoo::build("small-cnn-3", &Task::new(10, 3, 32))?;
/// let runtime = Runtime::new(Device::Cpu, 1)?;
/// let mut observer = Observer::new(&graph, &formula::weights(&graph, 1.0), &runtime)?;
/// let mut ranges = vec![[0.0_f32; 2]; observer.points().len()];
/// observer.observe(Images::U8(&formula::picture(0, 3, 32, 32)), &mut |point, values| {
///     let [low, high] = &mut ranges[point];
///     *low = values.iter().copied().fold(*low, f32::min);
///     *high = values.iter().copied().fold(*high, f32::max);
/// })?;
/// let network = observer.quantize(&ranges, Granularity::PerChannel)?;
/// let quantized = Quantized::of(&graph, &network, &runtime)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Observer {
    model: Model,
    runtime: Runtime,
    points: Vec<Point>,
    /// By step: the points of its stages.
    of_step: Vec<Vec<(Stage, usize)>>,
    layers: Vec<FloatLayer>,
    norms: Weights,
}

impl Observer {
    /// Folds and plans `graph` for its `logits`.
    ///
    /// # Errors
    /// [`EngineError::Weights`] as for [`Model::new`], [`EngineError::Quantization`] if the network has a step without a
    /// kernel over bytes.
    pub fn new(graph: &Graph, weights: &Weights, runtime: &Runtime) -> Result<Self> {
        let mut model = Model::plain(graph, weights, runtime)?;
        let (plan, _) = model.folded("logits")?;
        super::build::check_plan(graph, &plan)?;
        let mut walk = Walk::default();
        for step in &plan.steps {
            walk.step(&model, &plan, step)?;
        }
        let norms = norms_left(graph, &plan, weights);
        let Walk { points, of_step, layers, .. } = walk;
        Ok(Self { model, runtime: runtime.clone(), points, of_step, layers, norms })
    }

    /// The maps that become bytes, in the order in which they are made.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Runs pictures, one after the other, and shows the values of every point for each, channels innermost.
    ///
    /// # Errors
    /// [`EngineError::Images`] if the length is not a whole number of pictures.
    pub fn observe(&mut self, images: Images<'_>, see: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        let pictures = images.count(self.model.graph())?;
        let picture = self.model.graph().input_shape().elements();
        let (plan, weights) = self.model.folded("logits")?;
        let mut arena = Buffer::zeros(plan.arena_len);
        let run = Run { pool: self.runtime.pool(), plan: &plan, parameters: weights, draws: Stream::new(0) };
        for index in 0..pictures {
            observe(&run, &mut arena, images.part(index * picture, picture), &mut |seen| {
                let stages = &self.of_step[seen.step];
                if let Some((_, point)) = stages.iter().find(|(stage, _)| *stage == seen.stage) {
                    see(*point, seen.values);
                }
            });
        }
        Ok(())
    }

    /// The network over bytes, with a range of every point; those of points that are `known` or `like` another are not
    /// looked at.
    ///
    /// # Errors
    /// [`EngineError::Quantization`] naming a map whose range is not finite.
    ///
    /// # Panics
    /// If there are not as many ranges as points.
    pub fn quantize(&self, ranges: &[[f32; 2]], granularity: Granularity) -> Result<QuantizedNetwork> {
        let quantizations = self.quantizations(ranges)?;
        let mut maps: BTreeMap<String, Quantization> =
            self.points.iter().map(|point| point.name.clone()).zip(quantizations.iter().copied()).collect();
        flattened(self.model.graph(), &mut maps);
        let layer =
            |layer: &FloatLayer| (layer.name.clone(), layer.quantize(quantizations[layer.x], granularity));
        Ok(QuantizedNetwork {
            layers: self.layers.iter().map(layer).collect(),
            maps,
            norms: self.norms.clone(),
        })
    }

    /// Takes out of every bias what the rounding of weights adds to its channel on average, given the mean of each
    /// channel of every point.
    ///
    /// Source: M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019
    /// (arXiv 1906.04721), section 4.2, with means that were seen.
    ///
    /// # Panics
    /// If there are not as many means as points, or as channels, or `network` is not from this observer.
    pub fn correct_biases(&self, network: &mut QuantizedNetwork, means: &[Vec<f32>]) {
        assert_eq!(means.len(), self.points.len(), "means of every point");
        for layer in &self.layers {
            let point = &self.points[layer.x];
            let x = network.maps[&point.name];
            if let Some(whole) = network.layers.get_mut(&layer.name) {
                layer.correct_bias(whole, x, &means[layer.x]);
            }
        }
    }

    fn quantizations(&self, ranges: &[[f32; 2]]) -> Result<Vec<Quantization>> {
        assert_eq!(ranges.len(), self.points.len(), "a range for every point");
        let mut quantizations: Vec<Quantization> = Vec::with_capacity(ranges.len());
        for (point, &range) in self.points.iter().zip(ranges) {
            let range = point.known.unwrap_or(range);
            quantizations.push(match point.like {
                Some(other) => quantizations[other],
                None if range.iter().all(|bound| bound.is_finite()) => point.quantization(range),
                None => {
                    let reason = format!("map `{}`: its values are not finite: {range:?}", point.name);
                    return Err(EngineError::Quantization { reason });
                }
            });
        }
        Ok(quantizations)
    }
}

/// A flattened map has the bytes of the map, under its own name too.
fn flattened(graph: &Graph, maps: &mut BTreeMap<String, Quantization>) {
    for node in graph.nodes().iter().filter(|node| matches!(node.op, Op::Flatten)) {
        let source = &graph.node(acting(graph, node.inputs[0])).name;
        if let Some(&map) = maps.get(source) {
            maps.insert(node.name.clone(), map);
        }
    }
}

/// The node that makes the value of `id` where dropout and stochastic depth do nothing.
fn acting(graph: &Graph, id: NodeId) -> NodeId {
    let node = graph.node(id);
    if matches!(node.op, Op::Dropout(_) | Op::StochasticDepth(_)) {
        acting(graph, node.inputs[0])
    } else {
        id
    }
}

/// The arrays of batch norms that no layer took.
fn norms_left(graph: &Graph, plan: &Plan, weights: &Weights) -> Weights {
    let left = plan.steps.iter().filter(|step| matches!(step.kind, Kind::Folded { .. }));
    let nodes: Vec<NodeId> = left.map(|step| step.nodes[0]).collect();
    let parameters = graph.parameters();
    let kept = parameters.iter().filter(|parameter| nodes.contains(&parameter.node));
    kept.filter_map(|parameter| Some((parameter.name.clone(), weights.get(&parameter.name)?.clone())))
        .collect()
}

/// Collects points and layers along a plan.
#[derive(Default)]
struct Walk {
    points: Vec<Point>,
    of_step: Vec<Vec<(Stage, usize)>>,
    layers: Vec<FloatLayer>,
    /// The point of a value, by its number.
    of_value: HashMap<usize, usize>,
}

impl Walk {
    fn step(&mut self, model: &Model, plan: &Plan, step: &Step) -> Result<()> {
        let graph = model.graph();
        if let Kind::Conv(conv) = &step.kind {
            let layer = self.layer(model, conv, step.nodes[0])?;
            self.layers.push(layer);
        }
        let maps = Maps::of(graph, plan, step);
        let mut stages = Vec::new();
        for (stage, node) in maps.stages() {
            stages.push((stage, self.points.len()));
            self.points.push(self.point(graph, step, stage, node));
        }
        if let Some((Stage::After, point)) = stages.last() {
            self.of_value.insert(step.kind.result().index(), *point);
        }
        self.of_step.push(stages);
        Ok(())
    }

    fn point(&self, graph: &Graph, step: &Step, stage: Stage, node: NodeId) -> Point {
        let known = match &step.kind {
            Kind::Input { bytes, .. } => Some(extremes(bytes)),
            _ => None,
        };
        let like = passes_on(&step.kind).and_then(|value| self.of_value.get(&value.index()).copied());
        let activation = match &step.kind {
            Kind::Conv(conv) => conv.activation,
            Kind::Sum { activation, .. } => *activation,
            _ => None,
        };
        let bounds = match (stage, activation) {
            (Stage::Before, Some(activation)) => bounds(activation),
            _ => [f32::MIN, f32::MAX],
        };
        let node = graph.node(node);
        Point { name: node.name.clone(), known, like, channels: node.shape.channels(), bounds }
    }

    fn layer(&self, model: &Model, conv: &ConvStep, node: NodeId) -> Result<FloatLayer> {
        let name = model.graph().node(node).name.clone();
        let x = self.of_value.get(&conv.x.index()).copied();
        let (Some((weight, bias)), Some(x)) = (model.folded_layer(node), x) else {
            let reason = format!("layer `{name}` reads what is no map of bytes");
            return Err(EngineError::Quantization { reason });
        };
        let outputs = weight.shape[0];
        let bias = bias.map_or_else(|| vec![0.0; outputs], <[f32]>::to_vec);
        Ok(FloatLayer { name, shape: weight.shape, weight: weight.data, bias, x })
    }
}

fn extremes(values: &[f32]) -> [f32; 2] {
    values
        .iter()
        .fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], &value| [low.min(value), high.max(value)])
}

impl FloatLayer {
    fn quantize(&self, x: Quantization, granularity: Granularity) -> QuantizedLayer {
        let outputs = self.bias.len();
        let each = self.weight.len() / outputs.max(1);
        let largest: Vec<f32> = self.weight.chunks(each.max(1)).map(largest).collect();
        let whole = largest.iter().copied().fold(0.0, f32::max);
        let mut layer = QuantizedLayer {
            shape: self.shape.clone(),
            weight: Vec::with_capacity(self.weight.len()),
            scales: Vec::with_capacity(outputs),
            bias: Vec::with_capacity(outputs),
        };
        for (channel, weight) in self.weight.chunks(each.max(1)).enumerate() {
            let bias = self.bias[channel];
            let scale = match granularity {
                Granularity::PerTensor => scale_of(whole),
                // Then the channel has no weight, but a bias.
                Granularity::PerChannel if bias.abs() > largest[channel] * x.scale * LARGEST_BIAS => {
                    (bias.abs() / (x.scale * LARGEST_BIAS)).max(f32::MIN_POSITIVE)
                }
                Granularity::PerChannel => scale_of(largest[channel]),
            };
            let byte = |weight: &f32| (weight / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
            layer.weight.extend(weight.iter().map(byte));
            layer.bias.push((bias / (x.scale * scale)).round_ties_even() as i32);
            layer.scales.push(scale);
        }
        layer
    }
}

impl FloatLayer {
    /// See [`Observer::correct_biases`].
    fn correct_bias(&self, whole: &mut QuantizedLayer, x: Quantization, means: &[f32]) {
        let outputs = whole.bias.len();
        let each = self.weight.len() / outputs.max(1);
        let inputs = self.shape[1];
        let taps = each / inputs.max(1);
        // A vector has the channels of the map that was flattened, each at all positions.
        let positions = if self.shape.len() == 2 { (inputs / means.len().max(1)).max(1) } else { 1 };
        let groups = if self.shape.len() == 2 { 1 } else { (means.len() / inputs.max(1)).max(1) };
        for output in 0..outputs {
            let first = output / (outputs / groups).max(1) * inputs;
            let added: f64 = (0..each)
                .map(|index| {
                    let place = output * each + index;
                    let rounded = f32::from(whole.weight[place]) * whole.scales[output];
                    let mean = means[(first + index / taps.max(1)) / positions];
                    f64::from(rounded - self.weight[place]) * f64::from(mean)
                })
                .sum();
            let unit = f64::from(x.scale) * f64::from(whole.scales[output]);
            let bias = f64::from(whole.bias[output]) - added / unit;
            whole.bias[output] = bias.round_ties_even() as i32;
        }
    }
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |largest, weight| largest.max(weight.abs()))
}

/// The scale at which the largest weight is 127.
fn scale_of(largest: f32) -> f32 {
    if largest > 0.0 { (largest / 127.0).max(f32::MIN_POSITIVE) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(bias: f32) -> FloatLayer {
        let weight = vec![0.5, -1.0, 0.25, 0.0, 0.0, 0.0, 2.0, 1.0, 4.0];
        FloatLayer { name: "fc".into(), shape: vec![3, 3], weight, bias: vec![0.1, bias, -0.2], x: 0 }
    }

    #[test]
    fn weights_keep_their_largest_number_per_output() {
        let x = Quantization { scale: 0.1, zero_point: 0 };
        let whole = layer(0.0).quantize(x, Granularity::PerChannel);
        assert_eq!(whole.weight, [64, -127, 32, 0, 0, 0, 64, 32, 127]);
        assert_eq!(whole.scales, [1.0 / 127.0, 1.0, 4.0 / 127.0]);
        assert_eq!(whole.bias, [127, 0, -64], "0.1 / (0.1 / 127) and -0.2 / (0.1 * 4 / 127)");
    }

    #[test]
    fn one_scale_for_all_is_that_of_the_largest_weight() {
        let whole = layer(0.0).quantize(Quantization { scale: 0.1, zero_point: 0 }, Granularity::PerTensor);
        assert_eq!(whole.weight, [16, -32, 8, 0, 0, 0, 64, 32, 127]);
        assert_eq!(whole.granularity(), Granularity::PerTensor);
    }

    #[test]
    fn a_channel_without_weight_keeps_its_bias() {
        let x = Quantization { scale: 0.1, zero_point: 0 };
        let whole = layer(7.0).quantize(x, Granularity::PerChannel);
        let real = whole.bias[1] as f32 * x.scale * whole.scales[1];
        assert!((real - 7.0).abs() < 1e-4, "{real}");
    }
}
