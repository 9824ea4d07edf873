//! A trained network to files that others run, with proof that the file answers as the network did.
//!
//! [`writer`] writes a graph as ONNX, [`parity`] asks every runtime the same pictures as the engine.
//!
//! Never here: training, HTTP, printing.
#![forbid(unsafe_code)]

mod error;
pub mod parity;
pub mod writer;

pub use error::ExportError;
pub use parity::{Answer, Difference, Parity};

/// Result of a call of this crate.
pub type Result<T, E = ExportError> = std::result::Result<T, E>;
