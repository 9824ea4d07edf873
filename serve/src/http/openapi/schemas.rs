//! What travels, as JSON Schema: the shapes that `wire` and `oip` read and write. A test holds live answers against
//! them.

use serde_json::{Value, json};

/// What an operation answers when all is well.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// JSON of a schema by name.
    Json(&'static str),
    /// JSON, or JSON with bytes behind it.
    Inference,
    /// Text of a media type.
    Text(&'static str),
}

impl Answer {
    pub fn content(self) -> Value {
        match self {
            Self::Json(name) => json!({ "application/json": { "schema": reference(name) } }),
            Self::Inference => json!({
                "application/json": { "schema": reference("InferAnswer") },
                "application/octet-stream": {},
            }),
            Self::Text(media) => json!({ media: { "schema": { "type": "string" } } }),
        }
    }
}

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An object with these properties and no others; a `?` behind a name marks one that may be missing.
fn object(properties: &[(&str, Value)]) -> Value {
    let name = |marked: &str| marked.trim_end_matches('?').to_string();
    let required: Vec<&str> =
        properties.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('?')).collect();
    let properties: serde_json::Map<String, Value> =
        properties.iter().map(|(marked, schema)| (name(marked), schema.clone())).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The same, with room for what other servers of the protocol understand.
fn open_object(properties: &[(&str, Value)]) -> Value {
    let mut object = object(properties);
    object["additionalProperties"] = true.into();
    object
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn one_of(values: &[&str]) -> Value {
    json!({ "type": "string", "enum": values })
}

fn whole(minimum: u64) -> Value {
    json!({ "type": "integer", "minimum": minimum, "maximum": u64::MAX })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

/// A picture file in base64.
fn encoded_picture() -> Value {
    json!({ "type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 1 })
}

/// What is counted, and its time.
fn duration() -> Value {
    object(&[("count", whole(0)), ("ns", whole(0))])
}

/// Every schema by name.
pub(super) fn schemas(most_pictures: usize) -> Value {
    let groups = [of_classify(most_pictures), of_models(), of_protocol(), of_tensors(), of_errors()];
    groups
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.to_string(), schema))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

type Group = Vec<(&'static str, Value)>;

fn of_classify(most_pictures: usize) -> Group {
    let stages = ["decode", "preprocess", "queue", "inference", "total"];
    let micros: Vec<(&str, Value)> = stages.map(|stage| (stage, whole(0))).to_vec();
    let probability = json!({ "type": "number", "minimum": 0, "maximum": 1.000001 });
    vec![
        (
            "ClassifyRequest",
            object(&[
                (
                    "images",
                    json!({ "type": "array", "minItems": 1, "maxItems": most_pictures, "items": encoded_picture() }),
                ),
                ("top?", json!({ "type": ["integer", "null"], "minimum": 1, "maximum": u64::MAX })),
            ]),
        ),
        ("Candidate", object(&[("index", whole(0)), ("label", text()), ("probability", probability)])),
        ("TimesInMicroseconds", object(&micros)),
        (
            "Prediction",
            object(&[
                ("name?", text()),
                ("top", list(reference("Candidate"))),
                ("times_us", reference("TimesInMicroseconds")),
            ]),
        ),
        (
            "ClassifyAnswer",
            object(&[
                ("model", text()),
                ("version", text()),
                ("digest?", text()),
                ("predictions", list(reference("Prediction"))),
            ]),
        ),
    ]
}

fn of_models() -> Group {
    let state = || one_of(&["ready", "loading", "failed"]);
    let input = object(&[
        ("channels", whole(1)),
        ("height", whole(1)),
        ("width", whole(1)),
        ("fit", one_of(&["stretch", "crop"])),
    ]);
    let version = object(&[
        ("version", text()),
        ("state", state()),
        ("reason?", text()),
        ("engine?", text()),
        ("workers?", whole(1)),
        ("sha256?", text()),
    ]);
    let model = object(&[
        ("name", text()),
        ("state", state()),
        ("arch?", text()),
        ("engine?", text()),
        ("labels?", list(text())),
        ("input?", input),
        ("weights_sha256?", text()),
        ("versions", list(reference("Version"))),
    ]);
    vec![
        ("Version", version),
        ("Model", model),
        ("Models", object(&[("models", list(reference("Model")))])),
        ("Reloaded", object(&[("model", reference("Model"))])),
        ("Health", object(&[("status", one_of(&["ok", "ready"]))])),
        ("Document", json!({ "type": "object" })),
    ]
}

fn of_protocol() -> Group {
    let tensor = object(&[
        ("name", text()),
        ("datatype", one_of(&["FP32", "UINT8", "BYTES"])),
        ("shape", list(json!({ "type": "integer", "minimum": -1 }))),
    ]);
    let times = object(&[
        ("success", duration()),
        ("queue", duration()),
        ("compute_input", duration()),
        ("compute_infer", duration()),
    ]);
    let statistics = object(&[
        ("name", text()),
        ("version", text()),
        ("inference_count", whole(0)),
        ("execution_count", whole(0)),
        ("inference_stats", times),
    ]);
    let truth = || json!({ "type": "boolean", "const": true });
    vec![
        ("ServerMetadata", object(&[("name", text()), ("version", text()), ("extensions", list(text()))])),
        ("Live", object(&[("live", truth())])),
        ("Ready", object(&[("ready", truth())])),
        ("ModelReady", object(&[("name", text()), ("ready", truth())])),
        ("TensorMetadata", tensor),
        (
            "ModelMetadata",
            object(&[
                ("name", text()),
                ("versions", list(text())),
                ("platform", text()),
                ("inputs", list(reference("TensorMetadata"))),
                ("outputs", list(reference("TensorMetadata"))),
            ]),
        ),
        ("Statistics", object(&[("model_stats", list(statistics))])),
    ]
}

fn of_tensors() -> Group {
    let parameters = |known: &[(&str, Value)]| {
        let mut schema = open_object(known);
        schema["type"] = json!(["object", "null"]);
        schema
    };
    let maybe = |kind: &str| json!({ "type": [kind, "null"] });
    let binary_size = json!({ "type": ["integer", "null"], "minimum": 0, "maximum": u64::MAX });
    let classes = json!({ "type": ["integer", "null"], "minimum": 0, "maximum": u64::MAX });
    // Of the three inputs that a model takes, the one whose JSON is the same for every model. Pixels and values, flat
    // or nested, and everything as bytes are in the description.
    let input = open_object(&[
        ("name", one_of(&["encoded"])),
        (
            "shape",
            json!({ "type": "array", "items": { "type": "integer", "const": 1 }, "minItems": 1, "maxItems": 1 }),
        ),
        ("datatype", one_of(&["BYTES"])),
        (
            "parameters?",
            json!({ "type": ["object", "null"], "properties": { "binary_data_size": { "type": "null" } } }),
        ),
        ("data", json!({ "type": "array", "items": encoded_picture(), "minItems": 1, "maxItems": 1 })),
    ]);
    let output = open_object(&[
        ("name", one_of(&["logits", "probabilities"])),
        ("parameters?", parameters(&[("binary_data?", maybe("boolean")), ("classification?", classes)])),
    ]);
    let label = open_object(&[
        ("name", one_of(&["label"])),
        (
            "parameters?",
            json!({ "type": ["object", "null"], "properties": {
            "binary_data": maybe("boolean"), "classification": { "type": ["integer", "null"], "minimum": 0, "maximum": 0 },
        } }),
        ),
    ]);
    let written = object(&[
        ("name", text()),
        ("datatype", one_of(&["FP32", "BYTES"])),
        ("shape", list(whole(0))),
        ("parameters?", object(&[("binary_data_size", binary_size)])),
        ("data?", list(json!({ "type": ["number", "string", "null"] }))),
    ]);
    vec![
        (
            "InferRequest",
            open_object(&[
                ("id?", maybe("string")),
                ("parameters?", parameters(&[("binary_data_output?", maybe("boolean"))])),
                ("inputs", json!({ "type": "array", "items": input, "minItems": 1, "maxItems": 1 })),
                ("outputs?", json!({ "type": ["array", "null"], "items": { "oneOf": [output, label] } })),
            ]),
        ),
        (
            "InferAnswer",
            object(&[
                ("id?", text()),
                ("model_name", text()),
                ("model_version", text()),
                ("outputs", list(written)),
            ]),
        ),
    ]
}

fn of_errors() -> Group {
    let detail = object(&[("code", text()), ("message", text()), ("picture?", whole(0))]);
    vec![("Error", object(&[("error", detail)])), ("ProtocolError", object(&[("error", text())]))]
}

/// Bodies of requests by name.
pub(super) fn bodies() -> Value {
    let picture =
        || json!({ "schema": { "type": "string", "format": "binary", "contentMediaType": "image/*" } });
    json!({
        "Pictures": {
            "description": "A picture file as it is, several in a form, or several as base64 in JSON",
            "required": true,
            "content": {
                "application/json": { "schema": reference("ClassifyRequest") },
                "image/jpeg": picture(),
                "image/png": picture(),
                "image/webp": picture(),
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": { "image": { "type": "string", "format": "binary" } },
                        "required": ["image"],
                        "additionalProperties": false,
                    },
                },
            },
        },
        "Inference": {
            "description": "One of three inputs: `encoded` (BYTES, [n]: JPEG, PNG or WebP files, in JSON as base64), \
                `image` (UINT8, [n, height, width, channels]) or `input` (FP32 0..1, [n, channels, height, width]); \
                `data` flat or nested. With `Inference-Header-Content-Length` tensors follow the JSON as bytes, as \
                their `binary_data_size` says; of 0, the whole body is one picture file",
            "required": true,
            "content": { "application/json": { "schema": reference("InferRequest") } },
        },
    })
}
