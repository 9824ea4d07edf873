//! Writes a bundle: the network in every form, what each form has to answer to the probe, how well and how fast it does,
//! and a card for people. The folder appears at once or not at all. `models::bundle` has the types and reads them back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::{Device, Runtime, machine};
use models::bundle::{
    Answer, Bundle, BundleFile, BundleManifest, FORMAT, FileRole, Kind, Latency, MANIFEST, Measured, Probe,
    RawBundle, Refused, name_of,
};
use models::file::write_atomically;
use models::manifest::Teacher;
use models::{Machine, Manifest, Weights};
use onnx::runtime::{Found, find};
use serde::Serialize;

use crate::accuracy::{self, Pictures};
use crate::answers::Answers;
use crate::run::{run_name, weights_file};
use crate::{
    Encoded, ExportError, Format, Options, Parity, Result, Written, card, encode, latency, parity, quantize,
};

/// Pictures of the probe.
const PROBE: usize = 8;
/// Name of the card.
pub const CARD: &str = "MODEL_CARD.md";

/// How a bundle is written.
#[derive(Clone, Debug)]
pub struct BundleOptions {
    /// The folder; `bundle` beside the run's weights if not given.
    pub out: Option<PathBuf>,
    /// What the model is called; the run's name if not given.
    pub name: Option<String>,
    /// Which one of that name.
    pub version: String,
    /// The files with a network in them.
    pub forms: Vec<Format>,
    /// How the quantized file is made; none for a bundle without one.
    pub int8: Option<Int8>,
    /// Time to measure the latency of each file on each engine in; none for no latency.
    pub latency: Option<Duration>,
    /// How the files are written: `format` and `out` are not looked at.
    pub files: Options,
}

impl Default for BundleOptions {
    fn default() -> Self {
        Self {
            out: None,
            name: None,
            version: "1".into(),
            forms: vec![Format::Safetensors, Format::Onnx],
            int8: None,
            latency: Some(Duration::from_secs(1)),
            files: Options::new(Format::Bundle),
        }
    }
}

/// How a bundle's quantized file is made: pictures to calibrate with and to judge by, and what is allowed.
#[derive(Clone, Debug)]
pub struct Int8 {
    /// The pictures.
    pub pictures: quantize::Pictures,
    /// What is tried and allowed.
    pub options: quantize::Options,
}

/// A bundle that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BundleReport {
    /// Its folder.
    pub folder: PathBuf,
    /// Its files.
    pub files: Vec<Written>,
    /// What other runtimes say to the files.
    pub parity: Vec<Parity>,
    /// How well the files answer.
    pub accuracy: Vec<Measured>,
    /// How fast.
    pub latency: Vec<Latency>,
    /// What is not in it, and why.
    pub refused: Vec<Refused>,
}

/// A file with a network in it, and the engines that run it.
struct Form {
    format: Format,
    encoded: Encoded,
    engines: Vec<Answers>,
}

impl Form {
    fn name(&self) -> &'static str {
        self.format.file()
    }
}

/// Writes the network of a run's folder or a `model.safetensors` as a bundle; `pictures` are what accuracies are measured
/// on, besides what the run knows of itself.
///
/// # Errors
/// As [`crate::export`]; [`ExportError::NotABundle`] for a folder in the way that is something else.
pub fn write(source: &Path, pictures: Option<&Pictures>, options: &BundleOptions) -> Result<BundleReport> {
    let file = weights_file(source);
    let (mut manifest, weights) = models::load(&file)?;
    if let Some(teacher) = teacher_of(source) {
        manifest.teacher = Some(teacher);
    }
    let folder = options.out.clone().unwrap_or_else(|| file.with_file_name(Format::Bundle.file()));
    check_place(&folder)?;
    let name = options.name.clone().unwrap_or_else(|| name_of(&run_name(source)));
    let library = find(options.files.ort_lib.as_deref()).ok();
    let mut forms = forms(&manifest, &weights, &folder, library.as_ref(), options)?;
    let quantized = quantized(&manifest, &weights, &folder, library.as_ref(), options)?;
    let refused = match quantized {
        Some(Ok(form)) => {
            forms.push(form);
            Vec::new()
        }
        Some(Err(refused)) => vec![refused],
        None => Vec::new(),
    };
    let raw = RawBundle {
        bundle: FORMAT,
        name,
        version: options.version.clone(),
        producer: crate::PRODUCER.into(),
        files: forms.iter().map(|form| listed(form.format, &form.encoded.bytes)).collect(),
        accuracy: accuracy(&manifest, &mut forms, pictures)?,
        latency: latencies(&manifest, &mut forms, options)?,
        refused,
        probe: probe(&manifest, &mut forms)?,
        model: manifest,
    };
    finish(raw, forms, folder)
}

