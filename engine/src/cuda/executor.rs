//! What all networks of a GPU share: its kernels, cuDNN, and the working memory of a step.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaStream;

use super::convolution::{Convolutions, Pass};
use super::kernels::Kernels;
use super::memory::{Memory, bind, failed};
use super::network::OnGpu;
use super::staging::Staging;
use super::{Format, Gpu, Ptr, steps};
use crate::home::Home;
use crate::plan::{Kind, Plan};
use crate::{Precision, Result};

/// See the module.
#[derive(Debug)]
pub(crate) struct Executor {
    gpu: Gpu,
    precision: Precision,
    pub kernels: Kernels,
    convolutions: Mutex<Convolutions>,
    staging: Mutex<Staging>,
    /// Older blocks stay, since recorded passes go on using them.
    scratch: Mutex<Vec<Memory>>,
}

impl Executor {
    /// Opens the GPU of this index.
    ///
    /// # Errors
    /// [`crate::EngineError::Device`] that says what is missing: the driver, the device, or cuDNN.
    pub(crate) fn open(index: usize, precision: Precision) -> Result<Self> {
        let gpu = Gpu::open(index)?;
        let kernels = Kernels::new(&gpu)?;
        let convolutions = Mutex::new(Convolutions::new(&gpu.stream, precision)?);
        let staging = Mutex::new(Staging::new(&gpu.stream));
        Ok(Self { gpu, precision, kernels, convolutions, staging, scratch: Mutex::default() })
    }

    /// A place for the vectors of a network.
    pub(crate) fn home(self: &Arc<Self>) -> Result<Box<dyn Home>> {
        Ok(Box::new(OnGpu::new(self)?))
    }

    /// Copies a batch to an address through page-locked memory.
    ///
    /// # Safety
    /// So many bytes of the device lie there.
    pub(crate) unsafe fn stage(&self, bytes: &[u8], to: Ptr) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.staging.lock().unwrap_or_else(PoisonError::into_inner).copy(bytes, to) }
    }

    /// The device's name, memory and compute capability.
    pub(crate) fn describe(&self) -> String {
        let context = self.stream().context();
        let name = context.name().unwrap_or_else(|_| "a GPU without a name".into());
        let memory = context.total_mem().map_or(0, |bytes| bytes >> 30);
        let (major, minor) = context.compute_capability().unwrap_or_default();
        format!("{name}, {memory} GiB, compute capability {major}.{minor}")
    }

    /// Passes whose last bits may differ from run to run.
    pub(crate) fn varying(&self) -> Vec<String> {
        self.convolutions().varying()
    }

    /// Number format of maps.
    pub(crate) fn maps(&self) -> Format {
        self.precision.maps()
    }

    /// candle's device on the same stream.
    #[cfg(feature = "cuda")]
    pub(crate) fn tensors(&self) -> candle_core::Device {
        self.gpu.tensors.clone()
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.gpu.stream
    }

    /// Waits for all that was launched.
    pub(crate) fn wait(&self) -> Result<()> {
        bind(self.stream())?;
        self.stream().synchronize().map_err(|error| failed(self.stream(), &error.to_string()))
    }

    pub(crate) fn convolutions(&self) -> MutexGuard<'_, Convolutions> {
        self.convolutions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets everything ready that a run of `plan` needs, so that the run itself allocates and measures nothing.
    pub(crate) fn prepare(&self, plan: &Plan) -> Result<()> {
        let mut convolutions = self.convolutions();
        for step in &plan.steps {
            if let Kind::Conv(conv) = &step.kind
                && !conv.shape.is_depthwise()
            {
                convolutions.prepare(Pass::Forward, &conv.shape, plan.maps)?;
            }
        }
        for step in &plan.backward {
            let Kind::Conv(conv) = &plan.steps[step.step].kind else { continue };
            if conv.shape.is_depthwise() {
                continue;
            }
            if step.parameters {
                convolutions.prepare(Pass::BackwardWeight, &conv.shape, plan.maps)?;
            }
            if step.dx[0].is_some() {
                convolutions.prepare(Pass::BackwardInput, &conv.shape, plan.maps)?;
            }
        }
        drop(convolutions);
        self.scratch(steps::scratch(plan)).map(|_| ())
    }

    /// Working memory of at least so many bytes, which every launch may use until the next.
    pub(crate) fn scratch(&self, bytes: usize) -> Result<Ptr> {
        let mut blocks = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = blocks.iter().find(|block| block.bytes() >= bytes) {
            return Ok(block.at());
        }
        let block = Memory::zeros(self.stream(), bytes.next_power_of_two())?;
        let at = block.at();
        blocks.push(block);
        Ok(at)
    }
}
