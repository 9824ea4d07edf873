//! Batches for training, made ahead by worker threads.
//!
//! Every draw walks random permutations of its part, epoch after epoch. Which pictures a step holds, and how each of
//! them is augmented, is a function of (seed, draw, step) alone: the same step holds the same bytes whatever the number
//! of workers, and a resumed run starts at its step without replaying those before.
//!
//! Never here: evaluation (see [`crate::Selection`]), labels of unlabeled pictures.

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    Batch, DataError, Draw, Drawn, Loaded, Part, Partition, Result, View,
    augment::{self, Scratch},
    random::{Stream, permutation},
};

/// How a [`Loader`] works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Threads that make batches; 0 makes each one when it is asked for.
    pub workers: usize,
    /// Batches made ahead at most.
    pub prefetch: usize,
    /// The first step.
    pub start_step: u64,
    /// Whether augmentation may mirror pictures; see [`crate::Dataset::flips`].
    pub flip: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { workers: 1, prefetch: 4, start_step: 0, flip: true }
    }
}

/// An endless row of batches, in step order.
#[derive(Debug)]
pub struct Loader {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    inline: Maker,
    next_step: u64,
    waited: Duration,
}

impl Loader {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`DataError::EmptyPart`] where a draw's part holds no picture.
    pub fn new(
        partition: Arc<Partition>,
        draws: Vec<Draw>,
        seed: u64,
        options: LoaderOptions,
    ) -> Result<Self> {
        let plan = Arc::new(Plan::new(partition, draws, seed, options.flip)?);
        let shared = Arc::new(Shared::new(options));
        let workers = (0..options.workers).map(|_| start_worker(plan.clone(), shared.clone())).collect();
        let (next_step, waited) = (options.start_step, Duration::ZERO);
        Ok(Self { plan, shared, workers, inline: Maker::default(), next_step, waited })
    }

    /// The next step's batch; waits for a worker that is not done.
    ///
    /// # Errors
    /// [`DataError::WorkerEnded`] if a worker thread panicked.
    #[allow(clippy::should_implement_trait)] // it never ends, and an iterator of results hides that it can fail
    pub fn next(&mut self) -> Result<Loaded> {
        let since = Instant::now();
        let step = self.next_step;
        let loaded = if self.workers.is_empty() {
            self.inline.loaded(&self.plan, step)
        } else {
            self.shared.take(step).ok_or(DataError::WorkerEnded { step })?
        };
        self.next_step += 1;
        self.waited += since.elapsed();
        Ok(loaded)
    }

    /// The next step's batch if a worker has it ready.
    pub fn poll(&mut self) -> Option<Loaded> {
        let loaded = self.shared.take_ready(self.next_step)?;
        self.next_step += 1;
        Some(loaded)
    }

    /// Time spent in [`Loader::next`] so far: what loading has cost the training loop.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// Pictures that a step draws, views not counted.
    pub fn pictures_per_step(&self) -> usize {
        self.plan.draws.iter().map(|draw| draw.count).sum()
    }

    /// Steps in which the draw walks once through its part, rounded up.
    pub fn steps_per_epoch(&self, draw: usize) -> u64 {
        let walk = &self.plan.walks[draw];
        (walk.pool.len() as u64).div_ceil(self.plan.draws[draw].count.max(1) as u64)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // A worker that panicked has been reported by `next`, or nobody waited for it.
            let _ = worker.join();
        }
    }
}

/// Everything that decides what a step holds.
#[derive(Debug)]
struct Plan {
    partition: Arc<Partition>,
    draws: Vec<Draw>,
    walks: Vec<Walk>,
    /// By draw.
    views: Vec<Vec<View>>,
    seed: u64,
    flip: bool,
}

/// Where a draw takes its pictures from.
#[derive(Debug)]
struct Walk {
    pool: Vec<u32>,
    /// Names of its permutations, but for the epoch: seed, part, and how many earlier draws have the same part.
    names: [u64; 4],
}

// Names of the random streams of this file.
const ORDER: u64 = 11;
const VIEW: u64 = 12;

impl Plan {
    fn new(partition: Arc<Partition>, draws: Vec<Draw>, seed: u64, flip: bool) -> Result<Self> {
        let mut walks = Vec::with_capacity(draws.len());
        for (index, draw) in draws.iter().enumerate() {
            let twins = draws[..index].iter().filter(|earlier| earlier.part == draw.part).count();
            let names = [seed, ORDER, part_number(draw.part), twins as u64];
            walks.push(Walk { pool: pool(&partition, draw.part)?, names });
        }
        let views = Batch::views(&draws);
        Ok(Self { partition, draws, walks, views, seed, flip })
    }
}

fn part_number(part: Part) -> u64 {
    match part {
        Part::Labeled => 0,
        Part::Unlabeled => 1,
        Part::All => 2,
    }
}

