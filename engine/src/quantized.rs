//! Inference over bytes: a model whose maps are u8 and whose weights are i8, with scales from calibration pictures.
//!
//! The steps are those of the float model's plan for one picture; each is replaced by its kernel of
//! [`crate::kernels::int8`], which says how numbers become bytes. Scales are static: every map has the range that it had
//! on the calibration pictures, least to largest.
//!
//! Never here: training, batches (pictures are answered one by one), or the writing of quantized files.

use std::fmt;
use std::sync::Arc;

use models::{Activation, Graph, Weights};

use crate::buffer::Buffer;
use crate::kernels::conv::unpack_weight;
use crate::kernels::int8::elementwise::{self, Map};
use crate::kernels::int8::{
    Conv, Layer, Output, Quantization, Residual, Table, activation_table, pooling, quantize_weights,
};
use crate::kernels::norm::{After, Norm, Rows, normalize};
use crate::kernels::pooling::PoolShape;
use crate::plan::{ConvStep, Kind, Place, Plan, Step, ValueId};
use crate::pool::Pool;
use crate::random::Stream;
use crate::run::{Run, observe};
use crate::{EngineError, Images, Model, Result, Runtime};

/// Least and largest value.
#[derive(Clone, Copy, Debug)]
struct Range {
    low: f32,
    high: f32,
}

impl Range {
    const NONE: Range = Range { low: f32::INFINITY, high: f32::NEG_INFINITY };

    fn widen(&mut self, values: &[f32]) {
        for &value in values {
            self.low = self.low.min(value);
            self.high = self.high.max(value);
        }
    }

    fn quantization(self) -> Quantization {
        Quantization::of_range(self.low, self.high)
    }

    /// Without the numbers that the activation does not tell apart, or hardly.
    fn before(self, activation: Activation) -> Self {
        let [low, high] = match activation {
            Activation::HardSwish => [-3.0, f32::MAX],
            Activation::HardSigmoid => [-3.0, 3.0],
            Activation::Silu => [-10.0, f32::MAX],
            Activation::Sigmoid => [-10.0, 10.0],
            _ => [f32::MIN, f32::MAX],
        };
        Self { low: self.low.max(low), high: self.high.min(high) }
    }
}

/// Ranges of a step's result before and after its activation.
#[derive(Clone, Copy, Debug)]
struct Ranges {
    before: Range,
    after: Range,
}

/// A step over bytes.
#[derive(Clone, Debug)]
enum Work {
    Picture {
        tables: Vec<Table>,
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    Conv {
        conv: Box<Conv>,
        x: ValueId,
        residual: Option<ValueId>,
    },
    /// The last layer, into real numbers.
    Answer {
        conv: Box<Conv>,
        x: ValueId,
    },
    Map {
        x: ValueId,
        table: Box<Table>,
    },
    /// A table for every channel: a batch norm that no convolution took.
    Channels {
        x: ValueId,
        tables: Vec<Table>,
    },
    MaxPool {
        shape: PoolShape,
        x: ValueId,
    },
    Mean {
        channels: usize,
        x: ValueId,
        output: Output,
    },
    Product {
        sizes: [usize; 2],
        factors: [ValueId; 2],
        output: Output,
    },
    Sum {
        terms: [ValueId; 2],
        output: Output,
    },
}

/// What clones share.
struct Shared {
    plan: Arc<Plan>,
    steps: Vec<(Work, ValueId)>,
    /// By value.
    quantizations: Vec<Quantization>,
    /// Values of a picture.
    picture: usize,
}

/// A network that answers with bytes inside. Clones share the weights; each has its own working memory.
///
/// ```
/// use engine::{Device, Images, Quantized, Runtime};
/// use models::{Task, formula, zoo};
///
/// let graph = zoo::build("small-cnn-3", &Task::new(10, 3, 32))?;
/// let runtime = Runtime::new(Device::Cpu, 1)?;
/// let pictures: Vec<u8> = (0..8).flat_map(|index| formula::picture(index, 3, 32, 32)).collect();
/// let weights = formula::weights(&graph, 1.0);
/// let mut quantized = Quantized::new(&graph, &weights, &runtime, Images::U8(&pictures))?;
/// let logits = quantized.run(Images::U8(&pictures))?;
/// assert_eq!(logits.len(), 8 * 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Quantized {
    shared: Arc<Shared>,
    runtime: Runtime,
    arena: Vec<u8>,
    result: Vec<f32>,
}

