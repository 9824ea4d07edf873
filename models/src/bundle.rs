//! A bundle: a folder with a network in every form that serves it, and a `manifest.json` that says what each file is,
//! what it was made of, how well and how fast it answers, and what it has to answer to the pictures of a probe.
//! `docs/format.md` is its specification.
//!
//! [`RawBundle`] is the JSON as it stands; [`BundleManifest`] is the same without contradictions; [`Bundle`] is a folder
//! whose files are there. Bytes from outside can fail, never panic. Never here: running a network, reading ONNX.

mod json;
mod probe;

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file::{FileError, from_bytes, sha256};
use crate::{Machine, Manifest, ManifestError, Weights};

pub use probe::{Answer, Distance, Kind, Probe};

/// The version of the format that this build writes, and the only one it reads.
pub const FORMAT: u32 = 1;
/// Name of the manifest in its folder.
pub const MANIFEST: &str = "manifest.json";
/// Bytes of a `manifest.json` at most: far above any real one, far below what would hurt.
const LARGEST_MANIFEST: u64 = 64 << 20;
const LONGEST_NAME: usize = 128;

/// What a file of a bundle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// The network as safetensors: every bundle has one.
    Weights,
    /// The same with weights in half precision.
    WeightsFp16,
    /// The network as ONNX, in single precision.
    Onnx,
    /// The network as ONNX, quantized to 8 bits.
    OnnxInt8,
    /// The network as ONNX, with weights in half precision.
    OnnxFp16,
    /// The model card, for people.
    Card,
    /// Something else, which is checked and otherwise left alone.
    #[serde(other)]
    Other,
}

impl FileRole {
    /// Whether the file answers pictures.
    pub fn is_network(self) -> bool {
        !matches!(self, FileRole::Card | FileRole::Other)
    }

    /// Whether the file is a safetensors one.
    pub fn is_weights(self) -> bool {
        matches!(self, FileRole::Weights | FileRole::WeightsFp16)
    }

    /// Whether the file is ONNX.
    pub fn is_onnx(self) -> bool {
        self.is_network() && !self.is_weights()
    }
}

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile {
    /// Where it lies in the folder: names separated by `/`.
    pub path: String,
    /// What it is for.
    pub role: FileRole,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
}

impl BundleFile {
    /// A file of these bytes.
    pub fn of(path: impl Into<String>, role: FileRole, bytes: &[u8]) -> Self {
        Self { path: path.into(), role, bytes: bytes.len() as u64, sha256: sha256(bytes) }
    }
}

/// How well a file answers, with what it was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The file.
    pub file: String,
    /// The engine that ran it: `native`, `onnxruntime`.
    pub engine: String,
    /// The data set.
    pub data: String,
    /// `train`, `val` or `test`.
    pub split: String,
    /// Pictures it was measured on.
    pub count: usize,
    /// Share of pictures whose label is the first answer, 0..1.
    pub top1: f64,
    /// Share of pictures whose label is among the first five answers, 0..1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top5: Option<f64>,
    /// Share of pictures to which the float network on the native engine gives the same first answer, 0..1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
}

/// Which of all calls a latency is that of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Statistic {
    /// Half of the calls took at most this long.
    P50,
    /// 90 % of them.
    P90,
    /// 99 % of them.
    P99,
}

impl Statistic {
    /// Its name: `p50`.
    pub fn name(self) -> &'static str {
        match self {
            Statistic::P50 => "p50",
            Statistic::P90 => "p90",
            Statistic::P99 => "p99",
        }
    }
}

/// How fast a file answers, with the machine it was measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The file.
    pub file: String,
    /// The engine that ran it: `native`, `onnxruntime`.
    pub engine: String,
    /// Threads of the engine.
    pub threads: usize,
    /// Pictures in a call.
    pub batch: usize,
    /// Which of the calls.
    pub statistic: Statistic,
    /// Calls that were measured.
    pub count: usize,
    /// How long it took, pixels in memory to logits.
    pub microseconds: f64,
    /// Where.
    pub machine: Machine,
}

