//! ONNX Runtime: its library is loaded once per process, sessions are opened from a file's bytes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::session::Session;
use ort::value::{PrimitiveTensorElementType, TensorRef};

use super::Found;
use crate::pixels::fill_planes;
use crate::proto::ModelProto;
use crate::{Element, OnnxError, Result};

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
    element: Element,
    planes: Vec<f32>,
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
        let (element, picture) = input_picture(&ModelProto::read(bytes)?)?;
        let session = committed(&environment(&library.path)?, bytes, options)?;
        Ok(Self { session, picture, element, planes: Vec::new(), answers: Vec::new() })
    }

    /// Channels, height and width of one picture.
    pub fn picture(&self) -> [usize; 3] {
        self.picture
    }

    /// Runs pixels, NHWC, 0..=255, as the model takes them, and returns the first output, row-major, valid until the
    /// next call.
    ///
    /// # Errors
    /// As [`OrtSession::run`].
    pub fn run_pixels(&mut self, pixels: &[u8]) -> Result<&[f32]> {
        let count = self.count(pixels.len())?;
        match self.element {
            Element::Float32 => {
                fill_planes(pixels, self.picture, &mut self.planes);
                let images = std::mem::take(&mut self.planes);
                let answered = self.answer(count, &images);
                self.planes = images; // kept for its memory
                answered?;
            }
            Element::Uint8 => self.answer(count, pixels)?,
        }
        Ok(&self.answers)
    }

    /// Runs `images`, NCHW, values 0..1, and returns the first output, row-major, valid until the next call.
    ///
    /// # Errors
    /// [`OnnxError::Images`] if the length is no whole number of pictures or the model takes pixels,
    /// [`OnnxError::Runtime`] if it fails.
    pub fn run(&mut self, images: &[f32]) -> Result<&[f32]> {
        if self.element != Element::Float32 {
            let (expected, found) = ("pixels, uint8".into(), "values, float32".into());
            return Err(OnnxError::Images { expected, found });
        }
        let count = self.count(images.len())?;
        self.answer(count, images)?;
        Ok(&self.answers)
    }

    fn count(&self, values: usize) -> Result<usize> {
        let [channels, height, width] = self.picture;
        let elements = channels * height * width;
        if values == 0 || !values.is_multiple_of(elements) {
            let expected = format!("a multiple of {channels} x {height} x {width} values");
            return Err(OnnxError::Images { expected, found: format!("{values} values") });
        }
        Ok(values / elements)
    }

    fn answer<T>(&mut self, count: usize, values: &[T]) -> Result<()>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        let [a, b, c] = self.element.dims(self.picture);
        let tensor = TensorRef::from_array_view(([count, a, b, c], values)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![tensor]).map_err(failed)?;
        let (_, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        self.answers.clear();
        self.answers.extend_from_slice(values);
        Ok(())
    }
}

fn failed<R>(error: ort::Error<R>) -> OnnxError {
    OnnxError::Runtime { runtime: NAME, message: error.to_string() }
}

/// Type of the input, and channels, height and width of a picture of it.
fn input_picture(model: &ModelProto) -> Result<(Element, [usize; 3])> {
    let input = model.graph.as_ref().and_then(|graph| graph.input.first());
    let bytes = input.and_then(|input| input.data_type()) == Some(Element::Uint8.data_type());
    let element = if bytes { Element::Uint8 } else { Element::Float32 };
    match (element, input.and_then(|input| input.dims()).as_deref()) {
        (Element::Float32, Some(&[_, Some(channels), Some(height), Some(width)]))
        | (Element::Uint8, Some(&[_, Some(height), Some(width), Some(channels)])) => {
            Ok((element, [channels, height, width]))
        }
        (_, dims) => Err(OnnxError::Malformed(format!(
            "expected an input [N, C, H, W] of float32 or [N, H, W, C] of uint8, all but N fixed, found {dims:?}"
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
