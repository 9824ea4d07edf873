//! The contract of an exported file: what its input means and what its answers are called. It lives in the file's
//! `metadata_props`, each entry a string:
//!
//! | key | value |
//! |---|---|
//! | `distill.format` | `1` |
//! | `distill.labels` | JSON array of class names, by index |
//! | `distill.input` | JSON object: `name`, `channels`, `height`, `width`, `color` (`rgb`, `gray`), `type` (`float32`, `uint8`), `layout` (`NCHW`, `NHWC`), `range` (`[0, 1]`, `[0, 255]`), `fit` (`stretch`, `crop`), `resize` (`bilinear-antialias`) |
//! | `distill.manifest` | JSON: the manifest of the network that was exported |
//! | `distill.weights_sha256` | SHA-256 of the weights that were exported, in hexadecimal |
//! | `distill.producer` | name and version of the writer |
//! | `distill.quantization` | in int8 files alone, JSON: how the file was quantized, what its gate measured, and under `refusals` what spoke against a file that was written by force |
//!
//! There are two inputs: `float32`, `NCHW`, `[0, 1]`, and `uint8`, `NHWC`, `[0, 255]`. A file without `type` has the first.
//!
//! A reader MUST refuse a file whose `distill.format` it does not know, and MAY ignore further keys.

use serde::{Deserialize, Serialize};

use crate::proto::{ModelProto, StringStringEntryProto, TensorProto};
use crate::{OnnxError, Result};

/// Version of the contract that this crate writes.
pub const FORMAT: &str = "1";

/// Every key that a file has to have.
pub const KEYS: [&str; 6] = [KEY_FORMAT, KEY_LABELS, KEY_INPUT, KEY_MANIFEST, KEY_HASH, KEY_PRODUCER];

const KEY_FORMAT: &str = "distill.format";
const KEY_LABELS: &str = "distill.labels";
const KEY_INPUT: &str = "distill.input";
const KEY_MANIFEST: &str = "distill.manifest";
const KEY_HASH: &str = "distill.weights_sha256";
const KEY_PRODUCER: &str = "distill.producer";

/// How the input's channels are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// Red, green, blue.
    Rgb,
    /// Luminance.
    Gray,
}

/// Type of the input's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// Single precision: values 0..1 in planes.
    #[default]
    Float32,
    /// Bytes: pixels as a decoder gives them.
    Uint8,
}

impl Element {
    /// Name of the input tensor.
    pub fn input_name(self) -> &'static str {
        match self {
            Element::Float32 => "input",
            Element::Uint8 => "image",
        }
    }

    /// Order of the dimensions.
    pub fn layout(self) -> &'static str {
        match self {
            Element::Float32 => "NCHW",
            Element::Uint8 => "NHWC",
        }
    }

    /// Value of black and of white.
    pub fn range(self) -> [f32; 2] {
        match self {
            Element::Float32 => [0.0, 1.0],
            Element::Uint8 => [0.0, 255.0],
        }
    }

    /// What ONNX calls it.
    pub fn data_type(self) -> i32 {
        match self {
            Element::Float32 => TensorProto::FLOAT,
            Element::Uint8 => TensorProto::UINT8,
        }
    }

    /// Dimensions of a picture of `[channels, height, width]` in this layout.
    pub fn dims(self, [channels, height, width]: [usize; 3]) -> [usize; 3] {
        match self {
            Element::Float32 => [channels, height, width],
            Element::Uint8 => [height, width, channels],
        }
    }
}

/// What a picture must become to be the model's input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Name of the input tensor.
    pub name: String,
    /// Channels: 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Order of the channels.
    pub color: Color,
    /// Type of the values.
    #[serde(rename = "type", default)]
    pub element: Element,
    /// Order of the dimensions: `NCHW`, `NHWC`.
    pub layout: String,
    /// Value of black and of white.
    pub range: [f32; 2],
    /// How a picture of another aspect is fitted: `stretch` or `crop`.
    pub fit: String,
    /// How pixels are resampled.
    pub resize: String,
}

impl Input {
    /// Values 0..1 in planes, for pictures of this size.
    pub fn new(channels: usize, height: usize, width: usize, fit: &str) -> Self {
        Self::of(Element::Float32, [channels, height, width], fit)
    }

    /// Values of this type, for pictures of `[channels, height, width]`.
    pub fn of(element: Element, [channels, height, width]: [usize; 3], fit: &str) -> Self {
        let color = if channels == 1 { Color::Gray } else { Color::Rgb };
        Self {
            name: element.input_name().into(),
            channels,
            height,
            width,
            color,
            element,
            layout: element.layout().into(),
            range: element.range(),
            fit: fit.into(),
            resize: "bilinear-antialias".into(),
        }
    }
}

