//! The whole job: teacher, student, baseline, report. Each is a training of its own, in a folder of its own; what is
//! finished is recognized by its summary, so that the job as a whole can be stopped and resumed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use data::Selection;
use data::score::Tally;
use models::Architecture;
use serde::{Deserialize, Serialize};
use train::config::parse_duration;
use train::summary::peak_memory_bytes;
use train::{
    Config, Ground, Method, Options, Outcome, RunFolder, RunState, Session, Sink, Summary, TrainError,
};

use crate::error::{DistillError, Result};
use crate::methods::{self, DistillationEntry};
use crate::page;
use crate::report::{Report, Side, fidelity, gap, latency_us, selections};
use crate::teachers::Teachers;

/// A distillation. In a file its keys stand at the top, the trainings' settings below `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct DistillConfig {
    /// An architecture to be trained first, or finished runs; several are averaged.
    pub teacher: Vec<String>,
    /// Architecture of the student.
    pub student: String,
    /// Distillation method.
    pub distillation: String,
    /// Whether the student is also trained on the labels alone; by default for the built-in data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<bool>,
    /// Walks over the main draw's pictures in the teacher's training, where they differ from the student's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_epochs: Option<f64>,
    /// Largest learning rate of the teacher's training, where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_lr: Option<f64>,
    /// Labeled pictures of a step of the teacher's training, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_batch_size: Option<usize>,
    /// Options of the distillation method.
    pub distillation_options: BTreeMap<String, String>,
    /// Settings of the trainings: `method` and `options` are the teacher's, `out` is the job's folder, `arch` is not used.
    pub train: Config,
}

