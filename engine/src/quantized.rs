//! Inference over bytes: a network whose maps are u8 and whose weights are i8, from a [`models::QuantizedNetwork`].
//!
//! The steps are those of the float model's plan for one picture; each is replaced by its kernel of
//! [`crate::kernels::int8`], which says how numbers become bytes. What is rounded, and where, is what an ONNX file of
//! `QuantizeLinear` and `DequantizeLinear` says: a branch is rounded before its residual is added, an activation that is
//! no range of bytes is a table between two rounded maps.
//!
//! The same plan serves pictures together, with every map that many times as long: a layer's product then has the pixels
//! of all of them as rows, and its weights are read once. Sums are whole numbers and each is rounded by itself, so an
//! answer does not depend on its company.
//!
//! Never here: training, or the choice of ranges.

mod build;
mod observer;
mod points;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use models::{Granularity, Graph, Quantization, QuantizedNetwork, Weights};

use crate::kernels::int8::elementwise::{self, Map};
use crate::kernels::int8::{Conv, Output, Residual, Table, pooling};
use crate::kernels::pooling::PoolShape;
use crate::plan::{Place, Plan, ValueId};
use crate::pool::{Disjoint, Pool};
use crate::{EngineError, Images, Result, Runtime};

pub use observer::{Observer, Point};

/// Most bytes of maps that are answered together, if more than a picture's: they shall stay in a second-level cache. Well
/// below that the weights are read for enough pixels to be had for nothing.
const GROUP_BYTES: usize = 1 << 20;

/// A step over bytes.
#[derive(Clone, Debug)]
enum Work {
    Picture {
        tables: Vec<Table>,
        mean: Vec<f32>,
        std: Vec<f32>,
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
    AvgPool {
        shape: PoolShape,
        x: ValueId,
        output: Output,
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
    plan: Plan,
    steps: Vec<(Work, ValueId)>,
    /// By value.
    quantizations: Vec<Quantization>,
    /// Values of a picture.
    picture: usize,
}

/// A network that answers with bytes inside. Clones share the weights; each has its own working memory, which grows with
/// the largest batch up to a megabyte or one picture's maps per thread, whichever is more.
///
/// ```
/// use engine::{Device, Images, Quantized, Runtime};
/// use models::{Task, formula, zoo};
///
/// let graph = zoo::build("small-cnn-3", &Task::new(10, 3, 32))?;
/// let runtime = Runtime::new(Device::Cpu, 1)?;
/// let pictures: Vec<u8> = (0..8).flat_map(|index| formula::picture(index, 3, 32, 32)).collect();
/// let weights = formula::weights(&graph, 1.0);
/// let mut quantized = Quantized::calibrated(&graph, &weights, &runtime, Images::U8(&pictures))?;
/// let logits = quantized.run(Images::U8(&pictures))?;
/// assert_eq!(logits.len(), 8 * 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Quantized {
    shared: Arc<Shared>,
    runtime: Runtime,
    /// One after the other: working memory of each thread.
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
    /// Readies a quantized network for the `logits` of `graph`.
    ///
    /// # Errors
    /// [`EngineError::Quantization`] naming the layer or map that is missing or wrong, or a step without a kernel over
    /// bytes.
    pub fn of(graph: &Graph, network: &QuantizedNetwork, runtime: &Runtime) -> Result<Self> {
        Ok(Self::with(Arc::new(build::build(graph, network, runtime.pool())?), runtime.clone()))
    }

    /// Quantizes `graph` per channel with the ranges that its maps have on the calibration pictures, least to largest:
    /// some dozens, prepared like those that it will answer. [`Observer`] is for other ranges.
    ///
    /// # Errors
    /// As [`Observer::new`] and [`Observer::observe`].
    pub fn calibrated(
        graph: &Graph,
        weights: &Weights,
        runtime: &Runtime,
        calibration: Images<'_>,
    ) -> Result<Self> {
        let mut observer = Observer::new(graph, weights, runtime)?;
        let mut ranges = vec![[f32::INFINITY, f32::NEG_INFINITY]; observer.points().len()];
        observer.observe(calibration, &mut |point, values| {
            let [low, high] = &mut ranges[point];
            *low = values.iter().copied().fold(*low, f32::min);
            *high = values.iter().copied().fold(*high, f32::max);
        })?;
        Self::of(graph, &observer.quantize(&ranges, Granularity::PerChannel)?, runtime)
    }

    fn with(shared: Arc<Shared>, runtime: Runtime) -> Self {
        Self { shared, runtime, arena: Vec::new(), result: Vec::new() }
    }

    /// The same network on the threads and instruction set of another runtime: its answers are the same, bit for bit.
    pub fn on(&self, runtime: &Runtime) -> Self {
        Self::with(Arc::clone(&self.shared), runtime.clone())
    }

    /// Answers pictures and returns the logits, `[n, classes]` row-major, valid until the next call: the same, bit for
    /// bit, as one by one. A lone picture has all threads; of more, each thread takes its share, several at once.
    ///
    /// # Errors
    /// [`EngineError::Images`] if the length is not a whole number of pictures.
    pub fn run(&mut self, images: Images<'_>) -> Result<&[f32]> {
        let Self { shared, runtime, arena, result } = self;
        let (len, classes, picture) = (images.len(), shared.plan.output_len, shared.picture);
        if len == 0 || !len.is_multiple_of(picture) {
            return Err(EngineError::Images {
                expected: format!("pictures of {picture} values"),
                found: format!("{len} values"),
            });
        }
        let (pictures, pool) = (len / picture, runtime.pool());
        let division = Division::new(pictures, pool.threads(), shared.plan.arena_len);
        let each = (division.largest() * shared.plan.arena_len).next_multiple_of(64);
        arena.resize(arena.len().max(division.threads * each), 0);
        result.resize(pictures * classes, 0.0);
        let (arenas, results) = (Disjoint::new(arena), Disjoint::new(result));
        pool.run(division.threads, &|thread| {
            // SAFETY: every thread has an arena of its own.
            let arena = unsafe { arenas.part(thread * each, each) };
            for Range { start, end } in division.groups_of(thread) {
                let count = end - start;
                // SAFETY: every picture has a result of its own.
                let result = unsafe { results.part(start * classes, count * classes) };
                shared.answer(pool, images.part(start * picture, count * picture), arena, result);
            }
        });
        Ok(&self.result)
    }
}

/// A batch cut into groups that are answered together, as many for each thread.
#[derive(Clone, Copy, Debug)]
struct Division {
    pictures: usize,
    threads: usize,
    groups: usize,
}

impl Division {
    /// For pictures whose maps take `each` bytes.
    fn new(pictures: usize, threads: usize, each: usize) -> Self {
        let threads = threads.min(pictures);
        let most = (GROUP_BYTES / each.max(1)).max(1);
        let groups = pictures.div_ceil(threads * most) * threads;
        Self { pictures, threads, groups: groups.min(pictures) }
    }

