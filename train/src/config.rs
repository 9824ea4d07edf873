//! A run's configuration: what the flags say and what `config.toml` holds are one thing.
//!
//! A field that is `None` follows from the architecture, the method and the data; [`Config::resolve`] fills it in, and
//! the run's folder keeps the result. Unknown keys are errors. Parsing never acts: nothing here opens a file but
//! [`Config::read`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::{Optimizer, Runtime};
use models::Stem;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::folder::write_atomically;
use crate::recipe::{MOST_PER_BATCH, OptimizerKind, Recipe};
use crate::schedule::Schedule;

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Data set: a registered name, or the path of a folder or file.
    pub data: String,
    /// Where registered data sets are looked for.
    pub data_dir: PathBuf,
    /// Labels to train on: `250`, `10%`, `25/class` or `all`.
    pub labels: String,
    /// Labels to select the best step by, extra to `labels`: `auto`, a count, a share or `none`.
    pub val: String,
    /// Side of the pictures in pixels; by default the data's own if uniform and at most 96, else 224.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// How a picture of another shape is fitted: `stretch` or `crop`.
    pub fit: String,
    /// Whether a broken picture ends the run instead of being skipped.
    pub strict: bool,

    /// Architecture.
    pub arch: String,
    /// Layout of its first layers.
    pub stem: Stem,
    /// Length of the features layer of the small CNNs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<usize>,
    /// Weights to start from: a run, a safetensors file or a `.pth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Nodes that do not train: each entry freezes the node of that name and all whose name begins with it and a dot.
    pub freeze: Vec<String>,

    /// Method.
    pub method: String,

    /// Walks over the main draw's pictures: the labeled ones for `supervised`, the unlabeled pool for methods that use
    /// one. `steps` comes before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Time to fit the steps into: `90s`, `10m`, `2h`. Measured once; the steps that follow are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// Labeled pictures of a step (all of its pictures where a method draws no labels); by default 64, and fewer where
    /// a walk over the main draw's pictures would be short of 16 steps (see [`crate::recipe::batch_size`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Batches whose gradients are averaged before a step.
    pub accumulate: usize,
    /// Optimizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<OptimizerKind>,
    /// Largest learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Momentum of SGD (Nesterov's).
    pub momentum: f64,
    /// Weight decay, on weights alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// How the learning rate falls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Share of the run over which the learning rate first grows, 0..1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<f64>,
    /// Decay of the moving average of the weights, by which the network is then measured and saved; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Least share of a batch in batch normalization's running statistics, 0..1; by default 20 / steps up to 0.1, where
    /// the architecture has less: a short run has to forget its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_momentum: Option<f64>,
    /// Largest norm of the gradient; 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,

    /// Seed of everything random: weights, split, order, augmentation, dropout.
    pub seed: u64,
    /// Threads that compute; 0 for one per core.
    pub threads: usize,
    /// Where: `cpu`, `cuda`, `cuda:N`.
    pub device: String,
    /// What networks compute in: `f32`, `tf32` or `bf16`; by default what suits the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// The run's folder.
    pub out: PathBuf,
    /// Optimizer steps between checkpoints; by default about a minute of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_steps: Option<u64>,

    /// Options of the method.
    #[serde(with = "scalars", skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "synth".into(),
            data_dir: "data".into(),
            labels: "250".into(),
            val: "auto".into(),
            image_size: None,
            fit: "stretch".into(),
            strict: false,
            arch: "mobilenet-v3-large".into(),
            stem: Stem::Imagenet,
            features: None,
            init: None,
            freeze: Vec::new(),
            method: "supervised".into(),
            epochs: None,
            steps: None,
            budget: None,
            batch_size: None,
            accumulate: 1,
            optimizer: None,
            lr: None,
            momentum: 0.9,
            weight_decay: None,
            schedule: None,
            warmup: None,
            ema: None,
            bn_momentum: None,
            clip_norm: None,
            seed: 0,
            threads: 0,
            device: "cpu".into(),
            precision: None,
            out: PathBuf::new(),
            checkpoint_steps: None,
            options: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`TrainError::ConfigFile`] with line and column for a key that is unknown or of the wrong kind.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_toml(path, &std::fs::read_to_string(path).map_err(TrainError::file("reading", path))?)
    }

    /// The configuration that the text of a file holds; `path` is only what errors call it.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn from_toml(path: &Path, text: &str) -> Result<Self> {
        let wrong =
            |error: toml::de::Error| TrainError::ConfigFile { path: path.into(), reason: error.to_string() };
        toml::from_str(text).map_err(wrong)
    }

    /// The text of a configuration file.
    ///
    /// # Errors
    /// Never for a configuration that came from flags or a file.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self)
            .map_err(|error| TrainError::setting("configuration", "plain values", error.to_string()))
    }

    /// Writes the file atomically.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, self.to_toml()?.as_bytes())
    }

    /// Fills in what follows from architecture and method. `ema` is the method's default decay.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a value out of range.
    pub fn resolve(mut self, ema: f64) -> Result<Self> {
        let recipe = Recipe::of(&self.arch);
        self.optimizer.get_or_insert(recipe.optimizer);
        let optimizer = self.optimizer.unwrap_or(recipe.optimizer);
        self.lr.get_or_insert(recipe.lr(optimizer));
        self.weight_decay.get_or_insert(recipe.weight_decay(optimizer));
        self.clip_norm.get_or_insert(recipe.clip_norm(optimizer));
        self.schedule.get_or_insert(recipe.schedule);
        self.warmup.get_or_insert(recipe.warmup);
        self.ema.get_or_insert(ema);
        if self.steps.is_none() && self.budget.is_none() {
            self.epochs.get_or_insert(recipe.epochs);
        }
        self.check()?;
        Ok(self)
    }

    fn check(&self) -> Result<()> {
        within("lr", self.lr, 0.0, 1e3)?;
        within("momentum", Some(self.momentum), 0.0, 0.999_999)?;
        within("weight-decay", self.weight_decay, 0.0, 1e3)?;
        within("warmup", self.warmup, 0.0, 1.0)?;
        within("ema", self.ema, 0.0, 0.999_999_9)?;
        within("bn-momentum", self.bn_momentum, 0.0, 1.0)?;
        within("clip-norm", self.clip_norm, 0.0, 1e9)?;
        within("epochs", self.epochs, f64::MIN_POSITIVE, 1e9)?;
        at_least_one("steps", self.steps.unwrap_or(1))?;
        at_least_one("batch-size", self.batch_size.unwrap_or(1) as u64)?;
        at_least_one("accumulate", self.accumulate as u64)?;
        at_least_one("checkpoint-steps", self.checkpoint_steps.unwrap_or(1))?;
        self.budget().map(|_| ())
    }

    /// The time to fit the steps into.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a text that is no time.
    pub fn budget(&self) -> Result<Option<Duration>> {
        self.budget.as_deref().map(parse_duration).transpose()
    }

    /// Labeled pictures of a step, where they are settled or 64.
    pub fn batch_size(&self) -> usize {
        self.batch_size.unwrap_or(MOST_PER_BATCH)
    }

    /// The device with its threads and precision, opened.
    ///
    /// # Errors
    /// For an unknown name, and for what this machine or build does not have.
    pub fn runtime(&self) -> Result<Runtime> {
        Ok(Runtime::named(&self.device, self.precision.as_deref(), self.threads)?)
    }

    /// The optimizer as the engine takes it.
    pub fn engine_optimizer(&self) -> Optimizer {
        match self.optimizer.unwrap_or_default() {
            OptimizerKind::Sgd => {
                Optimizer::Sgd { momentum: self.momentum as f32, nesterov: self.momentum > 0.0 }
            }
            OptimizerKind::Adamw => Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
        }
    }

    /// Whether a node is frozen.
    pub fn freezes(&self, node: &str) -> bool {
        let within = |prefix: &String| {
            node.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.freeze.iter().any(within)
    }

    /// A name for the run that says what it is: `cifar10.3@250-fixmatch-wrn-28-2`.
    pub fn run_name(&self) -> String {
        let data = Path::new(&self.data)
            .file_stem()
            .map_or_else(|| self.data.clone(), |stem| stem.to_string_lossy().into());
        let labels = self.labels.replace('%', "pct").replace('/', "-per-");
        format!("{data}.{}@{labels}-{}-{}", self.seed, self.method, self.arch)
    }
}

