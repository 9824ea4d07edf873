//! A model ready to be served: its labels, what a picture must become for it, and an engine for each worker.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Device, Model, Quantized, Runtime, WeightFormat};
use models::bundle::{Answer, FileRole};
use models::{Bundle, Graph, Manifest, QuantizedNetwork, Stem, Weights};
use onnx::{ModelProto, Numbers};
use picture::Fit;

use crate::engines::{Native, NativeInt8};
use crate::pipeline::Target;
use crate::{Engine, EngineName, Result, ServeError};

/// How a model is loaded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// The engine; by default `native` for a run, a `model.safetensors` and an `.onnx` file quantized by `distill export`,
    /// `ort` for any other `.onnx` file.
    pub engine: Option<EngineName>,
    /// How the native engine stores weights.
    pub weights: WeightFormat,
    /// Threads of each worker's engine; 0 means one. Native engines of more than one thread share these and take turns.
    pub threads: usize,
    /// ONNX Runtime's library, or the folder that holds it; sought if not given.
    pub ort_lib: Option<PathBuf>,
}

/// What a model says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// What it is called in answers: the run's name or the file's.
    pub name: String,
    /// Its architecture, where it is known.
    pub arch: Option<String>,
    /// Layout of its first layers, where it is known.
    pub stem: Option<Stem>,
    /// The engine that runs it.
    pub engine: EngineName,
    /// How the engine stores its weights: `f32`, `bf16`, `int8`.
    pub weights: &'static str,
    /// Class names by index.
    pub labels: Vec<String>,
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Rows of the network's pictures.
    pub height: usize,
    /// Columns of the network's pictures.
    pub width: usize,
    /// How a picture of another aspect is fitted.
    pub fit: Fit,
    /// SHA-256 of the weights, where it is known.
    pub weights_sha256: Option<String>,
}

impl Card {
    /// A network on the native engine, as its manifest has it.
    pub fn of(name: String, manifest: &Manifest) -> Self {
        let task = &manifest.task;
        Self {
            name,
            arch: Some(manifest.architecture.clone()),
            stem: Some(task.stem),
            engine: EngineName::Native,
            weights: WeightFormat::F32.name(),
            labels: manifest.labels.clone(),
            channels: task.channels,
            height: task.height,
            width: task.width,
            fit: match manifest.input.fit {
                models::Fit::Stretch => Fit::Stretch,
                models::Fit::Crop => Fit::Crop,
            },
            weights_sha256: None,
        }
    }
}

/// How a quantized network stores its weights.
const INT8: &str = "int8";

/// Makes an engine for a worker.
type MakeEngine = Arc<dyn Fn() -> Result<Box<dyn Engine>> + Send + Sync>;

/// A loaded model. Clones share what was loaded.
#[derive(Clone)]
pub struct Served {
    card: Card,
    graph: Option<Arc<Graph>>,
    threads: usize,
    digest: Option<String>,
    probe: Option<Arc<Probe>>,
    make: MakeEngine,
}

/// Pictures, and what the bundle says that its file answers to them.
struct Probe {
    pictures: Vec<u8>,
    answer: Answer,
}

/// What rounding the weights to bf16, 8 bits of precision, may move a logit, per unit of the largest.
const BF16_TOLERANCE: f32 = 5e-2;

impl Probe {
    /// The same for weights that are rounded when they are loaded.
    fn for_weights(mut self, weights: WeightFormat) -> Self {
        if weights == WeightFormat::Bf16 {
            self.answer.tolerance = self.answer.tolerance.max(BF16_TOLERANCE);
        }
        self
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Served").field(&self.card).finish()
    }
}

impl Served {
    /// Loads a run's folder, a bundle's, a `model.safetensors` or an exported `.onnx` file.
    ///
    /// # Errors
    /// [`ServeError::Bundle`] for a bundle that contradicts itself, [`ServeError::Source`] for what is none of them, [`ServeError::WrongEngine`] for an engine that does not run it,
    /// and the errors of the engines themselves.
    pub fn open(path: &Path, options: &LoadOptions) -> Result<Self> {
        if Bundle::is_at(path) { Self::open_bundle(path, options) } else { Self::open_file(path, options) }
    }

    /// A model of which the caller makes the engines; for tests and engines of other crates.
    pub fn with_engine(
        card: Card,
        make: impl Fn() -> Result<Box<dyn Engine>> + Send + Sync + 'static,
    ) -> Self {
        Self { card, graph: None, threads: 1, digest: None, probe: None, make: Arc::new(make) }
    }

