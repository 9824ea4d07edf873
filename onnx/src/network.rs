//! A file that `distill export` wrote, read back: the network that its manifest names, filled with the arrays that it
//! stores. So one `.onnx` is enough for the native engine too.
//!
//! A batch norm that the writer folded into the layer before it comes back as one that does nothing but add the layer's
//! bias. A file whose nodes are not those of its manifest is refused: another graph would be run than the file holds.
//!
//! Never here: a network of somebody else, whose graph nobody describes.

use std::collections::{HashMap, HashSet};

use models::{
    Array, Graph, Manifest, Node, NodeId, Op, Quantization, QuantizedLayer, QuantizedNetwork, Weights,
};

use crate::proto::{ModelProto, NodeProto, TensorProto};
use crate::{Contract, OnnxError, Result};

/// A network with what fills it.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// What the file says of it.
    pub manifest: Manifest,
    /// Built from the manifest.
    pub graph: Graph,
    /// Of the file.
    pub numbers: Numbers,
}

/// What fills a network.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Weights by name, as [`models::load`] gives them.
    Real(Weights),
    /// Whole numbers.
    Whole(QuantizedNetwork),
}

/// Whether a file holds a network over bytes.
pub fn is_quantized(model: &ModelProto) -> bool {
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    nodes.into_iter().any(|node| node.op_type == "QuantizeLinear")
}

/// Reads the network of a file that carries our contract.
///
/// # Errors
/// [`OnnxError::NoContract`] and [`OnnxError::Contract`] as for [`Contract::of`], [`OnnxError::Changed`] for nodes that are
/// not the manifest's, [`OnnxError::Array`] for an array that is missing or does not fit.
pub fn read(model: &ModelProto) -> Result<Network> {
    let contract = Contract::of(model)?;
    let wrong = |found: String| OnnxError::Contract {
        key: "distill.manifest",
        expected: "the manifest of a network that this build knows".into(),
        found,
    };
    let manifest: Manifest =
        serde_json::from_str(&contract.manifest).map_err(|error| wrong(error.to_string()))?;
    let graph = manifest.graph().map_err(|error| wrong(error.to_string()))?;
    let file = File::new(model, &graph);
    file.check_nodes()?;
    let numbers =
        if is_quantized(model) { Numbers::Whole(file.quantized()?) } else { Numbers::Real(file.weights()?) };
    Ok(Network { manifest, graph, numbers })
}

/// A file beside the graph that it was written from.
struct File<'a> {
    graph: &'a Graph,
    nodes: &'a [NodeProto],
    arrays: HashMap<&'a str, &'a TensorProto>,
    /// What the graph asks of its parameters.
    shapes: HashMap<String, Vec<usize>>,
}

/// What the writer appends to a node's name where it writes more than one.
const PARTS: &[&str] =
    &[".quantize", ".dequantize", ".weight.dequantize", ".bias.dequantize", ".sub", ".sigmoid"];

/// What stands before the network in a file that takes pixels; pixels are what the native engine takes anyway.
const PIXELS: &[&str] = &["image.values.cast", "image.scaled.div", "input.transpose"];

impl<'a> File<'a> {
    fn new(model: &'a ModelProto, graph: &'a Graph) -> Self {
        let stored = model.graph.as_ref();
        let arrays = stored.iter().flat_map(|graph| &graph.initializer);
        Self {
            graph,
            nodes: stored.map_or(&[], |graph| &graph.node),
            arrays: arrays.map(|array| (array.name.as_str(), array)).collect(),
            shapes: graph
                .parameters()
                .into_iter()
                .map(|parameter| (parameter.name, parameter.shape))
                .collect(),
        }
    }

    /// Whether the file's nodes are those of the graph.
    fn check_nodes(&self) -> Result<()> {
        let mut kinds: HashMap<&str, &str> = HashMap::new();
        for node in self.nodes {
            let own = PARTS
                .iter()
                .find_map(|part| node.name.strip_suffix(part).filter(|name| self.graph.find(name).is_some()));
            let before = PIXELS.contains(&node.name.as_str());
            if own.is_none() && !before && self.graph.find(&node.name).is_none() {
                let expected = "a node of the network in its manifest".into();
                let found = format!("`{}`", node.op_type);
                return Err(OnnxError::Changed { node: node.name.clone(), expected, found });
            }
            kinds.insert(&node.name, &node.op_type);
        }
        for node in self.graph.nodes() {
            let Some(expected) = operator(&node.op) else { continue };
            let found = kinds.get(node.name.as_str());
            if found != Some(&expected) {
                let (node, expected) = (node.name.clone(), format!("`{expected}`"));
                let found = found.map_or("none".into(), |found| format!("`{found}`"));
                return Err(OnnxError::Changed { node, expected, found });
            }
        }
        Ok(())
    }

