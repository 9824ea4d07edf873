//! The models that are served, each with its versions, and where they come from. A version is loaded beside whatever
//! answers, proved, and only then put in its place; if any of that fails, what answered before goes on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::Instant;

use crate::events::{Answerer, Event, Sinks};
use crate::running::Running;
use crate::{LoadOptions, Options, Result, ServeError, Served};

/// Makes a model.
type Make = Arc<dyn Fn() -> Result<Served> + Send + Sync>;

/// Where one version of a model comes from.
#[derive(Clone)]
enum Origin {
    Path(PathBuf, LoadOptions),
    /// Made anew each time.
    Made(Make),
    /// Loaded already, by somebody who knows it.
    Loaded(Served),
}

/// A model to be served: its name and where its versions come from.
#[derive(Clone)]
pub struct Source {
    name: String,
    versions: Versions,
}

#[derive(Clone)]
enum Versions {
    /// These, numbered from 1.
    Listed(Vec<Origin>),
    /// The folders in this one whose names are numbers.
    Folder(PathBuf, LoadOptions),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

impl Source {
    /// Versions 1, 2, ... of a model from a path each: runs, `model.safetensors` or `.onnx` files.
    pub fn paths(name: impl Into<String>, paths: Vec<PathBuf>, load: &LoadOptions) -> Self {
        let origin = |path| Origin::Path(path, load.clone());
        Self { name: name.into(), versions: Versions::Listed(paths.into_iter().map(origin).collect()) }
    }

    /// A model whose versions are the folders in `folder` whose names are numbers.
    pub fn folder(name: impl Into<String>, folder: PathBuf, load: &LoadOptions) -> Self {
        Self { name: name.into(), versions: Versions::Folder(folder, load.clone()) }
    }

    /// The models in a folder: each in a folder of its name, with folders 1, 2, ... for its versions, or with the model
    /// itself for version 1.
    ///
    /// # Errors
    /// [`ServeError::Source`] for a folder that cannot be read or has no folder in it.
    pub fn repository(folder: &Path, load: &LoadOptions) -> Result<Vec<Self>> {
        let refused = |reason: String| ServeError::Source { path: folder.into(), reason };
        let entries = std::fs::read_dir(folder).map_err(|error| refused(error.to_string()))?;
        let hidden =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let paths = entries.flatten().map(|entry| entry.path());
        let mut models: Vec<PathBuf> = paths.filter(|path| path.is_dir() && !hidden(path)).collect();
        models.sort();
        if models.is_empty() {
            return Err(refused("expected a folder for each model, found none".into()));
        }
        Ok(models.into_iter().map(|model| Self::in_repository(model, load)).collect())
    }

    fn in_repository(folder: PathBuf, load: &LoadOptions) -> Self {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let itself = ["model.safetensors", "manifest.json", "model.onnx"];
        if itself.iter().any(|file| folder.join(file).is_file()) {
            return Self::paths(name, vec![model_in(folder)], load);
        }
        Self::folder(name, folder, load)
    }

    /// A model that the caller makes, at the start and at each reload.
    pub fn made(name: impl Into<String>, make: impl Fn() -> Result<Served> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), versions: Versions::Listed(vec![Origin::Made(Arc::new(make))]) }
    }

    /// A model that is loaded already, under its own name.
    pub fn loaded(served: Served) -> Self {
        let name = served.card().name.clone();
        Self { name, versions: Versions::Listed(vec![Origin::Loaded(served)]) }
    }

    /// Where files may change.
    fn files(&self) -> Vec<PathBuf> {
        let path = |origin: &Origin| match origin {
            Origin::Path(path, _) => Some(path.clone()),
            Origin::Made(_) | Origin::Loaded(_) => None,
        };
        match &self.versions {
            Versions::Listed(origins) => origins.iter().filter_map(path).collect(),
            Versions::Folder(folder, _) => vec![folder.clone()],
        }
    }

    /// What there is now, by version.
    fn origins(&self) -> Result<BTreeMap<u64, Origin>> {
        match &self.versions {
            Versions::Listed(origins) => Ok((1..).zip(origins.iter().cloned()).collect()),
            Versions::Folder(folder, load) => versions_in(folder, load),
        }
    }
}