impl fmt::Debug for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quantized").field("steps", &self.shared.steps.len()).finish_non_exhaustive()
    }
}

impl Clone for Quantized {
    fn clone(&self) -> Self {
        self.on(&self.runtime)
    }
}

impl Quantized {
    /// Quantizes `graph` for its `logits`, with the ranges that its maps have on the calibration pictures: some dozens,
    /// prepared like those that it will answer.
    ///
    /// # Errors
    /// [`EngineError::Weights`] as for [`Model::new`], [`EngineError::Images`] if the length is not a whole number of pictures, [`EngineError::Quantization`] if the
    /// network has a step without a kernel over bytes, or a range that is not finite.
    pub fn new(graph: &Graph, weights: &Weights, runtime: &Runtime, calibration: Images<'_>) -> Result<Self> {
        let mut model = Model::plain(graph, weights, runtime)?;
        let pictures = calibration.count(graph)?;
        let picture = graph.input_shape().elements();
        let (plan, weights) = model.folded("logits")?;
        if plan.outputs.iter().any(|output| output.order.is_some()) {
            let reason = "the logits are a map whose order differs from the engine's".into();
            return Err(EngineError::Quantization { reason });
        }
        let ranges = ranges(&plan, weights, runtime, calibration, [pictures, picture])?;
        let quantizations = vec![Quantization { scale: 1.0, zero_point: 0 }; plan.values()];
        let mut builder =
            Builder { pool: runtime.pool(), plan: &plan, weights, ranges, quantizations, steps: Vec::new() };
        for (index, step) in plan.steps.iter().enumerate() {
            builder.add(index, step)?;
        }
        let Builder { quantizations, steps, .. } = builder;
        let shared = Shared { plan: Arc::clone(&plan), steps, quantizations, picture };
        Ok(Self::with(Arc::new(shared), runtime.clone()))
    }

    fn with(shared: Arc<Shared>, runtime: Runtime) -> Self {
        let arena = vec![0; shared.plan.arena_len];
        Self { shared, runtime, arena, result: Vec::new() }
    }

    /// The same network on the threads and instruction set of another runtime: its answers are the same, bit for bit.
    pub fn on(&self, runtime: &Runtime) -> Self {
        Self::with(Arc::clone(&self.shared), runtime.clone())
    }

    /// Answers pictures one after the other and returns the logits, `[n, classes]` row-major, valid until the next call.
    ///
    /// # Errors
    /// [`EngineError::Images`] if the length is not a whole number of pictures.
    pub fn run(&mut self, images: Images<'_>) -> Result<&[f32]> {
        let (len, classes) = (images.len(), self.shared.plan.output_len);
        let picture = self.shared.picture;
        if len == 0 || !len.is_multiple_of(picture) {
            return Err(EngineError::Images {
                expected: format!("pictures of {picture} values"),
                found: format!("{len} values"),
            });
        }
        self.result.resize(len / picture * classes, 0.0);
        for (index, result) in self.result.chunks_exact_mut(classes).enumerate() {
            let picture = part(images, index * picture, picture);
            self.shared.answer(self.runtime.pool(), picture, &mut self.arena, result);
        }
        Ok(&self.result)
    }
}