/// Everything that a server needs to know of a file besides its network.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// Class names by index.
    pub labels: Vec<String>,
    /// What the input means.
    pub input: Input,
    /// Manifest of the network that was exported, as JSON.
    pub manifest: String,
    /// SHA-256 of the weights that were exported, in hexadecimal.
    pub weights_sha256: String,
    /// Name and version of the writer.
    pub producer: String,
}

impl Contract {
    /// The metadata entries that say this, always in one order.
    pub fn to_metadata(&self) -> Vec<StringStringEntryProto> {
        // Neither value can fail to serialize: there are no maps with keys other than strings in them.
        let json = |value: serde_json::Result<String>| value.unwrap_or_default();
        [
            (KEY_FORMAT, FORMAT.to_string()),
            (KEY_LABELS, json(serde_json::to_string(&self.labels))),
            (KEY_INPUT, json(serde_json::to_string(&self.input))),
            (KEY_MANIFEST, self.manifest.clone()),
            (KEY_HASH, self.weights_sha256.clone()),
            (KEY_PRODUCER, self.producer.clone()),
        ]
        .into_iter()
        .map(|(key, value)| StringStringEntryProto { key: key.into(), value })
        .collect()
    }

    /// Reads the contract of a model and checks it against the model's own input and output.
    ///
    /// # Errors
    /// [`OnnxError::NoContract`] for a file of somebody else, [`OnnxError::Contract`] for one that says something
    /// else than it should.
    pub fn of(model: &ModelProto) -> Result<Self> {
        let format = entry(model, KEY_FORMAT)?;
        if format != FORMAT {
            return Err(wrong(
                KEY_FORMAT,
                format!("`{FORMAT}`"),
                format!("`{format}`: a newer distill wrote it"),
            ));
        }
        let contract = Self {
            labels: parsed(model, KEY_LABELS, "an array of strings")?,
            input: parsed(model, KEY_INPUT, "the input's description")?,
            manifest: entry(model, KEY_MANIFEST)?.into(),
            weights_sha256: entry(model, KEY_HASH)?.into(),
            producer: entry(model, KEY_PRODUCER)?.into(),
        };
        contract.check_input()?;
        contract.check_shapes(model)?;
        Ok(contract)
    }

    fn check_input(&self) -> Result<()> {
        let Input { channels, color, element, layout, range, .. } = &self.input;
        if layout != element.layout() {
            let expected = format!("layout `{}` for {element:?}", element.layout());
            return Err(wrong(KEY_INPUT, expected, format!("`{layout}`")));
        }
        if *range != element.range() {
            let [black, white] = element.range();
            return Err(wrong(KEY_INPUT, format!("range [{black}, {white}]"), format!("{range:?}")));
        }
        let fits = match color {
            Color::Rgb => *channels == 3,
            Color::Gray => *channels == 1,
        };
        if !fits {
            return Err(wrong(
                KEY_INPUT,
                "3 channels for rgb, 1 for gray",
                format!("{channels} for {color:?}"),
            ));
        }
        Ok(())
    }

    fn check_shapes(&self, model: &ModelProto) -> Result<()> {
        let Input { name, channels, height, width, element, .. } = &self.input;
        let graph = model.graph.as_ref().ok_or_else(|| OnnxError::Malformed("it holds no network".into()))?;
        let input = graph.input.iter().find(|value| value.name == *name);
        let dims = input.and_then(|value| value.dims());
        let [a, b, c] = element.dims([*channels, *height, *width]);
        if dims.as_deref().and_then(|dims| dims.get(1..)) != Some(&[Some(a), Some(b), Some(c)][..]) {
            let expected = format!("the network's input `{name}` of [N, {a}, {b}, {c}]");
            return Err(wrong(KEY_INPUT, expected, format!("{dims:?}")));
        }
        let found = input.and_then(|value| value.data_type());
        if found != Some(element.data_type()) {
            let expected = format!("the network's input `{name}` of {element:?}");
            return Err(wrong(KEY_INPUT, expected, format!("ONNX's data type {found:?}")));
        }
        let classes = graph.output.first().and_then(|value| value.dims());
        let labels = self.labels.len();
        if classes.as_deref().is_none_or(|dims| dims.last() != Some(&Some(labels))) {
            let expected = "one label for each value that the network answers";
            return Err(wrong(KEY_LABELS, expected, format!("{labels} labels and an output of {classes:?}")));
        }
        Ok(())
    }
}

fn entry<'m>(model: &'m ModelProto, key: &'static str) -> Result<&'m str> {
    model.metadata(key).ok_or(OnnxError::NoContract { key })
}

