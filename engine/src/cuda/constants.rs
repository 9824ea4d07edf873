//! Numbers that a plan brings with it, on the device: the tables of normalized pictures.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::Ptr;
use super::memory::{Memory, failed};
use crate::Result;
use crate::plan::{Kind, Plan};

/// See the module.
#[derive(Debug)]
pub(crate) struct Constants {
    stream: Arc<CudaStream>,
    /// By step: scale, shift, and the table for bytes, which is empty but for the input.
    steps: HashMap<usize, [Memory; 3]>,
}

impl Constants {
    pub(crate) fn new(stream: &Arc<CudaStream>, plan: &Plan) -> Result<Self> {
        let mut steps = HashMap::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let numbers: [&[f32]; 3] = match &step.kind {
                Kind::Input { scale, shift, bytes, .. } => [scale, shift, bytes],
                Kind::Affine { scale, shift, .. } => [scale, shift, &[]],
                _ => continue,
            };
            let [scale, shift, bytes] = numbers.map(|numbers| Memory::of(stream, numbers));
            steps.insert(index, [scale?, shift?, bytes?]);
        }
        Ok(Self { stream: Arc::clone(stream), steps })
    }

    /// Scale and shift of a step.
    pub(crate) fn affine(&self, step: usize) -> Result<[Ptr; 2]> {
        self.step(step).map(|[scale, shift, _]| [scale.at(), shift.at()])
    }

    /// The input's table for bytes.
    pub(crate) fn bytes(&self, step: usize) -> Result<Ptr> {
        self.step(step).map(|[_, _, bytes]| bytes.at())
    }

    fn step(&self, step: usize) -> Result<&[Memory; 3]> {
        self.steps.get(&step).ok_or_else(|| failed(&self.stream, &format!("step {step} has no constants")))
    }
}
