//! What this machine can do at most, measured in a fifth of a second: multiply-adds in registers, and reading memory
//! whose size decides which cache it comes from. A time in a table says little without the time that it cannot beat.
//!
//! ```
//! use engine::limits::{Limits, Work};
//! use engine::{Device, Runtime};
//! use models::{Task, zoo};
//!
//! let limits = Limits::measure(&Runtime::new(Device::Cpu, 1)?);
//! let graph = zoo::build("small-cnn-3", &Task::new(10, 3, 48))?;
//! let bound = limits.bound(&graph, &Work::inference());
//! assert!(bound.seconds > 0.0 && bound.flops == 2.0 * models::cost::total(&graph).macs as f64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The bound is a roofline (Williams et al. 2009), layer by layer. It counts what the plain definition of a layer
//! multiplies, so a kernel that multiplies less (Winograd) may beat it.
//!
//! Never here: a network's own time. A busy machine makes limits look lower; the best of many short trials is taken.

use std::array;
use std::hint::black_box;
use std::time::{Duration, Instant};

use models::{Graph, Node, Op, cost};

use crate::Runtime;
use crate::buffer::{Buffer, LINE};
use crate::pool::Pool;
use crate::simd::{Isa, Simd, dispatch};

/// Sizes of memory that are read, in bytes: from the first cache to beyond most second ones and some third ones.
const SIZES: [usize; 9] =
    [32 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20, 32 << 20, 64 << 20];
/// How long each thing is tried.
const PATIENCE: Duration = Duration::from_millis(12);
/// A trial lasts at least about this long: starting the threads must not show.
const TRIAL: Duration = Duration::from_micros(200);

/// Rate at which memory of a size is read again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Read {
    /// Size in bytes; with several threads each reads its part of it.
    pub bytes: usize,
    /// Bytes per second, of all threads together.
    pub rate: f64,
}

/// The limits of a machine for a number of threads and an instruction set.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Threads that the figures hold for.
    pub threads: usize,
    /// f32 operations per second of all threads together; a multiply-add is two.
    pub flops: f64,
    /// Rates of reading, by rising size.
    pub reads: Vec<Read>,
}

impl Limits {
    /// Measures with the threads and the instruction set of `runtime`.
    pub fn measure(runtime: &Runtime) -> Self {
        let pool = runtime.pool();
        let largest = SIZES[SIZES.len() - 1] / size_of::<f32>();
        let mut memory = Buffer::zeros(largest);
        memory.fill(1.0); // the system lends a page of zeros to all who only read
        let reads =
            SIZES.map(|bytes| Read { bytes, rate: read_rate(pool, &memory[..bytes / size_of::<f32>()]) });
        Self { threads: pool.threads(), flops: multiply_add_rate(pool), reads: reads.to_vec() }
    }

    /// Bytes per second at which `bytes` of memory are read again and again, by all threads together: between two
    /// measured sizes on a straight line over the size's logarithm, beyond them as at the nearest.
    pub fn read_bandwidth(&self, bytes: f64) -> f64 {
        let above = self.reads.partition_point(|read| (read.bytes as f64) < bytes);
        match (above.checked_sub(1).map(|below| self.reads[below]), self.reads.get(above)) {
            (Some(below), Some(above)) => {
                let share =
                    (bytes / below.bytes as f64).ln() / (above.bytes as f64 / below.bytes as f64).ln();
                below.rate + share * (above.rate - below.rate)
            }
            (Some(last), None) => last.rate,
            (None, Some(first)) => first.rate,
            (None, None) => f64::INFINITY,
        }
    }

