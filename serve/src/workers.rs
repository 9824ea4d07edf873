//! The queue before the engines, and the threads that own them. Pictures that wait are run together; a lone one never
//! waits for company.
//!
//! How many pictures may wait is decided by whoever submits them (`http` admits a request or refuses it): the queue
//! itself never blocks.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::{Engine, Result, ServeError, Served};

/// An answer to one picture.
#[derive(Debug)]
pub(crate) struct Answered {
    pub logits: Vec<f32>,
    /// From submission until an engine took it.
    pub queue: Duration,
    /// The engine's time for the batch that the picture was in: each of them waited that long.
    pub inference: Duration,
}

/// What the engine said instead of an answer.
#[derive(Clone, Debug)]
pub(crate) struct EngineFailed(pub String);

type Answer = std::result::Result<Answered, EngineFailed>;

struct Job {
    pixels: Vec<u8>,
    submitted: Instant,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    closed: bool,
    alive: usize,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    workers: usize,
    max_batch: usize,
}

/// Threads with an engine each. Dropping it finishes what is queued and ends them.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `workers` threads; engines are made here, so that one that cannot start is an error now.
    pub fn start(served: &Arc<Served>, workers: usize, max_batch: usize) -> Result<Self> {
        let state = Mutex::new(State { alive: workers, ..State::default() });
        let shared = Arc::new(Shared { state, wake: Condvar::new(), workers, max_batch });
        let mut started = Self { shared: shared.clone(), threads: Vec::new() };
        for index in 0..workers {
            let mut worker =
                Worker { engine: served.engine()?, served: served.clone(), shared: shared.clone() };
            let thread = std::thread::Builder::new().name(format!("engine-{index}"));
            let thread =
                thread.spawn(move || worker.work()).map_err(ServeError::io("start a worker thread"))?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Queues a picture of the network's size.
    pub fn submit(&self, pixels: Vec<u8>) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        self.shared.lock().jobs.push_back(Job { pixels, submitted: Instant::now(), answer });
        self.shared.wake.notify_one();
        receiver
    }

    /// Threads that still answer.
    pub fn alive(&self) -> usize {
        self.shared.lock().alive
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A worker that panicked has already answered with an error; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None` once closed and empty.
    fn take(&self) -> Option<Vec<Job>> {
        let mut state = self.lock();
        while state.jobs.is_empty() {
            if state.closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // A fair share, so that pictures of one request spread over the workers.
        let share = state.jobs.len().div_ceil(self.workers).min(self.max_batch);
        let batch = state.jobs.drain(..share).collect();
        if !state.jobs.is_empty() {
            self.wake.notify_one();
        }
        Some(batch)
    }
}

struct Worker {
    engine: Box<dyn Engine>,
    served: Arc<Served>,
    shared: Arc<Shared>,
}

impl Worker {
    fn work(&mut self) {
        while let Some(mut batch) = self.shared.take() {
            // Whoever hung up needs no answer.
            batch.retain(|job| !job.answer.is_closed());
            if !batch.is_empty() && !self.answer(batch) {
                break;
            }
        }
        self.shared.lock().alive -= 1;
    }

    /// Answers a batch; whether this worker can go on.
    fn answer(&mut self, batch: Vec<Job>) -> bool {
        let begun = Instant::now();
        let pixels = joined(&batch);
        let ran = catch_unwind(AssertUnwindSafe(|| self.engine.run(&pixels).map(<[f32]>::to_vec)));
        let inference = begun.elapsed();
        match ran {
            Ok(Ok(logits)) => respond(batch, &logits, begun, inference),
            Ok(Err(error)) => refuse(batch, &error.to_string()),
            Err(_) => {
                refuse(batch, "the engine panicked");
                // What a panic leaves behind is not to be trusted.
                return self.served.engine().map(|fresh| self.engine = fresh).is_ok();
            }
        }
        true
    }
}

fn joined(batch: &[Job]) -> Vec<u8> {
    batch.iter().flat_map(|job| job.pixels.iter().copied()).collect()
}

fn respond(batch: Vec<Job>, logits: &[f32], begun: Instant, inference: Duration) {
    let classes = (logits.len() / batch.len()).max(1);
    for (job, logits) in batch.into_iter().zip(logits.chunks(classes)) {
        let queue = begun.saturating_duration_since(job.submitted);
        // A receiver that is gone has hung up.
        let _ = job.answer.send(Ok(Answered { logits: logits.to_vec(), queue, inference }));
    }
}

fn refuse(batch: Vec<Job>, reason: &str) {
    for job in batch {
        let _ = job.answer.send(Err(EngineFailed(reason.into())));
    }
}
