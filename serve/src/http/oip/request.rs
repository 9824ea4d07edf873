//! Bytes of an inference request into tensors: the JSON header, the binary tensors behind it. It knows the protocol
//! and no model; every length is checked before it is used.
//!
//! ```text
//! {"inputs": [{"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8",
//!              "parameters": {"binary_data_size": 3072}}]}<3072 bytes>
//! ```

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};

use super::values::Values;
use crate::http::by_name::ByName;
use crate::http::whole::Whole;

/// A request for an inference, whole but not yet held against a model.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// Given back with the answer.
    pub id: Option<String>,
    /// In the request's order.
    pub inputs: Vec<Tensor>,
    /// What the answer shall hold; everything if empty.
    pub outputs: Vec<Wanted>,
    /// Whether outputs travel as bytes where they do not say so themselves.
    pub binary_outputs: bool,
}

/// A named tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its shape; the product is the number of elements in `data`.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub data: Data,
}

/// Elements of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// FP32
    F32(Vec<f32>),
    /// UINT8; from a binary body without a copy.
    U8(Bytes),
    /// BYTES: elements of any length; from a binary body without a copy.
    Elements(Vec<Bytes>),
}

/// An output that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether it travels as bytes, where the request says so.
    pub binary: Option<bool>,
    /// So many of the best classes as text instead of numbers; 0 for numbers.
    pub classes: usize,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No JSON, or not of the shape that the protocol has.
    #[error("malformed JSON: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// Something that contradicts the protocol, itself or the model.
    #[error("{culprit}: expected {expected}, found {found}")]
    Contradiction {
        /// What it is about.
        culprit: String,
        /// What would be right.
        expected: String,
        /// What there is.
        found: String,
    },
}

pub(super) fn contradiction(
    culprit: impl Into<String>,
    expected: impl Into<String>,
    found: impl ToString,
) -> RequestError {
    RequestError::Contradiction {
        culprit: culprit.into(),
        expected: expected.into(),
        found: found.to_string(),
    }
}

type Parsed<T> = Result<T, RequestError>;

/// Name of the header that says how long the JSON is.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// Reads a request's body. `header` is the value of `Inference-Header-Content-Length`; of 0, the whole body is the one
/// picture file that is sent.
///
/// # Errors
/// [`RequestError`], for whatever bytes.
pub fn parse(header: Option<usize>, body: &Bytes) -> Parsed<InferRequest> {
    if header == Some(0) {
        return Ok(raw(body));
    }
    let length = header.unwrap_or(body.len());
    let json = body.get(..length).ok_or_else(|| {
        contradiction(HEADER_LENGTH, format!("at most {}, the body's bytes", body.len()), length)
    })?;
    let ByName(header): ByName<Header> =
        serde_json::from_slice(json).map_err(|error| RequestError::Json { reason: error.to_string() })?;
    let mut binary = Binary { rest: body.slice(length..) };
    let inputs = header.inputs.into_iter().map(|input| input.0.tensor(&mut binary)).collect::<Parsed<_>>()?;
    binary.end()?;
    Ok(InferRequest {
        id: header.id,
        inputs,
        outputs: header.outputs.unwrap_or_default().into_iter().map(|output| output.0.into()).collect(),
        binary_outputs: header.parameters.binary_data_output.unwrap_or(false),
    })
}

/// A body that is a picture file and nothing else.
fn raw(body: &Bytes) -> InferRequest {
    let tensor = Tensor {
        name: super::contract::ENCODED.into(),
        shape: vec![1],
        data: Data::Elements(vec![body.clone()]),
    };
    InferRequest { id: None, inputs: vec![tensor], outputs: Vec::new(), binary_outputs: false }
}

#[derive(Deserialize)]
struct Header {
    id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    parameters: RequestParameters,
    inputs: Vec<ByName<Input>>,
    #[serde(default)]
    outputs: Option<Vec<ByName<Output>>>,
}

#[derive(Default, Deserialize)]
struct RequestParameters {
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    shape: Vec<Whole>,
    datatype: String,
    #[serde(default, deserialize_with = "or_default")]
    parameters: InputParameters,
    data: Option<Values>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<Whole>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<Whole>,
}

/// `null` says as much as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<ByName<T>>::deserialize(from)?.map(|object| object.0).unwrap_or_default())
}

