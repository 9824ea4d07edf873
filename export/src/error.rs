//! What can go wrong in an export, each with its culprit and its mend.

use std::path::PathBuf;

use crate::parity::Parity;

/// An export that failed; no file stands under its final name then.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A weight that is missing or of another shape.
    #[error("weight `{name}`: expected {expected}, found {found}")]
    Weight {
        /// Its name.
        name: String,
        /// The shape that the graph asks for.
        expected: String,
        /// The shape that is there, or none.
        found: String,
    },
    /// A format that is not written.
    #[error("no export format `{name}`{suggestion}; known: {known}")]
    Format {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`, or nothing.
        suggestion: String,
        /// All formats.
        known: String,
    },
    /// An input that is not written.
    #[error("no input `{name}`{suggestion}; known: {known}")]
    Input {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`, or nothing.
        suggestion: String,
        /// All inputs.
        known: String,
    },
    /// A folder where one file was to be written.
    #[error("{path}: a bundle is a folder, expected a format of one file", path = path.display())]
    Folder {
        /// What was to be written.
        path: PathBuf,
    },
    /// Something else where a folder was to be written.
    #[error(
        "{path}: expected no folder, or one of the same kind to replace; found something else, which stays (another place with \
         --out DIR)",
        path = path.display()
    )]
    NotABundle {
        /// What is in the way.
        path: PathBuf,
    },
    /// A repository that Triton would not take.
    #[error("{what}: expected {expected}, as Triton does, found {found}")]
    Triton {
        /// What is wrong.
        what: String,
        /// What Triton takes.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A program that cannot be packaged.
    #[error("{path}: {reason}", path = path.display())]
    Program {
        /// Where it was looked for, or what it is.
        path: PathBuf,
        /// What is wrong with it, and how to get a better one.
        reason: String,
    },
    /// Pictures of other classes.
    #[error("{data}: expected the network's classes [{expected}], found [{found}]")]
    Classes {
        /// The data set.
        data: String,
        /// The network's.
        expected: String,
        /// Its own.
        found: String,
    },
    /// Pictures that cannot be divided as the training did.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// A bundle that is not whole or contradicts itself.
    #[error(transparent)]
    Bundle(#[from] models::BundleError),
    /// A manifest that was about to contradict itself.
    #[error("manifest.json: {0}")]
    BundleManifest(#[from] models::bundle::Contradiction),
    /// A file that cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A run or model that cannot be read.
    #[error(transparent)]
    Source(#[from] models::FileError),
    /// A network that contradicts itself.
    #[error(transparent)]
    Network(#[from] models::FormatError),
    /// A manifest that contradicts itself.
    #[error(transparent)]
    Contradiction(#[from] models::ManifestError),
    /// A manifest that cannot be written as JSON.
    #[error("the manifest cannot be written: {reason}")]
    Manifest {
        /// What stands in the way.
        reason: String,
    },
    /// A runtime answers otherwise than the engine, or fails on the file: it was not left in place.
    #[error("{runtime} {answer}: {path} was not written", runtime = parity.runtime, answer = parity.answer, path = path.display())]
    Differs {
        /// The file that is not there.
        path: PathBuf,
        /// The comparison.
        parity: Parity,
    },
    /// Parity was required and ONNX Runtime did not confirm it.
    #[error(
        "--require-parity: expected {runtime} to agree, found: {answer}; {path} was not written",
        runtime = parity.runtime, answer = parity.answer, path = path.display()
    )]
    ParityRequired {
        /// The file that is not there.
        path: PathBuf,
        /// The comparison.
        parity: Parity,
    },
    /// A way to choose ranges that there is not.
    #[error(
        "no calibration `{name}`{suggestion}; known: minmax, entropy, percentile, or percentile:99.99 with a share of \
         50 to 100 per cent"
    )]
    Calibration {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`, or nothing.
        suggestion: String,
    },
    /// A data set that a network cannot be calibrated or judged with.
    #[error("{data}: expected {expected}, found {found}")]
    Pictures {
        /// The data set.
        data: String,
        /// What is needed.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A format that needs pictures, which the caller did not give.
    #[error("{path}: a file in int8 is calibrated on pictures: `quantize::export` takes them", path = path.display())]
    NeedsPictures {
        /// The file.
        path: PathBuf,
    },
    /// A quantized file that is not good enough.
    #[error(
        "{path} was not written: {reasons}; try another --calibration, allow more with --max-drop, or write it all the \
         same, marked, with --force",
        path = path.display()
    )]
    Refused {
        /// The file that is not there.
        path: PathBuf,
        /// What speaks against it.
        reasons: String,
    },
    /// The graph's own error.
    #[error(transparent)]
    Graph(#[from] models::GraphError),
    /// The engine's own error.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// An error about the ONNX file or a library that was asked for by name.
    #[error(transparent)]
    Onnx(#[from] onnx::OnnxError),
}
