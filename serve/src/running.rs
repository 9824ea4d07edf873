//! A version of a model that answers: what was loaded, its queue and its workers. Every protocol asks it in the same way.
//!
//! It lives as long as somebody holds it: a version that was replaced finishes what it was asked, then its threads end
//! and its engines are freed.

use std::sync::Arc;
use std::time::Instant;

use picture::Limits;

use crate::events::{Answerer, Sinks};
use crate::queue::{Answer, Batching, Input, Queue, Refused};
use crate::workers::{self, Workshop};
use crate::{Card, Options, Result, Served};

/// A version that answers.
pub(crate) struct Running {
    served: Arc<Served>,
    answerer: Answerer,
    queue: Arc<Queue>,
    workers: usize,
}

impl Running {
    /// Starts engines and workers for what was loaded.
    pub fn start(served: Served, answerer: Answerer, options: &Options, sinks: &Sinks) -> Result<Self> {
        let served = Arc::new(served);
        let workers = options.worker_count(served.threads());
        let Options { max_batch, max_delay, queue: places, max_pixels, .. } = *options;
        let queue = Queue::new(Batching { workers, max_batch, max_delay, places });
        let running = Self { served, answerer, queue, workers };
        let shop = Workshop {
            served: running.served.clone(),
            queue: running.queue.clone(),
            limits: Limits { max_pixels },
            answerer: running.answerer.clone(),
            sinks: sinks.clone(),
        };
        workers::start(&shop, workers)?;
        Ok(running)
    }

    /// Answers the pictures of a request, in their order, by the deadline. If this future is dropped, so are they.
    pub async fn infer(&self, inputs: Vec<Input>, deadline: Instant) -> Answer {
        let answer = self.queue.submit(inputs, deadline)?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Refused::Engine { reason: "its worker is gone".into() }),
            Err(_) => Err(Refused::Expired),
        }
    }

    /// What the model says of itself.
    pub fn card(&self) -> &Card {
        self.served.card()
    }

    /// What was loaded.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Name and version.
    pub fn answerer(&self) -> &Answerer {
        &self.answerer
    }

    #[allow(dead_code)] // for metrics
    /// The queue, for whoever wants to know how long it is.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Threads with an engine each.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Whether anybody would answer.
    pub fn is_alive(&self) -> bool {
        self.queue.alive() > 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.close();
    }
}
