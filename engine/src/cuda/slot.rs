//! The memory of one run of a plan, and how pictures, outputs and gradients get in and out of it.

use std::sync::Arc;

use super::constants::Constants;
use super::executor::Executor;
use super::memory::Memory;
use super::recording::Recordings;
use super::steps::{Addresses, Pictures};
use super::{Format, Ptr};
use crate::home::Call;
use crate::plan::{Plan, ValueId};
use crate::{Images, Result};

/// A plan by its address, which whoever keeps slots keeps alive too.
pub(crate) type PlanId = usize;

/// The memory of one run. Runs of a plan that are kept at once have a slot each.
pub(crate) struct Slot {
    pub plan: PlanId,
    pub arena: Memory,
    /// Pictures as they were given, u8 or f32.
    pub pictures: Memory,
    /// All outputs, f32, then their gradient.
    pub joint: Memory,
    /// The gradient of the pictures, f32.
    pub picture_gradient: Option<Memory>,
    /// One u64.
    pub key: Memory,
    pub scratch: Ptr,
    pub constants: Arc<Constants>,
    pub recordings: Recordings<Recorded>,
}

/// What tells the recorded passes of a slot apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Recorded {
    Forward { update: bool, pictures: Pictures },
    Backward { written: Vec<bool> },
}

/// Floats on one of both sides: the host's slice, or an address of the device.
pub(crate) enum Floats<'a> {
    Host(&'a mut [f32]),
    #[cfg(feature = "cuda")]
    Device(Ptr),
}

/// Pictures on one of both sides.
#[derive(Clone, Copy)]
pub(crate) enum Given<'a> {
    Host(Images<'a>),
    #[cfg(feature = "cuda")]
    Device(Pictures),
}

/// The gradient of all outputs, on one of both sides.
pub(crate) enum Cotangent<'a> {
    Host(&'a [f32]),
    #[cfg(feature = "cuda")]
    Device(Ptr, usize),
}

impl Cotangent<'_> {
    pub(crate) fn copy_to(&self, joint: &Memory) -> Result<()> {
        match self {
            Cotangent::Host(values) => joint.write(values),
            #[cfg(feature = "cuda")]
            Cotangent::Device(from, len) => joint.copy_in(*from, 4 * len),
        }
    }
}

impl Slot {
    /// What a run here works on, with vectors of its network: theta, theta in the format of the maps, statistics.
    pub(crate) fn addresses(&self, [theta, shadow, statistics]: [Ptr; 3]) -> Addresses {
        let (arena, scratch, key) = (self.arena.at(), self.scratch, self.key.at());
        Addresses { arena, scratch, theta, shadow, statistics, key }
    }

    /// Takes in the pictures of a call, and the key of its random numbers; where the pictures lie then.
    pub(crate) fn take(&self, executor: &Executor, call: &Call<'_>, given: Given<'_>) -> Result<Pictures> {
        self.key.write(&[call.draws.key()])?;
        self.take_pictures(executor, given)
    }

    /// Copies pictures in; where they lie then.
    fn take_pictures(&self, executor: &Executor, given: Given<'_>) -> Result<Pictures> {
        let at = self.pictures.at();
        match given {
            Given::Host(Images::U8(bytes)) => {
                assert!(bytes.len() <= self.pictures.bytes(), "{} bytes of pictures", bytes.len());
                // SAFETY: the memory is as long.
                unsafe { executor.stage(bytes, at)? };
                Ok(Pictures::U8(at))
            }
            Given::Host(Images::F32(floats)) => self.pictures.write(floats).map(|()| Pictures::F32(at)),
            #[cfg(feature = "cuda")]
            Given::Device(Pictures::U8(from)) => {
                self.pictures.copy_in(from, self.pictures.bytes() / 4).map(|()| Pictures::U8(at))
            }
            #[cfg(feature = "cuda")]
            Given::Device(Pictures::F32(from)) => {
                self.pictures.copy_in(from, self.pictures.bytes()).map(|()| Pictures::F32(at))
            }
        }
    }

    /// Whether every number of a value is finite.
    pub(crate) fn is_finite(&self, plan: &Plan, value: ValueId) -> Result<bool> {
        let place = plan.place(value);
        Ok(match plan.maps {
            Format::F32 => {
                let values: Vec<f32> = self.arena.read_part(4 * place.offset, place.len)?;
                values.iter().all(|value| value.is_finite())
            }
            Format::Bf16 => {
                let values: Vec<u16> = self.arena.read_part(4 * place.offset, place.len)?;
                // All bits of the exponent: infinite, or no number.
                values.iter().all(|bits| bits & 0x7f80 != 0x7f80)
            }
        })
    }
}

impl Memory {
    /// Copies its floats to one of both sides.
    pub(crate) fn give(&self, to: Floats<'_>) -> Result<()> {
        match to {
            Floats::Host(values) => self.read_into(values),
            #[cfg(feature = "cuda")]
            Floats::Device(to) => self.copy_out(to),
        }
    }
}
