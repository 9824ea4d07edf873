//! ONNX files: their messages ([`proto`]), the contract that ours carry in their metadata ([`Contract`]), the network of
//! our own files read back ([`network`]), and the runtimes of others that run them ([`runtime`]).
//!
//! Never here: a graph written as ONNX (export does that), a picture, an HTTP request, printing.
#![forbid(unsafe_code)]

pub mod contract;
mod error;
pub mod network;
pub mod pixels;
pub mod proto;
pub mod runtime;

pub use contract::{Color, Contract, Element, Input};
pub use error::OnnxError;
pub use network::{Network, Numbers};
pub use proto::ModelProto;

/// Result of a call of this crate.
pub type Result<T, E = OnnxError> = std::result::Result<T, E>;
