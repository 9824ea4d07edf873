//! The one training loop. It knows optimizers, schedules, the average, evaluation and checkpoints; it does not know
//! which method it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use data::{Batch, Draw, Loaded, Loader, LoaderOptions, Selection};
use engine::{BatchNormMode, Device, Fwd, Grad, Model, Net, Runtime, Step};
use models::{Graph, Weights};

use crate::artefact;
use crate::checkpoint::{Checkpoint, Position};
use crate::config::Config;
use crate::error::{Result, TrainError};
use crate::evaluate::{Evaluation, evaluate};
use crate::event::{Event, Sink, Started, StepReport};
use crate::folder::RunFolder;
use crate::ground::{Ground, with_momentum};
use crate::methods::{Loss, Method, Nets, Progress};
use crate::pace::{Pace, steps_within};
use crate::page;
use crate::profile::TrainingProfile;
use crate::schedule::ema_decay;
use crate::session::{Outcome, Session};
use crate::sink::{Metrics, TensorBoard};
use crate::summary::{Summary, peak_memory_bytes};

/// Skipped steps in a row after which a run gives up.
const MOST_SKIPPED: u32 = 20;
/// Evaluations of a run at most, however short its epochs are.
const MOST_EVALUATIONS: u64 = 20;
/// Seconds between checkpoints.
const CHECKPOINT_SECONDS: f64 = 60.0;
/// Seconds of training after which the run's time is estimated, if five steps have not been enough.
const ESTIMATE_AFTER: f64 = 3.0;
/// Pictures of the training part whose accuracy is measured at the end.
const TRAIN_PICTURES: usize = 10_000;
/// Classes above which the confusion matrix is left out of the summary.
const MOST_CONFUSION: usize = 200;

/// A training that is about to be done.
pub(crate) struct Job<'a> {
    pub ground: &'a Ground,
    pub config: &'a Config,
    pub method: Box<dyn Method>,
    pub folder: RunFolder,
}

/// Trains to the end, or to an interrupt.
pub(crate) fn train(job: Job<'_>, session: &mut Session<'_>) -> Result<Outcome> {
    let Job { ground, config, method, folder } = job;
    let mut trainer = Trainer::new(ground, config, method)?;
    let checkpoint = folder.checkpoint();
    match checkpoint.exists() {
        true => trainer.restore(Checkpoint::read(&checkpoint)?)?,
        false => trainer.initialize()?,
    }
    let mut files = Files::open(folder, &trainer.position)?;
    trainer.go(&mut files, session)
}

/// Measures a few steps on networks that are thrown away, and returns how many fit into `budget`.
pub(crate) fn fit(
    ground: &Ground,
    config: &Config,
    method: Box<dyn Method>,
    budget: Duration,
) -> Result<u64> {
    let started = Instant::now();
    let long = Config { steps: Some(1_000_000), ..config.clone() };
    let mut trainer = Trainer::new(ground, &long, method)?;
    trainer.initialize()?;
    let probe = budget.as_secs_f64() * 0.05;
    while trainer.pace.steps() < 4 || (trainer.pace.steps() < 30 && trainer.pace.seconds() < probe) {
        trainer.step()?;
    }
    let evaluation = trainer.evaluation_seconds(MOST_EVALUATIONS);
    // A twentieth is kept back: machines slow down as they warm up.
    let left = budget.as_secs_f64() * 0.95 - started.elapsed().as_secs_f64();
    Ok(steps_within(left, trainer.pace.seconds_per_step(), evaluation))
}

/// The files that a run appends to or replaces while it works.
struct Files {
    folder: RunFolder,
    metrics: Metrics,
    tensorboard: TensorBoard,
}

impl Files {
    fn open(folder: RunFolder, position: &Position) -> Result<Self> {
        let metrics = Metrics::open(&folder.metrics(), position.metrics_bytes)?;
        let tensorboard = TensorBoard::open(&folder.tensorboard(), position.tensorboard_bytes)?;
        Ok(Self { folder, metrics, tensorboard })
    }

    /// Passes an event to the run's own files and to the session's listener.
    fn tell(&mut self, session: &mut Session<'_>, event: &Event) -> Result<()> {
        self.metrics.receive(session.stage, event)?;
        self.tensorboard.receive(session.stage, event)?;
        session.tell(event)
    }
}

