//! Training: one loop, and the methods it runs without knowing them.
#![forbid(unsafe_code)]

pub mod error;
pub mod loss;
pub mod method;
pub mod names;

pub use error::{Result, TrainError};
