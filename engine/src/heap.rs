//! The C library's heap, for programs that run for months. Never here: an allocation.

/// Gives the pages on which nothing lies any more back to the system. glibc's heap keeps them, those of threads that have
/// ended too; other heaps give back by themselves, and nothing is done to them. It takes up to a millisecond, and others
/// who allocate meanwhile may wait for it.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    /// Pages of this process that are in memory.
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_freed_below_something_that_stays_is_given_back() {
        const BLOCK: usize = 32 << 10; // too small for a mapping of its own
        let mut blocks: Vec<Vec<u8>> = (0..2048).map(|_| vec![1; BLOCK]).collect();
        let last = blocks.pop();
        drop(blocks);
        let kept = resident();
        super::trim();
        let freed = kept.saturating_sub(resident()) * 4096;
        assert!(freed > 32 << 20, "{freed} bytes were given back of {}", 2048 * BLOCK);
        drop(last);
    }
}