/// What a step came to.
enum Stepped {
    Taken { loss: f64, parts: Vec<(&'static str, f64)>, lr: f64 },
    Skipped { culprit: String },
}

/// A batch whose pictures are where the networks take them.
struct Ready {
    batch: Batch,
    pictures: Tensor,
}

/// A run in the making.
struct Trainer<'a> {
    ground: &'a Ground,
    config: &'a Config,
    method: Box<dyn Method>,
    /// The network as it is saved: without the method's heads.
    graph: Graph,
    student: Net,
    average: Option<Net>,
    loader: Loader,
    /// The next batch, if it is on the device already.
    ahead: Option<Ready>,
    steps_per_epoch: u64,
    pictures_per_batch: u64,
    position: Position,
    best: Weights,
    pace: Pace,
    started: Instant,
    seconds_before: f64,
    /// Measured seconds of one evaluation on the validation pictures.
    evaluation_time: Option<f64>,
    checkpointed: Instant,
    /// Where the time goes, while somebody wants to know.
    profile: Option<TrainingProfile>,
    /// What the user should be told at the start.
    notes: Vec<String>,
}

impl<'a> Trainer<'a> {
    fn new(ground: &'a Ground, config: &'a Config, method: Box<dyn Method>) -> Result<Self> {
        let loader = loader(ground, config, &*method, 0)?;
        let batches_per_epoch = loader.steps_per_epoch(method.main_draw());
        let steps_per_epoch = batches_per_epoch.div_ceil(config.accumulate as u64).max(1);
        let epochs = config.epochs.unwrap_or(1.0);
        let steps = config.steps.unwrap_or(((steps_per_epoch as f64 * epochs).round() as u64).max(1));

        let graph = ground.graph(config)?;
        let mut with_heads = with_momentum(&graph, bn_momentum(config, steps))?;
        method.heads(&mut with_heads)?;
        let net = || Net::new(with_heads.clone(), &ground.runtime, config.seed);
        let student = net()?;
        if !config.freeze.is_empty() {
            student.freeze(&|node| config.freezes(node));
        }
        let average = if config.ema.is_some_and(|decay| decay > 0.0) { Some(net()?) } else { None };
        let draws = method.draws(config.batch_size());
        let pictures = draws.iter().map(Draw::pictures).sum::<usize>() as u64;
        Ok(Self {
            ground,
            config,
            method,
            graph,
            student,
            average,
            loader,
            ahead: None,
            steps_per_epoch,
            pictures_per_batch: pictures,
            position: Position::start(steps),
            best: Weights::new(),
            pace: Pace::default(),
            started: Instant::now(),
            seconds_before: 0.0,
            evaluation_time: None,
            checkpointed: Instant::now(),
            profile: None,
            notes: ground.partition.dataset.notes.clone(),
        })
    }

    /// The start of a new run: weights from elsewhere if asked for, and the average equal to the student.
    fn initialize(&mut self) -> Result<()> {
        if let Some(path) = &self.config.init {
            let report = crate::init::load(&self.student, &self.graph, &self.config.arch, path)?;
            self.notes.push(format!("{}: {report}", path.display()));
        }
        match &self.average {
            Some(average) => Ok(average.copy_from(&self.student)?),
            None => Ok(()),
        }
    }

    fn restore(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.student.load(&checkpoint.student)?;
        if let Some(average) = &self.average {
            average.load(&checkpoint.average)?;
        }
        self.student.load_optimizer_state(&checkpoint.optimizer)?;
        self.method.restore(&checkpoint.method)?;
        self.best = checkpoint.best;
        self.position = checkpoint.position;
        self.seconds_before = self.position.seconds;
        self.loader = loader(self.ground, self.config, &*self.method, self.batches_seen())?;
        self.ahead = None;
        Ok(())
    }

    fn go(&mut self, files: &mut Files, session: &mut Session<'_>) -> Result<Outcome> {
        files.tell(session, &Event::Started(self.introduction(&files.folder)))?;
        for text in std::mem::take(&mut self.notes) {
            files.tell(session, &Event::Note { text })?;
        }
        let mut estimated = false;
        while self.position.step < self.position.steps {
            if session.sink.wants_profile() {
                self.start_profile();
            }
            self.advance(files, session)?;
            if !estimated && (self.pace.steps() >= 5 || self.pace.seconds() > ESTIMATE_AFTER) {
                let seconds = self.seconds() + self.seconds_left();
                files.tell(session, &Event::Estimated { seconds, steps: self.position.steps })?;
                estimated = true;
            }
            if self.evaluation_is_due() {
                self.validate(files, session)?;
            }
            let interrupted = session.interrupted() && self.position.step < self.position.steps;
            if interrupted || self.checkpoint_is_due() {
                self.checkpoint(files, session)?;
                page::write(&files.folder, &self.config.run_name(), None)?;
            }
            if interrupted {
                let (step, steps) = (self.position.step, self.position.steps);
                let run = files.folder.path().to_path_buf();
                self.tell_profile(session)?;
                session.tell(&Event::Interrupted { run, step, steps })?;
                return Ok(Outcome::Interrupted { step, steps });
            }
        }
        self.tell_profile(session)?;
        self.finish(files, session).map(|summary| Outcome::Finished(Box::new(summary)))
    }