impl From<Output> for Wanted {
    fn from(output: Output) -> Self {
        let OutputParameters { binary_data, classification } = output.parameters;
        Self {
            name: output.name,
            binary: binary_data,
            classes: classification.map_or(0, |classes| classes.0),
        }
    }
}

/// The bytes behind the JSON, from which inputs are cut one after the other.
struct Binary {
    rest: Bytes,
}

impl Binary {
    fn cut(&mut self, input: &str, length: usize) -> Parsed<Bytes> {
        if length > self.rest.len() {
            let expected = format!("{length} bytes, its binary_data_size");
            return Err(contradiction(named(input), expected, format!("{} in the body", self.rest.len())));
        }
        Ok(self.rest.split_to(length))
    }

    fn end(self) -> Parsed<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let found = format!("{} more", self.rest.len());
        Err(contradiction("binary data", "as many bytes as the inputs' binary_data_size say", found))
    }
}

fn named(input: &str) -> String {
    format!("input `{}`", shortened(input))
}

/// What a client sent, short enough for a message.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}

impl Input {
    fn tensor(self, binary: &mut Binary) -> Parsed<Tensor> {
        let elements = self.elements()?;
        let data = match (&self.data, self.parameters.binary_data_size) {
            (None, Some(size)) => from_binary(&self, elements, binary.cut(&self.name, size.0)?)?,
            (Some(values), None) => from_values(&self, elements, values)?,
            (Some(_), Some(_)) => {
                return Err(self.wrong("`data` or the parameter binary_data_size", "both"));
            }
            (None, None) => return Err(self.wrong("`data` or the parameter binary_data_size", "neither")),
        };
        let shape = self.shape();
        Ok(Tensor { name: self.name, shape, data })
    }

    fn shape(&self) -> Vec<usize> {
        self.shape.iter().map(|axis| axis.0).collect()
    }

    fn elements(&self) -> Parsed<usize> {
        let product = self.shape.iter().try_fold(1_usize, |product, axis| product.checked_mul(axis.0));
        product.ok_or_else(|| self.wrong("a shape that fits in memory", format!("{:?}", self.shape())))
    }

    fn wrong(&self, expected: impl Into<String>, found: impl ToString) -> RequestError {
        contradiction(named(&self.name), expected, found)
    }

    fn wrong_datatype(&self) -> RequestError {
        self.wrong("datatype FP32, UINT8 or BYTES", format!("`{}`", shortened(&self.datatype)))
    }

    fn check_count(&self, expected: usize, found: usize) -> Parsed<()> {
        if expected == found {
            return Ok(());
        }
        Err(self.wrong(format!("{expected} elements, as shape {:?} says", self.shape()), found))
    }
}

fn from_binary(input: &Input, elements: usize, bytes: Bytes) -> Parsed<Data> {
    match input.datatype.as_str() {
        "FP32" => {
            if !bytes.len().is_multiple_of(4) {
                return Err(input.wrong("a multiple of 4 bytes of FP32", bytes.len()));
            }
            input.check_count(elements, bytes.len() / 4)?;
            Ok(Data::F32(floats(&bytes)))
        }
        "UINT8" => {
            input.check_count(elements, bytes.len())?;
            Ok(Data::U8(bytes))
        }
        "BYTES" => {
            let found = prefixed(input, bytes)?;
            input.check_count(elements, found.len())?;
            Ok(Data::Elements(found))
        }
        _ => Err(input.wrong_datatype()),
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Elements, each behind its length in four bytes, little-endian.
fn prefixed(input: &Input, mut bytes: Bytes) -> Parsed<Vec<Bytes>> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let Some(prefix) = bytes.first_chunk::<4>() else {
            return Err(input.wrong("a length of 4 bytes before each element", format!("{}", bytes.len())));
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        let rest = bytes.slice(4..);
        if length > rest.len() {
            let expected = format!("{length} bytes of element {}", elements.len());
            return Err(input.wrong(expected, rest.len()));
        }
        elements.push(rest.slice(..length));
        bytes = rest.slice(length..);
    }
    Ok(elements)
}

fn from_values(input: &Input, elements: usize, values: &Values) -> Parsed<Data> {
    input.check_count(elements, values.len())?;
    check_nesting(input, values)?;
    match input.datatype.as_str() {
        "FP32" => Ok(Data::F32(numbers(input, values)?.to_vec())),
        "UINT8" => Ok(Data::U8(
            numbers(input, values)?
                .iter()
                .map(|&value| byte(input, value))
                .collect::<Parsed<Vec<u8>>>()?
                .into(),
        )),
        "BYTES" => Ok(Data::Elements(decoded(input, values)?)),
        _ => Err(input.wrong_datatype()),
    }
}

/// Values stand flat, or nested as the shape says.
fn check_nesting(input: &Input, values: &Values) -> Parsed<()> {
    let nested = values.nesting.len() > 1;
    // Below an empty list there is nothing to be nested.
    if !nested || values.nesting == input.shape() || values.len() == 0 {
        return Ok(());
    }
    let expected = format!("`data` flat or nested as its shape {:?}", input.shape());
    Err(input.wrong(expected, format!("nested as {:?}", values.nesting)))
}

fn numbers<'a>(input: &Input, values: &'a Values) -> Parsed<&'a [f32]> {
    match values.strings.first() {
        None => Ok(&values.numbers),
        Some(text) => {
            Err(input.wrong(format!("numbers for {}", input.datatype), format!("`{}`", shortened(text))))
        }
    }
}