fn within(key: &str, value: Option<f64>, least: f64, most: f64) -> Result<()> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            let least = if least == f64::MIN_POSITIVE { "above 0".into() } else { format!("from {least}") };
            Err(TrainError::setting(key, format!("a number {least} to {most}"), value.to_string()))
        }
        _ => Ok(()),
    }
}

fn at_least_one(key: &str, value: u64) -> Result<()> {
    if value == 0 { Err(TrainError::setting(key, "a whole number, at least 1", "0")) } else { Ok(()) }
}

/// `90s`, `10m`, `1.5h`; a bare number is seconds.
///
/// # Errors
/// [`TrainError::Setting`] for anything else.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let wrong = || TrainError::setting("budget", "a time such as 90s, 10m or 2h", text);
    let text_of = text.trim();
    let split = text_of.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text_of.len());
    let (number, unit) = text_of.split_at(split);
    let seconds = match unit.trim() {
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    if number > 0.0 && number < 1e6 { Ok(Duration::from_secs_f64(number * seconds)) } else { Err(wrong()) }
}

/// Options in a file are plain scalars (`tau = 0.95`, `pool = "all"`); in memory they are text, as on the command line.
mod scalars {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Bool(bool),
        Int(i64),
        Float(f64),
        Text(String),
    }

    impl Scalar {
        /// Only what reads back as the same text becomes a number.
        fn of(text: &str) -> Self {
            let int = text.parse().ok().filter(|value: &i64| value.to_string() == text).map(Self::Int);
            let float = || text.parse().ok().filter(|value: &f64| value.to_string() == text).map(Self::Float);
            let bool = || text.parse().ok().map(Self::Bool);
            int.or_else(float).or_else(bool).unwrap_or_else(|| Self::Text(text.into()))
        }

        fn into_text(self) -> String {
            match self {
                Self::Bool(value) => value.to_string(),
                Self::Int(value) => value.to_string(),
                Self::Float(value) => value.to_string(),
                Self::Text(text) => text,
            }
        }
    }

    pub fn serialize<S: Serializer>(
        options: &BTreeMap<String, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(options.iter().map(|(key, text)| (key, Scalar::of(text))))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, String>, D::Error> {
        let options = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
        Ok(options.into_iter().map(|(key, value)| (key, value.into_text())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolved_configuration_reads_back_as_itself() {
        let options = [("tau", "0.95"), ("mu", "7"), ("pool", "all"), ("odd", "0.950")];
        let options = options.map(|(key, value)| (key.to_string(), value.to_string())).into();
        let config = Config { options, clip_norm: Some(5.0), ..Config::default() }.resolve(0.999).unwrap();
        let text = config.to_toml().unwrap();
        assert!(
            text.contains("tau = 0.95\n") && text.contains("mu = 7\n") && text.contains("pool = \"all\""),
            "{text}"
        );
        let read: Config = toml::from_str(&text).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.clone().resolve(0.0).unwrap(), read, "resolving twice must change nothing");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "arch = \"resnet18\"\nlearning-rate = 0.1\n").unwrap();
        let error = Config::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("learning-rate") && error.contains("line 2") && error.contains("config.toml"),
            "{error}"
        );
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = |config: Config| config.resolve(0.0).unwrap_err().to_string();
        assert!(error(Config { lr: Some(-1.0), ..Config::default() }).contains("lr: expected a number"));
        assert!(error(Config { lr: Some(f64::NAN), ..Config::default() }).contains("found `NaN`"));
        assert!(error(Config { batch_size: Some(0), ..Config::default() }).contains("batch-size"));
        assert!(error(Config { budget: Some("soon".into()), ..Config::default() }).contains("10m"));
    }

    #[test]
    fn durations_have_units() {
        let seconds = |text| parse_duration(text).unwrap().as_secs_f64();
        assert_eq!(
            [seconds("90"), seconds("90s"), seconds("1.5m"), seconds("2h")],
            [90.0, 90.0, 90.0, 7200.0]
        );
        assert!(
            parse_duration("10 days").is_err()
                && parse_duration("-1s").is_err()
                && parse_duration("m").is_err()
        );
    }

    #[test]
    fn freezing_takes_whole_names() {
        let config = Config { freeze: vec!["features.1".into()], ..Config::default() };
        assert!(config.freezes("features.1") && config.freezes("features.1.0"));
        assert!(!config.freezes("features.10") && !config.freezes("classifier"));
    }
}