    fn introduction(&self, folder: &RunFolder) -> Started {
        let partition = &self.ground.partition;
        Started {
            run: folder.path().to_path_buf(),
            arch: self.config.arch.clone(),
            method: self.config.method.clone(),
            data: partition.dataset.name.clone(),
            parameters: models::cost::total(&self.graph).parameters,
            labeled: partition.labeled.len(),
            unlabeled: partition.unlabeled.len(),
            val: partition.val.len(),
            test: partition.dataset.test.len(),
            steps: self.position.steps,
            steps_per_epoch: self.steps_per_epoch,
            from_step: self.position.step,
        }
    }

    /// One step with its report.
    fn advance(&mut self, files: &mut Files, session: &mut Session<'_>) -> Result<()> {
        match self.step()? {
            Stepped::Taken { loss, parts, lr } => {
                self.position.skipped_in_a_row = 0;
                let report = StepReport {
                    step: self.position.step,
                    steps: self.position.steps,
                    epoch: self.position.step as f64 / self.steps_per_epoch as f64,
                    loss,
                    parts,
                    lr,
                    pictures_per_second: self.pictures_per_step() as f64
                        / self.pace.seconds_per_step().max(1e-9),
                    eta_seconds: self.seconds_left(),
                    wait_share: self.pace.wait_share(),
                };
                files.tell(session, &Event::Step(report))
            }
            Stepped::Skipped { culprit } => {
                self.position.skipped += 1;
                self.position.skipped_in_a_row += 1;
                let (step, in_a_row) = (self.position.step, self.position.skipped_in_a_row);
                if in_a_row >= MOST_SKIPPED {
                    return Err(TrainError::Diverged { step, culprit, skips: in_a_row });
                }
                files.tell(session, &Event::Skipped { step, culprit, in_a_row })
            }
        }
    }

    /// One optimizer step: as many batches as are accumulated, their losses and gradients, and the update.
    fn step(&mut self) -> Result<Stepped> {
        let began = Instant::now();
        let waited = self.loader.waited();
        let mut mean = MeanLoss::default();
        let mut culprit = None;
        for part in 0..self.config.accumulate as u64 {
            let Ready { batch, pictures } = self.next_batch()?;
            if culprit.is_some() {
                continue; // the step's other batches are drawn all the same, so that the next step has its own
            }
            let at = self.progress(part);
            let average = self.average.as_ref();
            let nets = Nets { student: &self.student, average, pictures: &pictures };
            let loss = self.method.loss(&nets, &batch, at)?;
            // Before the loss is read: a GPU works on meanwhile. A gradient of what is not finite is discarded below.
            drop(loss.total.backward()?);
            self.look_ahead()?;
            if let Some(part) = mean.add(&loss)? {
                culprit = Some(self.name_node(&pictures, batch.step, part)?);
            }
        }
        let culprit = match culprit {
            Some(culprit) => Some(culprit),
            None => self.student.non_finite_grad()?.map(|name| format!("the gradient of `{name}`")),
        };
        let stepped = match culprit {
            Some(culprit) => {
                self.student.discard_step()?;
                Stepped::Skipped { culprit }
            }
            None => {
                let began = Instant::now();
                let lr = self.update()?;
                if let Some(profile) = &mut self.profile {
                    profile.update += began.elapsed().as_secs_f64();
                }
                self.method.after_step(self.progress(0))?;
                let (loss, parts) = mean.finish(self.config.accumulate);
                Stepped::Taken { loss, parts, lr }
            }
        };
        let seconds = began.elapsed().as_secs_f64();
        let waited = (self.loader.waited() - waited).as_secs_f64();
        self.pace.record(seconds, waited);
        self.position.step += 1;
        self.position.training_seconds += seconds;
        self.position.waited_seconds += waited;
        self.position.pictures += self.pictures_per_step();
        let pictures = self.pictures_per_step();
        if let Some(profile) = &mut self.profile {
            profile.steps += 1;
            profile.pictures += pictures;
            profile.seconds += seconds;
            profile.waiting += waited;
        }
        Ok(stepped)
    }

