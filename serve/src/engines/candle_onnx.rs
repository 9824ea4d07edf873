//! candle-onnx behind the engine's trait: a plain evaluator, here to compare with. Its threads are rayon's, which
//! `RAYON_NUM_THREADS` sets for the whole process.

use super::Engine;
use crate::Result;

/// A model of its own.
#[derive(Debug)]
pub struct CandleOnnx {
    model: onnx::runtime::CandleOnnx,
    picture: [usize; 3],
    logits: Vec<f32>,
}

impl CandleOnnx {
    /// Wraps a model for pictures of channels, height and width.
    pub fn new(model: onnx::runtime::CandleOnnx, picture: [usize; 3]) -> Self {
        Self { model, picture, logits: Vec::new() }
    }
}

impl Engine for CandleOnnx {
    fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        self.logits = self.model.run_pixels(images, self.picture)?;
        Ok(&self.logits)
    }
}
