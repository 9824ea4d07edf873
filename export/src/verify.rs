//! Checks a bundle, an `.onnx` or a `model.safetensors` again, as `docs/format.md` says: hashes, sizes, what every file
//! says of itself, the probe on every engine that there is, and accuracy where pictures are given. Every check is made,
//! also after one has failed; nothing is written.

use std::fmt;
use std::path::{Path, PathBuf};

use models::bundle::{Answer, Bundle, BundleFile, FileRole, Measured, Probe, RawBundle, first_difference};
use models::{Manifest, ManifestError, Weights};
use onnx::runtime::{Found, NotFound, find};
use onnx::{Contract, ModelProto};
use serde::Serialize;

use crate::accuracy::{self, Pictures};
use crate::answers::Answers;
use crate::parity::{NATIVE, ONNX_RUNTIME};
use crate::{ExportError, Result};

/// Pictures that a file alone is asked.
const PROBE: usize = 8;
/// Share of the pictures by which an accuracy may differ from the one on record, and pictures that always may: engines
/// round differently, and a near tie may fall the other way.
pub const ACCURACY_SHARE: f64 = 0.002;
/// See [`ACCURACY_SHARE`].
pub const ACCURACY_PICTURES: f64 = 2.0;

/// How files are checked.
#[derive(Debug, Default)]
pub struct VerifyOptions<'p> {
    /// ONNX Runtime's library, or the folder that holds it; sought if not given.
    pub ort_lib: Option<PathBuf>,
    /// Whether its absence is a failure.
    pub require_ort: bool,
    /// Pictures to measure accuracies on once more.
    pub pictures: Option<&'p Pictures>,
    /// Threads of the engines; 0 means one per core.
    pub threads: usize,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All is as it should be.
    Passed,
    /// It is not.
    Failed,
    /// It could not be made here, and nobody required it.
    Skipped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        })
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: `hash`, `metadata`, `probe`, `accuracy`, ...
    pub check: &'static str,
    /// The file, and the engine where one was asked.
    pub of: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found, and what was expected.
    pub detail: String,
}

/// All checks of a bundle or file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// What was checked.
    pub target: PathBuf,
    /// The checks, in order.
    pub checks: Vec<Check>,
}

impl Verification {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.outcome != Outcome::Failed)
    }

    fn note(&mut self, check: &'static str, of: impl Into<String>, found: Result<String, String>) -> bool {
        let (outcome, detail) = match found {
            Ok(detail) => (Outcome::Passed, detail),
            Err(detail) => (Outcome::Failed, detail),
        };
        self.checks.push(Check { check, of: of.into(), outcome, detail });
        outcome == Outcome::Passed
    }

    fn skip(&mut self, check: &'static str, of: impl Into<String>, detail: String) {
        self.checks.push(Check { check, of: of.into(), outcome: Outcome::Skipped, detail });
    }
}

/// Checks a bundle's folder, an `.onnx` file or a `model.safetensors`.
///
/// # Errors
/// For what is none of them and cannot be read, and for a library that was named and is not there. Whatever is wrong with
/// the files themselves is a failed check.
pub fn verify(target: &Path, options: &VerifyOptions<'_>) -> Result<Verification> {
    let verification = Verification { target: target.into(), checks: Vec::new() };
    let mut verifier = Verifier { verification, library: library(options)?, options };
    if target.is_dir() {
        verifier.folder(target);
    } else {
        let bytes =
            std::fs::read(target).map_err(|source| ExportError::File { path: target.into(), source })?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match target.extension().is_some_and(|extension| extension == "onnx") {
            true => verifier.onnx_alone(&name, &bytes),
            false => verifier.weights_alone(&name, &bytes),
        }
    }
    Ok(verifier.verification)
}

/// The manifest of what is to be checked, for whoever has to open pictures for it; `None` where it cannot be read.
pub fn manifest_of(target: &Path) -> Option<Manifest> {
    if target.is_dir() {
        return Bundle::announced(target).ok().map(|bundle| bundle.model.clone());
    }
    if target.extension().is_some_and(|extension| extension == "onnx") {
        let model = ModelProto::read(&std::fs::read(target).ok()?).ok()?;
        return serde_json::from_str(&Contract::of(&model).ok()?.manifest).ok();
    }
    models::load(target).ok().map(|(manifest, _)| manifest)
}

/// ONNX Runtime's library; what the user named has to be there, what he did not name may be missing.
fn library(options: &VerifyOptions<'_>) -> Result<Result<Found, NotFound>> {
    match find(options.ort_lib.as_deref()) {
        Err(missing) if missing.named() => Err(onnx::OnnxError::NotFound(missing).into()),
        found => Ok(found),
    }
}

