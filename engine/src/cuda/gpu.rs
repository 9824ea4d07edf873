//! One GPU: its context, the stream that everything runs on, and the kernels loaded there.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;

use crate::{EngineError, Result};

/// Machine code for the GPUs that build.rs names, and PTX.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// See the module.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub stream: Arc<CudaStream>,
    pub module: Arc<CudaModule>,
}

impl Gpu {
    /// The GPU of this index.
    ///
    /// # Errors
    /// [`EngineError::Device`] that says what is missing: the driver, the device, or cuDNN.
    pub(crate) fn open(index: usize) -> Result<Self> {
        let missing = |reason: String| EngineError::Device { device: format!("cuda:{index}"), reason };
        // A library that is not there is a panic later on.
        // SAFETY: loads the library, whose initialization is the vendor's.
        if !unsafe { sys::is_culib_present() } {
            let reason = "no NVIDIA driver is installed here (libcuda.so.1 is not found); use --device cpu";
            return Err(missing(reason.into()));
        }
        let found = CudaContext::device_count().map_err(|error| missing(explain(&error)))?;
        if index >= usize::try_from(found).unwrap_or(0) {
            let reason = format!("this machine has {found} CUDA devices, counted from 0; use --device cpu");
            return Err(missing(reason));
        }
        let context = CudaContext::new(index).map_err(|error| missing(explain(&error)))?;
        let stream = context.new_stream().map_err(|error| missing(explain(&error)))?;
        Self::on(stream).map_err(|error| missing(explain(&error)))
    }

    /// With the stream that something else made.
    fn on(stream: Arc<CudaStream>) -> Result<Self, DriverError> {
        let module = stream.context().load_module(Ptx::from_binary(KERNELS.to_vec()))?;
        Ok(Self { stream, module })
    }
}

/// The driver's error in words, with its mend where there is one.
fn explain(error: &DriverError) -> String {
    format!("{error}; use --device cpu")
}
