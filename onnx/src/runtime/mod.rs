//! The runtimes of others that run an ONNX file: ONNX Runtime, whose shared library is sought when the program runs
//! ([`find`]), and candle-onnx. Each is asked for by name; none stands in for another.

#[cfg(feature = "candle-onnx")]
mod candle;
mod find;
#[cfg(feature = "ort")]
mod ort;

#[cfg(feature = "candle-onnx")]
pub use candle::CandleOnnx;
pub use find::{Found, How, NotFound, find};
#[cfg(feature = "ort")]
pub use ort::{OrtOptions, OrtSession};