    fn weights(&self) -> Result<Weights> {
        let mut weights = Weights::new();
        for (id, node) in self.graph.iter() {
            match &node.op {
                Op::Conv2d(conv) => self.add_layer(&mut weights, id, node, conv.bias)?,
                Op::Linear(linear) => self.add_layer(&mut weights, id, node, linear.bias)?,
                Op::BatchNorm(norm) if !self.has_norm(node) => {
                    self.add_folded(&mut weights, node, norm.eps)?
                }
                Op::BatchNorm(_) => self.add_norm(&mut weights, node)?,
                _ => {}
            }
        }
        Ok(weights)
    }

    /// A layer's own arrays. Its bias is the batch norm's where one was folded in.
    fn add_layer(&self, weights: &mut Weights, id: NodeId, node: &Node, has_bias: bool) -> Result<()> {
        let weight = self.floats(&format!("{}.weight", node.name))?;
        let outputs = weight.shape.first().copied().unwrap_or(0);
        weights.insert(format!("{}.weight", node.name), weight);
        if has_bias {
            let name = format!("{}.bias", node.name);
            let folded = self.graph.iter().any(|(_, reader)| {
                reader.inputs.first() == Some(&id)
                    && matches!(reader.op, Op::BatchNorm(_))
                    && !self.has_norm(reader)
            });
            let bias = if folded { Array::full([outputs], 0.0) } else { self.floats(&name)? };
            weights.insert(name, bias);
        }
        Ok(())
    }

    fn has_norm(&self, node: &Node) -> bool {
        self.arrays.contains_key(format!("{}.weight", node.name).as_str())
    }

    /// A batch norm whose variance and `eps` make one, and whose shift is the bias of the layer that took it in.
    fn add_folded(&self, weights: &mut Weights, node: &Node, eps: f32) -> Result<()> {
        let layer = &self.graph.node(node.inputs[0]).name;
        let shift = self.floats_of(&format!("{layer}.bias"), &format!("{}.bias", node.name))?;
        let full = |value: f32| Array::full(shift.shape.clone(), value);
        let variance = (1.0 - f64::from(eps)) as f32;
        weights.insert(format!("{}.weight", node.name), full(1.0));
        weights.insert(format!("{}.running_mean", node.name), full(0.0));
        weights.insert(format!("{}.running_var", node.name), full(variance));
        weights.insert(format!("{}.bias", node.name), shift);
        Ok(())
    }

    fn add_norm(&self, weights: &mut Weights, node: &Node) -> Result<()> {
        for suffix in ["weight", "bias", "running_mean", "running_var"] {
            let name = format!("{}.{suffix}", node.name);
            weights.insert(name.clone(), self.floats(&name)?);
        }
        Ok(())
    }

    fn quantized(&self) -> Result<QuantizedNetwork> {
        let mut network = QuantizedNetwork::default();
        for node in self.graph.nodes() {
            if let Some(map) = self.map(node)? {
                network.maps.insert(node.name.clone(), map);
            }
            match node.op {
                Op::Conv2d(_) | Op::Linear(_) => {
                    network.layers.insert(node.name.clone(), self.layer(node, &network)?);
                }
                Op::BatchNorm(_) if self.has_norm(node) => self.add_norm(&mut network.norms, node)?,
                _ => {}
            }
        }
        self.check_roundings(&network)?;
        Ok(network)
    }

    /// Whether the maps that are rounded are those whose scales are stored.
    fn check_roundings(&self, network: &QuantizedNetwork) -> Result<()> {
        let rounded: HashSet<&str> =
            self.nodes.iter().filter_map(|node| node.name.strip_suffix(".quantize")).collect();
        let stored: HashSet<&str> = network.maps.keys().map(String::as_str).collect();
        match rounded.symmetric_difference(&stored).min() {
            Some(&node) => Err(OnnxError::Changed {
                node: node.into(),
                expected: "a `QuantizeLinear` with a stored scale, or neither".into(),
                found: "one without the other".into(),
            }),
            None => Ok(()),
        }
    }