/// A file that was asked for and is not in the bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What it would have been called.
    pub file: String,
    /// Why it is not there.
    pub reason: String,
}

/// `manifest.json` as it stands, before anybody looked whether it can be true.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawBundle {
    /// Version of this format: [`FORMAT`].
    pub bundle: u32,
    /// What the model is called.
    pub name: String,
    /// Which one of that name.
    pub version: String,
    /// Name and version of the writer.
    pub producer: String,
    /// The network: architecture, task, labels, input contract; and the recipe: `training`, `teacher`.
    pub model: Manifest,
    /// The files.
    pub files: Vec<BundleFile>,
    /// How well they answer.
    #[serde(default)]
    pub accuracy: Vec<Measured>,
    /// How fast they answer.
    #[serde(default)]
    pub latency: Vec<Latency>,
    /// What was asked for and is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// What each file has to answer.
    pub probe: Probe,
}

/// A `manifest.json` that contradicts itself; the key is a path in the JSON.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Contradiction {
    /// A format that this build does not know.
    #[error("key `bundle`: expected format {FORMAT}, found {found}: another version of distill wrote it")]
    Format {
        /// What it says.
        found: u32,
    },
    /// A value that cannot be.
    #[error("key `{key}`: expected {expected}, found {found}")]
    Value {
        /// Its key.
        key: String,
        /// What may stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A path that may lead out of the folder.
    #[error(
        "key `{key}`: expected names below the bundle's folder separated by `/`, found `{path}`: {reason}"
    )]
    Path {
        /// Its key.
        key: String,
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// What may be there once.
    #[error("key `{key}`: expected it once, found `{value}` again")]
    Duplicate {
        /// Its key.
        key: String,
        /// What is there twice.
        value: String,
    },
    /// A network that cannot be.
    #[error("key `model`: {0}")]
    Model(#[from] ManifestError),
}

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A folder without a manifest.
    #[error("{}: expected a bundle, a folder with {MANIFEST}; found none (`distill export RUN --format bundle` writes one)", folder.display())]
    NotABundle {
        /// The folder.
        folder: PathBuf,
    },
    /// The system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A manifest that is no JSON or lacks something.
    #[error("{}: expected the manifest of a bundle, found {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the reader stumbled on.
        reason: String,
    },
    /// A manifest that contradicts itself.
    #[error("{}: {source}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The contradiction.
        source: Box<Contradiction>,
    },
    /// A file that the manifest lists and that is not there.
    #[error("{}: expected the file that {MANIFEST} lists, found none", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A listed file that is a link or a folder.
    #[error("{}: expected a plain file, found {found}", path.display())]
    NotPlain {
        /// What is there.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file of another size.
    #[error("{}: expected {expected} bytes, found {found}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A file of other bytes.
    #[error("{}: expected sha256 {expected}, found {found}", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Weights that cannot be read.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// Weights that say something else of themselves than the manifest does.
    #[error("{}: expected in its metadata what `model` in {MANIFEST} says, found another `{key}`", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The first key that differs.
        key: String,
    },
}

/// A `manifest.json` without contradictions; reads like the [`RawBundle`] it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleManifest(RawBundle);

impl Deref for BundleManifest {
    type Target = RawBundle;

    fn deref(&self) -> &RawBundle {
        &self.0
    }
}

impl TryFrom<RawBundle> for BundleManifest {
    type Error = Contradiction;

    fn try_from(raw: RawBundle) -> Result<Self, Contradiction> {
        if raw.bundle != FORMAT {
            return Err(Contradiction::Format { found: raw.bundle });
        }
        word("name", &raw.name)?;
        word("version", &raw.version)?;
        raw.model.validate()?;
        check_files(&raw.files)?;
        check_accuracy(&raw)?;
        check_latency(&raw)?;
        check_refused(&raw)?;
        probe::check(&raw)?;
        Ok(Self(raw))
    }
}

