//! Answers: a trained network behind an engine, a queue and HTTP, with the time of every stage of every picture; and
//! the bench that measures them.
//!
//! [`Served::open`] loads a run, a `model.safetensors` or an exported `.onnx`; [`Classifier`] answers in this process;
//! [`http::app`] answers over HTTP.
//!
//! Never here: training code (the slim binary `distill-serve` links none), printing.
#![forbid(unsafe_code)]

#[cfg(feature = "bench")]
pub mod bench;
mod classifier;
pub mod engines;
mod error;
pub mod events;
pub mod http;
mod logs;
mod metrics;
mod options;
mod pipeline;
mod queue;
mod repository;
mod running;
mod served;
mod settings;
mod watching;
mod workers;

pub use classifier::Classifier;
pub use engines::{Engine, EngineName};
pub use error::ServeError;
pub use http::{Ended, Setup, StartInfo, app, run};
pub use logs::{Log, LogFormat};
pub use options::{Options, TlsFiles};
pub use repository::Source;
pub use served::{Card, LoadOptions, Served};
pub use settings::{SETTINGS, Setting, Settings};

/// Result of a call of this crate.
pub type Result<T, E = ServeError> = std::result::Result<T, E>;
