//! Working memory that each thread keeps from call to call.
//!
//! Never here: anything that outlives the closure it is lent to.

use std::cell::RefCell;

use crate::buffer::Buffer;

thread_local! {
    /// Buffers not in use, the last returned on top.
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` floats with whatever they held before, aligned to a cache line. Uses may nest.
pub fn with<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        // Sizes of one network are many and close together: room for a quarter more saves most of the growing.
        buffer = Buffer::zeros(len + len / 4);
    }
    let result = f(&mut buffer[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}
