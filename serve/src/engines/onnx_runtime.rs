//! ONNX Runtime behind the engine's trait: pixels become planes of values 0..1, as the file's contract says.

use onnx::runtime::OrtSession;

use super::Engine;
use super::planes::fill_planes;
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
        fill_planes(images, self.session.picture(), &mut self.planes);
        Ok(self.session.run(&self.planes)?)
    }
}
