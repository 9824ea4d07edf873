//! A trained network to files that others run, with proof that the file answers as the network did.
//!
//! [`export`] writes a run's network as safetensors or ONNX; [`writer`] turns a graph into an ONNX model, [`parity`]
//! asks every runtime the same pictures as the engine, [`quantize`] makes int8 files and judges them. A file that a runtime answers otherwise never stands under its
//! final name.
//!
//! Never here: training, HTTP, printing.
#![forbid(unsafe_code)]

pub mod accuracy;
pub mod answers;
pub mod bundle;
pub mod card;
mod error;
mod format;
pub mod half;
pub mod input;
pub mod latency;
pub mod package;
pub mod parity;
pub mod quantize;
mod run;
pub mod triton;
pub mod verify;
pub mod writer;

pub use error::ExportError;
pub use format::{Entry, FORMATS, Format};
pub use parity::{Answer, Difference, Parity};
pub use run::{Encoded, Options, Report, Written, contract, encode, export, export_network, manifest_of};

/// Name and version of this writer, as files say it.
pub const PRODUCER: &str = concat!("distill ", env!("CARGO_PKG_VERSION"));

/// Result of a call of this crate.
pub type Result<T, E = ExportError> = std::result::Result<T, E>;
