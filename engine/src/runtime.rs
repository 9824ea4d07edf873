//! Where networks run: the device and the thread pool that all networks of a process share.

use std::str::FromStr;

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
    threads: usize,
}

impl Runtime {
    /// A runtime on `device` with `threads` threads, the caller's among them; 0 means one per core.
    ///
    /// # Errors
    /// [`EngineError::Device`] if this build or machine lacks the device.
    pub fn new(device: Device, threads: usize) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self { threads: if threads == 0 { cores() } else { threads } }),
            Device::Cuda(_) => Err(EngineError::Device {
                device: "cuda".into(),
                reason: "this build has no CUDA support; use --device cpu".into(),
            }),
        }
    }

    /// Threads that compute, the caller's among them.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Instruction set that the kernels use: `avx512`, `avx2` or `portable`.
    pub fn isa(&self) -> &'static str {
        "portable"
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
