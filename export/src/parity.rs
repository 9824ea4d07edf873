//! Whether an exported file answers as the network did: every runtime is asked the same varied pictures as the
//! engine, and its logits are compared with the engine's.
//!
//! No weight is changed and no file written here.

use std::fmt;
use std::path::Path;

use data::score::best_class;
use engine::{Images, Model};
use models::Shape;
use onnx::OnnxError;
use onnx::runtime::{NotFound, OrtOptions, OrtSession, find};
use serde::{Deserialize, Serialize};

use crate::Result;

/// How many pictures every runtime is asked.
pub const PICTURES: usize = 64;
/// Largest difference between two logits that counts as the same, per unit of the largest logit (at least one unit).
pub const TOLERANCE: f32 = 1e-4;
/// The same for a file with weights in half precision, which are rounded by up to 2^-11 of themselves.
pub const HALF_TOLERANCE: f32 = 1e-2;
/// The same for a file in int8, between two engines that run it: a map that one rounds up and the other down differs by a
/// whole step, and so do the maps after it.
pub const INT8_TOLERANCE: f32 = 0.1;
/// Name of this toolkit's engine in reports.
pub const NATIVE: &str = "native";
/// Name of ONNX Runtime in reports.
pub const ONNX_RUNTIME: &str = "onnxruntime";
/// Name of candle-onnx in reports.
pub const CANDLE_ONNX: &str = "candle-onnx";

/// What a runtime answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The same logits within the tolerance, and the same best class of every picture.
    Agrees(Difference),
    /// Other logits.
    Differs(Difference),
    /// The runtime lacks operations that the file needs.
    CannotRun {
        /// The operations.
        ops: Vec<String>,
    },
    /// The runtime has everything and fails all the same.
    Fails {
        /// Its words.
        reason: String,
    },
    /// The runtime is not there.
    NotInstalled {
        /// What was looked at.
        reason: String,
        /// The command that gets it.
        command: String,
    },
}

/// How far two sets of logits are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Pictures compared.
    pub pictures: usize,
    /// Largest difference between two logits.
    pub largest: f32,
    /// What would still be the same: the tolerance times the largest logit, or times one if that is larger.
    pub allowed: f32,
    /// Pictures whose best class is another; where a file may be off by more than [`TOLERANCE`], only those to which the
    /// difference that is allowed does not explain it.
    pub other_class: usize,
}

impl Difference {
    /// Compares two sets of logits of `classes` each; anything not finite is infinitely far away.
    pub fn between(expected: &[f32], found: &[f32], classes: usize) -> Self {
        Self::within(TOLERANCE, expected, found, classes)
    }

    /// The same where another tolerance holds.
    pub fn within(tolerance: f32, expected: &[f32], found: &[f32], classes: usize) -> Self {
        let classes = classes.max(1);
        let largest =
            if expected.len() == found.len() { largest_difference(expected, found) } else { f32::INFINITY };
        let allowed = tolerance * expected.iter().fold(1.0_f32, |scale, logit| scale.max(logit.abs()));
        let tie = if tolerance > TOLERANCE { 2.0 * allowed } else { 0.0 };
        let pairs = expected.chunks(classes).zip(found.chunks(classes));
        let other_class = pairs.filter(|(expected, found)| other_class(expected, found, tie)).count();
        Self { pictures: expected.len() / classes, largest, allowed, other_class }
    }

    /// Whether this counts as the same.
    pub fn agrees(self) -> bool {
        self.largest.is_finite() && self.largest <= self.allowed && self.other_class == 0
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(
        0.0,
        |largest, difference| if difference.is_nan() { f32::INFINITY } else { largest.max(difference) },
    )
}

/// Whether `found` has another best class, and one that is more than `tie` behind.
fn other_class(expected: &[f32], found: &[f32], tie: f32) -> bool {
    let (best, other) = (best_class(expected), best_class(found));
    best != other && expected.get(other).is_none_or(|behind| expected[best] - behind > tie)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Agrees(Difference { pictures, largest, allowed, .. }) => {
                write!(
                    f,
                    "agrees ({pictures} pictures, largest difference {largest:.1e} of {allowed:.1e} allowed)"
                )
            }
            Answer::Differs(Difference { pictures, largest, allowed, other_class }) => write!(
                f,
                "differs (largest difference {largest:.1e}, {allowed:.1e} allowed; another best class for {other_class} of \
                 {pictures} pictures)"
            ),
            Answer::CannotRun { ops } => write!(f, "cannot run: {}", ops.join(", ")),
            Answer::Fails { reason } => write!(f, "fails: {reason}"),
            Answer::NotInstalled { command, .. } => write!(f, "not installed: `{command}`"),
        }
    }
}

/// A runtime and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// The runtime.
    pub runtime: String,
    /// Its answer.
    #[serde(flatten)]
    pub answer: Answer,
}

