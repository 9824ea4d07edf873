//! Logits into the answer's tensors: as JSON, as bytes behind it, or some of each.

use axum::body::Bytes;
use serde_json::{Map, Value, json};

use super::contract::{LABEL, PROBABILITIES};
use super::request::Wanted;
use crate::pipeline::{ranked, softmax};

/// What an inference gave.
#[derive(Debug)]
pub(super) struct Inferred<'a> {
    pub model: &'a str,
    pub version: &'a str,
    pub id: Option<&'a str>,
    pub labels: &'a [String],
    /// One list for each picture.
    pub logits: &'a [Vec<f32>],
}

/// An answer as it travels.
#[derive(Debug, PartialEq)]
pub(super) struct Written {
    /// Bytes of the JSON, if others follow.
    pub header_length: Option<usize>,
    pub body: Bytes,
}

/// An output's elements.
enum Elements {
    Numbers(Vec<f32>),
    Text(Vec<String>),
}

/// Writes the outputs that are `wanted`; `binary` is what holds for those that say nothing themselves.
pub(super) fn write(inferred: &Inferred, wanted: &[Wanted], binary: bool) -> Written {
    let mut tail = Vec::new();
    let outputs: Vec<Value> =
        wanted.iter().map(|output| written_output(inferred, output, binary, &mut tail)).collect();
    let mut header = Map::new();
    if let Some(id) = inferred.id {
        header.insert("id".into(), id.into());
    }
    header.insert("model_name".into(), inferred.model.into());
    header.insert("model_version".into(), inferred.version.into());
    header.insert("outputs".into(), outputs.into());
    let mut body = Value::Object(header).to_string().into_bytes();
    let any_binary = wanted.iter().any(|output| output.binary.unwrap_or(binary));
    let header_length = any_binary.then_some(body.len());
    body.append(&mut tail);
    Written { header_length, body: body.into() }
}

fn written_output(inferred: &Inferred, output: &Wanted, binary: bool, tail: &mut Vec<u8>) -> Value {
    let elements = elements(inferred, output);
    let mut written = json!({
        "name": output.name,
        "datatype": elements.datatype(),
        "shape": shape(inferred, output),
    });
    if output.binary.unwrap_or(binary) {
        let before = tail.len();
        elements.append_to(tail);
        written["parameters"] = json!({ "binary_data_size": tail.len() - before });
    } else {
        written["data"] = elements.into_json();
    }
    written
}

fn shape(inferred: &Inferred, output: &Wanted) -> Vec<usize> {
    let (pictures, classes) = (inferred.logits.len(), inferred.labels.len());
    match output.classes {
        0 if output.name == LABEL => vec![pictures],
        0 => vec![pictures, classes],
        best => vec![pictures, best.min(classes)],
    }
}

fn elements(inferred: &Inferred, output: &Wanted) -> Elements {
    let logits = inferred.logits.iter();
    match (output.name.as_str(), output.classes) {
        (LABEL, _) => Elements::Text(logits.map(|logits| best_label(logits, inferred.labels)).collect()),
        (PROBABILITIES, 0) => Elements::Numbers(logits.flat_map(|logits| softmax(logits)).collect()),
        (_, 0) => Elements::Numbers(logits.flatten().copied().collect()),
        (name, best) => Elements::Text(
            logits.flat_map(|logits| classes(logits, inferred.labels, best, name == PROBABILITIES)).collect(),
        ),
    }
}

fn best_label(logits: &[f32], labels: &[String]) -> String {
    ranked(logits, labels, 1).into_iter().map(|candidate| candidate.label).collect()
}

/// The best classes as Triton writes them: `value:index:label`.
fn classes(logits: &[f32], labels: &[String], best: usize, as_probabilities: bool) -> Vec<String> {
    let value = |index: usize, probability: f32| if as_probabilities { probability } else { logits[index] };
    ranked(logits, labels, best)
        .into_iter()
        .map(|found| format!("{}:{}:{}", value(found.index, found.probability), found.index, found.label))
        .collect()
}

impl Elements {
    fn datatype(&self) -> &'static str {
        match self {
            Self::Numbers(_) => "FP32",
            Self::Text(_) => "BYTES",
        }
    }

    fn into_json(self) -> Value {
        match self {
            Self::Numbers(numbers) => numbers.into(),
            Self::Text(texts) => texts.into(),
        }
    }

    fn append_to(&self, tail: &mut Vec<u8>) {
        match self {
            Self::Numbers(numbers) => tail.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Text(texts) => texts.iter().for_each(|text| append_element(tail, text.as_bytes())),
        }
    }
}

fn append_element(tail: &mut Vec<u8>, element: &[u8]) {
    // A label is a few words.
    let length = u32::try_from(element.len()).unwrap_or(u32::MAX);
    tail.extend(length.to_le_bytes());
    tail.extend(element);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(outputs: &[(&str, Option<bool>, usize)], binary: bool) -> (Value, Vec<u8>) {
        let labels = ["a", "b"].map(String::from);
        // Probabilities 1/4 and 3/4, then 1/2 each.
        let logits = [vec![0.0, 3.0_f32.ln()], vec![2.0, 2.0]];
        let inferred = Inferred { model: "m", version: "2", id: Some("x"), labels: &labels, logits: &logits };
        let wanted: Vec<Wanted> = outputs
            .iter()
            .map(|&(name, binary, classes)| Wanted { name: name.into(), binary, classes })
            .collect();
        let Written { header_length, body } = write(&inferred, &wanted, binary);
        let length = header_length.unwrap_or(body.len());
        (serde_json::from_slice(&body[..length]).unwrap(), body[length..].to_vec())
    }

    #[test]
    fn outputs_in_json() {
        let (json, tail) = written(&[("label", None, 0), ("logits", None, 0)], false);
        assert_eq!(
            (&json["id"], &json["model_name"], &json["model_version"]),
            (&json!("x"), &json!("m"), &json!("2"))
        );
        let label = json!({"name": "label", "datatype": "BYTES", "shape": [2], "data": ["b", "a"]});
        assert_eq!(json["outputs"][0], label);
        assert_eq!(json["outputs"][1]["shape"], json!([2, 2]));
        assert_eq!(json["outputs"][1]["data"][2], 2.0);
        assert!(tail.is_empty());
    }

    #[test]
    fn outputs_as_bytes_stand_behind_the_header_in_their_order() {
        let (json, tail) = written(&[("probabilities", Some(true), 0), ("label", None, 0)], true);
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 16);
        let numbers: Vec<f32> =
            tail[..16].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert!((numbers[1] - 0.75).abs() < 1e-6 && numbers[2..] == [0.5, 0.5], "{numbers:?}");
        assert_eq!(tail[16..], *b"\x01\0\0\0b\x01\0\0\0a");
        assert_eq!(json["outputs"][1]["parameters"]["binary_data_size"], 10);
        let (json, tail) = written(&[("label", Some(false), 0)], true);
        assert_eq!((&json["outputs"][0]["data"][0], tail.len()), (&json!("b"), 0));
    }

    #[test]
    fn the_best_classes_are_text() {
        let (json, _) = written(&[("logits", None, 1), ("probabilities", None, 9)], false);
        assert_eq!(json["outputs"][0]["shape"], json!([2, 1]));
        assert_eq!(json["outputs"][0]["data"], json!(["1.0986123:1:b", "2:0:a"]));
        assert_eq!(json["outputs"][1]["shape"], json!([2, 2]));
        assert_eq!(json["outputs"][1]["data"][3], "0.5:1:b");
    }
}
