//! What runs a network for a server: one trait, a file per engine and one line of [`REGISTRY`] each. An engine that
//! was asked for and is not there is an error; none stands in for another.

#[cfg(feature = "candle-onnx")]
mod candle_onnx;
mod native;
mod native_int8;
#[cfg(feature = "ort")]
mod onnx_runtime;

use std::str::FromStr;

use engine::Profile;

#[cfg(feature = "candle-onnx")]
pub use candle_onnx::CandleOnnx;
pub use native::Native;
pub use native_int8::NativeInt8;
#[cfg(feature = "ort")]
pub use onnx_runtime::OnnxRuntime;

use crate::{Result, ServeError};

/// Runs a network. Every worker owns one: nothing is shared between two calls.
pub trait Engine: Send {
    /// Runs a batch of pictures of the network's size, `[n, height, width, channels]`, 0..=255, and returns the
    /// logits, `[n, classes]`, valid until the next call.
    ///
    /// # Errors
    /// If the engine fails, or the length is no whole number of pictures.
    fn run(&mut self, images: &[u8]) -> Result<&[f32]>;

    /// The same for pictures of values 0..1, `[n, height, width, channels]`, from clients that send tensors.
    ///
    /// # Errors
    /// As [`Engine::run`], and [`ServeError::Values`] from an engine that takes bytes alone.
    fn run_values(&mut self, values: &[f32]) -> Result<&[f32]> {
        let _ = values;
        Err(ServeError::Values)
    }

    /// Takes the time of every node from here on, if the engine can; says whether it does.
    fn start_profile(&mut self) -> bool {
        false
    }

    /// What the nodes have taken since; `None` from an engine that cannot say.
    fn profile(&self) -> Option<Profile> {
        None
    }
}

/// An engine by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineName {
    /// This toolkit's own.
    Native,
    /// ONNX Runtime, its library sought when the program runs.
    Ort,
    /// candle-onnx, a plain evaluator to compare with; a build feature.
    CandleOnnx,
}

/// A line of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which engine.
    pub engine: EngineName,
    /// Its name in options and answers.
    pub name: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
}

/// Every engine.
pub const REGISTRY: &[Entry] = &[
    Entry {
        engine: EngineName::Native,
        name: "native",
        summary: "this toolkit's own: runs, model.safetensors, and .onnx files that it wrote",
    },
    Entry { engine: EngineName::Ort, name: "ort", summary: "ONNX Runtime: .onnx files" },
    Entry {
        engine: EngineName::CandleOnnx,
        name: "candle-onnx",
        summary: "candle-onnx, to compare with: .onnx files (build feature candle-onnx)",
    },
];

impl EngineName {
    /// Its name in options and answers.
    pub fn name(self) -> &'static str {
        match self {
            EngineName::Native => "native",
            EngineName::Ort => "ort",
            EngineName::CandleOnnx => "candle-onnx",
        }
    }
}

impl FromStr for EngineName {
    type Err = ServeError;

    fn from_str(name: &str) -> Result<Self> {
        let names = || REGISTRY.iter().map(|entry| entry.name);
        let found = REGISTRY.iter().find(|entry| entry.name == name);
        found.map(|entry| entry.engine).ok_or_else(|| ServeError::UnknownEngine {
            name: name.into(),
            suggestion: models::nearest::suggestion(name, names()),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_is_found_by_its_name_and_a_slip_is_mended() {
        for entry in REGISTRY {
            assert_eq!(entry.name.parse::<EngineName>().unwrap(), entry.engine);
            assert_eq!(entry.engine.name(), entry.name);
        }
        let error = "natve".parse::<EngineName>().unwrap_err().to_string();
        assert!(error.contains("did you mean `native`?"), "{error}");
    }
}
