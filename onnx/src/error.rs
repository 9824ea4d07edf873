//! What can go wrong with an ONNX file or with a runtime that should run it, each with its culprit and its mend.

use std::path::PathBuf;

use crate::runtime::NotFound;

/// A call of this crate that failed.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// Bytes that are no ONNX model.
    #[error("not an ONNX model: {0}")]
    Malformed(String),
    /// A model without our contract: pictures cannot be prepared for it.
    #[error(
        "this ONNX file has no `{key}` in its metadata, so nobody can know how pictures become its input or what its \
         answers mean; expected a file written by `distill export`"
    )]
    NoContract {
        /// The first key that is missing.
        key: &'static str,
    },
    /// A contract that does not say what it should.
    #[error("`{key}` in the ONNX file's metadata: expected {expected}, found {found}")]
    Contract {
        /// The key.
        key: &'static str,
        /// What the format asks for.
        expected: String,
        /// What the file says.
        found: String,
    },
    /// A stored array that is missing or is not what the network needs.
    #[error("array `{name}` of the ONNX file: expected {expected}, found {found}")]
    Array {
        /// Its name.
        name: String,
        /// What the network needs.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A network that is not the one that its manifest describes.
    #[error(
        "node `{node}` of the ONNX file: expected {expected}, found {found}: the file was changed after `distill export` \
         wrote it; run it with ONNX Runtime (`--engine ort`), or export it anew"
    )]
    Changed {
        /// The node.
        node: String,
        /// What the manifest's network has there.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// ONNX Runtime's library is nowhere.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// ONNX Runtime's library is there and does not load.
    #[error(
        "ONNX Runtime at {path} does not load: {reason}; expected version 1.24 or newer for this machine: \
         `pip install --upgrade onnxruntime`",
        path = path.display()
    )]
    Library {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// A second library in one process.
    #[error(
        "this process already runs ONNX Runtime from {loaded} and cannot load {asked} as well; start another process \
         for it",
        loaded = loaded.display(), asked = asked.display()
    )]
    SecondLibrary {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },
    /// Operations that a runtime does not have.
    #[error("{runtime} cannot run: {ops}", ops = ops.join(", "))]
    CannotRun {
        /// The runtime.
        runtime: &'static str,
        /// The operations, each once, in the order of the file.
        ops: Vec<String>,
    },
    /// Images that are not what the model takes.
    #[error("images: expected {expected}, found {found}")]
    Images {
        /// What the model takes.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// A runtime's own failure.
    #[error("{runtime}: {message}")]
    Runtime {
        /// The runtime.
        runtime: &'static str,
        /// Its words.
        message: String,
    },
}