fn pool(partition: &Partition, part: Part) -> Result<Vec<u32>> {
    let mend = match part {
        Part::Labeled => "ask for more with --labels",
        Part::Unlabeled => {
            "ask for fewer with --labels, add pictures in an unlabeled/ folder, or use --method supervised"
        }
        Part::All => "hold out less with --val",
    };
    let pool = partition.pictures(part);
    if pool.is_empty() { Err(DataError::EmptyPart { part: part.name(), mend }) } else { Ok(pool) }
}

/// What makes batches: one per thread, it keeps the current permutations and the augmentations' buffers.
#[derive(Debug, Default)]
struct Maker {
    orders: Vec<Option<(u64, Vec<u32>)>>,
    scratch: Scratch,
}

impl Maker {
    fn loaded(&mut self, plan: &Plan, step: u64) -> Loaded {
        let pictures: usize = plan.draws.iter().map(Draw::pictures).sum();
        let mut pixels = vec![0; pictures * plan.partition.dataset.shape.bytes()];
        let draws = (0..plan.draws.len()).map(|draw| self.drawn(plan, draw, step, &mut pixels)).collect();
        Loaded { batch: Batch { step, draws }, pixels }
    }

    /// One draw's pictures, its views written to their places among the step's pixels.
    fn drawn(&mut self, plan: &Plan, index: usize, step: u64, pixels: &mut [u8]) -> Drawn {
        let places = self.places(plan, index, step);
        let ids: Vec<u32> = places.iter().map(|&(_, id)| id).collect();
        let (views, picture) = (plan.views[index].clone(), plan.partition.dataset.shape.bytes());
        for (number, view) in views.iter().enumerate() {
            let pixels = &mut pixels[view.first * picture..][..view.count * picture];
            self.write_view(plan, index, number, &places, pixels);
        }
        Drawn { labels: labels(&plan.partition, plan.draws[index].part, &ids), ids, views }
    }

    /// Epoch and id of each picture of a step.
    fn places(&mut self, plan: &Plan, index: usize, step: u64) -> Vec<(u64, u32)> {
        let walk = &plan.walks[index];
        let (count, length) = (plan.draws[index].count as u64, walk.pool.len() as u64);
        (step * count..(step + 1) * count)
            .map(|position| {
                let (epoch, place) = (position / length, (position % length) as usize);
                (epoch, walk.pool[self.order(index, walk, epoch)[place] as usize])
            })
            .collect()
    }

    /// The permutation of a draw's part in an epoch; the last one is kept.
    fn order(&mut self, index: usize, walk: &Walk, epoch: u64) -> &[u32] {
        if self.orders.len() <= index {
            self.orders.resize(index + 1, None);
        }
        let kept = &mut self.orders[index];
        if kept.as_ref().is_none_or(|(of, _)| *of != epoch) {
            *kept = None;
        }
        let make = || (epoch, permutation(walk.pool.len(), &[&walk.names[..], &[epoch]].concat()));
        &kept.get_or_insert_with(make).1
    }

    /// One view of each picture: `[count, height, width, channels]`.
    fn write_view(
        &mut self,
        plan: &Plan,
        draw: usize,
        view: usize,
        places: &[(u64, u32)],
        pixels: &mut [u8],
    ) {
        let data = &plan.partition.dataset;
        let kind = plan.draws[draw].views[view];
        for (&(epoch, id), out) in places.iter().zip(pixels.chunks_exact_mut(data.shape.bytes())) {
            let names = [plan.seed, VIEW, draw as u64, epoch, u64::from(id), view as u64];
            let picture = data.train.picture(id, data.shape);
            let mut random = Stream::new(&names);
            augment::apply(kind, picture, data.shape, plan.flip, &mut random, &mut self.scratch, out);
        }
    }
}

fn labels(partition: &Partition, part: Part, ids: &[u32]) -> Vec<u32> {
    let train = &partition.dataset.train;
    match part {
        Part::Labeled => ids.iter().map(|&id| train.labels[id as usize].unwrap_or(Drawn::NO_LABEL)).collect(),
        Part::Unlabeled | Part::All => vec![Drawn::NO_LABEL; ids.len()],
    }
}

/// What workers and consumer share: which step is next to be made, which are ready.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    ahead: u64,
}

#[derive(Debug)]
struct State {
    next_to_make: u64,
    next_to_take: u64,
    ready: BTreeMap<u64, Loaded>,
    stopped: bool,
}

impl Shared {
    fn new(options: LoaderOptions) -> Self {
        let start = options.start_step;
        let state =
            State { next_to_make: start, next_to_take: start, ready: BTreeMap::new(), stopped: false };
        // Fewer steps than workers would leave some of them idle.
        let ahead = options.prefetch.max(options.workers).max(1) as u64;
        Self { state: Mutex::new(state), changed: Condvar::new(), ahead }
    }