    /// The least time that `graph` can take, as the sum over convolutions and linear layers of the longer of arithmetic
    /// and memory; all else counts as done on the way.
    ///
    /// A layer reads its weights at the rate of all weights' size, for between two turns all others were read, and its
    /// maps, input and output, at the rate of their own.
    pub fn bound(&self, graph: &Graph, work: &Work) -> Bound {
        let costs = cost::per_node(graph);
        let layers = graph.nodes().iter().zip(&costs).filter(|(_, cost)| cost.macs > 0);
        let weights = |parameters: u64| parameters as f64 * work.weight_bytes;
        let all_weights = layers.clone().map(|(_, cost)| weights(cost.parameters)).sum();
        let mut bound = Bound::default();
        for (index, (node, cost)) in layers.enumerate() {
            let layer = Layer {
                passes: work.passes(index),
                macs: (cost.macs * work.batch as u64) as f64,
                weights: weights(cost.parameters),
                pace: work.pace,
                maps: map_bytes(graph, node, work.map_bytes) * work.batch as f64,
            };
            bound.add(&self.layer_bound(&layer, all_weights));
        }
        bound
    }

    /// Seconds to read `weights` bytes at the rate of `all_weights`, and `maps` bytes at the rate of their own.
    pub(crate) fn reading(&self, weights: f64, all_weights: f64, maps: f64) -> f64 {
        weights / self.read_bandwidth(all_weights) + maps / self.read_bandwidth(maps)
    }

    fn layer_bound(&self, layer: &Layer, all_weights: f64) -> Bound {
        let flops = 2.0 * layer.macs * layer.passes;
        let arithmetic = flops / (self.flops * layer.pace);
        let memory = self.reading(layer.weights, all_weights, layer.maps) * layer.passes;
        Bound {
            seconds: arithmetic.max(memory),
            memory_seconds: if memory > arithmetic { memory } else { 0.0 },
            flops,
            weight_bytes: layer.weights * layer.passes,
        }
    }
}

/// What is done with a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Pictures at once.
    pub batch: usize,
    /// Whether weights are learned: then a layer runs forward, for the gradient of its input and for that of its
    /// weights; the first layer has no use for the second.
    pub trains: bool,
    /// Bytes of a stored weight.
    pub weight_bytes: f64,
    /// Bytes of a map's value.
    pub map_bytes: f64,
    /// Multiply-adds in the time of one in f32.
    pub pace: f64,
}

impl Work {
    /// An answer to one picture by f32 weights.
    pub fn inference() -> Self {
        Self { batch: 1, trains: false, weight_bytes: 4.0, map_bytes: 4.0, pace: 1.0 }
    }

    /// An answer to one picture by a quantized network: everything is a byte, and an instruction of VNNI sums four
    /// products where one of f32 adds one.
    pub fn quantized() -> Self {
        Self { weight_bytes: 1.0, map_bytes: 1.0, pace: 4.0, ..Self::inference() }
    }

    /// A step on `batch` pictures in f32.
    pub fn training(batch: usize) -> Self {
        Self { batch, trains: true, ..Self::inference() }
    }

    /// How often the layer of this position does the work of a forward pass.
    fn passes(&self, layer: usize) -> f64 {
        match (self.trains, layer) {
            (false, _) => 1.0,
            (true, 0) => 2.0,
            (true, _) => 3.0,
        }
    }
}

/// The least time that some work can take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bound {
    /// That time.
    pub seconds: f64,
    /// The part of it in layers that wait for memory and not for arithmetic.
    pub memory_seconds: f64,
    /// Operations, a multiply-add being two.
    pub flops: f64,
    /// Bytes of weights that are read.
    pub weight_bytes: f64,
}

impl Bound {
    /// Whether most of the time is spent on memory.
    pub fn by_memory(&self) -> bool {
        self.memory_seconds > self.seconds / 2.0
    }

    fn add(&mut self, other: &Bound) {
        self.seconds += other.seconds;
        self.memory_seconds += other.memory_seconds;
        self.flops += other.flops;
        self.weight_bytes += other.weight_bytes;
    }
}

/// A convolution or linear layer on a batch; bytes and multiply-adds of one pass.
struct Layer {
    passes: f64,
    pace: f64,
    macs: f64,
    weights: f64,
    maps: f64,
}