/// Asks every runtime the same pictures as `model`; their answers may be `tolerance` away, [`TOLERANCE`] for a file in
/// single precision.
///
/// `real` holds pictures of the network's size, HWC, which take the place of as many procedural ones.
///
/// # Errors
/// If the engine itself fails, or a library named by `ort_lib` or `ORT_DYLIB_PATH` does not load.
pub fn check(
    model: &mut Model,
    file: &[u8],
    real: &[u8],
    tolerance: f32,
    ort_lib: Option<&Path>,
) -> Result<Vec<Parity>> {
    let shape = model.graph().input_shape();
    let pictures =
        [&real[..real.len().min(PICTURES * shape.elements())], &varied_pictures(shape, PICTURES)].concat();
    let question = Question::new(model, &pictures[..PICTURES * shape.elements()], tolerance)?;
    let onnx_runtime =
        Parity { runtime: ONNX_RUNTIME.into(), answer: question.ask_onnx_runtime(file, ort_lib)? };
    let candle = Parity { runtime: CANDLE_ONNX.into(), answer: question.ask_candle(file) };
    Ok(vec![onnx_runtime, candle])
}

/// Asks two networks of the engine the same procedural pictures.
///
/// # Errors
/// The engine's.
pub fn compare(expected: &mut Model, found: &mut Model, tolerance: f32) -> Result<Answer> {
    let pictures = varied_pictures(expected.graph().input_shape(), PICTURES);
    let question = Question::new(expected, &pictures, tolerance)?;
    let logits = found.run(Images::U8(&pictures))?;
    Ok(question.judge(logits))
}

/// Pictures, and the engine's logits for them.
struct Question<'p> {
    shape: Shape,
    pictures: &'p [u8],
    expected: Vec<f32>,
    classes: usize,
    tolerance: f32,
}

impl<'p> Question<'p> {
    fn new(model: &mut Model, pictures: &'p [u8], tolerance: f32) -> Result<Self> {
        let shape = model.graph().input_shape();
        let mut expected = Vec::new();
        for batch in batches(pictures, shape.elements()) {
            expected.extend_from_slice(model.run(Images::U8(batch))?);
        }
        let classes = expected.len() / PICTURES;
        Ok(Self { shape, pictures, expected, classes, tolerance })
    }

    fn ask_onnx_runtime(&self, file: &[u8], ort_lib: Option<&Path>) -> Result<Answer> {
        let library = match find(ort_lib) {
            Ok(library) => library,
            // What the user named has to be there; what he did not name may be missing.
            Err(missing) if missing.named() => return Err(OnnxError::NotFound(missing).into()),
            Err(missing) => {
                let (reason, command) = (missing.to_string(), NotFound::MEND.into());
                return Ok(Answer::NotInstalled { reason, command });
            }
        };
        let mut session = match OrtSession::open(&library, file, OrtOptions { threads: 0, spinning: false }) {
            Ok(session) => session,
            Err(OnnxError::Runtime { message, .. }) => return Ok(Answer::Fails { reason: message }),
            Err(error) => return Err(error.into()),
        };
        Ok(self.compare(|batch| session.run_pixels(batch).map(<[f32]>::to_vec)))
    }

    #[cfg(feature = "candle-onnx")]
    fn ask_candle(&self, file: &[u8]) -> Answer {
        let session = match onnx::runtime::CandleOnnx::open(file) {
            Ok(session) => session,
            Err(error) => return refusal(error),
        };
        let [height, width] = self.shape.spatial();
        let picture = [self.shape.channels(), height, width];
        self.compare(|batch| session.run_pixels(batch, picture))
    }

    #[cfg(not(feature = "candle-onnx"))]
    fn ask_candle(&self, _: &[u8]) -> Answer {
        Answer::NotInstalled {
            reason: "this build has no candle-onnx".into(),
            command: "cargo install --path . --features candle-onnx".into(),
        }
    }

    fn compare(&self, mut run: impl FnMut(&[u8]) -> onnx::Result<Vec<f32>>) -> Answer {
        let mut found = Vec::new();
        for batch in batches(self.pictures, self.shape.elements()) {
            match run(batch) {
                Ok(logits) => found.extend(logits),
                Err(error) => return refusal(error),
            }
        }
        self.judge(&found)
    }

    fn judge(&self, found: &[f32]) -> Answer {
        let difference = Difference::within(self.tolerance, &self.expected, found, self.classes);
        if difference.agrees() { Answer::Agrees(difference) } else { Answer::Differs(difference) }
    }
}

fn refusal(error: OnnxError) -> Answer {
    match error {
        OnnxError::CannotRun { ops, .. } => Answer::CannotRun { ops },
        OnnxError::Runtime { message, .. } => Answer::Fails { reason: message },
        other => Answer::Fails { reason: other.to_string() },
    }
}