    /// The state, also after a panic elsewhere: every change to it is a single assignment.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next step to make, once it is near enough; `None` when the loader is stopped.
    fn claim(&self) -> Option<u64> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if state.next_to_make < state.next_to_take + self.ahead {
                state.next_to_make += 1;
                return Some(state.next_to_make - 1);
            }
            state = self.wait(state);
        }
    }

    fn put(&self, loaded: Loaded) {
        self.lock().ready.insert(loaded.batch.step, loaded);
        self.changed.notify_all();
    }

    /// The batch of this step if it is ready.
    fn take_ready(&self, step: u64) -> Option<Loaded> {
        self.take_out(&mut self.lock(), step)
    }

    fn take_out(&self, state: &mut State, step: u64) -> Option<Loaded> {
        let loaded = state.ready.remove(&step)?;
        state.next_to_take = step + 1;
        self.changed.notify_all();
        Some(loaded)
    }

    /// The batch of this step; `None` when the workers ended before it was ready.
    fn take(&self, step: u64) -> Option<Loaded> {
        let mut state = self.lock();
        loop {
            if let Some(loaded) = self.take_out(&mut state, step) {
                return Some(loaded);
            }
            if state.stopped {
                return None;
            }
            state = self.wait(state);
        }
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Stops everything when a worker unwinds, so that the consumer does not wait for it forever.
struct StopOnPanic<'a>(&'a Shared);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop();
        }
    }
}