/// Values from `start`.
fn part(images: Images<'_>, start: usize, len: usize) -> Images<'_> {
    match images {
        Images::U8(values) => Images::U8(&values[start..][..len]),
        Images::F32(values) => Images::F32(&values[start..][..len]),
    }
}

/// Runs the float model on all pictures and notes the ranges of its steps.
fn ranges(
    plan: &Plan,
    weights: &[f32],
    runtime: &Runtime,
    images: Images<'_>,
    [pictures, picture]: [usize; 2],
) -> Result<Vec<Ranges>> {
    let mut ranges = vec![Ranges { before: Range::NONE, after: Range::NONE }; plan.steps.len()];
    let mut arena = Buffer::zeros(plan.arena_len);
    let run = Run { pool: runtime.pool(), plan, parameters: weights, draws: Stream::new(0) };
    for index in 0..pictures {
        observe(&run, &mut arena, part(images, index * picture, picture), &mut |seen| {
            let range = &mut ranges[seen.step];
            if seen.before { &mut range.before } else { &mut range.after }.widen(seen.values);
        });
    }
    for (range, step) in ranges.iter().zip(&plan.steps) {
        if !range.after.low.is_finite() || !range.after.high.is_finite() {
            return Err(unsupported(step, "its values are not finite"));
        }
    }
    Ok(ranges)
}

fn unsupported(step: &Step, reason: &str) -> EngineError {
    EngineError::Quantization { reason: format!("step `{}`: {reason}", step.kind.name()) }
}

/// Makes the steps in order, and with them the quantization of every value.
struct Builder<'a> {
    pool: &'a Pool,
    plan: &'a Plan,
    weights: &'a [f32],
    ranges: Vec<Ranges>,
    quantizations: Vec<Quantization>,
    steps: Vec<(Work, ValueId)>,
}

