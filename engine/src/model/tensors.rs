//! A model's answers as candle's tensors, where the pictures are: of a GPU's nothing is copied to the host.

use candle_core::{Device, Storage, Tensor};

use super::{Model, output_shape};
use crate::Result;
use crate::net::{check_images, images_elsewhere, pixels};

impl Model {
    /// The `logits` of `images`, `[n, h, w, c]`, `u8` (0..=255) or `f32` (0..1), as `[n, classes]` on the same device; no
    /// gradient.
    ///
    /// # Errors
    /// [`crate::EngineError::Images`] for another shape or type, or a device other than the processor and the model's.
    pub fn answer(&mut self, images: &Tensor) -> Result<Tensor> {
        let batch = check_images(self.graph(), images)?;
        let node = self.graph().output("logits")?;
        let plan = self.plan(batch, node);
        let shape = output_shape(self.graph(), batch, &plan.outputs[0]);
        let images = images.contiguous()?;
        let (storage, layout) = images.storage_and_layout();
        let own = self.packed.structure.runtime.tensors();
        match &*storage {
            Storage::Cpu(storage) => {
                self.run_plan(&plan, pixels(storage, layout)?)?;
                Ok(Tensor::from_slice(&self.result, shape, &Device::Cpu)?)
            }
            #[cfg(feature = "cuda")]
            Storage::Cuda(storage) if images.device().same_device(&own) => {
                let packed = std::sync::Arc::clone(&self.packed);
                let mut home = packed.device().ok_or_else(|| images_elsewhere(&own, images.device()))?;
                self.run_on(&plan, |call, timings| {
                    crate::net::on_device::answer(&mut **home, call, storage, layout, shape, timings)
                })
            }
            _ => Err(images_elsewhere(&own, images.device())),
        }
    }
}
