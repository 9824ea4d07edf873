//! This toolkit's own engine over bytes: a quantized `.onnx` file that `distill export` wrote, with nothing to install.

use engine::{Images, Quantized};

use super::Engine;
use crate::Result;

/// A clone of the loaded network: weights shared with the other workers, working memory its own.
#[derive(Debug)]
pub struct NativeInt8(pub Quantized);

impl Engine for NativeInt8 {
    fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        Ok(self.0.run(Images::U8(images))?)
    }

    fn run_values(&mut self, values: &[f32]) -> Result<&[f32]> {
        Ok(self.0.run(Images::F32(values))?)
    }
}
