//! The process as Prometheus' own clients tell of it: memory, files, start. Where the system does not say, nothing is
//! told.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// When the server began, which is when its process did but for some milliseconds.
pub(super) fn register_start(registry: &mut Registry) {
    let Ok(since_epoch) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return };
    let start = Gauge::<f64, AtomicU64>::default();
    start.set(since_epoch.as_secs_f64());
    registry.register_with_unit("process_start_time", "Start, in seconds since 1970", Unit::Seconds, start);
}

pub(super) fn register_now(registry: &mut Registry) {
    if let Some(bytes) = resident_memory() {
        let memory: Gauge = Gauge::default();
        memory.set(bytes);
        registry.register_with_unit("process_resident_memory", "Memory in use", Unit::Bytes, memory);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        let open: Gauge = Gauge::default();
        open.set(files.count() as i64);
        registry.register("process_open_fds", "Open files and connections", open);
    }
}

fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
