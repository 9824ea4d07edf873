//! Runs a [`models::Graph`]: forward and backward for training, and the same plan with batch norm folded for inference.
//!
//! A network appears to candle as one custom op over the images; its parameters are one flat vector, `theta`, that the
//! engine owns together with gradient, moments and averages. Losses are written with candle tensors on small outputs;
//! `loss.backward()` reaches the op, which accumulates into the engine's own gradient buffer.
//!
//! Never here: image files, training methods, printing.
#![allow(unsafe_code)] // kernels; every block gives its reason
#![cfg_attr(not(feature = "candle"), allow(dead_code, unused_imports))] // what only training uses

mod buffer;
mod error;
#[doc(hidden)] // public for the benchmarks alone
pub mod kernels;
mod model;
#[cfg(feature = "candle")]
mod net;
#[cfg(feature = "candle")]
mod optimizer;
mod plan;
#[doc(hidden)] // public for the benchmarks alone
pub mod pool;
mod random;
mod run;
mod runtime;
#[doc(hidden)] // public for the benchmarks alone
pub mod simd;
mod theta;

pub use error::EngineError;
pub use model::{Images, Model};
#[cfg(feature = "candle")]
pub use net::{BatchNormMode, Fwd, Grad, Net, Optimizer, Outputs, Step};
pub use runtime::{Device, Runtime};

/// Result of an engine call.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