/// Bytes of the maps that a layer reads and writes for one picture, `each` a value; a picture itself is bytes.
fn map_bytes(graph: &Graph, node: &Node, each: f64) -> f64 {
    let bytes = |node: &Node| {
        let each = if matches!(node.op, Op::Input | Op::Normalize { .. }) { 1.0 } else { each };
        node.shape.elements() as f64 * each
    };
    bytes(node) + node.inputs.iter().map(|&input| bytes(graph.node(input))).sum::<f64>()
}

/// f32 operations per second, all threads together.
fn multiply_add_rate(pool: &Pool) -> f64 {
    let isa = pool.isa();
    let operations = |turns| 2.0 * (turns * chains(isa) * lanes(isa)) as f64;
    best_rate(pool, operations, |_, turns| {
        black_box(multiply_add(isa, turns));
    })
}

/// Bytes per second at which all threads together read `memory`, a part each.
fn read_rate(pool: &Pool, memory: &[f32]) -> f64 {
    let isa = pool.isa();
    let part = memory.len() / pool.threads() / LINE * LINE;
    let bytes = |turns| (turns * part * size_of::<f32>()) as f64;
    best_rate(pool, bytes, |thread, turns| {
        let part = &memory[thread * part..][..part];
        for _ in 0..turns {
            black_box(read(isa, black_box(part)));
        }
    })
}

/// The best rate of many trials in which every thread does `work(thread, turns)`, worth `amount(turns)`.
fn best_rate(pool: &Pool, amount: impl Fn(usize) -> f64, work: impl Fn(usize, usize) + Sync) -> f64 {
    let trial = |turns: usize| {
        let start = Instant::now();
        pool.run(pool.threads(), &|thread| work(thread, turns));
        start.elapsed()
    };
    let start = Instant::now();
    let (mut turns, mut time) = (1, trial(1));
    while time < TRIAL {
        turns *= 2;
        time = trial(turns);
    }
    let mut best = Duration::MAX;
    // The first trials warmed the caches.
    while best == Duration::MAX || start.elapsed() < PATIENCE {
        best = best.min(trial(turns));
    }
    amount(turns) * pool.threads() as f64 / best.as_secs_f64()
}

/// Chains of multiply-adds that do not wait for each other: enough for two units of latency four, and no more than
/// leaves a constant or two in the registers. The portable vector takes two registers of the smallest x86-64.
fn chains(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 | Isa::Avx2 => 10,
        Isa::Portable => 6,
    }
}

fn lanes(isa: Isa) -> usize {
    fn lanes_of<V: Simd>() -> usize {
        V::LANES
    }
    dispatch!(isa, lanes_of() -> usize)
}

/// `turns` multiply-adds in each chain.
fn multiply_add(isa: Isa, turns: usize) -> f32 {
    match isa {
        Isa::Avx512 | Isa::Avx2 => dispatch!(isa, multiply_add_kernel[10](turns: usize) -> f32),
        Isa::Portable => dispatch!(isa, multiply_add_kernel[6](turns: usize) -> f32),
    }
}

#[inline(always)]
fn multiply_add_kernel<V: Simd, const CHAINS: usize>(turns: usize) -> f32 {
    let (factor, term) = (V::splat(black_box(0.75)), V::splat(black_box(0.25)));
    // Different starts, or the compiler would see that all chains are one.
    let mut chain: [V; CHAINS] = array::from_fn(|index| V::splat(black_box(index as f32)));
    for _ in 0..turns {
        for value in &mut chain {
            *value = value.mul_add(factor, term);
        }
    }
    chain.into_iter().reduce(V::add).map_or(0.0, V::sum)
}

/// Reads every number; the result is their sum.
fn read(isa: Isa, memory: &[f32]) -> f32 {
    dispatch!(isa, read_kernel(memory: &[f32]) -> f32)
}

#[inline(always)]
fn read_kernel<V: Simd>(memory: &[f32]) -> f32 {
    const AT_ONCE: usize = 8;
    let mut sums = [V::zero(); AT_ONCE];
    for block in memory.chunks_exact(AT_ONCE * V::LANES) {
        for (index, sum) in sums.iter_mut().enumerate() {
            // SAFETY: a block is `AT_ONCE` vectors long.
            *sum = sum.add(unsafe { V::load(block.as_ptr().add(index * V::LANES)) });
        }
    }
    sums.into_iter().reduce(V::add).map_or(0.0, V::sum)
}

