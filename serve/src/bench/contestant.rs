//! Who is measured: rows with an engine each, from a run or a file with what lies beside it, or from an architecture's
//! name at random weights. A row that cannot run stays, and says why.

use std::path::Path;

use models::{Architecture, Manifest, Task, Weights, cost};

use super::accuracy::Accuracy;
use super::files::Files;
use super::host::Host;
use super::options::BenchOptions;
use super::report::{Outcome, Row};
use super::runner::Runner;
use super::variant::Variant;
use crate::{Card, EngineName, LoadOptions, Result, ServeError, Served};

/// A row of the report, and who fills it.
pub(super) struct Entrant {
    pub row: Row,
    /// The engine; `None` if it could not start, which the row says.
    pub runner: Option<Runner>,
}

/// What a user named, before any engine runs it.
struct Model {
    label: String,
    files: Files,
    /// Why there are no files, and the network itself, where it was never saved.
    unsaved: Option<(String, Manifest, Weights)>,
    random_weights: bool,
    /// Seed of the run that trained it, where it is known: what it has not seen depends on it.
    seed: u64,
}

/// The rows of a model that a user named.
pub(super) fn enter(name: &str, options: &BenchOptions, host: &mut dyn Host) -> Result<Vec<Entrant>> {
    let model = model(name, options, host)?;
    let mut failure = None;
    let mut entrants = Vec::new();
    for &variant in &options.rows {
        let started = start(&model, variant, options);
        entrants.push(match started {
            Ok((runner, file)) => entered(&model, variant, runner, file.as_deref(), options)?,
            Err(error) => {
                let reason = error.to_string();
                failure = failure.or(Some(error));
                missing(&model, variant, reason)
            }
        });
    }
    // A model that nothing can run is an error; beside one that runs, a row that does not is a row that says so.
    match failure {
        Some(error) if entrants.iter().all(|entrant| entrant.runner.is_none()) => Err(error.into()),
        _ => {
            describe_missing(&mut entrants);
            Ok(entrants)
        }
    }
}

/// Why a row cannot run.
enum NoStart {
    /// There is no such file.
    File { path: std::path::PathBuf, reason: String },
    /// The engine refuses.
    Engine(ServeError),
}

impl std::fmt::Display for NoStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoStart::File { reason, .. } => f.write_str(reason),
            NoStart::Engine(error) => error.fmt(f),
        }
    }
}

impl From<NoStart> for ServeError {
    fn from(no: NoStart) -> Self {
        match no {
            NoStart::File { path, reason } => ServeError::Source { path, reason },
            NoStart::Engine(error) => error,
        }
    }
}

/// What exists as a file or folder is one, anything else is an architecture.
fn model(name: &str, options: &BenchOptions, host: &mut dyn Host) -> Result<Model> {
    let path = Path::new(name);
    if path.exists() {
        let files = Files::of(path);
        let seed = files.training_seed().unwrap_or(0);
        return Ok(Model { label: name.into(), files, unsaved: None, random_weights: false, seed });
    }
    let endings = [".onnx", ".safetensors"];
    if name.contains(std::path::MAIN_SEPARATOR) || endings.iter().any(|ending| name.ends_with(ending)) {
        let reason = "no such run or file".into();
        return Err(ServeError::Source { path: path.into(), reason });
    }
    let architecture = Architecture::find(name)?;
    let size = options.task.size.unwrap_or(architecture.entry().image_size);
    let mut task = Task::new(options.task.classes, options.task.channels, size).with_stem(options.task.stem);
    task.features = options.task.features;
    let (manifest, weights) = random(&architecture, &task)?;
    let label = architecture.name().to_string();
    Ok(match host.write_files(&manifest, &weights) {
        Ok(folder) => {
            Model { label, files: Files::temporary(&folder), unsaved: None, random_weights: true, seed: 0 }
        }
        Err(reason) => Model {
            label,
            files: Files::default(),
            unsaved: Some((reason, manifest, weights)),
            random_weights: true,
            seed: 0,
        },
    })
}

fn random(architecture: &Architecture, task: &Task) -> Result<(Manifest, Weights)> {
    let graph = architecture.build(task)?;
    let labels = (0..task.classes).map(|class| class.to_string()).collect();
    let manifest = Manifest::new(architecture.name(), task, labels, models::Fit::default())?;
    Ok((manifest, models::formula::weights(&graph, 1.0)))
}

type Started = (Runner, Option<std::path::PathBuf>);

fn start(model: &Model, variant: Variant, options: &BenchOptions) -> Result<Started, NoStart> {
    let entry = variant.entry();
    let load = LoadOptions { engine: Some(entry.engine), weights: variant.weights(), ..options.load.clone() };
    if let Some((reason, manifest, weights)) = &model.unsaved {
        if !matches!(variant, Variant::NativeF32 | Variant::NativeBf16) {
            return Err(NoStart::File { path: model.label.clone().into(), reason: reason.clone() });
        }
        let runner = in_memory(manifest, weights, &load).map_err(NoStart::Engine)?;
        return Ok((runner, None));
    }
    let path = model
        .files
        .find(entry.artefact)
        .map_err(|reason| NoStart::File { path: model.files.path(entry.artefact), reason })?;
    let runner = Served::open(&path, &load).and_then(Runner::start).map_err(NoStart::Engine)?;
    Ok((runner, Some(path)))
}