    /// A network in memory on the native engine.
    ///
    /// # Errors
    /// If the weights do not fit the graph.
    pub fn network(graph: &Graph, weights: &Weights, card: Card, options: &LoadOptions) -> Result<Self> {
        let threads = options.threads.max(1);
        let runtime = Runtime::new(Device::Cpu, threads)?;
        let model = Model::with_format(graph, weights, options.weights, &runtime)?;
        let card = Card { weights: options.weights.name(), ..card };
        let served = Self::with_engine(card, move || Ok(Box::new(Native(model.clone()))));
        Ok(Self { graph: Some(Arc::new(graph.clone())), threads, ..served })
    }

    /// A quantized network in memory on the native engine.
    ///
    /// # Errors
    /// If a part of it is missing or does not fit the graph.
    pub fn quantized(
        graph: &Graph,
        network: &QuantizedNetwork,
        card: Card,
        options: &LoadOptions,
    ) -> Result<Self> {
        let threads = options.threads.max(1);
        let quantized = Quantized::of(graph, network, &Runtime::new(Device::Cpu, threads)?)?;
        let card = Card { weights: INT8, ..card };
        let served = Self::with_engine(card, move || Ok(Box::new(NativeInt8(quantized.clone()))));
        Ok(Self { graph: Some(Arc::new(graph.clone())), threads, ..served })
    }

    /// The network, where it is known: an engine of somebody else may keep it to itself.
    pub fn graph(&self) -> Option<&Graph> {
        self.graph.as_deref()
    }

    /// What the model says of itself.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// An engine of one's own.
    ///
    /// # Errors
    /// If the engine cannot start.
    pub fn engine(&self) -> Result<Box<dyn Engine>> {
        (self.make)()
    }

    /// Threads of each engine.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// SHA-256 of the file that it was loaded from, where there is one.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same with this SHA-256 of its file.
    pub fn with_digest(self, digest: String) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// Has an engine answer the pictures of its bundle's probe as the bundle says; without a bundle, a picture: as many
    /// logits as labels, all finite.
    ///
    /// # Errors
    /// [`ServeError::Unproved`] for other answers, and the engine's own errors.
    pub fn prove(&self) -> Result<()> {
        self.prove_itself()?;
        self.probe.as_ref().map_or(Ok(()), |probe| self.prove_by(probe))
    }

    fn prove_by(&self, probe: &Probe) -> Result<()> {
        let Card { channels, height, width, name, .. } = &self.card;
        let mut engine = self.engine()?;
        let mut found = Vec::new();
        for picture in probe.pictures.chunks((channels * height * width).max(1)) {
            found.extend_from_slice(engine.run(picture)?);
        }
        let distance = probe.answer.distance(&found);
        if distance.agrees() {
            return Ok(());
        }
        let reason = format!(
            "expected the bundle's answers to its probe within {}, found them {} apart",
            distance.allowed, distance.largest
        );
        Err(ServeError::Unproved { model: name.clone(), reason })
    }

