//! Launches recorded as a CUDA graph: a step of a small network is hundreds of kernels of a few microseconds, which are
//! started faster as one.
//!
//! What is launched the first time runs as it is; the second time it is recorded, and from then on replayed. So all
//! addresses and sizes must be the same each time; what changes from run to run lies in memory that the kernels read.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use cudarc::driver::{CudaGraph, CudaStream, DriverError, sys};

use super::memory::failed;
use crate::Result;

/// Recordings that are kept beside each other; what comes beyond them runs as it is.
const MOST: usize = 8;

/// See the module.
pub(crate) struct Recordings<K> {
    known: HashMap<K, Known>,
}

enum Known {
    /// It has run as it is.
    Once,
    Recorded(CudaGraph),
}

// SAFETY: a graph is used by one thread at a time, for every use takes `&mut self`, and binds its context first.
unsafe impl<K: Send> Send for Recordings<K> {}

impl<K> Default for Recordings<K> {
    fn default() -> Self {
        Self { known: HashMap::new() }
    }
}

impl<K: Eq + Hash> Recordings<K> {
    /// Runs what `launch` launches on `stream`, known as `key`.
    ///
    /// # Errors
    /// Those of `launch`, and the driver's.
    pub(crate) fn run(
        &mut self,
        stream: &Arc<CudaStream>,
        key: K,
        mut launch: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let driver = |error: DriverError| failed(stream, &format!("a recorded pass: {error}"));
        match self.known.get(&key) {
            Some(Known::Recorded(graph)) => graph.launch().map_err(driver),
            Some(Known::Once) => {
                let graph = record(stream, &mut launch)?;
                graph.launch().map_err(driver)?;
                self.known.insert(key, Known::Recorded(graph));
                Ok(())
            }
            None => {
                if self.known.len() < MOST {
                    self.known.insert(key, Known::Once);
                }
                launch()
            }
        }
    }
}

fn record(stream: &Arc<CudaStream>, launch: &mut impl FnMut() -> Result<()>) -> Result<CudaGraph> {
    let driver = |error: DriverError| failed(stream, &format!("recording a pass: {error}"));
    // Other threads may allocate meanwhile.
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).map_err(driver)?;
    let launched = launch();
    // Ends the capture in any case.
    let graph = stream.end_capture(no_flags());
    launched?;
    graph.map_err(driver)?.ok_or_else(|| failed(stream, "recording a pass: nothing was launched"))
}

fn no_flags() -> sys::CUgraphInstantiate_flags {
    sys::CUgraphInstantiate_flags(0)
}