impl Builder<'_> {
    fn add(&mut self, index: usize, step: &Step) -> Result<()> {
        let ranges = self.ranges[index];
        let mut quantization = ranges.after.quantization();
        let work = match &step.kind {
            Kind::Input { scale, shift, bytes, .. } => {
                quantization = byte_range(bytes).quantization();
                let (tables, scale, shift) =
                    (tables(bytes, scale.len(), quantization), scale.clone(), shift.clone());
                Work::Picture { tables, scale, shift }
            }
            Kind::Conv(conv) => self.conv(conv, ranges, quantization, step)?,
            Kind::Activation { x, activation, .. } => {
                let table = activation_table(self.of(*x), *activation, quantization);
                Work::Map { x: *x, table: Box::new(table) }
            }
            Kind::Folded { norm, x, saved, residual: None, activation, .. } => {
                let tables =
                    self.norm_tables(norm.rows.channels, *saved, *activation, [self.of(*x), quantization]);
                Work::Channels { x: *x, tables }
            }
            Kind::MaxPool { shape, x, .. } => {
                quantization = self.of(*x);
                Work::MaxPool { shape: *shape, x: *x }
            }
            Kind::GlobalAvgPool { rows, x, .. } => {
                Work::Mean { channels: rows.channels, x: *x, output: Output::new(quantization) }
            }
            Kind::Gate { rows, x, gate, .. } => Work::Product {
                sizes: [rows.positions, rows.channels],
                factors: [*x, *gate],
                output: Output::new(quantization),
            },
            Kind::Product { a, b, y } => Work::Product {
                sizes: [1, self.plan.place(*y).len],
                factors: [*a, *b],
                output: Output::new(quantization),
            },
            Kind::Sum { a, b, activation, .. } => {
                let output = match activation {
                    None => Output::new(quantization),
                    Some(activation) => Output::clamped(quantization, *activation)
                        .ok_or_else(|| unsupported(step, "its activation has no kernel over bytes"))?,
                };
                Work::Sum { terms: [*a, *b], output }
            }
            _ => return Err(unsupported(step, "it has no kernel over bytes")),
        };
        let y = step.kind.result();
        self.quantizations[y.index()] = quantization;
        self.steps.push((work, y));
        Ok(())
    }

    fn of(&self, value: ValueId) -> Quantization {
        self.quantizations[value.index()]
    }

    /// A normalization with its activation, computed for every byte of every channel.
    fn norm_tables(
        &self,
        channels: usize,
        saved: Place,
        activation: Option<Activation>,
        [x, y]: [Quantization; 2],
    ) -> Vec<Table> {
        let norm = Norm { rows: Rows { samples: 1, positions: 256, channels }, by_sample: false };
        let z: Vec<f32> = (0..256 * channels).map(|index| x.dequantize((index / channels) as u8)).collect();
        let mut values = vec![0.0; z.len()];
        let after = After { factors: None, residual: None, activation };
        normalize(self.pool, &norm, &z, saved.of(self.weights), &after, &mut values);
        tables(&values, channels, y)
    }

    fn conv(&self, conv: &ConvStep, ranges: Ranges, after: Quantization, step: &Step) -> Result<Work> {
        let answers = self.plan.outputs.iter().any(|output| output.value == conv.y);
        let plain = conv.activation.is_none() && conv.residual.is_none();
        if conv.shape.is_depthwise() && (answers || conv.residual.is_some()) {
            return Err(unsupported(
                step,
                "a depthwise convolution with a residual or as the answer has no kernel",
            ));
        }
        let output = match conv.activation {
            None => Output::new(after),
            Some(activation) => Output::clamped(after, activation).unwrap_or_else(|| {
                let before = ranges.before.before(activation).quantization();
                Output::new(before).then(activation_table(before, activation, after))
            }),
        };
        let packed = Box::new(self.packed(conv, output)?);
        if answers && plain {
            return Ok(Work::Answer { conv: packed, x: conv.x });
        }
        Ok(Work::Conv { conv: packed, x: conv.x, residual: conv.residual })
    }

    /// Weights and bias as whole numbers.
    fn packed(&self, conv: &ConvStep, output: Output) -> Result<Conv> {
        let (shape, x) = (&conv.shape, self.of(conv.x));
        let each = shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1];
        let mut weight = vec![0.0; shape.out_channels * each];
        unpack_weight(shape, conv.weight.place.of(self.weights), &mut weight);
        let bias = conv
            .bias
            .map_or_else(|| vec![0.0; shape.out_channels], |bias| bias.place.of(self.weights).to_vec());
        // A channel of hardly any weight would have a bias beyond its whole numbers: then it has no weight.
        for (weight, bias) in weight.chunks_exact_mut(each).zip(&bias) {
            let largest = weight.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            if bias.abs() > largest * x.scale * 1e6 {
                weight.fill(0.0);
            }
        }
        let (weight, mut scales) = quantize_weights(&weight, shape.out_channels);
        for ((scale, bias), weight) in scales.iter_mut().zip(&bias).zip(weight.chunks_exact(each)) {
            if weight.iter().all(|&weight| weight == 0) {
                *scale = (bias.abs() / (x.scale * 1e6)).max(f32::MIN_POSITIVE);
            }
        }
        let bias: Vec<i32> = bias
            .iter()
            .zip(&scales)
            .map(|(bias, scale)| (bias / (x.scale * scale)).round_ties_even() as i32)
            .collect();
        Conv::new(shape, &Layer { x, weight: &weight, weight_scales: &scales, bias: &bias }, output)
    }
}

/// Range of all pixels after normalization.
fn byte_range(bytes: &[f32]) -> Range {
    let mut range = Range::NONE;
    range.widen(bytes);
    range
}

/// For every channel the bytes of its 256 normalized pixels, from `[pixel][channel]`.
fn tables(bytes: &[f32], channels: usize, quantization: Quantization) -> Vec<Table> {
    let entry = |channel: usize, pixel: usize| quantization.quantize(bytes[pixel * channels + channel]);
    (0..channels).map(|channel| std::array::from_fn(|pixel| entry(channel, pixel))).collect()
}

/// The values of a picture in their arena, a byte for each float of the plan.
struct Values<'a> {
    shared: &'a Shared,
    start: *mut u8,
}

impl<'a> Values<'a> {
    fn new(shared: &'a Shared, arena: &'a mut [u8]) -> Self {
        assert!(arena.len() >= shared.plan.arena_len, "arena of {} bytes", arena.len());
        Self { shared, start: arena.as_mut_ptr() }
    }