impl BundleManifest {
    /// The JSON, for people too.
    ///
    /// # Errors
    /// [`Contradiction::Value`] for what JSON cannot say; nothing that a checked manifest holds.
    pub fn to_json(&self) -> Result<String, Contradiction> {
        json::pretty(&self.0).map_err(|error| wrong(MANIFEST, "what JSON can say", error))
    }

    /// Reads the JSON.
    ///
    /// # Errors
    /// With `path` as the culprit: [`BundleError::Json`], [`BundleError::Contradiction`].
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, BundleError> {
        let raw: RawBundle = serde_json::from_slice(bytes)
            .map_err(|error| BundleError::Json { path: path.into(), reason: error.to_string() })?;
        Self::try_from(raw)
            .map_err(|source| BundleError::Contradiction { path: path.into(), source: Box::new(source) })
    }
}

impl RawBundle {
    /// The file of a role, if there is one.
    pub fn file(&self, role: FileRole) -> Option<&BundleFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// The files that answer pictures.
    pub fn networks(&self) -> impl Iterator<Item = &BundleFile> {
        self.files.iter().filter(|file| file.role.is_network())
    }

    fn listed(&self, key: String, name: &str) -> Result<(), Contradiction> {
        match self.networks().any(|file| file.path == name) {
            true => Ok(()),
            false => Err(wrong(key, "a network among `files`", format!("`{name}`"))),
        }
    }
}

/// A folder whose manifest is without contradictions and whose files are there; reads like its manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    folder: PathBuf,
    manifest: BundleManifest,
}

impl Deref for Bundle {
    type Target = RawBundle;

    fn deref(&self) -> &RawBundle {
        &self.manifest
    }
}

impl Bundle {
    /// Whether a path looks like a bundle: a folder with a `manifest.json`.
    pub fn is_at(path: &Path) -> bool {
        path.join(MANIFEST).is_file()
    }

    /// Opens a folder: the manifest is read and checked, every file is there and of its size. Nothing is hashed yet.
    ///
    /// # Errors
    /// [`BundleError`] with the file and the key at fault.
    pub fn open(folder: &Path) -> Result<Self, BundleError> {
        let bundle = Self::announced(folder)?;
        bundle.files.iter().try_for_each(|file| bundle.look_at(file))?;
        Ok(bundle)
    }

