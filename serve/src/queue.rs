//! The queue before the engines of one version: bounded, with a deadline for every request, and the rule of which
//! pictures run together.
//!
//! # Which pictures run together
//! A worker first decodes what waits to be decoded, one picture after the other, until it has a batch or nothing is left.
//! It then runs its share of what is decoded: all workers that are idle or decode get the same. A picture that is alone
//! is so decoded and run at once, by one thread.
//!
//! With less than a full batch a worker waits for company for at most the delay, counted from the oldest picture's
//! arrival, and only if company is likely: *fewer pictures are under way than there were, on average, at the last
//! arrivals*, and *the mean gap between these arrivals fits into the delay*. One client that asks again when it has its
//! answer is always alone, so it never waits; sixteen of them are usually sixteen, so where three are back already the
//! others are worth the delay. The averages are exponential over some eight arrivals, and a pause of ten delays forgets
//! them.
//!
//! # Who is not answered
//! Whoever finds the queue full is refused at once. A picture whose deadline has passed, or whose client hung up, is
//! dropped when its turn comes, without being run.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use picture::PictureError;
use tokio::sync::oneshot;

use crate::events::Stages;

/// A picture as a request brings it.
#[derive(Clone, Debug)]
#[allow(dead_code)] // tensors are for protocols that send them
pub(crate) enum Input {
    /// A picture file.
    File(Bytes),
    /// Pixels of the network's size, `[height, width, channels]`, 0..=255.
    Pixels(Vec<u8>),
    /// The same as values 0..1.
    Values(Vec<f32>),
}

/// An answer to one picture.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub logits: Vec<f32>,
    pub stages: Stages,
}

/// A request that a version did not answer.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The queue is full; there is room after about so long.
    Full { retry_after: Duration },
    /// The deadline passed first.
    Expired,
    /// A picture that is none.
    Picture { index: usize, source: PictureError },
    /// Values for an engine that takes bytes alone.
    Values,
    /// The engine failed.
    Engine { reason: String },
}

pub(crate) type Answer = Result<Vec<Answered>, Refused>;

/// A request: its pictures' answers are gathered here, the last one sends them all.
pub(crate) struct Request {
    deadline: Instant,
    state: Mutex<Gathered>,
}

struct Gathered {
    answers: Vec<Option<Result<Answered, Refused>>>,
    left: usize,
    sender: Option<oneshot::Sender<Answer>>,
}