    fn map(&self, node: &Node) -> Result<Option<Quantization>> {
        let name = format!("{}.output_scale", node.name);
        if !self.arrays.contains_key(name.as_str()) {
            return Ok(None);
        }
        let scale = self.scalar(&name, TensorProto::read_floats)?;
        let zero_point = self.scalar(&format!("{}.output_zero_point", node.name), TensorProto::read_bytes)?;
        Ok(Some(Quantization { scale, zero_point }))
    }

    fn layer(&self, node: &Node, network: &QuantizedNetwork) -> Result<QuantizedLayer> {
        let name = |suffix: &str| format!("{}.{suffix}", node.name);
        let weight = self.array(&name("weight"))?;
        let bias = self.array(&name("bias"))?.read_whole()?;
        let scales = self.array(&name("weight_scale"))?.read_floats()?;
        let zero_points = self.array(&name("weight_zero_point"))?;
        if zero_points.read_signed_bytes()?.iter().any(|&zero_point| zero_point != 0) {
            return Err(differs(zero_points, "zeros", "others".into()));
        }
        let units = self.array(&name("bias_scale"))?;
        let source = acting(self.graph, node.inputs[0]);
        let x = network.maps.get(&self.graph.node(source).name);
        let fits = |x: &Quantization| {
            units.read_floats().map(|units| {
                units.len() == scales.len()
                    && units.iter().zip(&scales).all(|(unit, scale)| *unit == x.scale * scale)
            })
        };
        if !x.map(fits).transpose()?.unwrap_or(false) {
            return Err(differs(units, "the input's scale times the weight's", "another".into()));
        }
        let scales = if scales.len() == 1 { vec![scales[0]; bias.len()] } else { scales };
        let shape = self.fitting(weight, &name("weight"))?;
        Ok(QuantizedLayer { shape, weight: weight.read_signed_bytes()?, scales, bias })
    }

    fn array(&self, name: &str) -> Result<&'a TensorProto> {
        self.arrays.get(name).copied().ok_or_else(|| OnnxError::Array {
            name: name.into(),
            expected: "a stored array".into(),
            found: "none".into(),
        })
    }

    /// An array in f32, or in half precision under the name that it then has.
    fn floats(&self, name: &str) -> Result<Array> {
        self.floats_of(name, name)
    }

    /// The array of that name, which fills a parameter of the graph.
    fn floats_of(&self, name: &str, parameter: &str) -> Result<Array> {
        let half = self.arrays.get(format!("{name}.half").as_str());
        let array = half.copied().map_or_else(|| self.array(name), Ok)?;
        let shape = self.fitting(array, parameter)?;
        let data = match half {
            Some(_) => array.read_halves()?.into_iter().map(models::half::decode).collect(),
            None => array.read_floats()?,
        };
        Ok(Array::new(shape, data))
    }

    /// The shape of an array, if it is the one that the graph asks for.
    fn fitting(&self, array: &TensorProto, parameter: &str) -> Result<Vec<usize>> {
        let shape = array.shape()?;
        match self.shapes.get(parameter) {
            Some(expected) if *expected != shape => {
                Err(differs(array, &format!("shape {expected:?}"), format!("{shape:?}")))
            }
            _ => Ok(shape),
        }
    }

    fn scalar<T: Copy>(&self, name: &str, read: impl Fn(&TensorProto) -> Result<Vec<T>>) -> Result<T> {
        let array = self.array(name)?;
        match read(array)?[..] {
            [value] => Ok(value),
            ref values => Err(differs(array, "one value", values.len().to_string())),
        }
    }
}

fn differs(array: &TensorProto, expected: &str, found: String) -> OnnxError {
    OnnxError::Array { name: array.name.clone(), expected: expected.into(), found }
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

/// The operator that a node is written as; `None` for one that may be folded away or is several.
fn operator(op: &Op) -> Option<&'static str> {
    match op {
        Op::Conv2d(_) => Some("Conv"),
        Op::MaxPool(_) => Some("MaxPool"),
        Op::AvgPool(_) => Some("AveragePool"),
        Op::GlobalAvgPool => Some("GlobalAveragePool"),
        Op::Flatten => Some("Flatten"),
        Op::Linear(_) => Some("Gemm"),
        Op::Add => Some("Add"),
        Op::Mul => Some("Mul"),
        Op::Normalize { .. } => Some("Div"),
        Op::Input | Op::BatchNorm(_) | Op::Activation(_) | Op::Dropout(_) | Op::StochasticDepth(_) => None,
    }
}