/// Adds the card, and puts the folder where it belongs.
fn finish(raw: RawBundle, forms: Vec<Form>, folder: PathBuf) -> Result<BundleReport> {
    let mut raw = raw;
    let card = card::text(&raw);
    raw.files.push(BundleFile::of(CARD, FileRole::Card, card.as_bytes()));
    let manifest = BundleManifest::try_from(raw)?;
    let json = manifest.to_json()?;
    let mut contents: Vec<(&str, &[u8])> =
        forms.iter().map(|form| (form.name(), form.encoded.bytes.as_slice())).collect();
    contents.extend([(CARD, card.as_bytes()), (MANIFEST, json.as_bytes())]);
    write_folder(&folder, &contents)?;
    let written = |file: &BundleFile| Written {
        path: folder.join(&file.path),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
    };
    Ok(BundleReport {
        files: manifest.files.iter().map(written).collect(),
        parity: forms.into_iter().flat_map(|form| form.encoded.parity).collect(),
        accuracy: manifest.accuracy.clone(),
        latency: manifest.latency.clone(),
        refused: manifest.refused.clone(),
        folder,
    })
}

fn forms(
    manifest: &Manifest,
    weights: &Weights,
    folder: &Path,
    library: Option<&Found>,
    options: &BundleOptions,
) -> Result<Vec<Form>> {
    let mut forms = Vec::new();
    for &format in &options.forms {
        let require_parity = options.files.require_parity && format.is_onnx();
        let one = Options { format, require_parity, ..options.files.clone() };
        let encoded = encode(manifest, weights, &folder.join(format.file()), &one)?;
        let engines = engines(manifest, weights, format, &encoded.bytes, library)?;
        forms.push(Form { format, encoded, engines });
    }
    Ok(forms)
}

/// The quantized file, or why there is none: a gate that refuses it refuses the file and not the bundle.
fn quantized(
    manifest: &Manifest,
    weights: &Weights,
    folder: &Path,
    library: Option<&Found>,
    options: &BundleOptions,
) -> Result<Option<std::result::Result<Form, Refused>>> {
    let (Some(int8), format) = (&options.int8, Format::OnnxInt8) else { return Ok(None) };
    let path = folder.join(format.file());
    match quantize::quantize(manifest, weights, &path, &int8.pictures, &int8.options) {
        Ok(quantized) => {
            let encoded = Encoded { bytes: quantized.bytes, parity: Vec::new() };
            let engines = engines(manifest, weights, format, &encoded.bytes, library)?;
            Ok(Some(Ok(Form { format, encoded, engines })))
        }
        Err(ExportError::Refused { reasons, .. }) => {
            Ok(Some(Err(Refused { file: format.file().into(), reason: reasons })))
        }
        Err(error) => Err(error),
    }
}

/// The engines that run a file, each with one thread.
fn engines(
    manifest: &Manifest,
    weights: &Weights,
    format: Format,
    bytes: &[u8],
    library: Option<&Found>,
) -> Result<Vec<Answers>> {
    match format {
        Format::Safetensors => Ok(vec![Answers::native(manifest, weights, 1)?]),
        Format::SafetensorsFp16 => {
            let (manifest, rounded) = models::file::from_bytes(bytes)?;
            Ok(vec![Answers::native(&manifest, &rounded, 1)?])
        }
        Format::OnnxInt8 => {
            let native = std::iter::once(Answers::native_onnx(bytes, 1));
            native.chain(library.map(|library| Answers::onnx_runtime(bytes, library, 1))).collect()
        }
        _ => library.map(|library| Answers::onnx_runtime(bytes, library, 1)).into_iter().collect(),
    }
}

fn listed(format: Format, bytes: &[u8]) -> BundleFile {
    BundleFile::of(format.file(), format.entry().role, bytes)
}

/// What each file has to answer: the float network's logits within the tolerance of its form, and of the quantized file
/// what it answers on our engine, for it is another network.
fn probe(manifest: &Manifest, forms: &mut [Form]) -> Result<Probe> {
    let mut probe = Probe { kind: Kind::Formula, count: PROBE, answers: Vec::new() };
    let pictures = probe.pictures(&manifest.task);
    let mut float = Vec::new();
    for form in forms {
        let own = match (form.format, form.engines.first_mut()) {
            (Format::Safetensors | Format::OnnxInt8, Some(engine)) => {
                engine.logits(&pictures, pictures.len() / PROBE)?
            }
            _ => Vec::new(),
        };
        let logits = if form.format == Format::OnnxInt8 { &own } else { &float };
        let logits = if form.format == Format::Safetensors { &own } else { logits };
        let answer = Answer::new(form.name(), tolerance(form.format), logits, manifest.labels.len());
        probe.answers.push(answer);
        if form.format == Format::Safetensors {
            float = own; // the first of the forms
        }
    }
    Ok(probe)
}

