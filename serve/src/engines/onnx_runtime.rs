//! ONNX Runtime behind the engine's trait.

use onnx::runtime::OrtSession;

use super::Engine;
use crate::Result;

/// A session of its own.
#[derive(Debug)]
pub struct OnnxRuntime(OrtSession);

impl OnnxRuntime {
    /// Wraps a session.
    pub fn new(session: OrtSession) -> Self {
        Self(session)
    }
}

impl Engine for OnnxRuntime {
    fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        Ok(self.0.run_pixels(images)?)
    }
}