    /// Pictures of the largest group.
    fn largest(self) -> usize {
        self.pictures.div_ceil(self.groups)
    }

    /// The pictures of each group of a thread.
    fn groups_of(self, thread: usize) -> impl Iterator<Item = Range<usize>> {
        let start = move |group: usize| group * self.pictures / self.groups;
        (thread..self.groups).step_by(self.threads).map(move |group| start(group)..start(group + 1))
    }
}

/// The values of some pictures in their arena, a byte for each float of the plan.
struct Values<'a> {
    shared: &'a Shared,
    /// How many.
    pictures: usize,
    start: *mut u8,
}

impl<'a> Values<'a> {
    fn new(shared: &'a Shared, pictures: usize, arena: &'a mut [u8]) -> Self {
        let needed = pictures * shared.plan.arena_len;
        assert!(arena.len() >= needed, "arena of {} bytes, needed are {needed}", arena.len());
        Self { shared, pictures, start: arena.as_mut_ptr() }
    }

    /// Where a value lies, for all pictures: as far apart as for one, times as many.
    fn place(&self, value: ValueId) -> Place {
        let Place { offset, len } = self.shared.plan.place(value);
        Place { offset: offset * self.pictures, len: len * self.pictures }
    }

    /// The shape of a pooling of one picture, for all.
    fn pooled(&self, shape: &PoolShape) -> PoolShape {
        PoolShape { batch: self.pictures, ..*shape }
    }

    /// A value to read.
    ///
    /// # Safety
    /// No slice from [`Values::write`] that overlaps it is alive: a step does not write what it reads.
    unsafe fn read(&self, value: ValueId) -> &'a [u8] {
        let place = self.place(value);
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
        let place = self.place(value);
        // SAFETY: as in `read`.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(place.offset), place.len) }
    }
}

impl Shared {
    /// Answers pictures together.
    fn answer(&self, pool: &Pool, pictures: Images<'_>, arena: &mut [u8], result: &mut [f32]) {
        let values = Values::new(self, pictures.len() / self.picture, arena);
        for (work, y) in &self.steps {
            match work {
                // SAFETY: a step reads its inputs and writes its result, which the planner keeps apart.
                Work::Answer { conv, x } => unsafe { conv.forward_f32(pool, values.read(*x), result) },
                // SAFETY: as above.
                _ => unsafe { self.step(pool, &values, work, *y, pictures) },
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
    unsafe fn step(&self, pool: &Pool, values: &Values<'_>, work: &Work, y: ValueId, pictures: Images<'_>) {
        // SAFETY: the caller's promise.
        unsafe {
            let quantization = self.quantizations[y.index()];
            let y = values.write(y);
            match work {
                Work::Picture { tables, mean, std } => match pictures {
                    Images::U8(x) => elementwise::map_channels(pool, tables, x, y),
                    Images::F32(x) => picture_of_floats(x, [mean, std], quantization, y),
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
                Work::MaxPool { shape, x } => {
                    pooling::largest(pool, &values.pooled(shape), values.read(*x), y)
                }
                Work::AvgPool { shape, x, output } => {
                    let x = values.map(*x);
                    pooling::average(pool, &values.pooled(shape), x.bytes, x.quantization, output, y);
                }
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
fn picture_of_floats(x: &[f32], [mean, std]: [&[f32]; 2], quantization: Quantization, y: &mut [u8]) {
    for (x, y) in x.chunks_exact(mean.len()).zip(y.chunks_exact_mut(mean.len())) {
        for (channel, (x, y)) in x.iter().zip(y).enumerate() {
            *y = quantization.quantize((x - mean[channel]) / std[channel]);
        }
    }
}