impl Default for DistillConfig {
    fn default() -> Self {
        Self {
            teacher: Vec::new(),
            student: "mobilenet-v3-large".into(),
            distillation: "kl".into(),
            baseline: None,
            teacher_epochs: None,
            teacher_lr: None,
            teacher_batch_size: None,
            distillation_options: BTreeMap::new(),
            train: Config::default(),
        }
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum JobOutcome {
    /// It is done.
    Finished(Box<Report>),
    /// It was stopped in this stage, has saved, and can be resumed.
    Interrupted {
        /// `teacher`, `student` or `baseline`.
        stage: &'static str,
    },
}

/// Shares of a budget. The baseline takes as many steps as the student, each of which is cheaper, since the student asks
/// the teacher.
#[derive(Clone, Copy)]
struct Shares {
    teacher: f64,
    student: f64,
    baseline: f64,
}

impl Shares {
    /// For a teacher that learns from labels alone.
    const SUPERVISED: Self = Self { teacher: 0.35, student: 0.4, baseline: 0.25 };
    /// For one whose steps hold several views of the pictures without labels too.
    const SEMI_SUPERVISED: Self = Self { teacher: 0.54, student: 0.28, baseline: 0.18 };

    /// The shares of the stages that there are.
    fn among(self, teacher: bool, baseline: bool) -> Self {
        let there = |there: bool, share: f64| if there { share } else { 0.0 };
        let kept =
            Self { teacher: there(teacher, self.teacher), baseline: there(baseline, self.baseline), ..self };
        let whole = kept.teacher + kept.student + kept.baseline;
        Self { teacher: kept.teacher / whole, student: kept.student / whole, baseline: kept.baseline / whole }
    }
}

/// File of a job's configuration in its folder.
fn job_file(folder: &Path) -> PathBuf {
    folder.join("distill.toml")
}

/// Whether a run's folder is that of a distillation, to be resumed by [`resume`].
pub fn is_job(folder: &Path) -> bool {
    job_file(folder).exists()
}

/// Runs a distillation. With `resume` a job that was begun goes on; without it, its folder is an error.
///
/// # Errors
/// Whatever the user can mend, first of all: see [`DistillError::mendable`].
pub fn run(
    config: &DistillConfig,
    sink: &mut dyn Sink,
    interrupt: Arc<AtomicBool>,
    resume: bool,
) -> Result<JobOutcome> {
    run_with(config, &|| Ok(Ground::open(&config.train)?), sink, interrupt, resume)
}

/// As [`run`], on data and device that are open.
///
/// # Errors
/// As [`run`].
pub fn run_on(
    ground: &Ground,
    config: &DistillConfig,
    sink: &mut dyn Sink,
    interrupt: Arc<AtomicBool>,
    resume: bool,
) -> Result<JobOutcome> {
    run_with(config, &|| Ok(ground.clone()), sink, interrupt, resume)
}

fn run_with(
    config: &DistillConfig,
    open: &dyn Fn() -> Result<Ground>,
    sink: &mut dyn Sink,
    interrupt: Arc<AtomicBool>,
    resume: bool,
) -> Result<JobOutcome> {
    let folder = RunFolder::new(&config.train.out);
    if folder.path().as_os_str().is_empty() {
        return Err(TrainError::setting("out", "the job's folder", "").into());
    }
    if !resume && (is_job(folder.path()) || folder.state() != RunState::Fresh) {
        return Err(TrainError::Exists { path: folder.path().into() }.into());
    }
    if let (true, Ok(report)) = (resume, Report::read(&folder.summary())) {
        return Ok(JobOutcome::Finished(Box::new(report)));
    }
    Job::new(config, folder, open)?.run(sink, interrupt)
}

/// Goes on with the job in a folder.
///
/// # Errors
/// [`TrainError::NotARun`]; otherwise as [`run`].
pub fn resume(folder: &Path, sink: &mut dyn Sink, interrupt: Arc<AtomicBool>) -> Result<JobOutcome> {
    if !is_job(folder) {
        let reason = "expected a distill.toml in it, found none".into();
        return Err(TrainError::NotARun { path: folder.into(), reason }.into());
    }
    let mut config = read(&job_file(folder))?;
    config.train.out = folder.into();
    run(&config, sink, interrupt, true)
}

/// Reads a job's configuration.
///
/// # Errors
/// With line and column for a key that is unknown or of the wrong kind.
pub fn read(path: &Path) -> Result<DistillConfig> {
    let text = std::fs::read_to_string(path).map_err(TrainError::file("reading", path))?;
    let wrong =
        |error: toml::de::Error| TrainError::ConfigFile { path: path.into(), reason: error.to_string() };
    Ok(toml::from_str(&text).map_err(wrong)?)
}

/// Where the teacher comes from.
enum Source {
    Train(Architecture),
    Runs(Vec<PathBuf>),
}

fn source(teachers: &[String]) -> Result<Source> {
    let as_run = |name: &String| Path::new(name).exists().then(|| PathBuf::from(name));
    match teachers {
        [] => Err(DistillError::NoTeacher),
        [name] if as_run(name).is_none() => match Architecture::find(name) {
            Ok(architecture) => Ok(Source::Train(architecture)),
            Err(error) => Err(DistillError::UnknownTeacher { name: name.clone(), reason: error.to_string() }),
        },
        several => {
            let run = |name| as_run(name).ok_or_else(|| DistillError::SeveralNeedRuns { name: name.clone() });
            several.iter().map(run).collect::<Result<_>>().map(Source::Runs)
        }
    }
}

struct Job<'a> {
    config: &'a DistillConfig,
    folder: RunFolder,
    ground: Ground,
    source: Source,
    entry: &'static DistillationEntry,
    options: Options,
    baseline: bool,
}

impl<'a> Job<'a> {
    fn new(config: &'a DistillConfig, folder: RunFolder, open: &dyn Fn() -> Result<Ground>) -> Result<Self> {
        // Names first: a slip shows before any data is read.
        let source = source(&config.teacher)?;
        let entry = methods::find(&config.distillation)?;
        let options = Options::parse(entry.name, entry.options, &config.distillation_options)?;
        Architecture::find(&config.student).map_err(TrainError::from)?;
        train::methods::find(&config.train.method)?;
        let ground = open()?;
        let baseline = config.baseline.unwrap_or_else(|| ground.partition.dataset.baseline_by_default());
        if let Source::Runs(runs) = &source {
            // Loaded again later; a teacher that cannot teach must not leave a folder behind.
            Teachers::load(runs, &ground.partition.dataset, &ground.runtime)?;
        }
        folder.create()?;
        let resolved = DistillConfig { baseline: Some(baseline), ..config.clone() };
        let text = toml::to_string(&resolved)
            .map_err(|error| TrainError::setting("configuration", "plain values", error.to_string()))?;
        train::folder::write_atomically(&job_file(folder.path()), text.as_bytes())?;
        Ok(Self { config, folder, ground, source, entry, options, baseline })
    }