    fn next_batch(&mut self) -> Result<Ready> {
        match self.ahead.take() {
            Some(ready) => Ok(ready),
            None => {
                let loaded = self.loader.next()?;
                self.ready(loaded)
            }
        }
    }

    /// Sends the next batch to the GPU while it works on this one, if the batch is made already.
    fn look_ahead(&mut self) -> Result<()> {
        if self.ahead.is_none()
            && !self.student.tensors().is_cpu()
            && let Some(loaded) = self.loader.poll()
        {
            self.ahead = Some(self.ready(loaded)?);
        }
        Ok(())
    }

    fn ready(&self, Loaded { batch, pixels }: Loaded) -> Result<Ready> {
        Ok(Ready { batch, pictures: self.student.images(pixels)? })
    }

    /// Starts to take the nodes' times once a step has planned and warmed up, or if there is but one.
    fn start_profile(&mut self) {
        let one = self.position.step + 1 == self.position.steps;
        if self.profile.is_none() && (one || self.pace.steps() > 0) {
            self.student.start_profile();
            self.average.iter().for_each(Net::start_profile);
            let (arch, threads) = (self.config.arch.clone(), self.ground.runtime.threads());
            self.profile = Some(TrainingProfile { arch, threads, ..TrainingProfile::default() });
        }
    }

    fn tell_profile(&mut self, session: &mut Session<'_>) -> Result<()> {
        let Some(profile) = self.profile.take() else { return Ok(()) };
        let average = self.average.iter().flat_map(|average| average.profile().seconds()).sum();
        let profile = TrainingProfile { network: self.student.profile(), average, ..profile };
        session.tell(&Event::Profiled(Box::new(profile)))
    }

    /// Adds to what is wrong with the loss where in the network it began, if it did there.
    fn name_node(&self, pictures: &Tensor, step: u64, culprit: String) -> Result<String> {
        let bn = BatchNormMode::Train { update: false };
        let fwd = Fwd { grad: Grad::None, bn, want: &["logits"], step, pass: 0 };
        let node = self.student.non_finite_node(pictures, fwd)?;
        Ok(node.map_or(culprit.clone(), |node| format!("node `{node}`, and so {culprit},")))
    }

    fn update(&self) -> Result<f64> {
        let (config, step) = (self.config, self.position.step);
        let factor = config.schedule.unwrap_or_default().factor(
            step,
            self.position.steps,
            config.warmup.unwrap_or(0.0),
        );
        let lr = config.lr.unwrap_or(0.0) * factor;
        let decay = ema_decay(config.ema.unwrap_or(0.0), step) as f32;
        self.student.update(&Step {
            optimizer: config.engine_optimizer(),
            lr: lr as f32,
            weight_decay: config.weight_decay.unwrap_or(0.0) as f32,
            grad_scale: 1.0 / config.accumulate as f32,
            clip_norm: config.clip_norm.filter(|&norm| norm > 0.0).map(|norm| norm as f32),
            ema: self.average.as_ref().map(|average| (average, decay)),
        })?;
        Ok(lr)
    }

    fn progress(&self, part: u64) -> Progress {
        let Position { step, steps, .. } = self.position;
        Progress { step, steps, batch: self.batches_seen() + part, seed: self.config.seed }
    }

    fn batches_seen(&self) -> u64 {
        self.position.step * self.config.accumulate as u64
    }

    fn pictures_per_step(&self) -> u64 {
        self.pictures_per_batch * self.config.accumulate as u64
    }

    /// The weights that are measured and saved: the average's where there is one, without the method's heads.
    fn weights(&self) -> Result<Weights> {
        let all = self.average.as_ref().unwrap_or(&self.student).weights()?;
        Ok(models::fit::select(&self.graph, &all).map_err(models::ManifestError::from)?)
    }

    fn evaluation_interval(&self) -> u64 {
        self.steps_per_epoch.max(self.position.steps.div_ceil(MOST_EVALUATIONS))
    }

    fn evaluation_is_due(&self) -> bool {
        let Position { step, steps, .. } = self.position;
        !self.ground.partition.val.is_empty()
            && (step.is_multiple_of(self.evaluation_interval()) || step == steps)
    }

