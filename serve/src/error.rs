//! What can go wrong before the first request: loading a model, starting a server. What can go wrong with a request
//! is in `http::error`.

use std::path::PathBuf;

/// A model that cannot be served, or a server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file that is not there or cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    Source {
        /// What was to be served.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        reason: String,
    },
    /// An engine of another name.
    #[error("no engine `{name}`{suggestion}; known: {known}")]
    UnknownEngine {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`, or nothing.
        suggestion: String,
        /// All engines.
        known: String,
    },
    /// An engine that does not run this kind of model.
    #[error("{path}: engine `{engine}` does not run it: {reason}", path = path.display())]
    WrongEngine {
        /// The model.
        path: PathBuf,
        /// The engine asked for.
        engine: &'static str,
        /// Why not, and which one does.
        reason: String,
    },
    /// An engine that does not tell where its time goes.
    #[error("engine `{engine}` has no times of single nodes; profile the run itself on the `native` engine")]
    NoProfile {
        /// The engine.
        engine: &'static str,
    },
    /// An engine that takes pictures as bytes alone.
    #[error("this model's engine takes pictures as bytes 0..=255 (u8), found values (f32)")]
    Values,
    /// A model that did not prove itself after loading.
    #[error("{model} did not prove itself: {reason}")]
    Unproved {
        /// The model.
        model: String,
        /// What it answered, and what was expected.
        reason: String,
    },
    /// A model that could not be loaded.
    #[error("model `{model}`: {reason}")]
    Load {
        /// The model.
        model: String,
        /// Why, with the version.
        reason: String,
    },
    /// A setting that makes no sense.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it has to be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// A picture that cannot be classified.
    #[error(transparent)]
    Picture(#[from] picture::PictureError),
    /// The engine's own error.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// An error about an ONNX file or the library that runs it.
    #[error(transparent)]
    Onnx(#[from] onnx::OnnxError),
    /// An architecture of the zoo that is not there or does not fit.
    #[error(transparent)]
    Zoo(#[from] models::ZooError),
    /// A bundle that is not whole or contradicts itself.
    #[error(transparent)]
    Bundle(#[from] models::BundleError),
    /// A network that contradicts itself.
    #[error(transparent)]
    Manifest(#[from] models::ManifestError),
    /// An address that cannot be listened on, a thread that cannot start, a connection that broke.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ServeError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