impl Request {
    fn new(pictures: usize, deadline: Instant) -> (Arc<Self>, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let answers = (0..pictures).map(|_| None).collect();
        let state = Mutex::new(Gathered { answers, left: pictures, sender: Some(sender) });
        (Arc::new(Self { deadline, state }), receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody waits any longer.
    fn is_moot(&self) -> bool {
        self.lock().sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// One picture's answer; with the last one the request is answered, of several errors by the first picture's.
    fn answer(&self, index: usize, answer: Result<Answered, Refused>) {
        let mut state = self.lock();
        if state.answers[index].replace(answer).is_none() {
            state.left -= 1;
        }
        if state.left == 0
            && let Some(sender) = state.sender.take()
        {
            // A receiver that is gone has hung up.
            let _ = sender.send(std::mem::take(&mut state.answers).into_iter().flatten().collect());
        }
    }
}

/// Room in the queue for one picture; given back when dropped.
struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A picture under way.
pub(crate) struct Job {
    index: usize,
    pub submitted: Instant,
    request: Arc<Request>,
    _place: Place,
}

impl Job {
    /// Answers this picture.
    pub fn answer(self, answer: Result<Answered, Refused>) {
        self.request.answer(self.index, answer);
    }

    /// Its index in the request.
    pub fn index(&self) -> usize {
        self.index
    }
}

/// A picture of the network's size.
pub(crate) struct Ready {
    pub job: Job,
    pub picture: Pixels,
    pub decode: Duration,
    pub preprocess: Duration,
}

/// What an engine takes.
pub(crate) enum Pixels {
    Bytes(Vec<u8>),
    Values(Vec<f32>),
}

impl Pixels {
    /// The bytes; none of values.
    pub fn bytes(&self) -> &[u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }

    /// The values; none of bytes.
    pub fn values(&self) -> &[f32] {
        if let Self::Values(values) = self { values } else { &[] }
    }
}

/// What a worker does next.
pub(crate) enum Work {
    /// Decode a file and hand it to [`Queue::decoded`].
    Decode(Job, Bytes),
    /// Run these.
    Run(Vec<Ready>),
}

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batching {
    pub workers: usize,
    pub max_batch: usize,
    pub max_delay: Duration,
    /// Pictures under way at most.
    pub places: usize,
}

/// The queue of one version.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    batching: Batching,
    under_way: AtomicUsize,
}

#[derive(Default)]
struct State {
    files: VecDeque<(Job, Bytes)>,
    ready: VecDeque<Ready>,
    closed: bool,
    alive: usize,
    idle: usize,
    decoding: usize,
    arrivals: Arrivals,
    /// A worker's mean time for a picture.
    service: Duration,
}

impl Queue {
    pub fn new(batching: Batching) -> Arc<Self> {
        let state = Mutex::new(State { alive: batching.workers, ..State::default() });
        Arc::new(Self { state, wake: Condvar::new(), batching, under_way: AtomicUsize::new(0) })
    }

    /// Queues the pictures of a request, or none of them.
    pub fn submit(
        self: &Arc<Self>,
        inputs: Vec<Input>,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Answer>, Refused> {
        if self.alive() == 0 {
            return Err(Refused::Engine { reason: "no worker is alive".into() });
        }
        let count = inputs.len();
        let under_way = self.take_places(count)?;
        let (request, receiver) = Request::new(count, deadline);
        let submitted = Instant::now();
        let mut state = self.lock();
        state.arrivals.note(submitted, under_way, self.batching.max_delay);
        for (index, input) in inputs.into_iter().enumerate() {
            let job = Job { index, submitted, request: request.clone(), _place: Place(self.clone()) };
            state.push(job, input);
        }
        let idle = state.idle;
        drop(state);
        for _ in 0..count.min(idle) {
            self.wake.notify_one();
        }
        Ok(receiver)
    }

    /// Places for so many pictures; how many are under way then.
    fn take_places(&self, count: usize) -> Result<usize, Refused> {
        let places = self.batching.places;
        let take = |taken: usize| Some(taken + count).filter(|taken| *taken <= places);
        let try_take = || self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        // Who hung up gives way before anybody is refused.
        let taken = try_take().or_else(|_| {
            self.drop_moot();
            try_take()
        });
        taken.map(|before| before + count).map_err(|_| Refused::Full { retry_after: self.expected_wait() })
    }

    /// Takes out whatever nobody waits for any longer.
    fn drop_moot(&self) {
        let mut state = self.lock();
        state.files.retain(|(job, _)| !job.request.is_moot());
        state.ready.retain(|ready| !ready.job.request.is_moot());
    }

    /// How long what is under way will take.
    pub fn expected_wait(&self) -> Duration {
        let service = self.lock().service;
        service * (self.depth() as u32) / (self.batching.workers.max(1) as u32)
    }

    /// Pictures under way.
    pub fn depth(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Workers that still answer.
    pub fn alive(&self) -> usize {
        self.lock().alive
    }

    /// Pictures that wait for a worker.
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        state.files.len() + state.ready.len()
    }

    /// A worker is gone.
    pub fn worker_ended(&self) {
        let mut state = self.lock();
        state.alive -= 1;
        if state.alive == 0 {
            // Nobody is left to answer: whoever waits hears of it by the dropped sender.
            state.files.clear();
            state.ready.clear();
        }
    }

    /// Lets workers end once they have finished what is queued.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// What to do next; `None` once closed and empty.
    pub fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if state.ready.len() < self.batching.max_batch
                && let Some((job, bytes)) = state.next_file(now)
            {
                state.decoding += 1;
                return Some(Work::Decode(job, bytes));
            }
            state.drop_stale(now);
            let patience = self.patience(&state, now);
            if !state.ready.is_empty() && patience.is_zero() {
                return Some(Work::Run(self.share(&mut state)));
            }
            if state.closed && state.ready.is_empty() {
                return None;
            }
            state = self.wait(state, patience);
        }
    }

    /// A file is decoded: its pixels wait for the rest of their batch.
    pub fn decoded(&self, ready: Option<Ready>) {
        let mut state = self.lock();
        state.decoding -= 1;
        state.ready.extend(ready);
    }

    /// Pictures were run in so long, by one worker, decoding included.
    pub fn note_service(&self, pictures: usize, took: Duration) {
        let mut state = self.lock();
        let each = took / (pictures.max(1) as u32);
        state.service = if state.service.is_zero() { each } else { (state.service * 7 + each) / 8 };
    }

    /// How long the pictures that are ready may still wait for company.
    fn patience(&self, state: &State, now: Instant) -> Duration {
        let Batching { max_batch, max_delay, .. } = self.batching;
        let Some(oldest) = state.ready.front() else { return Duration::ZERO };
        if state.closed
            || state.ready.len() >= max_batch
            || !state.arrivals.company_is_likely(self.depth(), max_delay)
        {
            return Duration::ZERO;
        }
        (oldest.job.submitted + max_delay).saturating_duration_since(now)
    }

    /// A fair share, so that pictures spread over the workers that have time.
    fn share(&self, state: &mut State) -> Vec<Ready> {
        let hands = 1 + state.idle + state.decoding;
        let fair = (state.ready.len() + state.decoding).div_ceil(hands);
        let count = fair.min(self.batching.max_batch).min(state.ready.len());
        let batch = state.ready.drain(..count).collect();
        if !state.ready.is_empty() && state.idle > 0 {
            self.wake.notify_one();
        }
        batch
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, patience: Duration) -> MutexGuard<'a, State> {
        state.idle += 1;
        let mut state = if patience.is_zero() {
            self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
        } else {
            self.wake.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
        };
        state.idle -= 1;
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, job: Job, input: Input) {
        let picture = match input {
            Input::File(bytes) => return self.files.push_back((job, bytes)),
            Input::Pixels(pixels) => Pixels::Bytes(pixels),
            Input::Values(values) => Pixels::Values(values),
        };
        self.ready.push_back(Ready { job, picture, decode: Duration::ZERO, preprocess: Duration::ZERO });
    }