    fn validate(&mut self, files: &mut Files, session: &mut Session<'_>) -> Result<()> {
        let began = Instant::now();
        let weights = self.weights()?;
        let evaluation = self.measure(&weights, &self.ground.partition.val_pictures())?;
        let step = self.position.step;
        // An equal accuracy later in the run wins: the loss has usually fallen further.
        let best = self.position.best.is_none_or(|(accuracy, _)| evaluation.accuracy >= accuracy);
        if best {
            self.position.best = Some((evaluation.accuracy, step));
            self.best = weights;
        }
        self.evaluation_time = Some(began.elapsed().as_secs_f64());
        files.tell(session, &evaluated(step, "val", &evaluation, best))
    }

    fn measure(&self, weights: &Weights, pictures: &Selection<'_>) -> Result<Evaluation> {
        let mut model = Model::new(&self.graph, weights, &self.ground.runtime)?;
        evaluate(&mut model, pictures, self.ground.partition.dataset.classes.len())
    }

    fn measure_some(&self, weights: &Weights, pictures: &Selection<'_>) -> Result<Option<Evaluation>> {
        if pictures.is_empty() { Ok(None) } else { self.measure(weights, pictures).map(Some) }
    }

    fn checkpoint_is_due(&self) -> bool {
        match self.config.checkpoint_steps {
            Some(steps) => self.position.step.is_multiple_of(steps),
            None => {
                let since = self.checkpointed.elapsed().as_secs_f64();
                since > CHECKPOINT_SECONDS || (self.evaluation_is_due() && since > CHECKPOINT_SECONDS / 4.0)
            }
        }
    }

    fn checkpoint(&mut self, files: &mut Files, session: &mut Session<'_>) -> Result<()> {
        self.position.seconds = self.seconds();
        files.tell(session, &Event::Checkpointed { step: self.position.step })?;
        self.position.metrics_bytes = files.metrics.sync()?;
        self.position.tensorboard_bytes = files.tensorboard.sync()?;
        let checkpoint = Checkpoint {
            position: self.position.clone(),
            student: self.student.weights()?,
            average: self.average.as_ref().map(Net::weights).transpose()?.unwrap_or_default(),
            optimizer: self.student.optimizer_state()?,
            method: self.method.state()?,
            best: self.best.clone(),
        };
        checkpoint.write(&files.folder.checkpoint())?;
        self.checkpointed = Instant::now();
        Ok(())
    }

    /// Saves the kept network, measures it, writes the summary.
    fn finish(&mut self, files: &mut Files, session: &mut Session<'_>) -> Result<Summary> {
        self.checkpoint(files, session)?;
        let step = self.position.step;
        let kept = if self.best.is_empty() { self.weights()? } else { std::mem::take(&mut self.best) };
        let partition = &self.ground.partition;
        let train = self.measure(&kept, &partition.labeled_pictures().first(TRAIN_PICTURES))?;
        let val = self.measure_some(&kept, &partition.val_pictures())?;
        let test = self.measure_some(&kept, &partition.dataset.test_pictures())?;
        if let Some(test) = &test {
            files.tell(session, &evaluated(step, "test", test, false))?;
        }
        let summary = self.summary(files.folder.path(), &train, test.as_ref());
        let mut reached = vec![("train", &train)];
        reached.extend(val.as_ref().map(|val| ("val", val)));
        reached.extend(test.as_ref().map(|test| ("test", test)));
        artefact::save(
            &files.folder.model(),
            self.ground,
            self.config,
            self.position.steps,
            &kept,
            &reached,
        )?;
        files.tell(session, &Event::Finished(Box::new(summary.clone())))?;
        files.metrics.sync()?;
        files.tensorboard.sync()?;
        page::write(&files.folder, &self.config.run_name(), Some(&summary))?;
        summary.write(&files.folder.summary())?;
        Ok(summary)
    }

