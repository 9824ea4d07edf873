//! How much memory pictures may take.
//!
//! Never here: allocation.

use crate::{DataError, PictureShape, Result};

/// Share of the machine's memory that decoded pictures may take.
const SHARE: f64 = 0.6;

/// Refuses pictures that would not fit. `limit` in bytes; `None` is 60 % of the machine's memory, or of its
/// container's, and no limit where the system does not say how much that is.
pub fn check(pictures: usize, shape: PictureShape, limit: Option<u64>) -> Result<()> {
    let need = pictures as u64 * shape.bytes() as u64;
    match limit.or_else(default_limit) {
        Some(limit) if need > limit => Err(DataError::Memory {
            pictures,
            width: shape.width,
            height: shape.height,
            channels: shape.channels,
            need,
            limit,
        }),
        _ => Ok(()),
    }
}

fn default_limit() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(total_memory)?;
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX);
    Some((machine.min(container) as f64 * SHARE) as u64)
}

/// Bytes that `MemTotal` of /proc/meminfo says.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_pictures_say_the_need_and_the_mend() {
        let shape = PictureShape { channels: 3, height: 224, width: 224 };
        let error = check(100_000, shape, Some(1 << 30)).unwrap_err().to_string();
        assert!(error.contains("need 14355 MiB") && error.contains("limit is 1024 MiB"), "{error}");
        assert!(error.contains("--image-size"), "{error}");
        assert!(check(10, shape, Some(1 << 30)).is_ok());
    }

    #[test]
    fn meminfo_is_read() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_memory("nothing"), None);
    }
}