fn byte(input: &Input, value: f32) -> Parsed<u8> {
    if (0.0..=255.0).contains(&value) && value.fract() == 0.0 {
        Ok(value as u8)
    } else {
        Err(input.wrong("whole numbers 0 to 255 for UINT8", value))
    }
}

/// Bytes do not fit in JSON's text: they come in base64, bare or as a `data:` URL.
fn decoded(input: &Input, values: &Values) -> Parsed<Vec<Bytes>> {
    if let Some(number) = values.numbers.first() {
        return Err(input.wrong("strings for BYTES", number));
    }
    let decode = |(index, text): (usize, &String)| {
        let payload =
            text.strip_prefix("data:").and_then(|url| url.split_once(',')).map_or(&text[..], |url| url.1);
        let decoded = STANDARD.decode(payload).map(Bytes::from);
        decoded.map_err(|error| input.wrong(format!("base64 in element {index}"), error))
    };
    values.strings.iter().enumerate().map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of_json(body: &Value) -> Parsed<InferRequest> {
        parse(None, &Bytes::from(body.to_string()))
    }

    fn with_binary(header: &Value, binary: &[u8]) -> Parsed<InferRequest> {
        let header = header.to_string();
        let body = [header.as_bytes(), binary].concat();
        parse(Some(header.len()), &Bytes::from(body))
    }

    fn input(datatype: &str, shape: &[usize], data: Value) -> Value {
        json!({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]})
    }

    fn binary_input(datatype: &str, shape: &[usize], size: usize) -> Value {
        let parameters = json!({"binary_data_size": size});
        json!({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters}]})
    }

    #[test]
    fn one_tensor_in_every_form() {
        let floats = Data::F32(vec![0.5, 1.0]);
        let bytes: Vec<u8> = [0.5_f32, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        for found in [
            of_json(&input("FP32", &[1, 2], json!([0.5, 1]))),
            of_json(&input("FP32", &[1, 2], json!([[0.5, 1]]))),
            with_binary(&binary_input("FP32", &[1, 2], 8), &bytes),
        ] {
            assert_eq!(found.unwrap().inputs[0].data, floats);
        }
        let pixels = Data::U8(Bytes::from_static(&[0, 255]));
        assert_eq!(of_json(&input("UINT8", &[2], json!([0, 255]))).unwrap().inputs[0].data, pixels);
        assert_eq!(with_binary(&binary_input("UINT8", &[2], 2), &[0, 255]).unwrap().inputs[0].data, pixels);
        let elements = Data::Elements(vec![Bytes::from_static(b"abc"), Bytes::new()]);
        let prefixed = b"\x03\0\0\0abc\0\0\0\0";
        assert_eq!(with_binary(&binary_input("BYTES", &[2], 11), prefixed).unwrap().inputs[0].data, elements);
        for data in [json!(["YWJj", ""]), json!(["data:image/png;base64,YWJj", ""])] {
            assert_eq!(of_json(&input("BYTES", &[2], data)).unwrap().inputs[0].data, elements);
        }
    }

    #[test]
    fn a_body_without_a_header_is_a_picture() {
        let request = parse(Some(0), &Bytes::from_static(b"\xff\xd8 not json")).unwrap();
        assert_eq!(request.inputs[0].data, Data::Elements(vec![Bytes::from_static(b"\xff\xd8 not json")]));
    }

    #[test]
    fn outputs_and_parameters_are_read_and_null_is_nothing() {
        let mut body = input("UINT8", &[1], json!([1]));
        body["id"] = json!("seven");
        body["parameters"] = json!({"binary_data_output": true, "sequence_id": 3});
        body["outputs"] = json!([
            {"name": "logits", "parameters": {"classification": 3, "binary_data": false}},
            {"name": "label", "parameters": null}
        ]);
        let request = of_json(&body).unwrap();
        assert_eq!((request.id.as_deref(), request.binary_outputs), (Some("seven"), true));
        let wanted = |name: &str, binary, classes| Wanted { name: name.into(), binary, classes };
        assert_eq!(request.outputs, [wanted("logits", Some(false), 3), wanted("label", None, 0)]);
        body["outputs"] = Value::Null;
        body["id"] = Value::Null;
        assert_eq!(of_json(&body).unwrap().outputs, []);
    }

    #[test]
    fn inputs_are_cut_from_the_body_in_their_order() {
        let mut header = binary_input("UINT8", &[2], 2);
        let other = binary_input("UINT8", &[1], 1)["inputs"][0].clone();
        header["inputs"].as_array_mut().unwrap().push(other);
        let request = with_binary(&header, &[1, 2, 3]).unwrap();
        assert_eq!(request.inputs[0].data, Data::U8(Bytes::from_static(&[1, 2])));
        assert_eq!(request.inputs[1].data, Data::U8(Bytes::from_static(&[3])));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let huge = usize::MAX;
        for (found, expected) in [
            (of_json(&json!([])), "malformed JSON"),
            (of_json(&json!({"inputs": [["x", [1], "FP32", {}, [1]]]})), "expected an object"),
            (of_json(&json!({})), "missing field `inputs`"),
            (of_json(&json!({"inputs": [{}]})), "missing field `name`"),
            (
                of_json(&input("FP32", &[2], json!([1]))),
                "`x`: expected 2 elements, as shape [2] says, found 1",
            ),
            (of_json(&input("FP32", &[2, 2], json!([[1, 2, 3, 4]]))), "nested as [1, 4]"),
            (of_json(&input("INT64", &[1], json!([1]))), "FP32, UINT8 or BYTES, found `INT64`"),
            (of_json(&input("UINT8", &[1], json!([256]))), "0 to 255 for UINT8, found 256"),
            (of_json(&input("UINT8", &[1], json!([0.5]))), "found 0.5"),
            (of_json(&input("UINT8", &[1], json!(["a"]))), "numbers for UINT8, found `a`"),
            (of_json(&input("BYTES", &[1], json!([1]))), "strings for BYTES, found 1"),
            (of_json(&input("BYTES", &[1], json!(["?"]))), "base64 in element 0"),
            (of_json(&input("FP32", &[huge, 2], json!([1]))), "fits in memory"),
            (of_json(&input("FP32", &[1], Value::Null)), "found neither"),
            (of_json(&binary_input("UINT8", &[1], 1)), "expected 1 bytes, its binary_data_size, found 0"),
            (with_binary(&binary_input("UINT8", &[1], huge), &[1]), "found 1 in the body"),
            (with_binary(&binary_input("FP32", &[1], 3), &[1, 2, 3]), "multiple of 4 bytes of FP32, found 3"),
            (with_binary(&binary_input("UINT8", &[1], 1), &[1, 2]), "found 1 more"),
            (with_binary(&binary_input("BYTES", &[1], 2), &[1, 2]), "length of 4 bytes"),
            (
                with_binary(&binary_input("BYTES", &[1], 5), &[255, 255, 255, 255, 1]),
                "4294967295 bytes of element 0",
            ),
            (parse(Some(9), &Bytes::from_static(b"{}")), "at most 2, the body's bytes, found 9"),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
    }
}
