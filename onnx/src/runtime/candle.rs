//! candle-onnx: a plain evaluator, slow and of few operations. Whether it has all that a file needs is asked before
//! it runs, so that a missing operation is an answer and not a failure halfway.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use candle_onnx::onnx::{ModelProto as CandleModel, NodeProto};
use prost::Message;

use crate::pixels::planes;
use crate::{Element, OnnxError, Result};

const NAME: &str = "candle-onnx";

/// Operators of candle-onnx 0.11 that a network of ours can be written with (`eval.rs`, the arms of its match).
const KNOWN: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "Div",
    "Flatten",
    "Gemm",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "MatMul",
    "MaxPool",
    "Mul",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Sub",
    "Transpose",
];

/// A model that candle-onnx runs.
#[derive(Debug)]
pub struct CandleOnnx {
    model: CandleModel,
}

impl CandleOnnx {
    /// Opens a model from a file's bytes.
    ///
    /// # Errors
    /// [`OnnxError::CannotRun`] with the operations it lacks, [`OnnxError::Malformed`] for bytes that are no model.
    pub fn open(bytes: &[u8]) -> Result<Self> {
        let model = CandleModel::decode(bytes).map_err(|error| OnnxError::Malformed(error.to_string()))?;
        let mut ops: Vec<String> = Vec::new();
        for lacking in model.graph.iter().flat_map(|graph| &graph.node).filter_map(lacking) {
            if !ops.contains(&lacking) {
                ops.push(lacking);
            }
        }
        if ops.is_empty() { Ok(Self { model }) } else { Err(OnnxError::CannotRun { runtime: NAME, ops }) }
    }

    /// Runs pixels, NHWC, 0..=255, pictures of `[channels, height, width]`, as the model takes them, and returns the
    /// first output, row-major.
    ///
    /// # Errors
    /// [`OnnxError::Runtime`] if the evaluator fails.
    pub fn run_pixels(&self, pixels: &[u8], picture: [usize; 3]) -> Result<Vec<f32>> {
        self.evaluated(pixels, picture)
            .map_err(|error| OnnxError::Runtime { runtime: NAME, message: error.to_string() })
    }

    fn evaluated(&self, pixels: &[u8], picture: [usize; 3]) -> candle_core::Result<Vec<f32>> {
        let graph = self.model.graph.as_ref().ok_or_else(|| candle_core::Error::Msg("no graph".into()))?;
        let (Some(input), Some(output)) = (graph.input.first(), graph.output.first()) else {
            return Err(candle_core::Error::Msg("a graph without input or output".into()));
        };
        let count = pixels.len() / picture.iter().product::<usize>().max(1);
        let images = if input.name == Element::Uint8.input_name() {
            let [a, b, c] = Element::Uint8.dims(picture);
            Tensor::from_slice(pixels, &[count, a, b, c], &Device::Cpu)?
        } else {
            let [a, b, c] = Element::Float32.dims(picture);
            Tensor::from_slice(&planes(pixels, picture), &[count, a, b, c], &Device::Cpu)?
        };
        let answers = candle_onnx::simple_eval(&self.model, HashMap::from([(input.name.clone(), images)]))?;
        let answer = answers.get(&output.name).ok_or_else(|| candle_core::Error::Msg("no answer".into()))?;
        answer.flatten_all()?.to_vec1()
    }
}

/// What the evaluator lacks for a node: its operator, or a setting of it.
fn lacking(node: &NodeProto) -> Option<String> {
    let operator = node.op_type.as_str();
    if !KNOWN.contains(&operator) {
        return Some(operator.into());
    }
    let uneven =
        |name: &str| ints(node, name).is_some_and(|values| values.windows(2).any(|pair| pair[0] != pair[1]));
    let padded = ints(node, "pads").is_some_and(|pads| pads.iter().any(|&pad| pad != 0));
    match operator {
        "MaxPool" | "AveragePool" if padded => Some(format!("{operator} with padding")),
        "Conv" if uneven("strides") => Some("Conv with uneven strides".into()),
        _ => None,
    }
}

fn ints<'n>(node: &'n NodeProto, name: &str) -> Option<&'n [i64]> {
    node.attribute.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.ints.as_slice())
}