#[cfg(test)]
mod tests {
    use models::{Conv2d, Linear};

    use super::*;
    use crate::Device;

    /// A machine of 1 GFLOP/s that reads 4 KB at 4 GB/s and 64 KB at 1 GB/s.
    fn slow() -> Limits {
        let read = |bytes, rate| Read { bytes, rate };
        Limits { threads: 1, flops: 1e9, reads: vec![read(4096, 4e9), read(65536, 1e9)] }
    }

    #[test]
    fn bandwidth_lies_on_a_line_over_the_logarithm_of_the_size() {
        let rates = [1.0, 4096.0, 8192.0, 16384.0, 65536.0, 1e9].map(|bytes| slow().read_bandwidth(bytes));
        let expected = [4e9, 4e9, 3.25e9, 2.5e9, 1e9, 1e9];
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1.0, "{rate} for {expected}");
        }
    }

    /// A convolution 3x3 of 1 to 2 channels on 8x8, then a linear layer of 128 to 256.
    fn two_layers() -> Graph {
        let mut graph = Graph::new(1, 8, 8);
        let input = graph.input();
        let x = graph.conv2d("conv", input, Conv2d::new(2, 3).padding(1)).unwrap();
        let x = graph.add("flatten", Op::Flatten, &[x]).unwrap();
        let x = graph.linear("fc", x, Linear::new(256)).unwrap();
        graph.set_output("logits", x);
        graph
    }

    #[test]
    fn a_bound_is_the_sum_of_each_layers_longer_part() {
        let bound = slow().bound(&two_layers(), &Work::inference());
        // conv: 8 * 8 * 2 * 9 multiply-adds take 2304 ns; its maps, 64 + 512 bytes at 4 GB/s, far less.
        // fc: 128 * 256 take 65,536 ns; 132,096 bytes of weights at 1 GB/s and 1536 of maps at 4 GB/s take longer.
        let fc = 132_096.0 + 1536.0 / 4.0;
        assert!((bound.seconds * 1e9 - (2304.0 + fc)).abs() < 1e-3, "{bound:?}");
        assert!((bound.memory_seconds * 1e9 - fc).abs() < 1e-3 && bound.by_memory(), "{bound:?}");
        assert_eq!(bound.flops, 2.0 * (1152.0 + 32_768.0));
        assert_eq!(bound.weight_bytes, 72.0 + 132_096.0);
    }

    #[test]
    fn weights_of_half_the_size_are_read_in_half_the_time() {
        let halves = Work { weight_bytes: 2.0, ..Work::inference() };
        let bound = slow().bound(&two_layers(), &halves);
        // 66,048 + 36 bytes of weights are still read at 1 GB/s: 66,048 ns against 65,536 of arithmetic.
        assert!((bound.seconds * 1e9 - (2304.0 + 66_048.0 + 384.0)).abs() < 1e-3, "{bound:?}");
    }

    #[test]
    fn training_takes_three_passes_but_two_for_the_first_layer() {
        let bound = slow().bound(&two_layers(), &Work::training(10));
        // The batch shares the weights, so arithmetic decides for both: 10 * (2 * 2304 + 3 * 65,536) ns.
        assert!((bound.seconds * 1e9 - 10.0 * (2.0 * 2304.0 + 3.0 * 65_536.0)).abs() < 1e-2, "{bound:?}");
        assert!(!bound.by_memory());
    }

    #[test]
    fn every_instruction_set_of_this_machine_is_measured() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let limits = Limits::measure(&Runtime::with_isa(Device::Cpu, 2, isa.name()).unwrap());
            assert!(limits.threads == 2 && limits.flops > 1e8, "{limits:?}");
            assert!(limits.reads.len() == SIZES.len(), "{limits:?}");
            assert!(limits.reads.iter().all(|read| read.rate > 1e7 && read.rate.is_finite()), "{limits:?}");
        }
    }
}
