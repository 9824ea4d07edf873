//! ONNX Runtime: its library is loaded once per process, sessions are opened from a file's bytes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;

use super::Found;
use crate::proto::ModelProto;
use crate::{OnnxError, Result};

const NAME: &str = "onnxruntime";

/// How a session computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrtOptions {
    /// Threads of one session; 0 means one per core.
    pub threads: usize,
    /// Whether threads without work keep a core busy for a while: lower latency, at the cost of everybody else.
    pub spinning: bool,
}

impl Default for OrtOptions {
    fn default() -> Self {
        Self { threads: 1, spinning: false }
    }
}

/// A model that ONNX Runtime runs.
#[derive(Debug)]
pub struct OrtSession {
    session: Session,
    picture: [usize; 3],
    answers: Vec<f32>,
}

/// The library in use. The binding refuses to load a second one, and to start again once dropped.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

impl OrtSession {
    /// Opens a model from a file's bytes.
    ///
    /// # Errors
    /// [`OnnxError::Library`] if the library does not load, [`OnnxError::SecondLibrary`] if another one is in use,
    /// [`OnnxError::Malformed`] for bytes that are no model, [`OnnxError::Runtime`] for a model that it refuses.
    pub fn open(library: &Found, bytes: &[u8], options: OrtOptions) -> Result<Self> {
        let picture = input_picture(&ModelProto::read(bytes)?)?;
        let session = committed(&environment(&library.path)?, bytes, options)?;
        Ok(Self { session, picture, answers: Vec::new() })
    }

    /// Channels, height and width of one picture.
    pub fn picture(&self) -> [usize; 3] {
        self.picture
    }

    /// Runs `images`, NCHW, values 0..1, and returns the first output, row-major, valid until the next call.
    ///
    /// # Errors
    /// [`OnnxError::Images`] if the length is no whole number of pictures, [`OnnxError::Runtime`] if it fails.
    pub fn run(&mut self, images: &[f32]) -> Result<&[f32]> {
        let [channels, height, width] = self.picture;
        let elements = channels * height * width;
        if images.is_empty() || !images.len().is_multiple_of(elements) {
            let expected = format!("a multiple of {channels} x {height} x {width} values");
            return Err(OnnxError::Images { expected, found: format!("{} values", images.len()) });
        }
        let shape = [images.len() / elements, channels, height, width];
        let tensor = TensorRef::from_array_view((shape, images)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![tensor]).map_err(failed)?;
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        self.answers.clear();
        self.answers.extend_from_slice(values);
        Ok(&self.answers)
    }
}

fn failed<R>(error: ort::Error<R>) -> OnnxError {
    OnnxError::Runtime { runtime: NAME, message: error.to_string() }
}

fn input_picture(model: &ModelProto) -> Result<[usize; 3]> {
    let input = model.graph.as_ref().and_then(|graph| graph.input.first());
    match input.and_then(|input| input.dims()).as_deref() {
        Some(&[_, Some(channels), Some(height), Some(width)]) => Ok([channels, height, width]),
        dims => Err(OnnxError::Malformed(format!(
            "expected an input [N, C, H, W] of fixed C, H, W, found {dims:?}"
        ))),
    }
}

fn environment(path: &Path) -> Result<Environment> {
    let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // The same library by another name is the same library.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    match &*loaded {
        Some((known, environment)) if *known == path => Ok(environment.clone()),
        Some((known, _)) => Err(OnnxError::SecondLibrary { loaded: known.clone(), asked: path }),
        None => {
            let environment = started(&path)?;
            *loaded = Some((path, environment.clone()));
            Ok(environment)
        }
    }
}

fn started(path: &Path) -> Result<Environment> {
    let refused = |reason: String| OnnxError::Library { path: path.to_path_buf(), reason };
    let builder = ort::init_from(path).map_err(|error| refused(error.to_string()))?;
    builder.with_name("distill").with_telemetry(false).build().map_err(|error| refused(error.to_string()))
}

fn committed(environment: &Environment, bytes: &[u8], options: OrtOptions) -> Result<Session> {
    Session::builder(environment)
        .map_err(failed)?
        .with_intra_threads(options.threads)
        .map_err(failed)?
        .with_intra_op_spinning(options.spinning)
        .map_err(failed)?
        .commit_from_memory(bytes)
        .map_err(failed)
}