    /// The next file that somebody still waits for.
    fn next_file(&mut self, now: Instant) -> Option<(Job, Bytes)> {
        while let Some((job, bytes)) = self.files.pop_front() {
            if let Some(job) = still_wanted(job, now) {
                return Some((job, bytes));
            }
        }
        None
    }

    /// Takes out the pictures that nobody waits for any longer or that are too late.
    fn drop_stale(&mut self, now: Instant) {
        let stale = |ready: &Ready| ready.job.request.deadline <= now || ready.job.request.is_moot();
        if self.ready.iter().any(stale) {
            let (dropped, kept): (Vec<_>, Vec<_>) = self.ready.drain(..).partition(stale);
            self.ready.extend(kept);
            dropped.into_iter().for_each(|ready| drop(still_wanted(ready.job, now)));
        }
    }
}

/// The job, unless its client hung up or its deadline has passed; the latter is told so.
fn still_wanted(job: Job, now: Instant) -> Option<Job> {
    if job.request.is_moot() {
        return None;
    }
    if job.request.deadline <= now {
        job.answer(Err(Refused::Expired));
        return None;
    }
    Some(job)
}

/// How pictures have come lately.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    last: Option<Instant>,
    /// Mean time between arrivals, in seconds; `None` after a pause.
    gap: Option<f64>,
    /// Mean number of pictures under way at an arrival, those that arrived included.
    crowd: f64,
}

impl Arrivals {
    /// Weight of the newest in the means.
    const NEWEST: f64 = 1.0 / 8.0;
    /// A pause of so many delays forgets.
    const FORGET: u32 = 10;

    fn note(&mut self, now: Instant, under_way: usize, max_delay: Duration) {
        let gap = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        let gap = gap.filter(|gap| *gap <= max_delay * Self::FORGET).map(|gap| gap.as_secs_f64());
        let mean = |mean: f64, newest: f64| mean + (newest - mean) * Self::NEWEST;
        self.crowd = match gap {
            Some(_) => mean(self.crowd, under_way as f64),
            None => under_way as f64,
        };
        self.gap = gap.map(|gap| self.gap.map_or(gap, |before| mean(before, gap)));
    }