    fn summary(&self, run: &Path, train: &Evaluation, test: Option<&Evaluation>) -> Summary {
        let partition = &self.ground.partition;
        let position = &self.position;
        let cost = models::cost::total(&self.graph);
        let classes = partition.dataset.classes.clone();
        let confusion = test.filter(|_| classes.len() <= MOST_CONFUSION).map(|test| test.confusion.clone());
        Summary {
            run: run.to_path_buf(),
            arch: self.config.arch.clone(),
            method: self.config.method.clone(),
            data: partition.dataset.name.clone(),
            seed: self.config.seed,
            labels: partition.labeled.len(),
            unlabeled: partition.unlabeled.len(),
            params: cost.parameters,
            macs: cost.macs,
            steps: position.steps,
            epochs: position.steps as f64 / self.steps_per_epoch as f64,
            kept_step: position.best.map_or(position.step, |(_, step)| step),
            train_accuracy: train.accuracy,
            val_accuracy: position.best.map(|(accuracy, _)| accuracy),
            test_accuracy: test.map(|test| test.accuracy),
            test_top5: test.map(|test| test.top5),
            test_loss: test.map(|test| test.loss),
            pictures_per_second: position.pictures as f64 / position.training_seconds.max(1e-9),
            wait_share: position.waited_seconds / position.training_seconds.max(1e-9),
            seconds: self.seconds(),
            peak_memory_bytes: peak_memory_bytes(),
            threads: self.ground.runtime.threads(),
            isa: self.ground.runtime.isa().into(),
            device: self.ground.runtime.describe(),
            varying: self.ground.runtime.varying(),
            skipped_steps: position.skipped,
            confusion: confusion.unwrap_or_default(),
            classes,
        }
    }

    /// Seconds of the run so far, over all its sessions.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    fn seconds_left(&self) -> f64 {
        let Position { step, steps, .. } = self.position;
        let evaluations = (steps - step).div_ceil(self.evaluation_interval());
        (steps - step) as f64 * self.pace.seconds_per_step() + self.evaluation_seconds(evaluations)
    }

    /// Seconds that the coming evaluations and the final one take.
    fn evaluation_seconds(&self, validations: u64) -> f64 {
        let partition = &self.ground.partition;
        let (val, test) = (partition.val.len(), partition.dataset.test.len());
        let last = (partition.labeled.len().min(TRAIN_PICTURES) + test) as f64;
        let per_picture = match self.evaluation_time {
            Some(seconds) => seconds / val.max(1) as f64,
            // Before the first is measured: answering takes about a third of the time of training.
            None => self.pace.seconds_per_step() / self.pictures_per_step().max(1) as f64 / 3.0,
        };
        per_picture * (validations as f64 * val as f64 + last)
    }
}

fn loader(ground: &Ground, config: &Config, method: &dyn Method, start_step: u64) -> Result<Loader> {
    let flip = ground.partition.dataset.flips();
    let workers = loader_threads(&ground.runtime);
    let options = LoaderOptions { start_step, flip, workers, ..LoaderOptions::default() };
    Ok(Loader::new(ground.partition.clone(), method.draws(config.batch_size()), config.seed, options)?)
}

/// Threads that make batches: all but one where a GPU computes. On the processor they take their time from the networks, and
/// stand still once enough batches are ready.
fn loader_threads(runtime: &Runtime) -> usize {
    let threads = runtime.threads();
    let threads = if runtime.device() == Device::Cpu { threads / 2 } else { threads - 1 };
    threads.max(1)
}

/// Least share of a batch in the running statistics: a run has to forget their start in a twentieth of its steps.
fn bn_momentum(config: &Config, steps: u64) -> f32 {
    config.bn_momentum.unwrap_or((20.0 / steps as f64).min(0.1)) as f32
}

fn evaluated(step: u64, split: &'static str, evaluation: &Evaluation, best: bool) -> Event {
    let Evaluation { pictures, accuracy, top5, loss, .. } = *evaluation;
    Event::Evaluated { step, split, pictures, accuracy, top5, loss, best }
}

/// Losses of the batches of one step, averaged for the log.
#[derive(Default)]
struct MeanLoss {
    total: f64,
    parts: Vec<(&'static str, f64)>,
}

impl MeanLoss {
    /// Adds a batch's; returns what is not finite, if anything.
    fn add(&mut self, loss: &Loss) -> Result<Option<String>> {
        let values = loss.values()?;
        let (total, parts) = (f64::from(values[0]), &values[1..]);
        self.total += total;
        let mut culprit = None;
        for (index, ((name, _), &value)) in loss.parts.iter().zip(parts).enumerate() {
            if !value.is_finite() && culprit.is_none() {
                culprit = Some(format!("the loss's part `{name}`"));
            }
            match self.parts.get_mut(index) {
                Some((_, sum)) => *sum += f64::from(value),
                None => self.parts.push((name, f64::from(value))),
            }
        }
        Ok(culprit.or_else(|| (!total.is_finite()).then(|| "the loss".into())))
    }

    fn finish(self, batches: usize) -> (f64, Vec<(&'static str, f64)>) {
        let mean = |sum: f64| sum / batches as f64;
        (mean(self.total), self.parts.into_iter().map(|(name, sum)| (name, mean(sum))).collect())
    }
}