    fn prove_itself(&self) -> Result<()> {
        let Card { channels, height, width, labels, name, .. } = &self.card;
        let picture: Vec<u8> = (0..channels * height * width).map(|index| (index * 37 % 256) as u8).collect();
        let mut engine = self.engine()?;
        let logits = engine.run(&picture)?;
        let unproved = |reason: String| Err(ServeError::Unproved { model: name.clone(), reason });
        if logits.len() != labels.len() {
            return unproved(format!("expected {} logits, found {}", labels.len(), logits.len()));
        }
        match logits.iter().position(|logit| !logit.is_finite()) {
            Some(class) => {
                unproved(format!("expected finite logits, found {} for class {class}", logits[class]))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn target(&self) -> Target {
        let Card { channels, height, width, fit, .. } = self.card;
        Target { channels, height, width, fit }
    }

    /// A bundle: its float network, on ONNX Runtime the `.onnx` file. Its other files are opened by their own paths.
    fn open_bundle(folder: &Path, options: &LoadOptions) -> Result<Self> {
        let bundle = Bundle::open(folder)?;
        let role = if options.engine == Some(EngineName::Ort) { FileRole::Onnx } else { FileRole::Weights };
        let file = bundle.file(role).ok_or_else(|| ServeError::WrongEngine {
            path: folder.into(),
            engine: "ort",
            reason: "it holds no model.onnx; use `native`, or another of its files by path".into(),
        })?;
        let served = Self::open(&bundle.path(file), options)?;
        Ok(Self { card: Card { name: bundle.name.clone(), ..served.card }, ..served })
    }

    /// A file alone, held against its bundle where it lies in one.
    fn open_file(path: &Path, options: &LoadOptions) -> Result<Self> {
        let is_onnx = path.extension().is_some_and(|extension| extension == "onnx");
        let served = if is_onnx { Self::open_onnx(path, options)? } else { Self::open_run(path, options)? };
        let probe = if path.is_file() { probe_of(path)? } else { None };
        let probe = probe.map(|probe| Arc::new(probe.for_weights(options.weights)));
        Ok(Self { probe, ..served })
    }

    fn open_run(path: &Path, options: &LoadOptions) -> Result<Self> {
        if let Some(engine @ (EngineName::Ort | EngineName::CandleOnnx)) = options.engine {
            return Err(ServeError::WrongEngine {
                path: path.into(),
                engine: engine.name(),
                reason: "it runs .onnx files; write one with `distill export`, or use `native`".into(),
            });
        }
        let file = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
        let bytes = read(&file)?;
        let refused = |reason: String| ServeError::Source { path: file.clone(), reason };
        let (manifest, weights) =
            models::file::from_bytes(&bytes).map_err(|error| refused(error.to_string()))?;
        let graph = manifest.graph().map_err(|error| refused(error.to_string()))?;
        let sha256 = models::file::sha256(&bytes);
        let card = Card { weights_sha256: Some(sha256.clone()), ..Card::of(name_of(path), &manifest) };
        Ok(Self::network(&graph, &weights, card, options)?.with_digest(sha256))
    }

    fn open_onnx(path: &Path, options: &LoadOptions) -> Result<Self> {
        let bytes = read(path)?;
        let refused =
            |error: onnx::OnnxError| ServeError::Source { path: path.into(), reason: error.to_string() };
        let model = ModelProto::read(&bytes).map_err(refused)?;
        let card = card_of(path, &model)?;
        let native =
            || if onnx::network::is_quantized(&model) { EngineName::Native } else { EngineName::Ort };
        let engine = options.engine.unwrap_or_else(native);
        check_format(path, options, engine, &model)?;
        match engine {
            EngineName::Native => {
                let digest = models::file::sha256(&bytes);
                Ok(Self::open_native(path, &model, card.0, options)?.with_digest(digest))
            }
            EngineName::Ort => Self::open_ort(path, bytes, card, options),
            EngineName::CandleOnnx => Self::open_candle_onnx(path, bytes, card),
        }
    }

    /// An `.onnx` file that `distill export` wrote: the network of its manifest with the arrays of the file.
    fn open_native(path: &Path, model: &ModelProto, card: Card, options: &LoadOptions) -> Result<Self> {
        let network = onnx::network::read(model)
            .map_err(|error| ServeError::Source { path: path.into(), reason: error.to_string() })?;
        let card = Card { engine: EngineName::Native, ..card };
        match &network.numbers {
            Numbers::Real(weights) => Self::network(&network.graph, weights, card, options),
            Numbers::Whole(whole) => Self::quantized(&network.graph, whole, card, options),
        }
    }

    #[cfg(feature = "ort")]
    fn open_ort(_: &Path, bytes: Vec<u8>, (card, graph): Described, options: &LoadOptions) -> Result<Self> {
        use onnx::runtime::{OrtOptions, OrtSession, find};
        let bytes: Arc<[u8]> = bytes.into();
        let library = find(options.ort_lib.as_deref()).map_err(onnx::OnnxError::NotFound)?;
        let threads = options.threads.max(1);
        let ort_options = OrtOptions { threads, spinning: false };
        let digest = models::file::sha256(&bytes);
        let served = Self::with_engine(card, move || {
            let session = OrtSession::open(&library, &bytes, ort_options)?;
            Ok(Box::new(crate::engines::OnnxRuntime::new(session)))
        });
        Ok(Self { graph: graph.map(Arc::new), threads, digest: Some(digest), ..served })
    }

    #[cfg(not(feature = "ort"))]
    fn open_ort(path: &Path, _: Vec<u8>, _: Described, _: &LoadOptions) -> Result<Self> {
        Err(ServeError::WrongEngine {
            path: path.into(),
            engine: "ort",
            reason: "this build has no ONNX Runtime support; build with `--features ort`, or use `native` for a file that \
                     `distill export` wrote"
                .into(),
        })
    }

    #[cfg(feature = "candle-onnx")]
    fn open_candle_onnx(_: &Path, bytes: Vec<u8>, (card, graph): Described) -> Result<Self> {
        let card = Card { engine: EngineName::CandleOnnx, ..card };
        let picture = [card.channels, card.height, card.width];
        let served = Self::with_engine(card, move || {
            let model = onnx::runtime::CandleOnnx::open(&bytes)?;
            Ok(Box::new(crate::engines::CandleOnnx::new(model, picture)))
        });
        Ok(Self { graph: graph.map(Arc::new), ..served })
    }

    #[cfg(not(feature = "candle-onnx"))]
    fn open_candle_onnx(path: &Path, _: Vec<u8>, _: Described) -> Result<Self> {
        Err(ServeError::WrongEngine {
            path: path.into(),
            engine: "candle-onnx",
            reason: "this build has no candle-onnx; build with `--features candle-onnx` (needs protoc)"
                .into(),
        })
    }
}

/// What a file has to answer, if it lies in a bundle that lists it; its bytes are those that the bundle speaks of.
fn probe_of(path: &Path) -> Result<Option<Probe>> {
    let Some(folder) = path.parent().filter(|folder| Bundle::is_at(folder)) else { return Ok(None) };
    let bundle = Bundle::open(folder)?;
    let Some(file) = bundle.networks().find(|file| bundle.path(file) == path) else { return Ok(None) };
    bundle.read(file)?;
    let pictures = || bundle.probe.pictures(&bundle.model.task);
    let answer = bundle.probe.answer(&file.path).cloned();
    Ok(answer.map(|answer| Probe { pictures: pictures(), answer }))
}

/// Whether the engine can store weights as asked.
fn check_format(path: &Path, options: &LoadOptions, engine: EngineName, model: &ModelProto) -> Result<()> {
    let asked = options.weights.name();
    let refused = |reason| Err(ServeError::WrongEngine { path: path.into(), engine: engine.name(), reason });
    match (options.weights, engine) {
        (WeightFormat::F32, _) => Ok(()),
        (_, EngineName::Native) if onnx::network::is_quantized(model) => {
            refused(format!("weights in {asked} are for float networks, and this one has whole numbers"))
        }
        (_, EngineName::Native) => Ok(()),
        _ => refused(format!("weights in {asked} are for the native engine: add `--engine native`")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| ServeError::Source { path: path.into(), reason: error.to_string() })
}

/// What a file says of itself, and the network that it was written from, where this build still knows it.
type Described = (Card, Option<Graph>);

fn card_of(path: &Path, model: &ModelProto) -> Result<Described> {
    let refused = |reason: String| ServeError::Source { path: path.into(), reason };
    let contract = onnx::Contract::of(model).map_err(|error| refused(error.to_string()))?;
    let manifest: Option<Manifest> = serde_json::from_str(&contract.manifest).ok();
    let card = Card {
        name: name_of(path),
        arch: manifest.as_ref().map(|manifest| manifest.architecture.clone()),
        stem: manifest.as_ref().map(|manifest| manifest.task.stem),
        engine: EngineName::Ort,
        weights: if onnx::network::is_quantized(model) { INT8 } else { WeightFormat::F32.name() },
        labels: contract.labels,
        channels: contract.input.channels,
        height: contract.input.height,
        width: contract.input.width,
        fit: contract.input.fit.parse().map_err(refused)?,
        weights_sha256: Some(contract.weights_sha256),
    };
    Ok((card, manifest.and_then(|manifest| manifest.graph().ok())))
}

/// Name of a bundle: what its manifest says; of a run or file: its last component, of a `model.*` in a run's folder the
/// folder's.
pub(crate) fn name_of(path: &Path) -> String {
    match Bundle::open(path) {
        Ok(bundle) => bundle.name.clone(),
        // What is wrong with it is said when it is opened to be served.
        Err(_) => name_of_path(path),
    }
}

fn name_of_path(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let stem = |path: &Path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = if full.is_dir() {
        full.file_name().map(|name| name.to_string_lossy().into_owned())
    } else {
        stem(&full)
    };
    match own.as_deref() {
        Some("model") => full.parent().and_then(stem).or(own),
        _ => own,
    }
    .unwrap_or_else(|| "model".into())
}
