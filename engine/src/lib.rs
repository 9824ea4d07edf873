//! Runs a [`models::Graph`]: forward and backward for training, and the same plan with batch norm folded for inference.
//!
//! A network appears to candle as one custom op over the images; its parameters are one flat vector, `theta`, that the
//! engine owns together with gradient, moments and averages. Losses are written with candle tensors on small outputs;
//! `loss.backward()` reaches the op, which accumulates into the engine's own gradient buffer.
//!
//! ```
//! use engine::{Device, Images, Model, Runtime};
//! use models::{Task, formula, zoo};
//!
//! let graph = zoo::build("small-cnn-3", &Task::new(10, 3, 32))?;
//! let runtime = Runtime::new(Device::Cpu, 1)?;
//! let mut model = Model::new(&graph, &formula::weights(&graph, 1.0), &runtime)?;
//! let logits = model.run(Images::U8(&formula::picture(0, 3, 32, 32)))?;
//! assert_eq!(logits.len(), 10);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Never here: image files, training methods, printing.
#![allow(unsafe_code)] // kernels; every block gives its reason
#![cfg_attr(not(feature = "candle"), allow(dead_code, unused_imports))] // what only training uses

#[doc(hidden)] // public for the benchmarks alone
pub mod buffer;
#[cfg_attr(not(feature = "cuda-core"), path = "cuda/absent.rs")]
mod cuda;
mod error;
mod home;
mod host;
#[doc(hidden)] // public for the benchmarks alone
pub mod kernels;
pub mod limits;
pub mod machine;
pub mod memory;
mod model;
#[cfg(feature = "candle")]
mod net;
mod optimizer;
mod plan;
#[doc(hidden)] // public for the benchmarks alone
pub mod pool;
mod profile;
mod quantized;
mod random;
mod run;
mod runtime;
#[doc(hidden)] // public for the benchmarks alone
pub mod simd;
mod theta;

pub use error::EngineError;
pub use kernels::conv::WeightFormat;
pub use model::{Images, Model};
#[cfg(feature = "candle")]
pub use net::{BatchNormMode, Fwd, Grad, Net, Outputs, Step};
pub use optimizer::Optimizer;
pub use profile::{NodeProfile, Pass, Profile};
pub use quantized::{Observer, Point, Quantized};
pub use runtime::{Device, Precision, Runtime};

/// Result of an engine call.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