    /// A value to read.
    ///
    /// # Safety
    /// No slice from [`Values::write`] that overlaps it is alive: a step does not write what it reads.
    unsafe fn read(&self, value: ValueId) -> &'a [u8] {
        let place = self.shared.plan.place(value);
        // SAFETY: the place lies within the arena, which is borrowed for 'a; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(place.offset), place.len) }
    }

    /// A value to read, with its quantization.
    ///
    /// # Safety
    /// As [`Values::read`].
    unsafe fn map(&self, value: ValueId) -> Map<'a> {
        // SAFETY: the caller's promise.
        Map { bytes: unsafe { self.read(value) }, quantization: self.shared.quantizations[value.index()] }
    }

    /// A value to write.
    ///
    /// # Safety
    /// As [`Values::read`], for any other slice of it.
    #[allow(clippy::mut_from_ref)] // the arena is behind the raw pointer
    unsafe fn write(&self, value: ValueId) -> &'a mut [u8] {
        let place = self.shared.plan.place(value);
        // SAFETY: as in `read`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(place.offset), place.len) }
    }
}

impl Shared {
    /// Answers one picture.
    fn answer(&self, pool: &Pool, picture: Images<'_>, arena: &mut [u8], result: &mut [f32]) {
        let values = Values::new(self, arena);
        for (work, y) in &self.steps {
            match work {
                // SAFETY: a step reads its inputs and writes its result, which the planner keeps apart.
                Work::Answer { conv, x } => unsafe { conv.forward_f32(pool, values.read(*x), result) },
                // SAFETY: as above.
                _ => unsafe { self.step(pool, &values, work, *y, picture) },
            }
        }
        let Some((last, y)) = self.steps.last() else { return };
        if !matches!(last, Work::Answer { .. }) {
            // SAFETY: nothing writes any more.
            let map = unsafe { values.map(*y) };
            elementwise::dequantize(pool, map.quantization, map.bytes, result);
        }
    }

    /// # Safety
    /// As [`Values::read`].
    unsafe fn step(&self, pool: &Pool, values: &Values<'_>, work: &Work, y: ValueId, picture: Images<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            let quantization = self.quantizations[y.index()];
            let y = values.write(y);
            match work {
                Work::Picture { tables, scale, shift } => match picture {
                    Images::U8(x) => elementwise::map_channels(pool, tables, x, y),
                    Images::F32(x) => picture_of_floats(x, scale, shift, quantization, y),
                },
                Work::Conv { conv, x, residual } => {
                    let residual = residual.map(|residual| {
                        let Map { bytes, quantization } = values.map(residual);
                        Residual { bytes, quantization }
                    });
                    conv.forward(pool, values.read(*x), residual, y);
                }
                Work::Map { x, table } => {
                    y.copy_from_slice(values.read(*x));
                    elementwise::map(pool, table, y);
                }
                Work::Channels { x, tables } => elementwise::map_channels(pool, tables, values.read(*x), y),
                Work::MaxPool { shape, x } => pooling::largest(pool, shape, values.read(*x), y),
                Work::Mean { channels, x, output } => {
                    let x = values.map(*x);
                    pooling::mean(pool, *channels, x.bytes, x.quantization, output, y);
                }
                Work::Product { sizes, factors: [a, b], output } => {
                    elementwise::product(pool, *sizes, values.map(*a), values.map(*b), output, y);
                }
                Work::Sum { terms: [a, b], output } => {
                    elementwise::sum(pool, values.map(*a), values.map(*b), output, y);
                }
                Work::Answer { .. } => unreachable!("an answer is written to the result"),
            }
        }
    }
}

/// Pixels 0..1, channels innermost, as bytes of the first map.
fn picture_of_floats(x: &[f32], scale: &[f32], shift: &[f32], quantization: Quantization, y: &mut [u8]) {
    for (x, y) in x.chunks_exact(scale.len()).zip(y.chunks_exact_mut(scale.len())) {
        for (channel, (x, y)) in x.iter().zip(y).enumerate() {
            *y = quantization.quantize(x * scale[channel] + shift[channel]);
        }
    }
}
