//! The engine on an NVIDIA GPU: the same graph and the same plan as on the processor, over vectors in the device's
//! memory. Convolutions are cuDNN's, all else runs in kernels of our own; both are found when the program runs, so that
//! one program starts with and without a GPU.
//!
//! Everything of a runtime runs on one stream, so that what is launched later sees what was launched before. Nothing is
//! allocated once a plan has run. Never here: losses, or what a plan fuses.

mod constants;
mod convolution;
mod executor;
mod gpu;
mod kernels;
mod memory;
mod network;
mod recording;
mod slot;
mod staging;
mod steps;

pub(crate) use executor::Executor;
pub(crate) use gpu::Gpu;
pub(crate) use kernels::Piece;
#[cfg(feature = "cuda")]
pub(crate) use network::OnGpu;
#[cfg(feature = "cuda")]
pub(crate) use slot::{Cotangent, Floats, Given};
#[cfg(feature = "cuda")]
pub(crate) use steps::Pictures;

pub(crate) use crate::plan::Format;

/// An address in the device's memory, passed to kernels as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub(crate) struct Ptr(pub u64);

impl Ptr {
    /// Where there is nothing.
    pub(crate) const NONE: Ptr = Ptr(0);

    /// The address this many bytes further.
    pub(crate) fn offset(self, bytes: usize) -> Self {
        Ptr(self.0 + bytes as u64)
    }
}