fn parsed<T: serde::de::DeserializeOwned>(
    model: &ModelProto,
    key: &'static str,
    expected: &str,
) -> Result<T> {
    let text = entry(model, key)?;
    serde_json::from_str(text).map_err(|error| wrong(key, expected, format!("`{}` ({error})", excerpt(text))))
}

fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}

fn wrong(key: &'static str, expected: impl Into<String>, found: impl Into<String>) -> OnnxError {
    OnnxError::Contract { key, expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Dimension, GraphProto, NodeProto, ValueInfoProto};

    fn contract() -> Contract {
        Contract {
            labels: vec!["cat".into(), "d\"og".into()],
            input: Input::new(3, 8, 6, "stretch"),
            manifest: "{}".into(),
            weights_sha256: "00ff".into(),
            producer: "distill 0.1.0".into(),
        }
    }

    fn model(contract: &Contract) -> ModelProto {
        let dims = |lengths: &[i64]| {
            let fixed = lengths.iter().map(|&length| Dimension::Length(length));
            std::iter::once(Dimension::Name("N".into())).chain(fixed).collect()
        };
        let graph = GraphProto {
            node: vec![NodeProto::default()],
            input: vec![ValueInfoProto::floats("input", dims(&[3, 8, 6]))],
            output: vec![ValueInfoProto::floats("logits", dims(&[2]))],
            ..GraphProto::default()
        };
        ModelProto { graph: Some(graph), metadata_props: contract.to_metadata(), ..ModelProto::default() }
    }

    fn with(key: &str, value: &str) -> ModelProto {
        let mut model = model(&contract());
        model.metadata_props.iter_mut().find(|entry| entry.key == key).unwrap().value = value.into();
        model
    }

    #[test]
    fn the_contract_survives_the_file() {
        let bytes = model(&contract()).bytes();
        assert_eq!(Contract::of(&ModelProto::read(&bytes).unwrap()).unwrap(), contract());
    }

    #[test]
    fn a_file_of_somebody_else_is_named_as_such() {
        let mut foreign = model(&contract());
        foreign.metadata_props.clear();
        let error = Contract::of(&foreign).unwrap_err();
        assert!(error.to_string().contains("no `distill.format`"), "{error}");
        assert!(error.to_string().contains("distill export"), "{error}");
    }

    #[test]
    fn pixels_are_an_input_too_if_the_network_takes_bytes() {
        let pixels = Contract { input: Input::of(Element::Uint8, [3, 8, 6], "crop"), ..contract() };
        let mut model = model(&pixels);
        let dims = [8, 6, 3].map(Dimension::Length);
        let dims: Vec<_> = std::iter::once(Dimension::Name("N".into())).chain(dims).collect();
        let mut with = |data_type| {
            let image = ValueInfoProto::tensor("image", data_type, dims.clone());
            model.graph.as_mut().unwrap().input = vec![image];
            Contract::of(&model)
        };
        assert_eq!(with(TensorProto::UINT8).unwrap(), pixels);
        let message = with(TensorProto::FLOAT).unwrap_err().to_string();
        assert!(message.contains("`image` of Uint8, found ONNX's data type Some(1)"), "{message}");
    }

    #[test]
    fn a_file_without_a_type_takes_floats() {
        let text = serde_json::to_string(&contract().input).unwrap();
        let older = with(KEY_INPUT, &text.replace("\"type\":\"float32\",", ""));
        assert_eq!(Contract::of(&older).unwrap(), contract());
    }

    #[test]
    fn every_wrong_entry_is_named() {
        let input = |text: &str| with(KEY_INPUT, text);
        let good = serde_json::to_string(&contract().input).unwrap();
        let cases = [
            (with(KEY_FORMAT, "9"), "newer distill"),
            (with(KEY_LABELS, "[1]"), "array of strings"),
            (with(KEY_LABELS, "[\"one\"]"), "1 labels"),
            (input("{}"), "missing field"),
            (input(&good.replace("NCHW", "NHWC")), "layout `NCHW`"),
            (input(&good.replace("[0.0,1.0]", "[0.0,255.0]")), "range [0, 1]"),
            (input(&good.replace("rgb", "gray")), "1 for gray"),
            (input(&good.replace("float32", "uint8")), "layout `NHWC`"),
            (input(&good.replace("float32", "float16")), "unknown variant"),
            (input(&good.replace("\"height\":8", "\"height\":9")), "[N, 3, 9, 6]"),
        ];
        for (model, expected) in cases {
            let error = Contract::of(&model).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} lacks {expected}");
        }
    }
}