    /// What a folder's manifest announces, before anybody looked for the files: for whoever wants to look at each.
    ///
    /// # Errors
    /// [`BundleError`] about the manifest.
    pub fn announced(folder: &Path) -> Result<Self, BundleError> {
        if !Self::is_at(folder) {
            return Err(BundleError::NotABundle { folder: folder.into() });
        }
        let path = folder.join(MANIFEST);
        let manifest = BundleManifest::from_json(&path, &read_manifest(&path)?)?;
        Ok(Self { folder: folder.into(), manifest })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The manifest.
    pub fn manifest(&self) -> &BundleManifest {
        &self.manifest
    }

    /// Where a file lies.
    pub fn path(&self, file: &BundleFile) -> PathBuf {
        self.folder.join(&file.path)
    }

    /// Bytes of a file, which are those that the manifest speaks of.
    ///
    /// # Errors
    /// [`BundleError::Size`], [`BundleError::Hash`], and what [`Bundle::open`] looks for.
    pub fn read(&self, file: &BundleFile) -> Result<Vec<u8>, BundleError> {
        self.look_at(file)?;
        let path = self.path(file);
        let bytes = fs::read(&path).map_err(|source| BundleError::Io { path: path.clone(), source })?;
        let found = sha256(&bytes);
        match found == file.sha256 {
            true => Ok(bytes),
            false => Err(BundleError::Hash { path, expected: file.sha256.clone(), found }),
        }
    }

    /// The float network: read, held against its hash, and saying of itself what the manifest says.
    ///
    /// # Errors
    /// As [`Bundle::read`]; [`BundleError::Weights`], [`BundleError::Model`].
    pub fn weights(&self) -> Result<(Manifest, Weights), BundleError> {
        let file = self.files.iter().find(|file| file.role == FileRole::Weights);
        let file =
            file.ok_or_else(|| BundleError::Missing { path: self.folder.join("model.safetensors") })?;
        let path = self.path(file);
        let bytes = self.read(file)?;
        let (manifest, weights) = from_bytes(&bytes)
            .map_err(|source| FileError::Format { path: path.clone(), source: Box::new(source) })?;
        match first_difference(&self.model, &manifest) {
            None => Ok((manifest, weights)),
            Some(key) => Err(BundleError::Model { path, key }),
        }
    }

    /// Reads everything: every hash, and the weights against the manifest. What runs the networks is the caller's to ask.
    ///
    /// # Errors
    /// [`BundleError`] with the first file at fault.
    pub fn check(&self) -> Result<(), BundleError> {
        self.files.iter().try_for_each(|file| self.read(file).map(drop))?;
        self.weights().map(drop)
    }

    /// Whether a listed file is there, plain, and of its size.
    fn look_at(&self, file: &BundleFile) -> Result<(), BundleError> {
        let mut path = self.folder.clone();
        let mut names = file.path.split('/').peekable();
        while let Some(name) = names.next() {
            path.push(name);
            let found = match fs::symlink_metadata(&path) {
                Ok(found) => found,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    return Err(BundleError::Missing { path });
                }
                Err(source) => return Err(BundleError::Io { path, source }),
            };
            let last = names.peek().is_none();
            match found.file_type() {
                kind if kind.is_symlink() => return Err(BundleError::NotPlain { path, found: "a link" }),
                kind if kind.is_dir() && last => {
                    return Err(BundleError::NotPlain { path, found: "a folder" });
                }
                kind if !kind.is_file() && last => {
                    return Err(BundleError::NotPlain { path, found: "something else" });
                }
                _ if last && found.len() != file.bytes => {
                    return Err(BundleError::Size { path, expected: file.bytes, found: found.len() });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn read_manifest(path: &Path) -> Result<Vec<u8>, BundleError> {
    let refused = |source| BundleError::Io { path: path.into(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(refused)?;
    file.take(LARGEST_MANIFEST + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > LARGEST_MANIFEST {
        let reason = format!("more than {LARGEST_MANIFEST} bytes");
        return Err(BundleError::Json { path: path.into(), reason });
    }
    Ok(bytes)
}

/// The first top-level key in which two manifests differ.
pub fn first_difference(expected: &Manifest, found: &Manifest) -> Option<String> {
    let object = |manifest: &Manifest| match serde_json::to_value(manifest) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => serde_json::Map::new(),
    };
    let (expected, found) = (object(expected), object(found));
    expected.keys().chain(found.keys()).find(|key| expected.get(*key) != found.get(*key)).cloned()
}

fn check_files(files: &[BundleFile]) -> Result<(), Contradiction> {
    let (mut paths, mut roles) = (HashSet::new(), HashSet::new());
    for (index, file) in files.iter().enumerate() {
        let key = |name: &str| format!("files[{index}].{name}");
        check_path(key("path"), &file.path)?;
        if !paths.insert(&file.path) {
            return Err(Contradiction::Duplicate { key: key("path"), value: file.path.clone() });
        }
        if file.role != FileRole::Other && !roles.insert(file.role) {
            let value = format!("{:?}", file.role).to_lowercase();
            return Err(Contradiction::Duplicate { key: key("role"), value });
        }
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if file.sha256.len() != 64 || !file.sha256.bytes().all(hexadecimal) {
            let expected = "64 lower-case hexadecimal digits";
            return Err(wrong(key("sha256"), expected, format!("`{}`", file.sha256)));
        }
    }
    match roles.contains(&FileRole::Weights) {
        true => Ok(()),
        false => Err(wrong("files", "one file of role `weights`", "none")),
    }
}

/// A path that stays below the folder on every system.
fn check_path(key: String, path: &str) -> Result<(), Contradiction> {
    let refused = |reason| Err(Contradiction::Path { key: key.clone(), path: path.into(), reason });
    if path.is_empty() {
        return refused("it is empty");
    }
    if path.contains(['\\', ':', '\0']) {
        return refused("it holds a character that means something to other systems");
    }
    if path == MANIFEST {
        return refused("the manifest cannot hold its own hash");
    }
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    // `components` drops what `split` keeps: `a//b`, `a/./b`, `a/`.
    let whole = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
    if plain && whole { Ok(()) } else { refused("it is absolute, or has `.`, `..` or an empty name in it") }
}

fn check_accuracy(raw: &RawBundle) -> Result<(), Contradiction> {
    let mut seen = HashSet::new();
    for (index, row) in raw.accuracy.iter().enumerate() {
        let key = |name: &str| format!("accuracy[{index}].{name}");
        raw.listed(key("file"), &row.file)?;
        at_least_one(key("count"), row.count)?;
        let shares = [("top1", Some(row.top1)), ("top5", row.top5), ("agreement", row.agreement)];
        for (name, share) in shares {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return Err(wrong(key(name), "a share of 0..1", share));
            }
        }
        if !seen.insert((&row.file, &row.engine, &row.data, &row.split)) {
            let value = format!("{} on {} {}", row.file, row.data, row.split);
            return Err(Contradiction::Duplicate { key: format!("accuracy[{index}]"), value });
        }
    }
    Ok(())
}

fn check_latency(raw: &RawBundle) -> Result<(), Contradiction> {
    for (index, row) in raw.latency.iter().enumerate() {
        let key = |name: &str| format!("latency[{index}].{name}");
        raw.listed(key("file"), &row.file)?;
        for (name, value) in [("threads", row.threads), ("batch", row.batch), ("count", row.count)] {
            at_least_one(key(name), value)?;
        }
        if !row.microseconds.is_finite() || row.microseconds <= 0.0 {
            return Err(wrong(key("microseconds"), "a time above 0", row.microseconds));
        }
    }
    Ok(())
}

fn check_refused(raw: &RawBundle) -> Result<(), Contradiction> {
    for (index, refused) in raw.refused.iter().enumerate() {
        if raw.files.iter().any(|file| file.path == refused.file) {
            let (key, expected) = (format!("refused[{index}].file"), "a file that is not among `files`");
            return Err(wrong(key, expected, format!("`{}`", refused.file)));
        }
    }
    Ok(())
}

/// A name that may stand in an address and in a path.
fn word(key: &str, text: &str) -> Result<(), Contradiction> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@+".contains(c);
    if !text.is_empty() && text.len() <= LONGEST_NAME && !text.starts_with('.') && text.chars().all(allowed) {
        return Ok(());
    }
    let expected = format!("1 to {LONGEST_NAME} letters, digits or `.`, `_`, `-`, `@`, `+`, not `.` first");
    Err(wrong(key, expected, format!("`{text}`")))
}

/// The nearest name that may stand in an address and in a path.
pub fn name_of(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-@+".contains(c) { c } else { '-' };
    let name: String = text.trim_start_matches('.').chars().map(allowed).take(LONGEST_NAME).collect();
    if name.is_empty() { "model".into() } else { name }
}

fn at_least_one(key: String, value: usize) -> Result<(), Contradiction> {
    if value == 0 { Err(wrong(key, "at least 1", value)) } else { Ok(()) }
}

fn wrong(key: impl Into<String>, expected: impl ToString, found: impl ToString) -> Contradiction {
    Contradiction::Value { key: key.into(), expected: expected.to_string(), found: found.to_string() }
}

#[cfg(test)]
mod tests;