fn start_worker(plan: Arc<Plan>, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _guard = StopOnPanic(&shared);
        let mut maker = Maker::default();
        while let Some(step) = shared.claim() {
            shared.put(maker.loaded(&plan, step));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Augment, Dataset, Labels, PictureShape, Split, Validation};

    /// `count` gray pictures of 8x8; picture `i` is filled with `i`, class `i % 2`.
    fn partition(count: usize, labels: &str) -> Arc<Partition> {
        let shape = PictureShape { channels: 1, height: 8, width: 8 };
        let pixels = (0..count).flat_map(|id| std::iter::repeat_n(id as u8, shape.bytes())).collect();
        let train = Split { pixels, labels: (0..count as u32).map(|id| Some(id % 2)).collect() };
        let dataset = Dataset {
            name: "test".into(),
            classes: vec!["even".into(), "odd".into()],
            shape,
            train,
            val: Split::default(),
            test: Split::default(),
            notes: Vec::new(),
        };
        let labels: Labels = labels.parse().unwrap();
        Arc::new(Partition::new(Arc::new(dataset), &labels, &Validation::None, 5).unwrap())
    }

    fn draws() -> Vec<Draw> {
        vec![
            Draw { part: Part::Labeled, count: 3, views: vec![Augment::Weak] },
            Draw {
                part: Part::Unlabeled,
                count: 7,
                views: vec![Augment::Weak, Augment::Strong, Augment::SimClr],
            },
        ]
    }

    fn steps(options: LoaderOptions, count: usize) -> Vec<Loaded> {
        let mut loader = Loader::new(partition(40, "8"), draws(), 77, options).unwrap();
        (0..count).map(|_| loader.next().unwrap()).collect()
    }

    fn same(left: &[Loaded], right: &[Loaded]) -> bool {
        let key = |Loaded { batch, pixels }: &Loaded| {
            let draws =
                batch.draws.iter().map(|draw| (draw.ids.clone(), draw.labels.clone(), draw.views.clone()));
            (batch.step, draws.collect::<Vec<_>>(), pixels.clone())
        };
        left.iter().map(key).eq(right.iter().map(key))
    }

    #[test]
    fn a_step_holds_the_same_bytes_whatever_the_workers() {
        let inline = steps(LoaderOptions { workers: 0, ..Default::default() }, 30);
        for workers in [1, 2, 5] {
            let threaded = steps(LoaderOptions { workers, prefetch: 3, ..Default::default() }, 30);
            assert!(same(&inline, &threaded), "{workers} workers");
        }
    }

    #[test]
    fn a_resumed_loader_continues_where_the_other_stood() {
        let whole = steps(LoaderOptions { workers: 0, ..Default::default() }, 20);
        let resumed = steps(LoaderOptions { workers: 2, start_step: 13, ..Default::default() }, 7);
        assert!(same(&whole[13..], &resumed));
    }

    #[test]
    fn an_epoch_shows_every_picture_once() {
        let draws = vec![Draw { part: Part::All, count: 5, views: vec![Augment::None] }];
        let options = LoaderOptions { workers: 0, ..Default::default() };
        let mut loader = Loader::new(partition(40, "all"), draws, 1, options).unwrap();
        assert_eq!((loader.steps_per_epoch(0), loader.pictures_per_step()), (8, 5));
        let mut epoch = || -> Vec<u32> {
            (0..8).flat_map(|_| loader.next().unwrap().batch.draws[0].ids.clone()).collect()
        };
        let (mut first, mut second) = (epoch(), epoch());
        assert_ne!(first, second);
        first.sort_unstable();
        second.sort_unstable();
        assert!(first.iter().copied().eq(0..40) && second == first);
    }

    #[test]
    fn labels_are_shown_for_the_labeled_part_alone() {
        for Loaded { batch, .. } in steps(LoaderOptions::default(), 5) {
            let [labeled, unlabeled] = &batch.draws[..] else { panic!("two draws") };
            assert!(labeled.ids.iter().zip(&labeled.labels).all(|(id, label)| id % 2 == *label));
            assert!(unlabeled.labels.iter().all(|&label| label == Drawn::NO_LABEL));
            assert!(labeled.ids.iter().all(|id| !unlabeled.ids.contains(id)));
        }
    }

    #[test]
    fn views_lie_one_after_the_other_and_fill_the_pixels() {
        let loaded = &steps(LoaderOptions::default(), 1)[0];
        let views: Vec<View> = loaded.batch.draws.iter().flat_map(|drawn| &drawn.views).copied().collect();
        let view = |first, count| View { first, count };
        assert_eq!(views, [view(0, 3), view(3, 7), view(10, 7), view(17, 7)]);
        assert_eq!((loaded.batch.pictures(), loaded.pixels.len()), (24, 24 * 64));
        let joined: Vec<u8> = views.iter().flat_map(|view| loaded.view(*view)).copied().collect();
        assert_eq!(joined, loaded.pixels);
        // Flips and shifts leave most of a gray picture as it is, which tells whose it is.
        let unlabeled = &loaded.batch.draws[1];
        let pictures = loaded.view(unlabeled.views[0]).chunks(64);
        assert!(unlabeled.ids.iter().zip(pictures).all(|(&id, picture)| picture.contains(&(id as u8))));
    }

    #[test]
    fn polling_takes_what_is_ready_in_order_and_does_not_wait() {
        let options = LoaderOptions { workers: 1, ..Default::default() };
        let mut loader = Loader::new(partition(40, "8"), draws(), 77, options).unwrap();
        let first = loader.next().unwrap();
        let second = (0..10_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            loader.poll()
        });
        let third = loader.next().unwrap();
        assert!(same(&[first, second.expect("a worker makes it"), third], &steps(options, 3)));
        let inline = LoaderOptions { workers: 0, ..options };
        let mut inline = Loader::new(partition(40, "8"), draws(), 77, inline).unwrap();
        assert!(inline.poll().is_none(), "without workers nothing is ever ready");
    }

    #[test]
    fn a_batch_larger_than_its_part_goes_around() {
        let draws = vec![Draw { part: Part::Labeled, count: 10, views: vec![Augment::None] }];
        let mut loader = Loader::new(partition(40, "4"), draws, 1, LoaderOptions::default()).unwrap();
        let loaded = loader.next().unwrap();
        let drawn = &loaded.batch.draws[0];
        assert_eq!((drawn.ids.len(), loaded.pixels.len()), (10, 640));
        let pictures = loaded.view(drawn.views[0]).chunks(64);
        assert!(drawn.ids.iter().zip(pictures).all(|(&id, picture)| picture[0] == id as u8));
    }

    #[test]
    fn two_draws_of_one_part_do_not_see_the_same_pictures() {
        let draw = Draw { part: Part::All, count: 8, views: vec![] };
        let mut loader =
            Loader::new(partition(40, "all"), vec![draw.clone(), draw], 1, LoaderOptions::default()).unwrap();
        let Loaded { batch, .. } = loader.next().unwrap();
        assert_ne!(batch.draws[0].ids, batch.draws[1].ids);
    }

    #[test]
    fn an_empty_part_is_named_with_its_mend() {
        let error = Loader::new(partition(40, "all"), draws(), 1, LoaderOptions::default()).unwrap_err();
        assert!(error.to_string().contains("no unlabeled pictures"), "{error}");
        assert!(error.to_string().contains("--labels"), "{error}");
    }

    #[test]
    fn dropping_a_loader_in_the_middle_ends_its_threads() {
        let mut loader = Loader::new(partition(40, "8"), draws(), 77, LoaderOptions::default()).unwrap();
        loader.next().unwrap();
        let shared = Arc::downgrade(&loader.shared);
        drop(loader);
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn waiting_is_measured() {
        let mut loader =
            Loader::new(partition(40, "8"), draws(), 1, LoaderOptions { workers: 0, ..Default::default() })
                .unwrap();
        loader.next().unwrap();
        assert!(loader.waited() > Duration::ZERO);
    }
}