fn tolerance(format: Format) -> f32 {
    match format {
        Format::SafetensorsFp16 | Format::OnnxFp16 => parity::HALF_TOLERANCE,
        Format::OnnxInt8 => parity::INT8_TOLERANCE,
        _ => parity::TOLERANCE,
    }
}

/// What the run knows of itself, and what is measured now, which is worth more.
fn accuracy(manifest: &Manifest, forms: &mut [Form], pictures: Option<&Pictures>) -> Result<Vec<Measured>> {
    let mut rows = known(manifest);
    let Some(pictures) = pictures else { return Ok(rows) };
    let mut float: Option<Vec<Vec<f32>>> = None;
    for form in forms {
        let name = form.name();
        for answers in &mut form.engines {
            let (measured, logits) = accuracy::measure(name, answers, pictures, float.as_deref())?;
            float.get_or_insert(logits); // the float weights are the first form
            for row in measured {
                rows.retain(|known| {
                    (&known.file, &known.engine, &known.split) != (&row.file, &row.engine, &row.split)
                });
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Accuracies that the training measured, on our engine.
fn known(manifest: &Manifest) -> Vec<Measured> {
    let Some(training) = &manifest.training else { return Vec::new() };
    let row = |known| accuracy::known(Format::Safetensors.file(), parity::NATIVE, &training.data, known);
    manifest.accuracies.iter().filter(|accuracy| accuracy.count > 0).map(row).collect()
}

fn latencies(manifest: &Manifest, forms: &mut [Form], options: &BundleOptions) -> Result<Vec<Latency>> {
    let Some(budget) = options.latency else { return Ok(Vec::new()) };
    let machine: Machine = machine::describe(&Runtime::new(Device::Cpu, 1)?);
    let task = &manifest.task;
    let picture = [task.channels, task.height, task.width];
    let mut rows = Vec::new();
    for form in forms {
        let name = form.name();
        for answers in &mut form.engines {
            rows.extend(latency::measure(name, answers, picture, &machine, budget)?);
        }
    }
    Ok(rows)
}

/// The network that a distilled one learned from, as the job's summary beside it tells; nothing where there is none.
fn teacher_of(source: &Path) -> Option<Teacher> {
    let text = fs::read_to_string(source.join("summary.json")).ok()?;
    let summary: serde_json::Value = serde_json::from_str(&text).ok()?;
    let (architecture, run) = (summary["teacher"]["arch"].as_str()?, summary["teacher"]["run"].as_str()?);
    let name = Path::new(run).file_name()?.to_string_lossy().into_owned();
    let known = models::load(&weights_file(Path::new(run)))
        .or_else(|_| models::load(&weights_file(&source.join(&name))));
    let accuracies = known.map(|(manifest, _)| manifest.accuracies).unwrap_or_default();
    Some(Teacher { architecture: architecture.into(), name, accuracies })
}

/// A bundle may take the place of a bundle, and of nothing else.
fn check_place(folder: &Path) -> Result<()> {
    let empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    match folder.exists() && !Bundle::is_at(folder) && !empty() {
        true => Err(ExportError::NotABundle { path: folder.into() }),
        false => Ok(()),
    }
}

/// Writes a folder beside its place and renames it; what was there is kept until then.
pub(crate) fn write_folder(folder: &Path, contents: &[(&str, &[u8])]) -> Result<()> {
    let beside = |suffix: &str| {
        let mut name = folder.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.{suffix}", std::process::id()));
        folder.with_file_name(name)
    };
    let (new, old) = (beside("part"), beside("old"));
    let written = fill(&new, contents).and_then(|()| replace(folder, &new, &old));
    let _ = fs::remove_dir_all(&new); // there only if something failed, and then that is the error to tell
    written
}

fn fill(folder: &Path, contents: &[(&str, &[u8])]) -> Result<()> {
    for (name, bytes) in contents {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(at(parent))?;
        write_atomically(&path, bytes).map_err(at(&path))?;
    }
    Ok(())
}

fn replace(folder: &Path, new: &Path, old: &Path) -> Result<()> {
    let replaced = folder.exists();
    if replaced {
        fs::rename(folder, old).map_err(at(folder))?;
    }
    if let Err(error) = fs::rename(new, folder) {
        if replaced {
            let _ = fs::rename(old, folder); // back to what was; the first error is the one to tell
        }
        return Err(at(folder)(error));
    }
    if replaced {
        fs::remove_dir_all(old).map_err(at(old))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
    let path = path.to_path_buf();
    move |source| ExportError::File { path, source }
}
