//! A model repository as NVIDIA's Triton reads one: `NAME/VERSION/model.onnx`, `NAME/config.pbtxt` and the labels, so
//! that its server answers with class names. The keys are those of Triton's `model_config.proto`.

use std::fmt::Write;
use std::path::Path;

use models::bundle::name_of;
use models::{Manifest, Weights};
use onnx::{Contract, Element, ModelProto};
use serde::Serialize;

use crate::bundle::write_folder;
use crate::run::{run_name, weights_file};
use crate::{Encoded, ExportError, Options, Parity, Result, Written, encode};

/// Name of the labels' file in the repository.
const LABELS: &str = "labels.txt";
/// Name of the configuration.
const CONFIG: &str = "config.pbtxt";

/// How a repository is written.
#[derive(Clone, Debug, PartialEq)]
pub struct TritonOptions {
    /// What the model is called; the run's name if not given.
    pub name: Option<String>,
    /// Its version: Triton's are numbers.
    pub version: String,
    /// Pictures that Triton may run together.
    pub max_batch: usize,
    /// How long Triton may wait for more of them, in microseconds.
    pub max_delay_us: u64,
    /// How the file is written; its format has to be an ONNX one, `out` is the repository.
    pub file: Options,
}

/// A repository that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TritonReport {
    /// Its files.
    pub files: Vec<Written>,
    /// What other runtimes say to the network.
    pub parity: Vec<Parity>,
}

/// Writes the network of a run's folder or a `model.safetensors` into a repository, which may hold other models.
///
/// # Errors
/// As [`crate::export`]; [`ExportError::Triton`] for what Triton does not take.
pub fn write(source: &Path, options: &TritonOptions) -> Result<TritonReport> {
    write_with(source, options, |manifest, weights, out| encode(manifest, weights, out, &options.file))
}

/// The same for a file that somebody else makes of the network; what it is called in errors is the third argument.
///
/// # Errors
/// As [`write()`], and those of `encode`.
pub fn write_with(
    source: &Path,
    options: &TritonOptions,
    encode: impl FnOnce(&Manifest, &Weights, &Path) -> Result<Encoded>,
) -> Result<TritonReport> {
    let file = weights_file(source);
    let (manifest, weights) = models::load(&file)?;
    let name = options.name.clone().unwrap_or_else(|| name_of(&run_name(source)));
    check(&name, options, &manifest.labels)?;
    let repository = options.file.out.clone().unwrap_or_else(|| file.with_file_name("triton"));
    let folder = repository.join(&name);
    if folder.exists() && !folder.join(CONFIG).is_file() {
        return Err(ExportError::NotABundle { path: folder });
    }
    let network = format!("{}/model.onnx", options.version);
    let encoded = encode(&manifest, &weights, &folder.join(&network))?;
    let contract = Contract::of(&ModelProto::read(&encoded.bytes)?)?;
    let config = config(&name, &contract, options);
    let labels = manifest.labels.iter().fold(String::new(), |text, label| text + label + "\n");
    let contents: [(&str, &[u8]); 3] =
        [(&network, &encoded.bytes), (CONFIG, config.as_bytes()), (LABELS, labels.as_bytes())];
    std::fs::create_dir_all(&repository)
        .map_err(|source| ExportError::File { path: repository.clone(), source })?;
    write_folder(&folder, &contents)?;
    let files = contents.iter().map(|(name, bytes)| Written::of(folder.join(name), bytes)).collect();
    Ok(TritonReport { files, parity: encoded.parity })
}

fn check(name: &str, options: &TritonOptions, labels: &[String]) -> Result<()> {
    let refused = |what: &str, expected: &str, found: &str| {
        let (what, expected, found) = (what.into(), expected.into(), format!("`{found}`"));
        Err(ExportError::Triton { what, expected, found })
    };
    if name_of(name) != name {
        return refused("the model's name", "letters, digits or `.`, `_`, `-`, `@`, `+`", name);
    }
    if options
        .version
        .parse::<u32>()
        .is_ok_and(|version| version > 0 && version.to_string() == options.version)
        && options.max_batch > 0
    {
        return match labels.iter().find(|label| label.contains(['\n', '\r'])) {
            None => Ok(()),
            Some(label) => refused("a label", "one line", label),
        };
    }
    match options.max_batch {
        0 => refused("the largest batch", "at least 1", "0"),
        _ => refused("the version", "a number from 1 on", &options.version),
    }
}