    fn run(&self, sink: &mut dyn Sink, interrupt: Arc<AtomicBool>) -> Result<JobOutcome> {
        let mut session = Session { sink, interrupt, stage: "teacher", resume: true };
        let (taught, runs) = match &self.source {
            Source::Runs(runs) => (None, runs.clone()),
            Source::Train(architecture) => {
                let config = self.teacher_config(architecture)?;
                match train::run_on(&self.ground, &config, &mut session)? {
                    Outcome::Finished(summary) => (Some(*summary), vec![config.out]),
                    Outcome::Interrupted { .. } => return Ok(JobOutcome::Interrupted { stage: "teacher" }),
                }
            }
        };
        let teachers = Teachers::load(&runs, &self.ground.partition.dataset, &self.ground.runtime)?;

        session.stage = "student";
        let Some(student) = self.train_student(&teachers, &mut session)? else {
            return Ok(JobOutcome::Interrupted { stage: "student" });
        };

        session.stage = "baseline";
        let baseline = match self.baseline {
            false => None,
            true => match train::run_on(&self.ground, &self.baseline_config(&student)?, &mut session)? {
                Outcome::Finished(summary) => Some(*summary),
                Outcome::Interrupted { .. } => return Ok(JobOutcome::Interrupted { stage: "baseline" }),
            },
        };
        let report = self.report(teachers, &runs, taught, student.clone(), baseline)?;
        page::write(&report, &student, &self.folder)?;
        report.write(&self.folder.summary())?;
        Ok(JobOutcome::Finished(Box::new(report)))
    }

    fn train_student(&self, teachers: &Teachers, session: &mut Session<'_>) -> Result<Option<Summary>> {
        let build = || -> train::Result<Box<dyn Method>> {
            (self.entry.build)(&self.options, teachers.clone(), &self.ground.partition)
        };
        let config = self.student_config()?;
        match train::run_method(&self.ground, &config, &build, session)? {
            Outcome::Finished(summary) => Ok(Some(*summary)),
            Outcome::Interrupted { .. } => Ok(None),
        }
    }

    fn teacher_config(&self, architecture: &Architecture) -> Result<Config> {
        let train = &self.config.train;
        Ok(Config {
            arch: architecture.name().into(),
            epochs: self.config.teacher_epochs.or(train.epochs),
            lr: self.config.teacher_lr.or(train.lr),
            batch_size: self.config.teacher_batch_size.or(train.batch_size),
            out: self.folder.path().join("teacher"),
            budget: self.budget(|shares| shares.teacher)?,
            ..train.clone()
        })
    }

    fn student_config(&self) -> Result<Config> {
        let config = Config {
            arch: self.student()?,
            method: self.entry.name.into(),
            options: self.options.resolved(),
            out: self.folder.path().into(),
            budget: self.budget(|shares| shares.student)?,
            ..self.config.train.clone()
        };
        Ok(config.resolve(f64::from(self.entry.ema))?)
    }

    /// The student's network, steps and batch, on the labels alone.
    fn baseline_config(&self, student: &Summary) -> Result<Config> {
        Ok(Config {
            arch: self.student()?,
            method: "supervised".into(),
            options: BTreeMap::new(),
            out: self.folder.path().join("baseline"),
            budget: None,
            epochs: None,
            steps: Some(student.steps),
            batch_size: Config::read(&RunFolder::new(&student.run).config())?.batch_size,
            ..self.config.train.clone()
        })
    }

    fn student(&self) -> Result<String> {
        Ok(Architecture::find(&self.config.student).map_err(TrainError::from)?.name().into())
    }

    /// A stage's share of the job's time.
    fn budget(&self, share: fn(&Shares) -> f64) -> Result<Option<String>> {
        let Some(text) = &self.config.train.budget else { return Ok(None) };
        let shares = match train::methods::find(&self.config.train.method)?.uses_unlabeled {
            true => Shares::SEMI_SUPERVISED,
            false => Shares::SUPERVISED,
        };
        let shares = shares.among(matches!(self.source, Source::Train(_)), self.baseline);
        Ok(Some(format!("{:.0}s", parse_duration(text)?.as_secs_f64() * share(&shares))))
    }