struct Verifier<'v> {
    verification: Verification,
    library: Result<Found, NotFound>,
    options: &'v VerifyOptions<'v>,
}

/// A file with the engines that run it here.
struct Running<'f> {
    name: &'f str,
    engines: Vec<Answers>,
}

impl Verifier<'_> {
    fn folder(&mut self, folder: &Path) {
        let bundle = match Bundle::announced(folder) {
            Ok(bundle) => bundle,
            Err(error) => {
                self.verification.note("manifest", models::bundle::MANIFEST, Err(error.to_string()));
                return;
            }
        };
        let (name, version) = (&bundle.name, &bundle.version);
        let said =
            format!("format {}, {name} version {version}, {} files", bundle.bundle, bundle.files.len());
        self.verification.note("manifest", models::bundle::MANIFEST, Ok(said));
        let built = bundle.model.graph().map(|_| said_of(&bundle.model)).map_err(|error| error.to_string());
        self.verification.note("network", models::bundle::MANIFEST, built);
        for file in &bundle.files {
            self.file(&bundle, file);
        }
    }

    /// A file of a bundle. One whose bytes are others is looked at no further.
    fn file(&mut self, bundle: &Bundle, file: &BundleFile) {
        let bytes = match bundle.read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.verification.note("hash", &file.path, Err(error.to_string()));
                return;
            }
        };
        let said = format!("{} bytes, sha256 {}", file.bytes, file.sha256);
        self.verification.note("hash", &file.path, Ok(said));
        if !file.role.is_network() {
            return;
        }
        let metadata = match file.role.is_weights() {
            true => weights_metadata(&bundle.model, &bytes),
            false => onnx_metadata(bundle, &bytes),
        };
        if self.verification.note("metadata", &file.path, metadata) {
            let mut running = self.running(&file.path, file.role, &bytes);
            self.probe(bundle, &mut running);
            self.accuracy(&mut running, &bundle.accuracy);
        }
    }

    /// The engines that run a file here; those that do not are noted.
    fn running<'f>(&mut self, name: &'f str, role: FileRole, bytes: &[u8]) -> Running<'f> {
        let threads = self.options.threads;
        let mut running = Running { name, engines: Vec::new() };
        if role.is_weights() {
            self.start(&mut running, NATIVE, native(bytes, threads));
            return running;
        }
        // What our engine reads back: not what was rewritten after the writer, half precision and pixels as the input.
        if is_plain(bytes) {
            self.start(&mut running, NATIVE, Answers::native_onnx(bytes, threads));
        }
        match &self.library {
            Ok(library) => {
                let started = Answers::onnx_runtime(bytes, library, threads);
                self.start(&mut running, ONNX_RUNTIME, started);
            }
            Err(missing) => {
                let (of, detail) = (format!("{name} on {ONNX_RUNTIME}"), missing.to_string());
                if self.options.require_ort {
                    self.verification.note("engine", of, Err(format!("--require-ort: {detail}")));
                } else {
                    self.verification.skip("engine", of, detail);
                }
            }
        }
        running
    }

    fn start(&mut self, running: &mut Running<'_>, engine: &str, started: Result<Answers>) {
        match started {
            Ok(answers) => running.engines.push(answers),
            Err(error) => {
                self.verification.note(
                    "engine",
                    format!("{} on {engine}", running.name),
                    Err(error.to_string()),
                );
            }
        }
    }

    fn probe(&mut self, bundle: &RawBundle, running: &mut Running<'_>) {
        let Some(expected) = bundle.probe.answer(running.name) else { return };
        let pictures = bundle.probe.pictures(&bundle.model.task);
        for answers in &mut running.engines {
            let of = format!("{} on {}", running.name, answers.engine());
            let found = answers.logits(&pictures, pictures.len() / bundle.probe.count);
            let found = found.map_err(|error| error.to_string());
            self.verification.note("probe", of, found.and_then(|found| judged(expected, &found)));
        }
    }

    /// Accuracies on record for these engines and this data, measured once more.
    fn accuracy(&mut self, running: &mut Running<'_>, record: &[Measured]) {
        let Some(pictures) = self.options.pictures else { return };
        let (name, data) = (running.name, pictures.name());
        let record: Vec<&Measured> =
            record.iter().filter(|known| known.file == name && known.data == data).collect();
        let before = self.verification.checks.len();
        for answers in &mut running.engines {
            let known: Vec<&Measured> =
                record.iter().filter(|known| known.engine == answers.engine()).copied().collect();
            if known.is_empty() {
                continue;
            }
            let of = format!("{name} on {}, {data}", answers.engine());
            match accuracy::measure(name, answers, pictures, None) {
                Ok((measured, _)) => self.held_against(&of, &known, &measured),
                Err(error) => {
                    self.verification.note("accuracy", of, Err(error.to_string()));
                }
            }
        }
        if self.verification.checks.len() == before {
            let splits: Vec<&str> = pictures.held_out().iter().map(|(split, _)| *split).collect();
            let detail = format!("none on record for {data} [{}]", splits.join(", "));
            self.verification.skip("accuracy", name, detail);
        }
    }

    /// Splits that are on record, among those that were measured; a split of the record alone was trained on.
    fn held_against(&mut self, of: &str, record: &[&Measured], measured: &[Measured]) {
        for row in measured {
            if let Some(known) = record.iter().find(|known| known.split == row.split) {
                self.verification.note("accuracy", format!("{of} {}", row.split), near(known, row));
            }
        }
    }

    fn onnx_alone(&mut self, name: &str, bytes: &[u8]) {
        let contract = ModelProto::read(bytes).and_then(|model| Contract::of(&model));
        let contract = match contract {
            Ok(contract) => contract,
            Err(error) => {
                self.verification.note("metadata", name, Err(error.to_string()));
                return;
            }
        };
        let manifest = own_manifest(&contract);
        let said = manifest.as_ref().map(said_of).map_err(String::clone);
        self.verification.note("metadata", name, said);
        if let Ok(manifest) = manifest {
            let mut running = self.running(name, FileRole::Onnx, bytes);
            self.alone(&manifest, &mut running);
        }
    }

    fn weights_alone(&mut self, name: &str, bytes: &[u8]) {
        let read = models::file::from_bytes(bytes).map_err(|error| error.to_string());
        let said = read.as_ref().map(|(manifest, _)| said_of(manifest)).map_err(String::clone);
        self.verification.note("metadata", name, said);
        if let Ok((manifest, _)) = read {
            let mut running = self.running(name, FileRole::Weights, bytes);
            self.alone(&manifest, &mut running);
        }
    }

    /// A file alone has no logits on record: what can be asked is whether it answers, and one picture as many.
    fn alone(&mut self, manifest: &Manifest, running: &mut Running<'_>) {
        let probe = Probe { count: PROBE, ..Probe::default() };
        let pictures = probe.pictures(&manifest.task);
        for answers in &mut running.engines {
            let of = format!("{} on {}", running.name, answers.engine());
            let found = answered(answers, &pictures, manifest.labels.len());
            self.verification.note(
                "probe",
                of,
                found.map_err(|error| error.to_string()).and_then(|said| said),
            );
        }
        let data = manifest.training.as_ref().map_or("", |training| training.data.as_str());
        let engines: Vec<&str> = running.engines.iter().map(Answers::engine).collect();
        let record: Vec<Measured> = engines
            .iter()
            .flat_map(|engine| {
                manifest.accuracies.iter().map(|known| accuracy::known(running.name, engine, data, known))
            })
            .collect();
        self.accuracy(running, &record);
    }
}