/// `config.pbtxt`: everything that Triton would otherwise have to guess.
fn config(name: &str, contract: &Contract, options: &TritonOptions) -> String {
    let input = &contract.input;
    let kind = match input.element {
        Element::Float32 => "TYPE_FP32",
        Element::Uint8 => "TYPE_UINT8",
    };
    let [a, b, c] = input.element.dims([input.channels, input.height, input.width]);
    let classes = contract.labels.len();
    let mut text = String::new();
    let _ = write!(
        text,
        "# Written by {}. Pictures go in as {} {}, {}..{}, without the batch's dimension.\n\
         name: {}\nplatform: \"onnxruntime_onnx\"\nmax_batch_size: {}\n\
         input [\n  {{\n    name: {}\n    data_type: {kind}\n    dims: [ {a}, {b}, {c} ]\n  }}\n]\n\
         output [\n  {{\n    name: \"logits\"\n    data_type: TYPE_FP32\n    dims: [ {classes} ]\n    \
         label_filename: \"{LABELS}\"\n  }}\n]\n\
         dynamic_batching {{\n  max_queue_delay_microseconds: {}\n}}\n",
        contract.producer,
        if input.element == Element::Uint8 { "uint8" } else { "float32" },
        input.layout,
        input.range[0],
        input.range[1],
        quoted(name),
        options.max_batch,
        quoted(&input.name),
        options.max_delay_us,
    );
    text
}

/// A string as protobuf's text format takes it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, run::contract};
    use models::{Fit, Manifest, Task};

    fn options() -> TritonOptions {
        TritonOptions {
            name: None,
            version: "1".into(),
            max_batch: 16,
            max_delay_us: 100,
            file: Options::new(Format::Onnx),
        }
    }

    fn manifest() -> Manifest {
        let labels = ["cat", "dog"].map(String::from).to_vec();
        Manifest::new("small-cnn-3", &Task::new(2, 3, 24), labels, Fit::Crop).unwrap()
    }

    /// Parsed by hand too, with tritonclient's own message:
    /// `text_format.Parse(open("config.pbtxt").read(), model_config_pb2.ModelConfig())`.
    const CONFIGURED: &str = r#"name: "pets"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [
  {
    name: "input"
    data_type: TYPE_FP32
    dims: [ 3, 24, 24 ]
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ 2 ]
    label_filename: "labels.txt"
  }
]
dynamic_batching {
  max_queue_delay_microseconds: 100
}
"#;

    #[test]
    fn the_configuration_is_what_tritons_schema_asks_for() {
        let text = config("pets", &contract(&manifest(), "").unwrap(), &options());
        let (comment, keys) = text.split_once('\n').unwrap();
        assert!(comment.starts_with("# Written by distill"), "{comment}");
        assert_eq!(keys, CONFIGURED);
    }

    #[test]
    fn pixels_are_bytes_in_their_own_order() {
        let mut contract = contract(&manifest(), "").unwrap();
        contract.input = onnx::Input::of(Element::Uint8, [3, 20, 24], "crop");
        let text = config("pets", &contract, &options());
        for expected in
            ["name: \"image\"", "data_type: TYPE_UINT8", "dims: [ 20, 24, 3 ]", "uint8 NHWC, 0..255"]
        {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn what_triton_does_not_take_is_named() {
        for (version, expected) in [("v2", "`v2`"), ("0", "`0`"), ("01", "`01`")] {
            let options = TritonOptions { version: version.into(), ..options() };
            let message = check("pets", &options, &[]).unwrap_err().to_string();
            assert!(
                message.contains("the version: expected a number") && message.contains(expected),
                "{message}"
            );
        }
        let message = check("pets", &options(), &["a\nb".into()]).unwrap_err().to_string();
        assert!(message.contains("a label: expected one line"), "{message}");
        let none = TritonOptions { max_batch: 0, ..options() };
        assert!(check("pets", &none, &[]).unwrap_err().to_string().contains("at least 1"));
        assert!(check("a/b", &options(), &[]).unwrap_err().to_string().contains("the model's name"));
        assert_eq!(quoted("a\"\\"), "\"a\\\"\\\\\"");
    }
}
