//! What a model takes and gives by the protocol, and a request held against it. A model takes pictures in one of three
//! tensors, whichever the client has: files, pixels, or the values of the ONNX contract.

use axum::body::Bytes;

use super::request::{Data, InferRequest, RequestError, Tensor, Wanted, contradiction, shortened};
use crate::Card;

/// Files: JPEG, PNG or WebP, of any size.
pub(super) const ENCODED: &str = "encoded";
/// Pixels of the network's size, `[n, height, width, channels]`.
pub(super) const IMAGE: &str = "image";
/// Values 0..1 of the network's size, `[n, channels, height, width]`; as in an exported ONNX file.
pub(super) const INPUT: &str = "input";
/// What the network says, `[n, classes]`.
pub(super) const LOGITS: &str = "logits";
/// The same as probabilities, `[n, classes]`.
pub(super) const PROBABILITIES: &str = "probabilities";
/// The most probable class by name, `[n]`.
pub(super) const LABEL: &str = "label";

/// A tensor that a model takes or gives; the first axis, of any length, is left out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    pub name: &'static str,
    pub datatype: &'static str,
    pub axes: Vec<usize>,
}

pub(super) fn inputs(card: &Card) -> [Described; 3] {
    let Card { channels, height, width, .. } = *card;
    [
        Described { name: ENCODED, datatype: "BYTES", axes: Vec::new() },
        Described { name: IMAGE, datatype: "UINT8", axes: vec![height, width, channels] },
        Described { name: INPUT, datatype: "FP32", axes: vec![channels, height, width] },
    ]
}

pub(super) fn outputs(card: &Card) -> [Described; 3] {
    let classes = card.labels.len();
    [
        Described { name: LOGITS, datatype: "FP32", axes: vec![classes] },
        Described { name: PROBABILITIES, datatype: "FP32", axes: vec![classes] },
        Described { name: LABEL, datatype: "BYTES", axes: Vec::new() },
    ]
}

/// A picture of a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Picture {
    /// A file.
    Encoded(Bytes),
    /// Pixels of the network's size, `[height, width, channels]`.
    Pixels(Bytes),
    /// Values 0..1 of the network's size, `[channels, height, width]`.
    Planes(Vec<f32>),
}

/// The pictures of a request, in its order.
///
/// # Errors
/// If the request is not what the model takes.
pub(super) fn pictures(card: &Card, request: InferRequest) -> Result<Vec<Picture>, RequestError> {
    let tensor = the_one_input(request.inputs)?;
    let Some(described) = inputs(card).into_iter().find(|input| input.name == tensor.name) else {
        return Err(contradiction("inputs", known(&[ENCODED, IMAGE, INPUT]), quoted(&tensor.name)));
    };
    check_shape(&described, &tensor)?;
    let length = described.axes.iter().product::<usize>().max(1);
    match tensor.data {
        Data::Elements(files) if described.datatype == "BYTES" => {
            Ok(files.into_iter().map(Picture::Encoded).collect())
        }
        Data::U8(pixels) if described.datatype == "UINT8" => {
            let cut = |index: usize| Picture::Pixels(pixels.slice(index * length..(index + 1) * length));
            Ok((0..tensor.shape[0]).map(cut).collect())
        }
        Data::F32(values) if described.datatype == "FP32" => {
            check_values(&values)?;
            Ok(values.chunks_exact(length).map(|picture| Picture::Planes(picture.to_vec())).collect())
        }
        other => Err(contradiction(input_named(described.name), described.datatype, datatype_of(&other))),
    }
}

fn the_one_input(inputs: Vec<Tensor>) -> Result<Tensor, RequestError> {
    let names: Vec<String> = inputs.iter().map(|input| quoted(&input.name)).collect();
    let wrong = |found: String| contradiction("inputs", known(&[ENCODED, IMAGE, INPUT]), found);
    match <[Tensor; 1]>::try_from(inputs) {
        Ok([tensor]) => Ok(tensor),
        Err(none) if none.is_empty() => Err(wrong("none".into())),
        Err(_) => Err(wrong(names.join(", "))),
    }
}

fn known(names: &[&str]) -> String {
    format!("one of {}", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
}

fn quoted(name: &str) -> String {
    format!("`{}`", shortened(name))
}

fn input_named(name: &str) -> String {
    format!("input `{name}`")
}

fn check_shape(described: &Described, tensor: &Tensor) -> Result<(), RequestError> {
    if tensor.shape.split_first().is_some_and(|(_, axes)| axes == described.axes) {
        return Ok(());
    }
    let axes = described.axes.iter().map(|axis| format!(", {axis}")).collect::<String>();
    let found = format!("{:?}", tensor.shape);
    Err(contradiction(input_named(described.name), format!("shape [n{axes}]"), shortened(&found)))
}

/// A client that sends 0..255 or normalizes by itself gets no answer rather than a wrong one.
fn check_values(values: &[f32]) -> Result<(), RequestError> {
    match values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        None => Ok(()),
        Some(value) => {
            let expected = "values 0..1 (pixels over 255; the network itself normalizes them)";
            Err(contradiction(input_named(INPUT), expected, value))
        }
    }
}

/// What a client is told whose values an engine does not take.
pub(in crate::http) fn no_values() -> RequestError {
    let expected = format!("`{IMAGE}` (UINT8) or `{ENCODED}` (BYTES): this model's engine takes bytes alone");
    contradiction("inputs", expected, format!("`{INPUT}` (FP32)"))
}

fn datatype_of(data: &Data) -> &'static str {
    match data {
        Data::F32(_) => "FP32",
        Data::U8(_) => "UINT8",
        Data::Elements(_) => "BYTES",
    }
}

/// The outputs of an answer: those asked for, or all.
///
/// # Errors
/// If the model has no output of that name, or one that is no numbers is wanted as classes.
pub(super) fn wanted(card: &Card, asked: &[Wanted]) -> Result<Vec<Wanted>, RequestError> {
    if asked.is_empty() {
        let all = outputs(card).map(|output| Wanted { name: output.name.into(), ..Wanted::default() });
        return Ok(all.into());
    }
    for output in asked {
        if ![LOGITS, PROBABILITIES, LABEL].contains(&output.name.as_str()) {
            return Err(contradiction(
                "outputs",
                known(&[LOGITS, PROBABILITIES, LABEL]),
                quoted(&output.name),
            ));
        }
        if output.name == LABEL && output.classes > 0 {
            let expected = known(&[LOGITS, PROBABILITIES]);
            return Err(contradiction("parameter classification", expected, quoted(LABEL)));
        }
    }
    Ok(asked.to_vec())
}
