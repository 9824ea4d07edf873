//! What can go wrong in a training run, each with its culprit and what mends it.

use std::path::{Path, PathBuf};

/// A run that could not start, go on or be saved.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A name that is not registered.
    #[error("no {kind} `{name}`{suggestion} (known: {known})")]
    Unknown {
        /// Method, option, optimizer, ...
        kind: String,
        /// What was asked for.
        name: String,
        /// `; did you mean X?` or nothing.
        suggestion: String,
        /// What there is.
        known: String,
    },
    /// A setting of the wrong kind or out of range.
    #[error("{key}: expected {expected}, found `{found}`")]
    Setting {
        /// The setting's name, as in config.toml.
        key: String,
        /// What it may be.
        expected: String,
        /// What it was.
        found: String,
    },
    /// A setting that is none of the known names.
    #[error("{key}: {reason}")]
    Name {
        /// The setting's name.
        key: String,
        /// What was found and what is known.
        reason: String,
    },
    /// A configuration file that does not parse.
    #[error("{}: {reason}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        reason: String,
    },
    /// The run's folder exists already.
    #[error(
        "{} already exists; choose another with --out, or continue that run with --resume {}",
        path.display(), path.display()
    )]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that holds no run.
    #[error("{} is not a run: {reason}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What was looked for and not found.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("{action} {}: {source}", path.display())]
    File {
        /// `reading`, `writing`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// A `.pth` that is no state dict.
    #[error("{}: {source}", path.display())]
    StateDict {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<crate::state_dict::StateDictError>,
    },
    /// Too many steps in a row whose loss or gradient was not finite.
    #[error(
        "step {step}: {culprit} is not finite, the {skips}th step in a row; lower --lr, or set --clip-norm"
    )]
    Diverged {
        /// The last of the steps.
        step: u64,
        /// The part of the loss, or the parameter, that was not finite.
        culprit: String,
        /// How many steps in a row.
        skips: u32,
    },
    /// A sink that could not take an event.
    #[error("{sink}: {reason}")]
    Sink {
        /// The sink.
        sink: &'static str,
        /// What failed.
        reason: String,
    },
    /// The data set's own error.
    #[error(transparent)]
    Data(#[from] data::DataError),
    /// An architecture that is not to be had.
    #[error(transparent)]
    Zoo(#[from] models::ZooError),
    /// A manifest that cannot be.
    #[error(transparent)]
    Manifest(#[from] models::ManifestError),
    /// A network's file that could not be read or written.
    #[error(transparent)]
    Model(#[from] models::FileError),
    /// The network's own error.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// The graph's own error.
    #[error(transparent)]
    Graph(#[from] models::GraphError),
    /// A tensor's error: a slip of a method, or no memory.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl TrainError {
    /// Wraps what the system said about `path`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }

    /// A file whose content is wrong.
    pub fn malformed(path: &Path, reason: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), reason: reason.into() }
    }

    /// A setting that is not what it should be.
    pub fn setting(key: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), expected: expected.into(), found: found.into() }
    }

    /// Whether the user can mend it by another flag or file (exit code 2), rather than a failure of the machine or ours.
    pub fn mendable(&self) -> bool {
        match self {
            Self::Data(error) => error.is_users(),
            Self::File { .. } | Self::Sink { .. } | Self::Tensor(_) | Self::Graph(_) => false,
            _ => true,
        }
    }
}

/// Result of a call of this crate.
pub type Result<T, E = TrainError> = std::result::Result<T, E>;