fn versions_in(folder: &Path, load: &LoadOptions) -> Result<BTreeMap<u64, Origin>> {
    let refused = |reason: String| ServeError::Source { path: folder.into(), reason };
    let entries = std::fs::read_dir(folder).map_err(|error| refused(error.to_string()))?;
    let version = |entry: std::fs::DirEntry| {
        let version: u64 = entry.file_name().to_str()?.parse().ok().filter(|version| *version > 0)?;
        Some((version, Origin::Path(model_in(entry.path()), load.clone())))
    };
    let found: BTreeMap<_, _> = entries.flatten().filter_map(version).collect();
    if found.is_empty() {
        return Err(refused("expected folders named 1, 2, ... with a model in each, found none".into()));
    }
    Ok(found)
}

/// A version's folder, or the `model.onnx` in it if that is all there is.
fn model_in(folder: PathBuf) -> PathBuf {
    let has = |name: &str| folder.join(name).is_file();
    let alone = has("model.onnx") && !has("model.safetensors") && !has("manifest.json");
    if alone { folder.join("model.onnx") } else { folder }
}

impl Origin {
    /// Loads it, and has it prove itself.
    fn open(&self) -> Result<Served> {
        let served = match self {
            Self::Path(path, load) => Served::open(path, load)?,
            Self::Made(make) => make()?,
            Self::Loaded(served) => return Ok(served.clone()),
        };
        served.prove()?;
        Ok(served)
    }
}

/// What became of a version.
#[derive(Clone)]
pub(crate) enum VersionState {
    Loading,
    /// It answers; the reason why a later reload of it failed, if one did.
    Ready(Arc<Running>, Option<String>),
    Failed(String),
}

/// Why there is nobody to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Model { name: String, known: Vec<String> },
    Version { model: String, version: String, known: Vec<u64> },
    Loading { model: String },
    Failed { model: String, version: u64, reason: String },
}

/// Why a reload came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotReloaded {
    /// Another reload of the model is under way.
    Busy,
    /// A version did not load or did not prove itself; what answered before goes on.
    Refused { version: u64, reason: String },
    /// What there is could not be listed.
    Unlisted { reason: String },
}

/// A model and its versions.
pub(crate) struct Model {
    name: Arc<str>,
    source: Source,
    versions: RwLock<BTreeMap<u64, VersionState>>,
    reloading: Mutex<()>,
}

impl Model {
    fn new(source: Source) -> Self {
        let name = source.name.as_str().into();
        Self { name, source, versions: RwLock::default(), reloading: Mutex::new(()) }
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Every version and what became of it.
    pub fn versions(&self) -> Vec<(u64, VersionState)> {
        self.read().iter().map(|(version, state)| (*version, state.clone())).collect()
    }

    /// The versions that answer, the highest last.
    pub fn ready(&self) -> Vec<Arc<Running>> {
        let ready = |state: &VersionState| match state {
            VersionState::Ready(running, _) => Some(running.clone()),
            VersionState::Loading | VersionState::Failed(_) => None,
        };
        self.read().values().filter_map(ready).collect()
    }

    /// Whether some version answers.
    pub fn is_ready(&self) -> bool {
        self.latest().is_ok_and(|running| running.is_alive())
    }

    /// The version that answers if the request does not say: the highest that is ready.
    fn latest(&self) -> std::result::Result<Arc<Running>, Missing> {
        let versions = self.read();
        let ready = versions.values().rev().find_map(|state| match state {
            VersionState::Ready(running, _) => Some(running.clone()),
            _ => None,
        });
        ready.ok_or_else(|| self.why_none(&versions))
    }

    fn why_none(&self, versions: &BTreeMap<u64, VersionState>) -> Missing {
        let failed = versions.iter().rev().find_map(|(version, state)| match state {
            VersionState::Failed(reason) => Some(Missing::Failed {
                model: self.name.to_string(),
                version: *version,
                reason: reason.clone(),
            }),
            _ => None,
        });
        failed.unwrap_or_else(|| Missing::Loading { model: self.name.to_string() })
    }

    fn version(&self, asked: &str) -> std::result::Result<Arc<Running>, Missing> {
        let (model, versions) = (self.name.to_string(), self.read());
        let found = asked.parse().ok().and_then(|version: u64| Some((version, versions.get(&version)?)));
        match found {
            Some((_, VersionState::Ready(running, _))) => Ok(running.clone()),
            Some((_, VersionState::Loading)) => Err(Missing::Loading { model }),
            Some((version, VersionState::Failed(reason))) => {
                Err(Missing::Failed { model, version, reason: reason.clone() })
            }
            None => {
                let known = versions.keys().copied().collect();
                Err(Missing::Version { model, version: asked.into(), known })
            }
        }
    }

    /// Where files may change.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.source.files()
    }