/// One picture alone, then seven batches of nine: a batch dimension that is not dynamic would show.
fn batches<T>(values: &[T], elements: usize) -> impl Iterator<Item = &[T]> {
    let (first, rest) = values.split_at(elements.min(values.len()));
    std::iter::once(first).chain(rest.chunks(9 * elements))
}

/// `count` procedural pictures, HWC: noise, gradients, disks, stripes and flat colors by turns, no two alike.
pub fn varied_pictures(shape: Shape, count: usize) -> Vec<u8> {
    let [height, width] = shape.spatial();
    let mut pixels = Vec::with_capacity(count * shape.elements());
    for picture in 0..count {
        for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
            for channel in 0..shape.channels() {
                pixels.push(pixel(
                    picture,
                    row as f32 / height as f32,
                    column as f32 / width as f32,
                    channel,
                ));
            }
        }
    }
    pixels
}

fn pixel(picture: usize, y: f32, x: f32, channel: usize) -> u8 {
    let own = |part: usize| scrambled(picture * 64 + channel * 8 + part);
    let value = match picture % 5 {
        0 => scrambled(
            (picture * 31 + channel) * 1_000_003 + (y * 4096.0) as usize * 4099 + (x * 4096.0) as usize,
        ),
        1 => own(0) * y + own(1) * x,
        2 => {
            let inside = (y - scrambled(picture)).hypot(x - scrambled(picture + 1000)) < 0.15 + own(2) * 0.3;
            if inside { own(3) } else { own(4) }
        }
        3 => 0.5 + 0.5 * ((x * own(5) + y * own(6)) * 60.0).sin(),
        _ => own(7),
    };
    (value.clamp(0.0, 1.0) * 255.0) as u8
}

/// A number in 0..1 that looks random (the finalizer of splitmix64).
fn scrambled(seed: usize) -> f32 {
    let mut bits = (seed as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((bits ^ (bits >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_are_compared_on_their_own_scale() {
        let expected = [100.0, 0.0, 0.0, 50.0];
        let near = Difference::between(&expected, &[100.009, 0.0, 0.0, 50.0], 2);
        assert!(near.agrees(), "{near:?}");
        let far = Difference::between(&expected, &[100.02, 0.0, 0.0, 50.0], 2);
        assert!(!far.agrees() && far.other_class == 0, "{far:?}");
        let small = Difference::between(&[1e-3, 0.0], &[1.2e-3, 0.0], 2);
        assert!(!small.agrees(), "{small:?}");
    }

    #[test]
    fn another_best_class_differs_however_near_the_logits_are() {
        let difference = Difference::between(&[1.0, 1.000_01], &[1.000_01, 1.0], 2);
        assert!(
            difference.largest <= difference.allowed && difference.other_class == 1 && !difference.agrees()
        );
    }

    #[test]
    fn what_is_not_finite_or_of_another_length_differs() {
        assert!(!Difference::between(&[1.0, 2.0], &[1.0, f32::NAN], 2).agrees());
        assert!(!Difference::between(&[1.0, 2.0], &[1.0], 2).agrees());
        assert!(!Difference::between(&[f32::INFINITY, 2.0], &[f32::INFINITY, 2.0], 2).agrees());
    }

    #[test]
    fn pictures_vary() {
        let shape = Shape::Map { channels: 3, height: 12, width: 10 };
        let pictures = varied_pictures(shape, PICTURES);
        assert_eq!(pictures.len(), PICTURES * shape.elements());
        let distinct: std::collections::HashSet<&[u8]> = pictures.chunks(shape.elements()).collect();
        assert_eq!(distinct.len(), PICTURES);
    }

    #[test]
    fn a_tie_within_a_wide_tolerance_is_no_other_class() {
        let (expected, found) = ([1.0, 1.005, 0.0], [1.005, 1.0, 0.0]);
        assert!(Difference::within(0.01, &expected, &found, 3).agrees());
        let far = Difference::within(0.01, &[1.0, 1.03, 0.0], &[1.009, 1.0, 0.0], 3);
        assert_eq!(far.other_class, 1, "{far:?}");
    }

    #[test]
    fn a_report_reads_as_words_and_as_json() {
        let answer = Answer::CannotRun { ops: vec!["GlobalAveragePool".into(), "HardSigmoid".into()] };
        assert_eq!(answer.to_string(), "cannot run: GlobalAveragePool, HardSigmoid");
        let parity = Parity { runtime: CANDLE_ONNX.into(), answer };
        let json = serde_json::to_value(&parity).unwrap();
        assert_eq!(json["answer"], "cannot_run");
        assert_eq!(serde_json::from_value::<Parity>(json).unwrap(), parity);
    }
}