/// Whether an ONNX file is as the writer wrote it, so that our engine reads it back: both rewrites begin with a `Cast`.
fn is_plain(bytes: &[u8]) -> bool {
    let graph = ModelProto::read(bytes).ok().and_then(|model| model.graph);
    graph.is_some_and(|graph| graph.node.iter().all(|node| node.op_type != "Cast"))
}

fn native(bytes: &[u8], threads: usize) -> Result<Answers> {
    let (manifest, weights): (Manifest, Weights) = models::file::from_bytes(bytes)?;
    Answers::native(&manifest, &weights, threads)
}

fn said_of(manifest: &Manifest) -> String {
    let task = &manifest.task;
    format!(
        "{}, {} classes, {} x {} px, {} channels",
        manifest.architecture, task.classes, task.height, task.width, task.channels
    )
}

/// What safetensors say of themselves, held against the bundle's manifest.
fn weights_metadata(expected: &Manifest, bytes: &[u8]) -> Result<String, String> {
    let (found, _) = models::file::from_bytes(bytes).map_err(|error| error.to_string())?;
    same_manifest(expected, &found)?;
    Ok("says what the manifest says, and its weights fit".into())
}

fn same_manifest(expected: &Manifest, found: &Manifest) -> Result<(), String> {
    match first_difference(expected, found) {
        None => Ok(()),
        Some(key) => Err(format!("expected the manifest's `model.{key}`, found another `{key}`")),
    }
}