    /// Loads every version anew, beside those that answer, and puts each in its place once it has proved itself.
    /// Versions that are there no longer are let go. This takes as long as loading takes: never on an async thread.
    pub fn reload(&self, options: &Options, sinks: &Sinks) -> std::result::Result<(), NotReloaded> {
        self.load_all(&|_: &Served, _| true, options, sinks)
    }

    /// The same, but versions whose files hold what they held go on as they are.
    pub fn refresh(&self, options: &Options, sinks: &Sinks) -> std::result::Result<(), NotReloaded> {
        let differs =
            |served: &Served, old: &Served| served.digest().is_none() || served.digest() != old.digest();
        self.load_all(&differs, options, sinks)
    }

    fn load_all(
        &self,
        wanted: &dyn Fn(&Served, &Served) -> bool,
        options: &Options,
        sinks: &Sinks,
    ) -> std::result::Result<(), NotReloaded> {
        let _alone = match self.reloading.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::WouldBlock) => return Err(NotReloaded::Busy),
            // It guards nothing but the turn, which a panic gave back.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let origins =
            self.source.origins().map_err(|error| NotReloaded::Unlisted { reason: error.to_string() })?;
        let mut refused = None;
        for (version, origin) in &origins {
            let answerer = Answerer { model: self.name.clone(), version: *version };
            let begun = Instant::now();
            let loaded = self.load(&answerer, origin, wanted, options, sinks);
            if let Err(error) = loaded {
                let reason = error.to_string();
                self.note_failure(*version, &reason);
                sinks.tell(&Event::LoadFailed { answerer, reason: reason.clone() });
                refused.get_or_insert(NotReloaded::Refused { version: *version, reason });
            } else if let Ok(Some(digest)) = loaded {
                sinks.tell(&Event::Loaded { answerer, digest, took: begun.elapsed() });
            }
        }
        self.let_go(&origins, sinks);
        refused.map_or(Ok(()), Err)
    }

    /// Loads a version and puts it in its place; its hash, or `None` for one that was not wanted.
    fn load(
        &self,
        answerer: &Answerer,
        origin: &Origin,
        wanted: &dyn Fn(&Served, &Served) -> bool,
        options: &Options,
        sinks: &Sinks,
    ) -> Result<Option<Option<String>>> {
        let version = answerer.version;
        self.write().entry(version).or_insert(VersionState::Loading);
        let opened = catch_unwind(AssertUnwindSafe(|| origin.open()));
        let served = opened.unwrap_or_else(|_| {
            Err(ServeError::Unproved { model: self.name.to_string(), reason: "loading it panicked".into() })
        })?;
        if self.answering(version).is_some_and(|old| !wanted(&served, old.served())) {
            self.forget_failure(version);
            return Ok(None);
        }
        let running = Running::start(served, answerer.clone(), options, sinks)?;
        let digest = running.served().digest().map(String::from);
        self.put(version, running);
        Ok(Some(digest))
    }

    fn answering(&self, version: u64) -> Option<Arc<Running>> {
        match self.read().get(&version) {
            Some(VersionState::Ready(running, _)) => Some(running.clone()),
            _ => None,
        }
    }

    fn forget_failure(&self, version: u64) {
        if let Some(VersionState::Ready(_, failure)) = self.write().get_mut(&version) {
            *failure = None;
        }
    }

    fn put(&self, version: u64, running: Running) {
        let state = VersionState::Ready(Arc::new(running), None);
        // Whoever holds the old one still gets an answer from it; it is dropped outside the lock.
        let _old = self.write().insert(version, state);
    }

    fn note_failure(&self, version: u64, reason: &str) {
        let mut versions = self.write();
        let state = versions.entry(version).or_insert(VersionState::Loading);
        match state {
            VersionState::Ready(_, failure) => *failure = Some(reason.into()),
            VersionState::Loading | VersionState::Failed(_) => *state = VersionState::Failed(reason.into()),
        }
    }

    fn let_go(&self, origins: &BTreeMap<u64, Origin>, sinks: &Sinks) {
        let gone: Vec<u64> =
            self.read().keys().filter(|version| !origins.contains_key(version)).copied().collect();
        for version in gone {
            let _old = self.write().remove(&version);
            let answerer = Answerer { model: self.name.clone(), version };
            sinks.tell(&Event::Unloaded { answerer });
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<u64, VersionState>> {
        self.versions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, VersionState>> {
        self.versions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All models, the default one first.
pub(crate) struct Repository(Vec<Model>);

impl Repository {
    pub fn new(sources: Vec<Source>) -> Result<Self> {
        if sources.is_empty() {
            let (expected, found) = ("at least one".into(), "none".into());
            return Err(ServeError::Setting { name: "models", expected, found });
        }
        let mut models: Vec<Model> = Vec::with_capacity(sources.len());
        for source in sources {
            if models.iter().any(|model| *model.name == source.name) {
                let (expected, found) = ("different names".into(), format!("`{}` twice", source.name));
                return Err(ServeError::Setting { name: "models", expected, found });
            }
            models.push(Model::new(source));
        }
        Ok(Self(models))
    }

    /// Every model.
    pub fn models(&self) -> &[Model] {
        &self.0
    }

    /// The model of this name; the first if the request does not say.
    pub fn find(&self, name: Option<&str>) -> std::result::Result<&Model, Missing> {
        let wanted = |model: &&Model| name.is_none_or(|name| *model.name == *name);
        self.0.iter().find(wanted).ok_or_else(|| Missing::Model {
            name: name.unwrap_or_default().into(),
            known: self.0.iter().map(|model| model.name.to_string()).collect(),
        })
    }

    /// The version that answers: of this name or the first model, of this number or the latest that is ready.
    pub fn running(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> std::result::Result<Arc<Running>, Missing> {
        let model = self.find(name)?;
        version.map_or_else(|| model.latest(), |version| model.version(version))
    }

    /// Loads all of them for the first time; the first failure is the answer.
    pub fn load(&self, options: &Options, sinks: &Sinks) -> Result<()> {
        self.0.iter().try_for_each(|model| {
            model.reload(options, sinks).map(drop).map_err(|error| ServeError::Load {
                model: model.name.to_string(),
                reason: error.to_string(),
            })
        })
    }

    /// Whether every model has a version that answers.
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(Model::is_ready)
    }
}

impl std::fmt::Display for NotReloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Busy => write!(f, "another reload of it is under way"),
            Self::Refused { version, reason } => write!(f, "version {version}: {reason}"),
            Self::Unlisted { reason } => write!(f, "{reason}"),
        }
    }
}
