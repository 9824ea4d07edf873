//! Weights in half precision: an ONNX model whose convolutions and linear layers read float16 weights through a `Cast`,
//! so that every runtime that runs the float file runs this one, in float32. Biases, norms and the normalization of
//! pictures, which are few and matter, stay as they are.

use std::collections::HashSet;

use models::half;
use onnx::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

use crate::{ExportError, Result};

/// Stores a model's weights in half precision.
///
/// # Errors
/// [`ExportError::Weight`] for a value beyond half precision's range.
pub fn store_half(model: &mut ModelProto) -> Result<()> {
    let Some(graph) = &mut model.graph else { return Ok(()) };
    let weights = weights_of_layers(graph);
    let mut casts = Vec::new();
    for tensor in graph.initializer.iter_mut().filter(|tensor| weights.contains(&tensor.name)) {
        casts.push(cast_back(&tensor.name));
        halve(tensor)?;
    }
    graph.node.splice(0..0, casts);
    Ok(())
}

fn weights_of_layers(graph: &GraphProto) -> HashSet<String> {
    let layers = graph.node.iter().filter(|node| matches!(node.op_type.as_str(), "Conv" | "Gemm"));
    layers.filter_map(|node| node.input.get(1).cloned()).collect()
}

fn half_name(name: &str) -> String {
    format!("{name}.half")
}

/// The node that makes the value that the layer reads.
fn cast_back(name: &str) -> NodeProto {
    NodeProto {
        input: vec![half_name(name)],
        output: vec![name.into()],
        name: format!("{name}.cast"),
        op_type: "Cast".into(),
        attribute: vec![AttributeProto::int("to", TensorProto::FLOAT.into())],
        domain: String::new(),
    }
}

fn halve(tensor: &mut TensorProto) -> Result<()> {
    let (values, _) = tensor.raw_data.as_chunks::<4>();
    let mut halves = Vec::with_capacity(2 * values.len());
    for value in values.iter().map(|bytes| f32::from_le_bytes(*bytes)) {
        if !half::holds(value) {
            return Err(ExportError::Weight {
                name: tensor.name.clone(),
                expected: "values within +-65504 for half precision".into(),
                found: value.to_string(),
            });
        }
        halves.extend(half::encode(value).to_le_bytes());
    }
    *tensor = TensorProto {
        dims: std::mem::take(&mut tensor.dims),
        data_type: TensorProto::FLOAT16,
        name: half_name(&tensor.name),
        raw_data: halves,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(weight: f32) -> ModelProto {
        let conv = NodeProto {
            input: ["x", "w", "b"].map(String::from).to_vec(),
            op_type: "Conv".into(),
            ..NodeProto::default()
        };
        let initializer =
            vec![TensorProto::floats("w", &[1, 1, 1, 1], &[weight]), TensorProto::floats("b", &[1], &[7e4])];
        let graph = GraphProto { node: vec![conv], initializer, ..GraphProto::default() };
        ModelProto { graph: Some(graph), ..ModelProto::default() }
    }

    #[test]
    fn weights_alone_are_halved_and_cast_back_to_their_name() {
        let mut model = model(1.0 / 3.0);
        store_half(&mut model).unwrap();
        let graph = model.graph.unwrap();
        assert_eq!(graph.initializer[0].name, "w.half");
        assert_eq!(graph.initializer[0].raw_data, 0x3555_u16.to_le_bytes(), "a third, as IEEE 754 has it");
        assert_eq!(graph.initializer[1], TensorProto::floats("b", &[1], &[7e4]));
        assert_eq!((graph.node[0].op_type.as_str(), graph.node[0].output[0].as_str()), ("Cast", "w"));
    }

    #[test]
    fn a_weight_beyond_half_precision_is_named() {
        for weight in [7e4, f32::NAN] {
            let message = store_half(&mut model(weight)).unwrap_err().to_string();
            assert!(message.contains("weight `w`: expected values within"), "{message}");
        }
    }
}
