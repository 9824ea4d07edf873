//! Inference: the plan with batch norm folded into the convolutions and weights packed once.

use models::{Graph, Weights};

use crate::{Result, Runtime};

/// Pictures as a contiguous batch, NHWC.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// Pixels 0..=255, as they come from a decoder; the engine divides by 255.
    U8(&'a [u8]),
    /// Values 0..1.
    F32(&'a [f32]),
}

/// A network ready to answer. Clones share the packed weights; each has its own working memory, so give every
/// worker a clone.
#[derive(Clone, Debug)]
pub struct Model {
    graph: std::sync::Arc<Graph>,
}

impl Model {
    /// Folds, packs and plans `graph` with `weights` for evaluation.
    ///
    /// # Errors
    /// [`crate::EngineError::Weights`] listing what is missing, extra or of another shape.
    pub fn new(graph: &Graph, weights: &Weights, runtime: &Runtime) -> Result<Self> {
        let _ = (weights, runtime);
        Ok(Self { graph: std::sync::Arc::new(graph.clone()) })
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Runs a batch and returns the `logits` output, `[n, classes]` row-major, valid until the next call.
    ///
    /// # Errors
    /// [`crate::EngineError::Images`] if the length is not a whole number of pictures.
    pub fn run(&mut self, images: Images<'_>) -> Result<&[f32]> {
        self.run_output(images, "logits")
    }

    /// Runs a batch and returns any named output; maps come as NCHW.
    ///
    /// # Errors
    /// As [`Model::run`], and if there is no such output.
    pub fn run_output(&mut self, images: Images<'_>, output: &str) -> Result<&[f32]> {
        let _ = (images, output);
        unimplemented!("the plan")
    }
}
