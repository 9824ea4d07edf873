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
    /// candle's device, whose stream this one's is.
    #[cfg(feature = "cuda")]
    pub tensors: candle_core::Device,
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
        #[cfg(feature = "cuda")]
        let tensors = candle(index).map_err(missing)?;
        #[cfg(feature = "cuda")]
        let stream = tensors.as_cuda_device().map_err(|error| missing(error.to_string()))?.cuda_stream();
        #[cfg(not(feature = "cuda"))]
        let stream = {
            let context = CudaContext::new(index).map_err(|error| missing(explain(&error)))?;
            context.new_stream().map_err(|error| missing(explain(&error)))?
        };
        // SAFETY: all of a runtime runs on this one stream, which orders everything that touches a block.
        unsafe { stream.context().disable_event_tracking() };
        let load = || stream.context().load_module(Ptx::from_binary(KERNELS.to_vec()));
        let module = load().map_err(|error| missing(explain(&error)))?;
        Ok(Self {
            stream,
            module,
            #[cfg(feature = "cuda")]
            tensors,
        })
    }
}

/// candle's device with one real stream.
#[cfg(feature = "cuda")]
fn candle(index: usize) -> Result<candle_core::Device, String> {
    // What is not there is a panic later on, whose message would reach the user before ours.
    // SAFETY: loads the libraries, whose initialization is the vendor's.
    let found = unsafe { [cudarc::cublas::sys::is_culib_present(), cudarc::curand::sys::is_culib_present()] };
    let libraries = ["cuBLAS (libcublas.so)", "cuRAND (libcurand.so)"];
    if let Some((library, _)) = libraries.iter().zip(found).find(|(_, found)| !found) {
        let mend = "put the folder of CUDA's libraries into LD_LIBRARY_PATH, or use --device cpu";
        return Err(format!("{library} is not found; {mend}"));
    }
    // One of another CUDA may lack a function, which is a panic too.
    let opened = std::panic::catch_unwind(|| candle_core::Device::new_cuda_with_stream(index));
    match opened {
        Ok(device) => device.map_err(|error| format!("{error}; use --device cpu")),
        Err(_) => {
            Err("cuBLAS or cuRAND does not fit this build; install CUDA 12 or 13, or use --device cpu".into())
        }
    }
}

/// The driver's error in words, with its mend where there is one.
fn explain(error: &DriverError) -> String {
    format!("{error}; use --device cpu")
}