/// What an ONNX file says of itself, held against the bundle's manifest and the hash of its weights.
fn onnx_metadata(bundle: &RawBundle, bytes: &[u8]) -> Result<String, String> {
    let model = ModelProto::read(bytes).map_err(|error| error.to_string())?;
    let contract = Contract::of(&model).map_err(|error| error.to_string())?;
    same_manifest(&bundle.model, &own_manifest(&contract)?)?;
    let weights = bundle.file(FileRole::Weights).map(|file| file.sha256.as_str()).unwrap_or_default();
    match contract.weights_sha256 == weights {
        true => Ok("says what the manifest says, and was made of these weights".into()),
        false => Err(format!(
            "`distill.weights_sha256`: expected the hash of the bundle's weights, {weights}, found {}",
            contract.weights_sha256
        )),
    }
}

/// The manifest in an ONNX file's metadata, which has to say what the contract beside it says.
fn own_manifest(contract: &Contract) -> Result<Manifest, String> {
    let manifest: Manifest = serde_json::from_str(&contract.manifest)
        .map_err(|error| format!("`distill.manifest`: expected a manifest, found {error}"))?;
    manifest.graph().map_err(|error: ManifestError| format!("`distill.manifest`: {error}"))?;
    if contract.labels != manifest.labels {
        let (expected, found) = (manifest.labels.join(", "), contract.labels.join(", "));
        return Err(format!("`distill.labels`: expected the manifest's [{expected}], found [{found}]"));
    }
    let expected =
        crate::contract(&manifest, &contract.weights_sha256).map_err(|error| error.to_string())?.input;
    let pictures = |input: &onnx::Input| (input.channels, input.height, input.width, input.fit.clone());
    match pictures(&expected) == pictures(&contract.input) {
        true => Ok(manifest),
        false => {
            Err(format!("`distill.input`: expected the manifest's {expected:?}, found {:?}", contract.input))
        }
    }
}

fn judged(expected: &Answer, found: &[f32]) -> Result<String, String> {
    let distance = expected.distance(found);
    let said = format!("largest difference {:.1e}, {:.1e} allowed", distance.largest, distance.allowed);
    if distance.agrees() {
        Ok(said)
    } else {
        Err(format!("expected the logits on record, found others: {said}"))
    }
}

/// Whether pictures are answered by finite numbers, one picture as all of them.
fn answered(answers: &mut Answers, pictures: &[u8], classes: usize) -> Result<Result<String, String>> {
    let picture = pictures.len() / PROBE;
    let together = answers.logits(pictures, picture)?;
    if together.len() != PROBE * classes || together.iter().any(|logit| !logit.is_finite()) {
        let found = together.iter().filter(|logit| logit.is_finite()).count();
        return Ok(Err(format!("expected {} finite logits, found {found}", PROBE * classes)));
    }
    let mut alone = Vec::new();
    for picture in pictures.chunks(picture.max(1)) {
        alone.extend_from_slice(answers.call(picture)?);
    }
    let expected = Answer::new("", crate::parity::TOLERANCE, &together, classes);
    Ok(judged(&expected, &alone).map(|_| format!("answers {PROBE} pictures, and each alone as in a batch")))
}

/// Whether an accuracy is that on record, as far as engines may differ.
fn near(known: &Measured, found: &Measured) -> Result<String, String> {
    let allowed = ACCURACY_PICTURES.max(ACCURACY_SHARE * known.count as f64);
    let right = |row: &Measured| row.top1 * row.count as f64;
    let said = format!("top-1 {:.4} of {} pictures", found.top1, found.count);
    if known.count != found.count {
        return Err(format!("expected {} pictures, found {}", known.count, found.count));
    }
    match (right(known) - right(found)).abs() <= allowed + 1e-6 {
        true => Ok(said),
        false => Err(format!("expected top-1 {:.4} within {allowed} pictures, found {said}", known.top1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accuracy_may_differ_by_near_ties_alone() {
        let row = |top1: f64, count| Measured {
            top1,
            count,
            ..accuracy::known(
                "a",
                NATIVE,
                "d",
                &models::manifest::Accuracy { split: "test".into(), top1, top5: None, count },
            )
        };
        assert!(near(&row(0.9, 100), &row(0.92, 100)).is_ok(), "two pictures always may");
        assert!(near(&row(0.9, 100), &row(0.93, 100)).is_err());
        assert!(near(&row(0.9, 10_000), &row(0.902, 10_000)).is_ok(), "0.2 % of many");
        assert!(near(&row(0.9, 10_000), &row(0.9021, 10_000)).is_err());
        assert!(near(&row(0.9, 100), &row(0.9, 99)).unwrap_err().contains("expected 100 pictures"));
    }
}
