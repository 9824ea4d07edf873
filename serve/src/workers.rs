//! The threads that own engines. Each decodes, runs and answers by itself: a picture that comes alone is handed over
//! once on its way in and once on its way out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use picture::Limits;

use crate::events::{Answerer, BatchDone, Event, Sinks, Stages};
use crate::pipeline::{Prepared, prepare};
use crate::queue::{Answered, Job, Pixels, Queue, Ready, Refused, Work};
use crate::{Engine, Result, ServeError, Served};

/// What a worker needs besides its engine.
#[derive(Clone)]
pub(crate) struct Workshop {
    pub served: Arc<Served>,
    pub queue: Arc<Queue>,
    pub limits: Limits,
    pub answerer: Answerer,
    pub sinks: Sinks,
}

/// Starts as many threads as the queue was made for. They end by themselves once it is closed and empty. Engines are
/// made here, so that one that cannot start is an error now.
pub(crate) fn start(workshop: &Workshop, workers: usize) -> Result<()> {
    let engines = (0..workers).map(|_| workshop.served.engine()).collect::<Result<Vec<_>>>()?;
    for (index, engine) in engines.into_iter().enumerate() {
        let mut worker = Worker { engine, shop: workshop.clone() };
        let thread = std::thread::Builder::new().name(format!("engine-{index}"));
        thread.spawn(move || worker.work()).map_err(ServeError::io("start a worker thread"))?;
    }
    Ok(())
}

struct Worker {
    engine: Box<dyn Engine>,
    shop: Workshop,
}

/// Tells the queue that a worker is gone, however it went.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.worker_ended();
    }
}

impl Worker {
    fn work(&mut self) {
        let _ending = Ending(self.shop.queue.clone());
        while let Some(work) = self.shop.queue.next() {
            match work {
                Work::Decode(job, bytes) => self.decode(job, &bytes),
                Work::Run(batch) => {
                    if !self.run(batch) {
                        break;
                    }
                }
            }
        }
    }

    fn decode(&self, job: Job, bytes: &[u8]) {
        let ready = match prepare(bytes, self.shop.served.target(), self.shop.limits) {
            Ok(Prepared { pixels, decode, preprocess }) => {
                Some(Ready { job, picture: Pixels::Bytes(pixels), decode, preprocess })
            }
            Err(source) => {
                let index = job.index();
                job.answer(Err(Refused::Picture { index, source }));
                None
            }
        };
        self.shop.queue.decoded(ready);
    }

    /// Answers a batch; whether this worker can go on.
    fn run(&mut self, batch: Vec<Ready>) -> bool {
        let is_bytes = |ready: &Ready| matches!(ready.picture, Pixels::Bytes(_));
        let (bytes, values): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_bytes);
        [bytes, values].into_iter().filter(|batch| !batch.is_empty()).all(|batch| self.run_alike(batch))
    }

    /// The same for pictures that are all bytes or all values.
    fn run_alike(&mut self, batch: Vec<Ready>) -> bool {
        let begun = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| run_engine(self.engine.as_mut(), &batch)));
        let inference = begun.elapsed();
        let (pictures, ok, panicked) = (batch.len(), matches!(ran, Ok(Ok(_))), ran.is_err());
        let decoding: Duration = batch.iter().map(|ready| ready.decode + ready.preprocess).sum();
        match ran {
            Ok(Ok(logits)) => respond(batch, &logits, begun, inference),
            Ok(Err(ServeError::Values)) => refuse(batch, || Refused::Values),
            Ok(Err(error)) => refuse(batch, || Refused::Engine { reason: error.to_string() }),
            Err(_) => refuse(batch, || Refused::Engine { reason: "the engine panicked".into() }),
        }
        self.shop.queue.note_service(pictures, inference + decoding);
        self.tell(pictures, inference, ok);
        // What a panic leaves behind is not to be trusted.
        !panicked || self.shop.served.engine().map(|fresh| self.engine = fresh).is_ok()
    }

    fn tell(&self, pictures: usize, inference: Duration, ok: bool) {
        if !self.shop.sinks.is_empty() {
            let (answerer, waiting) = (self.shop.answerer.clone(), self.shop.queue.waiting());
            self.shop.sinks.tell(&Event::Batch(BatchDone { answerer, pictures, waiting, inference, ok }));
        }
    }
}

/// Logits of a batch whose pictures are all bytes or all values; one picture alone is not copied.
fn run_engine(engine: &mut dyn Engine, batch: &[Ready]) -> Result<Vec<f32>> {
    let logits = match batch {
        [Ready { picture: Pixels::Bytes(bytes), .. }] => engine.run(bytes)?,
        [Ready { picture: Pixels::Values(values), .. }] => engine.run_values(values)?,
        [Ready { picture: Pixels::Bytes(_), .. }, ..] => engine.run(&joined(batch, Pixels::bytes))?,
        _ => engine.run_values(&joined(batch, Pixels::values))?,
    };
    Ok(logits.to_vec())
}

fn joined<T: Copy>(batch: &[Ready], of: impl Fn(&Pixels) -> &[T]) -> Vec<T> {
    let mut joined = Vec::with_capacity(batch.iter().map(|ready| of(&ready.picture).len()).sum());
    batch.iter().for_each(|ready| joined.extend_from_slice(of(&ready.picture)));
    joined
}

fn respond(batch: Vec<Ready>, logits: &[f32], begun: Instant, inference: Duration) {
    let classes = (logits.len() / batch.len()).max(1);
    for (ready, logits) in batch.into_iter().zip(logits.chunks(classes)) {
        let Ready { job, decode, preprocess, .. } = ready;
        let waited = begun.saturating_duration_since(job.submitted);
        let queue = waited.saturating_sub(decode + preprocess);
        let stages = Stages { decode, preprocess, queue, inference };
        job.answer(Ok(Answered { logits: logits.to_vec(), stages }));
    }
}

fn refuse(batch: Vec<Ready>, refused: impl Fn() -> Refused) {
    for ready in batch {
        ready.job.answer(Err(refused()));
    }
}