fn in_memory(manifest: &Manifest, weights: &Weights, load: &LoadOptions) -> Result<Runner> {
    let card = Card::of(manifest.architecture.clone(), manifest);
    Runner::start(Served::network(&manifest.graph()?, weights, card, load)?)
}

fn entered(
    model: &Model,
    variant: Variant,
    runner: Runner,
    file: Option<&Path>,
    options: &BenchOptions,
) -> Result<Entrant> {
    let card = runner.card();
    let cost = runner.graph().map(cost::total);
    let row = Row {
        arch: card.arch.clone(),
        runtime: version(variant.entry().engine, &options.load),
        threads: threads(variant.entry().engine, options.load.threads),
        stem: card.stem,
        input: [card.channels, card.height, card.width],
        classes: card.labels.len(),
        params: cost.map(|cost| cost.parameters),
        macs: cost.map(|cost| cost.macs),
        file: file.map(|path| model.files.describe(path)).transpose()?,
        ..blank(model, variant)
    };
    Ok(Entrant { row, runner: Some(runner) })
}

fn missing(model: &Model, variant: Variant, reason: String) -> Entrant {
    Entrant { row: Row { outcome: Outcome::Missing(reason), ..blank(model, variant) }, runner: None }
}

fn blank(model: &Model, variant: Variant) -> Row {
    let entry = variant.entry();
    Row {
        model: model.label.clone(),
        arch: None,
        engine: entry.engine.name().into(),
        runtime: None,
        weights: entry.format.into(),
        threads: String::new(),
        stem: None,
        input: [0; 3],
        classes: 0,
        random_weights: model.random_weights,
        training_seed: model.seed,
        reference: false,
        params: None,
        macs: None,
        file: None,
        accuracy: Accuracy::NotMeasured { reason: "the row could not run".into() },
        outcome: Outcome::Missing("not measured yet".into()),
    }
}

/// Rows that cannot run are of the same network as those that can.
fn describe_missing(entrants: &mut [Entrant]) {
    let Some(known) = entrants.iter().find(|entrant| entrant.runner.is_some()) else { return };
    let Row { arch, stem, input, classes, params, macs, .. } = known.row.clone();
    for Entrant { row, runner } in entrants {
        if runner.is_none() {
            (row.arch, row.stem, row.input, row.classes) = (arch.clone(), stem, input, classes);
            (row.params, row.macs) = (params, macs);
        }
    }
}

/// The network that others are compared with, at random weights.
pub(super) fn reference(
    name: &str,
    [channels, height, width]: [usize; 3],
    classes: usize,
    options: &BenchOptions,
) -> Result<Entrant> {
    let architecture = Architecture::find(name)?;
    let mut task = Task::new(classes, channels, height);
    task.width = width;
    let (manifest, weights) = random(&architecture, &task)?;
    let load = LoadOptions { threads: options.load.threads, ..LoadOptions::default() };
    let runner = in_memory(&manifest, &weights, &load)?;
    let model = Model {
        label: architecture.name().into(),
        files: Files::default(),
        unsaved: None,
        random_weights: true,
        seed: 0,
    };
    let mut entrant = entered(&model, Variant::NativeF32, runner, None, options)?;
    entrant.row.reference = true;
    Ok(entrant)
}

fn version(engine: EngineName, load: &LoadOptions) -> Option<String> {
    match engine {
        EngineName::Native => Some(format!("distill {}", env!("CARGO_PKG_VERSION"))),
        #[cfg(feature = "ort")]
        EngineName::Ort => {
            // The library's file bears its version: libonnxruntime.so.1.31.1.
            let library = onnx::runtime::find(load.ort_lib.as_deref()).ok()?.path;
            let path = library.canonicalize().unwrap_or(library);
            Some(format!("ONNX Runtime, {}", path.file_name()?.to_string_lossy()))
        }
        #[cfg(not(feature = "ort"))]
        EngineName::Ort => {
            let _ = load;
            None
        }
        EngineName::CandleOnnx => Some("candle-onnx 0.11".into()),
    }
}

fn threads(engine: EngineName, threads: usize) -> String {
    match engine {
        EngineName::Native if threads == 1 => "1, the caller's".into(),
        EngineName::Native => format!("{threads}, idle ones spin briefly and then sleep"),
        EngineName::Ort => format!("{threads} within an operation, no spinning"),
        EngineName::CandleOnnx => {
            let set = std::env::var("RAYON_NUM_THREADS").ok();
            format!("{}, as RAYON_NUM_THREADS says", set.unwrap_or_else(|| "one per core".into()))
        }
    }
}
