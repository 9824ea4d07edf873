//! Page-locked memory through which large batches go to the device, so that the copy overlaps with what runs there: the
//! host goes on when the bytes are in one of two buffers, and waits only if the device has not yet read that buffer's
//! last contents.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, DriverError, PinnedHostSlice, result};

use super::Ptr;
use super::memory::{bind, failed};
use crate::Result;

/// See the module.
#[derive(Debug)]
pub(crate) struct Staging {
    stream: Arc<CudaStream>,
    buffers: [Option<Buffer>; 2],
    next: usize,
}

#[derive(Debug)]
struct Buffer {
    bytes: PinnedHostSlice<u8>,
    /// Behind the copy that read it last.
    read: CudaEvent,
}

impl Staging {
    pub(crate) fn new(stream: &Arc<CudaStream>) -> Self {
        Self { stream: Arc::clone(stream), buffers: [None, None], next: 0 }
    }

    /// Copies `bytes` to an address, behind everything that was launched before; they are free when this returns.
    ///
    /// # Safety
    /// So many bytes of the device lie there.
    pub(crate) unsafe fn copy(&mut self, bytes: &[u8], to: Ptr) -> Result<()> {
        bind(&self.stream)?;
        // SAFETY: the caller's promise.
        unsafe { self.submit(bytes, to) }
            .map_err(|error| failed(&self.stream, &format!("copying a batch to the device: {error}")))
    }

    /// # Safety
    /// As [`Staging::copy`].
    unsafe fn submit(&mut self, bytes: &[u8], to: Ptr) -> Result<(), DriverError> {
        let buffer = &mut self.buffers[self.next];
        self.next = 1 - self.next;
        if buffer.as_ref().is_none_or(|buffer| buffer.bytes.len() < bytes.len()) {
            *buffer = Some(Buffer::new(&self.stream, bytes.len().next_power_of_two())?);
        }
        let Some(buffer) = buffer else { return Ok(()) };
        buffer.read.synchronize()?;
        let staged = &mut buffer.bytes.as_mut_slice()?[..bytes.len()];
        staged.copy_from_slice(bytes);
        // SAFETY: the caller's promise; the buffer is not written before the event behind the copy, nor freed, since
        // freeing waits for the device.
        unsafe { result::memcpy_htod_async(to.0, staged, self.stream.cu_stream())? };
        buffer.read.record(&self.stream)
    }
}

impl Buffer {
    fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self, DriverError> {
        let context = stream.context();
        // SAFETY: bytes are written before they are read.
        let bytes = unsafe { context.alloc_pinned(len)? };
        Ok(Self { bytes, read: context.new_event(None)? })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // The copy out of it may still be under way; a device that cannot say has lost its memory anyway.
        let _ = self.read.synchronize();
    }
}