    fn company_is_likely(&self, under_way: usize, max_delay: Duration) -> bool {
        let soon = self.gap.is_some_and(|gap| gap < max_delay.as_secs_f64());
        soon && under_way as f64 + 0.5 < self.crowd
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_micros(200);

    /// Arrivals with these gaps in microseconds, each finding so many under way.
    fn arrivals(gaps: &[u64], under_way: usize) -> Arrivals {
        let (mut arrivals, mut now) = (Arrivals::default(), Instant::now());
        for gap in gaps {
            now += Duration::from_micros(*gap);
            arrivals.note(now, under_way, DELAY);
        }
        arrivals
    }

    #[test]
    fn who_is_always_alone_never_waits_however_fast() {
        for gap in [1, 50, 150, 1000, 5000] {
            assert!(!arrivals(&[gap; 100], 1).company_is_likely(1, DELAY), "{gap}");
        }
    }

    #[test]
    fn who_is_usually_one_of_many_waits_for_the_others_but_not_once_they_are_there() {
        let many = arrivals(&[20; 50], 16);
        assert!(many.company_is_likely(3, DELAY));
        assert!(!many.company_is_likely(16, DELAY));
    }

    #[test]
    fn company_that_would_come_too_late_is_not_waited_for() {
        assert!(!arrivals(&[400; 50], 16).company_is_likely(3, DELAY));
    }

    #[test]
    fn a_pause_forgets() {
        let mut gaps = [20; 50].to_vec();
        gaps.push(3000);
        let mut paused = arrivals(&gaps, 16);
        assert!(!paused.company_is_likely(3, DELAY));
        paused.note(paused.last.unwrap() + Duration::from_micros(20), 1, DELAY);
        assert!(paused.crowd < 16.0);
    }

    fn queue(places: usize, max_batch: usize) -> Arc<Queue> {
        Queue::new(Batching { workers: 1, max_batch, max_delay: DELAY, places })
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_request_finds_room_for_all_of_its_pictures_or_none() {
        let queue = queue(3, 4);
        let pictures = |count| vec![Input::Pixels(vec![0]); count];
        let _first = queue.submit(pictures(2), later()).unwrap();
        assert!(matches!(queue.submit(pictures(2), later()), Err(Refused::Full { .. })));
        assert_eq!(queue.depth(), 2);
        let _second = queue.submit(pictures(1), later()).unwrap();
        assert_eq!(queue.depth(), 3);
    }

    #[test]
    fn whoever_hung_up_gives_way_to_the_next() {
        let queue = queue(1, 4);
        let pictures = || vec![Input::Pixels(vec![0])];
        drop(queue.submit(pictures(), later()).unwrap());
        assert!(queue.submit(pictures(), later()).is_ok());
    }

    #[test]
    fn what_is_too_late_is_told_so_and_not_run() {
        let queue = queue(9, 4);
        let mut late = queue.submit(vec![Input::File(Bytes::new())], Instant::now()).unwrap();
        let _next = queue.submit(vec![Input::Pixels(vec![7])], later()).unwrap();
        let Some(Work::Run(batch)) = queue.next() else { panic!("nothing to run") };
        assert_eq!(batch.iter().map(|ready| ready.picture.bytes()).collect::<Vec<_>>(), [[7]]);
        assert!(matches!(late.try_recv(), Ok(Err(Refused::Expired))));
        drop(batch);
        assert_eq!(queue.depth(), 0, "places are given back");
    }

    #[test]
    fn files_are_decoded_before_a_batch_is_run_and_a_batch_is_no_larger_than_it_may_be() {
        let queue = queue(9, 2);
        let _files = queue.submit(vec![Input::File(Bytes::from_static(b"a")); 3], later()).unwrap();
        for _ in 0..2 {
            let Some(Work::Decode(job, _)) = queue.next() else { panic!("expected a file to decode") };
            let picture = Pixels::Bytes(vec![1]);
            queue.decoded(Some(Ready { job, picture, decode: Duration::ZERO, preprocess: Duration::ZERO }));
        }
        let Some(Work::Run(batch)) = queue.next() else { panic!("expected a batch to run") };
        assert_eq!(batch.len(), 2);
        assert!(matches!(queue.next(), Some(Work::Decode(..))));
    }

    #[test]
    fn with_no_worker_left_nobody_waits() {
        let queue = queue(9, 2);
        let mut waiting = queue.submit(vec![Input::Pixels(vec![0])], later()).unwrap();
        queue.worker_ended();
        assert!(waiting.try_recv().is_err());
        assert!(matches!(queue.submit(vec![Input::Pixels(vec![0])], later()), Err(Refused::Engine { .. })));
    }

    #[test]
    fn of_several_errors_the_first_pictures_is_told() {
        let (request, mut answer) = Request::new(3, later());
        let broken = |index| Err(Refused::Picture { index, source: PictureError::Empty });
        request.answer(2, broken(2));
        request.answer(0, Ok(Answered { logits: vec![], stages: Stages::default() }));
        assert!(answer.try_recv().is_err(), "one is missing");
        request.answer(1, broken(1));
        assert!(matches!(answer.try_recv(), Ok(Err(Refused::Picture { index: 1, .. }))));
    }
}
