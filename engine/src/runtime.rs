//! Where networks run: the device and the thread pool that all networks of a process share.

use std::str::FromStr;
use std::sync::Arc;

use crate::cuda::Gpu;
use crate::pool::Pool;
use crate::simd::Isa;
use crate::{EngineError, Result};

/// A device by name: `cpu` or `cuda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The CUDA device of this index.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            other => {
                let index = other.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                let unknown = || EngineError::Unknown {
                    kind: "device",
                    name: name.into(),
                    known: "cpu, cuda, cuda:N".into(),
                };
                index.map(Device::Cuda).ok_or_else(unknown)
            }
        }
    }
}

/// A device with its thread pool. Cheap to clone; clones share the pool.
#[derive(Clone, Debug)]
pub struct Runtime {
    pool: Arc<Pool>,
    gpu: Option<Arc<Gpu>>,
}

impl Runtime {
    /// A runtime on `device` with `threads` threads, the caller's among them; 0 means one per core.
    ///
    /// # Errors
    /// [`EngineError::Device`] if this build or machine lacks the device.
    pub fn new(device: Device, threads: usize) -> Result<Self> {
        Self::open(device, Pool::new(count(threads)))
    }

    /// The same with the instruction set of this name (see [`Runtime::isa`]) instead of the machine's best.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the machine lacks it, [`EngineError::Unknown`] if nothing is called so.
    pub fn with_isa(device: Device, threads: usize, isa: &str) -> Result<Self> {
        let known = || Isa::ALL.map(Isa::name).join(", ");
        let found = Isa::ALL.into_iter().find(|known| known.name() == isa).ok_or_else(|| {
            EngineError::Unknown { kind: "instruction set", name: isa.into(), known: known() }
        })?;
        if !found.is_available() {
            let reason = "this processor does not have it".into();
            return Err(EngineError::Device { device: isa.into(), reason });
        }
        Self::open(device, Pool::with_isa(count(threads), found))
    }

    fn open(device: Device, pool: Pool) -> Result<Self> {
        let gpu = match device {
            Device::Cpu => None,
            Device::Cuda(index) => Some(Arc::new(Gpu::open(index)?)),
        };
        Ok(Self { pool: Arc::new(pool), gpu })
    }

    /// Threads that compute, the caller's among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Instruction set that the kernels use: `avx512`, `avx2` or `portable`.
    pub fn isa(&self) -> &'static str {
        self.pool.isa().name()
    }

    /// A runtime on a pool of a test's own.
    #[cfg(test)]
    pub(crate) fn of_pool(pool: Pool) -> Self {
        Self { pool: Arc::new(pool), gpu: None }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The GPU that networks of this runtime live on.
    pub(crate) fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.gpu.as_ref()
    }
}

/// `threads`, or one per core for 0.
fn count(threads: usize) -> usize {
    if threads == 0 { cores() } else { threads }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
