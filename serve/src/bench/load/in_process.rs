//! A server in this process, on a free port of the loopback, as `distill serve` starts one; gone when dropped.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::runtime::Runtime;

use super::connection::Target;
use crate::http::{self, Options};
use crate::{Result, ServeError, Served};

/// A running server.
pub struct InProcess {
    address: SocketAddr,
    /// Threads with an engine each.
    pub workers: usize,
    runtime: Option<Runtime>,
}

impl InProcess {
    /// Starts one.
    ///
    /// # Errors
    /// If the engines cannot start or no port is free.
    pub fn start(served: Served, options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServeError::io("start the server's threads"))?;
        let bound = runtime.block_on(http::bind(served, options, SocketAddr::from(([127, 0, 0, 1], 0))))?;
        let (address, workers) = (bound.info().address, bound.info().workers);
        runtime.spawn(bound.run(std::future::pending()));
        Ok(Self { address, workers, runtime: Some(runtime) })
    }

    /// Where requests go.
    pub fn target(&self, headers: &[(String, String)]) -> Target {
        Target::new(self.address, &self.address.to_string(), headers)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}
