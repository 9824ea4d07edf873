//! Where networks run: the device and the thread pool that all networks of a process share.

use std::str::FromStr;
use std::sync::Arc;

use crate::cuda::Executor;
use crate::home::Home;
use crate::host::Host;
use crate::kernels::conv::WeightOrder;
use crate::plan::Format;
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

/// How exactly a network's maps are kept and multiplied. Parameters, statistics and what a network answers are f32 in
/// all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits throughout.
    F32,
    /// Maps of 32 bits, whose convolutions may round factors to 10 bits of mantissa (TF32 of NVIDIA's tensor cores).
    Tf32,
    /// Maps of 16 bits with 8 of mantissa; sums are f32.
    Bf16,
}

impl Precision {
    /// Their names.
    pub const NAMES: [&'static str; 3] = ["f32", "tf32", "bf16"];

    /// `f32`, `tf32` or `bf16`.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Number format of maps.
    pub(crate) fn maps(self) -> Format {
        if self == Precision::Bf16 { Format::Bf16 } else { Format::F32 }
    }

    /// What a device computes in if nothing else is asked for.
    pub fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Precision::F32,
            Device::Cuda(_) => Precision::Bf16,
        }
    }
}

impl FromStr for Precision {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        let all = [Precision::F32, Precision::Tf32, Precision::Bf16];
        all.into_iter().find(|precision| precision.name() == name).ok_or_else(|| EngineError::Unknown {
            kind: "precision",
            name: name.into(),
            known: Self::NAMES.join(", "),
        })
    }
}

/// A device with its thread pool. Cheap to clone; clones share the pool.
#[derive(Clone, Debug)]
pub struct Runtime {
    device: Device,
    precision: Precision,
    pool: Arc<Pool>,
    gpu: Option<Arc<Executor>>,
}

impl Runtime {
    /// A runtime on `device` with `threads` threads, the caller's among them; 0 means one per core.
    ///
    /// # Errors
    /// [`EngineError::Device`] if this build or machine lacks the device.
    pub fn new(device: Device, threads: usize) -> Result<Self> {
        Self::with_precision(device, threads, Precision::of(device))
    }

    /// The same in `precision`, of which the CPU has f32 alone.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn with_precision(device: Device, threads: usize, precision: Precision) -> Result<Self> {
        Self::open(device, precision, Pool::new(count(threads)))
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
        Self::open(device, Precision::of(device), Pool::with_isa(count(threads), found))
    }

    /// From names as a user gives them: `cpu`, `cuda` or `cuda:N`, and `f32`, `tf32` or `bf16`, or nothing for what suits
    /// the device.
    ///
    /// # Errors
    /// [`EngineError::Unknown`] for a name, else as [`Runtime::new`].
    pub fn named(device: &str, precision: Option<&str>, threads: usize) -> Result<Self> {
        let device: Device = device.parse()?;
        let precision = precision.map_or(Ok(Precision::of(device)), str::parse)?;
        Self::with_precision(device, threads, precision)
    }

    fn open(device: Device, precision: Precision, pool: Pool) -> Result<Self> {
        let gpu = match device {
            Device::Cpu if precision == Precision::F32 => None,
            Device::Cpu => {
                let reason = format!("it has no {}; use --precision f32, or --device cuda", precision.name());
                return Err(EngineError::Device { device: "cpu".into(), reason });
            }
            Device::Cuda(index) => Some(Arc::new(Executor::open(index, precision)?)),
        };
        Ok(Self { device, precision, pool: Arc::new(pool), gpu })
    }

    /// The GPU's name, memory and compute capability, where networks live on one.
    pub fn gpu(&self) -> Option<String> {
        self.gpu.as_ref().map(|gpu| gpu.describe())
    }

    /// Where networks live and what they compute in, for records: `cpu, avx512, f32`, or a GPU's name with its precision.
    pub fn describe(&self) -> String {
        let place = self.gpu().unwrap_or_else(|| format!("cpu, {}", self.isa()));
        format!("{place}, {}", self.precision.name())
    }

    /// What of the networks run so far may differ in its last bits from run to run: convolutions for which cuDNN has no
    /// deterministic algorithm. Always empty on the processor.
    pub fn varying(&self) -> Vec<String> {
        self.gpu.as_ref().map(|gpu| gpu.varying()).unwrap_or_default()
    }

    /// Where networks of this runtime live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// What they compute in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Threads that compute, the caller's among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Instruction set that the kernels use: `avx512`, `avx2` or `portable`.
    pub fn isa(&self) -> &'static str {
        self.pool.isa().name()
    }

    /// Waits until the device has done all that it was given: a GPU takes work faster than it does it.
    ///
    /// # Errors
    /// What went wrong there meanwhile.
    pub fn wait(&self) -> Result<()> {
        self.gpu.as_ref().map_or(Ok(()), |gpu| gpu.wait())
    }

    /// A runtime on a pool of a test's own.
    #[cfg(test)]
    pub(crate) fn of_pool(pool: Pool) -> Self {
        Self { device: Device::Cpu, precision: Precision::F32, pool: Arc::new(pool), gpu: None }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What runs on the GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn executor(&self) -> Option<&Arc<Executor>> {
        self.gpu.as_ref()
    }

    /// A place for the vectors of a network.
    pub(crate) fn home(&self) -> Result<Box<dyn Home>> {
        match &self.gpu {
            None => Ok(Box::new(Host::default())),
            Some(gpu) => gpu.home(),
        }
    }

    /// Where candle's tensors are best put: the GPU, where this build computes losses there.
    #[cfg(feature = "candle")]
    pub(crate) fn tensors(&self) -> candle_core::Device {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.tensors();
        }
        candle_core::Device::Cpu
    }

    /// Number format of maps.
    pub(crate) fn maps(&self) -> Format {
        self.precision.maps()
    }

    /// Whether batch norm is folded into the weights where nothing is trained.
    pub(crate) fn folds(&self) -> bool {
        self.gpu.is_none()
    }

    /// How the weights of convolutions lie.
    pub(crate) fn weight_order(&self) -> WeightOrder {
        if self.gpu.is_none() { WeightOrder::Blocked } else { WeightOrder::Ohwi }
    }
}

/// `threads`, or one per core for 0.
fn count(threads: usize) -> usize {
    if threads == 0 { cores() } else { threads }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
