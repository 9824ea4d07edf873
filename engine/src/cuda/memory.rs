//! Memory of the device, and copies between it and the host.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError, result};

use super::Ptr;
use crate::{EngineError, Result};

/// A number whose bytes are the same on both sides.
pub(crate) trait Plain: Copy + Default {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for super::kernels::Piece {}
impl Plain for super::kernels::Scalars {}
impl Plain for super::kernels::SquareSum {}

/// A block of device memory, zeros at first, freed behind everything that was launched before it is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    stream: Arc<CudaStream>,
    at: Ptr,
    bytes: usize,
    /// Frees the block.
    _slice: CudaSlice<u8>,
}

impl Memory {
    /// # Errors
    /// [`EngineError::Device`] if there is not so much left.
    pub(crate) fn zeros(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        // An allocation of nothing has no address.
        let slice = stream.alloc_zeros::<u8>(bytes.max(16)).map_err(|error| {
            let asked = format!("cannot allocate {} MiB: {error}", bytes.div_ceil(1 << 20));
            failed(stream, &format!("{asked}; train with a smaller --batch or a smaller network"))
        })?;
        let at = Ptr(slice.device_ptr(stream).0);
        Ok(Self { stream: Arc::clone(stream), at, bytes, _slice: slice })
    }

    /// With these values.
    pub(crate) fn of<T: Plain>(stream: &Arc<CudaStream>, values: &[T]) -> Result<Self> {
        let memory = Self::zeros(stream, size_of_val(values))?;
        memory.write(values)?;
        Ok(memory)
    }

    /// Its address.
    pub(crate) fn at(&self) -> Ptr {
        self.at
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many f32 it holds.
    pub(crate) fn floats(&self) -> usize {
        self.bytes / 4
    }

    /// Copies `values` to its start, behind everything that was launched before; `values` are free when this returns.
    pub(crate) fn write<T: Plain>(&self, values: &[T]) -> Result<()> {
        assert!(size_of_val(values) <= self.bytes, "{} values into {} bytes", values.len(), self.bytes);
        self.bind()?;
        // SAFETY: the block is as long; memory that is not page-locked has been read when the call returns.
        unsafe { result::memcpy_htod_async(self.at.0, values, self.stream.cu_stream()) }
            .map_err(|error| failed(&self.stream, &format!("copying to the device: {error}")))
    }

    /// Its first `len` values, when everything launched before is done.
    pub(crate) fn read<T: Plain>(&self, len: usize) -> Result<Vec<T>> {
        let mut values = vec![T::default(); len];
        self.read_into(&mut values)?;
        Ok(values)
    }

    /// The same into `values`.
    pub(crate) fn read_into<T: Plain>(&self, values: &mut [T]) -> Result<()> {
        read_at(&self.stream, self.at, self.bytes, values)
    }

    /// `len` values from a byte on, when everything launched before is done.
    pub(crate) fn read_part<T: Plain>(&self, start: usize, len: usize) -> Result<Vec<T>> {
        let mut values = vec![T::default(); len];
        read_at(&self.stream, self.at.offset(start), self.bytes.saturating_sub(start), &mut values)?;
        Ok(values)
    }

    /// Copies all of `other`, which is as long.
    pub(crate) fn copy_from(&self, other: &Memory) -> Result<()> {
        assert_eq!(self.bytes, other.bytes, "blocks of different lengths");
        self.copy(self.at, other.at, self.bytes)
    }

    /// Copies `bytes` from elsewhere on the device to its start.
    #[cfg(feature = "cuda")]
    pub(crate) fn copy_in(&self, from: Ptr, bytes: usize) -> Result<()> {
        assert!(bytes <= self.bytes, "{bytes} bytes into {}", self.bytes);
        self.copy(self.at, from, bytes)
    }

    /// Copies all of it to elsewhere on the device.
    #[cfg(feature = "cuda")]
    pub(crate) fn copy_out(&self, to: Ptr) -> Result<()> {
        self.copy(to, self.at, self.bytes)
    }

    fn copy(&self, to: Ptr, from: Ptr, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: so many bytes are there, one of both blocks being this one and the other the caller's.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream.cu_stream()) }
            .map_err(|error| failed(&self.stream, &format!("copying on the device: {error}")))
    }

    fn bind(&self) -> Result<()> {
        bind(&self.stream)
    }
}

/// Copies from an address, of `bytes` bytes that can be read there, when everything launched before is done.
pub(crate) fn read_at<T: Plain>(
    stream: &Arc<CudaStream>,
    at: Ptr,
    bytes: usize,
    values: &mut [T],
) -> Result<()> {
    assert!(size_of_val(values) <= bytes, "{} values out of {bytes} bytes", values.len());
    bind(stream)?;
    // SAFETY: as many bytes are there; the slice outlives the copy, which is waited for.
    unsafe { result::memcpy_dtoh_async(values, at.0, stream.cu_stream()) }
        .and_then(|()| stream.synchronize())
        .map_err(|error| failed(stream, &format!("copying from the device: {error}")))
}

/// Makes the device's context that of this thread.
pub(crate) fn bind(stream: &CudaStream) -> Result<()> {
    stream.context().bind_to_thread().map_err(|error: DriverError| failed(stream, &error.to_string()))
}

/// A failure of the device of this stream.
pub(crate) fn failed(stream: &CudaStream, reason: &str) -> EngineError {
    EngineError::Device { device: format!("cuda:{}", stream.context().ordinal()), reason: reason.into() }
}