    fn report(
        &self,
        mut teachers: Teachers,
        runs: &[PathBuf],
        taught: Option<Summary>,
        student: Summary,
        baseline: Option<Summary>,
    ) -> Result<Report> {
        let mut alone = Teachers::load(
            std::slice::from_ref(&student.run),
            &self.ground.partition.dataset,
            &self.ground.runtime,
        )?;
        let test = self.ground.partition.dataset.test_pictures();
        let answers = [answers(&mut teachers, &test)?, answers(&mut alone, &test)?];
        let classes = self.ground.partition.dataset.classes.len();
        let seconds = [&taught, &Some(student.clone()), &baseline];
        let seconds = seconds.into_iter().flatten().map(|summary| summary.seconds).sum();
        let side =
            |summary: &Summary| -> Result<Side> { Ok(Side::trained(summary, saved_latency(&summary.run)?)) };
        Ok(Report {
            run: self.folder.path().into(),
            distillation: self.entry.name.into(),
            data: student.data.clone(),
            labels: student.labels,
            seed: student.seed,
            teacher: match &taught {
                Some(summary) => side(summary)?,
                None => self.given(&mut teachers, runs)?,
            },
            student: side(&student)?,
            baseline: baseline.as_ref().map(side).transpose()?,
            fidelity: fidelity(&answers[0], &answers[1], classes),
            seconds,
            pictures_per_second: student.pictures_per_second,
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    /// The report's line about teachers that were trained elsewhere, measured on this data.
    fn given(&self, teachers: &mut Teachers, runs: &[PathBuf]) -> Result<Side> {
        let mut accuracies = [None; 3];
        for (accuracy, pictures) in accuracies.iter_mut().zip(selections(&self.ground.partition)) {
            *accuracy = accuracy_of(teachers, &pictures)?;
        }
        let [train, val, test] = accuracies;
        let (mut arch, mut method, mut params, mut macs, mut latency) = (Vec::new(), Vec::new(), 0, 0, 0.0);
        for (manifest, run) in teachers.manifests().iter().zip(runs) {
            let cost = models::cost::total(&manifest.graph().map_err(TrainError::from)?);
            arch.push(manifest.architecture.clone());
            method.extend(manifest.training.as_ref().map(|training| training.method.clone()));
            (params, macs) = (params + cost.parameters, macs + cost.macs);
            latency += saved_latency(run)?;
        }
        let train = train.unwrap_or(0.0);
        Ok(Side {
            arch: arch.join(" + "),
            method: method.join(" + "),
            run: runs.first().cloned().unwrap_or_default(),
            params,
            macs,
            train_accuracy: train,
            val_accuracy: val,
            test_accuracy: test,
            gap: gap(train, val, test),
            latency_us: latency,
            steps: None,
            seconds: None,
            pictures_per_second: None,
        })
    }
}

/// Probabilities for all pictures of a selection, `[pictures, classes]` row-major.
fn answers(teachers: &mut Teachers, pictures: &Selection<'_>) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for batch in pictures.batches(128) {
        let probabilities = teachers.answers(&batch.pixels)?;
        let values: Vec<f32> =
            probabilities.flatten_all().and_then(|flat| flat.to_vec1()).map_err(TrainError::from)?;
        all.extend(values);
    }
    Ok(all)
}

fn accuracy_of(teachers: &mut Teachers, pictures: &Selection<'_>) -> Result<Option<f64>> {
    let mut tally = Tally::default();
    for batch in pictures.batches(128) {
        let probabilities = teachers.answers(&batch.pixels)?;
        let rows: Vec<Vec<f32>> = probabilities.to_vec2().map_err(TrainError::from)?;
        let labeled = rows.iter().zip(&batch.labels).filter_map(|(row, label)| Some((row, (*label)?)));
        labeled.for_each(|(row, label)| tally.add(row, label as usize));
    }
    let score = tally.score();
    Ok((score.count > 0).then_some(score.top1))
}

fn saved_latency(run: &Path) -> Result<f64> {
    let path = if run.is_dir() { RunFolder::new(run).model() } else { run.to_path_buf() };
    let (manifest, weights) = models::load(&path)?;
    latency_us(&manifest.graph().map_err(TrainError::from)?, &weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_that_there_are_share_the_whole_budget() {
        for shares in [Shares::SUPERVISED, Shares::SEMI_SUPERVISED] {
            for (teacher, baseline) in [(true, true), (true, false), (false, true), (false, false)] {
                let Shares { teacher: first, student, baseline: last } = shares.among(teacher, baseline);
                assert!((first + student + last - 1.0).abs() < 1e-12);
                assert_eq!((first > 0.0, last > 0.0), (teacher, baseline));
            }
        }
    }
}
