//! ONNX Runtime behind the engine's trait.

use onnx::pixels::fill_planes_of_values;
use onnx::runtime::OrtSession;

use super::Engine;
use crate::Result;

/// A session of its own.
#[derive(Debug)]
pub struct OnnxRuntime {
    session: OrtSession,
    planes: Vec<f32>,
}

impl OnnxRuntime {
    /// Wraps a session.
    pub fn new(session: OrtSession) -> Self {
        Self { session, planes: Vec::new() }
    }
}

impl Engine for OnnxRuntime {
    fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        Ok(self.session.run_pixels(images)?)
    }

    fn run_values(&mut self, values: &[f32]) -> Result<&[f32]> {
        fill_planes_of_values(values, self.session.picture(), &mut self.planes);
        Ok(self.session.run(&self.planes)?)
    }
}
