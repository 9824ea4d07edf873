//! The engine on an NVIDIA GPU: the same graph and the same plan as on the processor, over vectors in the device's
//! memory. Convolutions are cuDNN's, all else runs in kernels of our own; both are found when the program runs, so that
//! one program starts with and without a GPU.
//!
//! Everything of a process runs on one stream, so that what is launched later sees what was launched before. Nothing is
//! allocated once a plan has run. Never here: losses, or what a plan fuses.

mod gpu;

pub(crate) use gpu::Gpu;

/// Number format of maps and of their gradients. Parameters, their gradients, moments, statistics, and what a network
/// takes and answers are f32 in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    F32,
    Bf16,
}

impl Format {
    /// Bytes of a number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::Bf16 => 2,
        }
    }
}

/// An address in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ptr(pub u64);

impl Ptr {
    /// The address this many bytes further.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Ptr(self.0 + bytes as u64)
    }
}
