//! Float buffers aligned to a cache line. They never shrink, grow or move once made.
//!
//! Large ones ask for huge pages: a step walks over hundreds of megabytes, and each small page costs a look-up.

use std::ops::{Deref, DerefMut};

/// Floats in a cache line: offsets into buffers are rounded up to this.
pub const LINE: usize = 16;

/// `length` rounded up to whole cache lines.
pub fn rounded(length: usize) -> usize {
    length.div_ceil(LINE) * LINE
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A fixed number of floats that start on a cache line.
#[derive(Debug)]
pub struct Buffer {
    memory: Memory,
    length: usize,
}

#[derive(Debug)]
enum Memory {
    Lines(Vec<Line>),
    #[cfg(target_os = "linux")]
    Mapped(mapped::Pages),
}

impl Buffer {
    /// `length` zeros.
    pub fn zeros(length: usize) -> Self {
        #[cfg(target_os = "linux")]
        if let Some(pages) = mapped::Pages::zeros(length) {
            return Self { memory: Memory::Mapped(pages), length };
        }
        Self { memory: Memory::Lines(vec![Line([0.0; LINE]); length.div_ceil(LINE)]), length }
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::zeros(0)
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::zeros(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let start = match &self.memory {
            Memory::Lines(lines) => lines.as_ptr().cast(),
            #[cfg(target_os = "linux")]
            Memory::Mapped(pages) => pages.start().cast_const(),
        };
        // SAFETY: lines are `LINE` floats each without padding (size 64, align 64), pages hold at least `length`
        // floats; both are initialized, and `length` lies within.
        unsafe { std::slice::from_raw_parts(start, self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let start = match &mut self.memory {
            Memory::Lines(lines) => lines.as_mut_ptr().cast(),
            #[cfg(target_os = "linux")]
            Memory::Mapped(pages) => pages.start(),
        };
        // SAFETY: as in `deref`; `self` is borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(start, self.length) }
    }
}

#[cfg(target_os = "linux")]
mod mapped {
    //! Memory from the system itself, on huge pages where it has them.

    use std::ptr::NonNull;

    /// Size of a huge page, in bytes.
    const HUGE: usize = 2 << 20;

    /// Zeroed pages that belong to one buffer.
    #[derive(Debug)]
    pub(super) struct Pages {
        mapping: NonNull<u8>,
        bytes: usize,
    }

    // SAFETY: the pages belong to this value alone; it hands them out by the rules of borrowing.
    unsafe impl Send for Pages {}
    // SAFETY: as above.
    unsafe impl Sync for Pages {}

    impl Pages {
        /// Pages for `length` floats, if that is a few huge pages at least and the system gives them.
        pub(super) fn zeros(length: usize) -> Option<Self> {
            let bytes = length * size_of::<f32>();
            if bytes < 2 * HUGE {
                return None;
            }
            let bytes = bytes + HUGE;
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: a fresh anonymous mapping touches no memory that exists.
            let mapping = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
            if mapping == libc::MAP_FAILED {
                return None;
            }
            // SAFETY: the range is the mapping just made. A system without huge pages refuses, which does no harm.
            unsafe { libc::madvise(mapping, bytes, libc::MADV_HUGEPAGE) };
            Some(Self { mapping: NonNull::new(mapping.cast())?, bytes })
        }

        /// First float, at the start of a huge page.
        pub(super) fn start(&self) -> *mut f32 {
            let start = self.mapping.as_ptr();
            // At most `HUGE` further, which the mapping is longer by.
            start.wrapping_add(start.align_offset(HUGE)).cast()
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping made in `zeros`, which nothing borrows any more.
            unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_line_hold_zeros_and_keep_their_length() {
        for length in [0, 1, 15, 16, 17, 1000, 1 << 20, (3 << 20) + 5] {
            let mut buffer = Buffer::zeros(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            assert!(buffer.iter().all(|&value| value == 0.0));
            buffer.fill(1.0);
            let copy = buffer.clone();
            drop(buffer);
            assert!(copy.len() == length && copy.iter().all(|&value| value == 1.0));
        }
    }
}
