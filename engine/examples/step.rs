//! Times a training step (forward, cross-entropy, backward, SGD) on a batch in memory, or inference with `--infer`.
//!
//! `cargo run --release -p distill-engine --example step -- --arch resnet18 --size 32 --batch 64 --threads 2`
//!
//! On a GPU (`--device cuda --precision bf16`) the batch lies there, and whole blocks of steps are timed: see `turns`.
#![allow(clippy::print_stdout, clippy::print_stderr)] // an example prints

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::Tensor;
use engine::{
    BatchNormMode, Device, Fwd, Grad, Images, Model, Net, Optimizer, Precision, Profile, Quantized, Runtime,
    Step, WeightFormat,
};
use models::{Graph, Stem, Task, formula, zoo};

mod turns;

/// Calls before the first that counts, as many as peers have.
const WARM_UP: usize = 20;

struct Options {
    arch: String,
    size: usize,
    batch: usize,
    threads: usize,
    iterations: usize,
    classes: usize,
    small_stem: bool,
    infer: bool,
    profile: bool,
    /// Wall-clock time on one thread too.
    wall: bool,
    isa: Option<String>,
    device: Device,
    precision: Option<Precision>,
    /// Blocks of steps when asked for on the standard input.
    turns: bool,
    /// Where blocks of steps are reported as JSON.
    json: Option<PathBuf>,
    /// In inference.
    weights: Stored,
}

/// How weights are stored in inference.
enum Stored {
    As(WeightFormat),
    /// A quantized network.
    Quantized,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        arch: "mobilenet-v3-large".into(),
        size: 32,
        batch: 64,
        threads: 2,
        iterations: 20,
        classes: 10,
        small_stem: false,
        infer: false,
        profile: false,
        wall: false,
        isa: None,
        device: Device::Cpu,
        precision: None,
        turns: false,
        json: None,
        weights: Stored::As(WeightFormat::F32),
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--arch" => options.arch = value()?,
            "--size" => options.size = value()?.parse()?,
            "--batch" => options.batch = value()?.parse()?,
            "--threads" => options.threads = value()?.parse()?,
            "--iterations" => options.iterations = value()?.parse()?,
            "--classes" => options.classes = value()?.parse()?,
            "--isa" => options.isa = Some(value()?),
            "--device" => options.device = value()?.parse()?,
            "--precision" => options.precision = Some(value()?.parse()?),
            "--turns" => options.turns = true,
            "--json" => options.json = Some(value()?.into()),
            "--weights" => {
                let format = value()?;
                let whole = format == "int8";
                options.weights = if whole { Stored::Quantized } else { Stored::As(format.parse()?) };
            }
            "--small-stem" => options.small_stem = true,
            "--infer" => options.infer = true,
            "--profile" => options.profile = true,
            "--wall" => options.wall = true,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let stem = if options.small_stem { Stem::Small } else { Stem::Imagenet };
    let task = Task::new(options.classes, 3, options.size).with_stem(stem);
    let graph = zoo::build(&options.arch, &task)?;
    let runtime = match &options.isa {
        Some(isa) => Runtime::with_isa(options.device, options.threads, isa)?,
        None => {
            let precision = options.precision.unwrap_or(Precision::of(options.device));
            Runtime::with_precision(options.device, options.threads, precision)?
        }
    };
    println!(
        "{} at {} px, batch {}, {} threads, {}, {} multiply-accumulates a picture",
        options.arch,
        options.size,
        options.batch,
        runtime.threads(),
        runtime.isa(),
        models::cost::total(&graph).macs
    );
    let pictures =
        (0..options.batch).flat_map(|index| formula::picture(index, 3, options.size, options.size));
    let pictures: Vec<u8> = pictures.collect();
    let before = kilobytes("VmRSS");
    if options.infer {
        infer(&options, &graph, &runtime, &pictures)?;
    } else {
        train(&options, graph, &runtime, pictures)?;
    }
    if let Some((peak, before)) = kilobytes("VmHWM").zip(before) {
        println!("peak memory of the network {} bytes", peak.saturating_sub(before) * 1024);
    }
    Ok(())
}

/// A figure of this process's memory, where the system tells: `VmRSS` is what it holds now, `VmHWM` the most it held.
fn kilobytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Milliseconds of every iteration, sorted: by the clock, or, on one thread and without `--wall`, of the processor, which
/// a busy machine does not stretch.
fn timed(
    options: &Options,
    iterations: usize,
    mut work: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut times = Vec::with_capacity(iterations);
    for _ in 0..iterations {
        let busy = if options.threads == 1 && !options.wall { processor_seconds() } else { None };
        let start = Instant::now();
        work()?;
        let elapsed = match busy {
            Some(busy) => processor_seconds().unwrap_or(busy) - busy,
            None => start.elapsed().as_secs_f64(),
        };
        times.push(elapsed * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Seconds that the processor has spent on this thread, where the system tells.
#[cfg(target_os = "linux")]
fn processor_seconds() -> Option<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes to a local that lives through the call.
    #[allow(unsafe_code)] // the standard library has no such clock
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    (done == 0).then_some(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn processor_seconds() -> Option<f64> {
    None
}

fn report(batch: usize, times: &[f64]) {
    let (best, median) = (times[0], times[times.len() / 2]);
    println!("median {median:.3} ms ({:.1} pictures/s), best {best:.3} ms", batch as f64 / median * 1e3);
}

fn train(
    options: &Options,
    graph: Graph,
    runtime: &Runtime,
    pictures: Vec<u8>,
) -> Result<(), Box<dyn Error>> {
    let net = Net::new(graph, runtime, 0)?;
    let shape = (options.batch, options.size, options.size, 3);
    let images = Tensor::from_vec(pictures, shape, net.tensors())?;
    let labels: Vec<u32> = (0..options.batch).map(|index| (index % options.classes) as u32).collect();
    let labels = Tensor::from_vec(labels, options.batch, net.tensors())?;
    let case = turns::Case {
        name: format!("{} at {} px, batch {}", options.arch, options.size, options.batch),
        runtime,
        pictures: options.batch,
        macs: models::cost::total(net.graph()).macs,
    };
    let mut step = 0;
    let mut work = || -> Result<(), Box<dyn Error>> {
        step += 1;
        let bn = BatchNormMode::Train { update: true };
        let outputs =
            net.forward(&images, Fwd { grad: Grad::Params, bn, want: &["logits"], step, pass: 0 })?;
        candle_nn::loss::cross_entropy(outputs.get("logits")?, &labels)?.backward()?;
        net.update(&Step {
            optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true },
            lr: 0.01,
            weight_decay: 5e-4,
            grad_scale: 1.0,
            clip_norm: None,
            ema: None,
        })?;
        Ok(())
    };
    let blocks = options.turns || options.json.is_some() || options.device != Device::Cpu;
    if blocks && !options.profile {
        return turns::take(&case, options.iterations, options.turns, options.json.as_deref(), work);
    }
    timed(options, 3, &mut work)?;
    if options.profile {
        net.start_profile();
    }
    let times = timed(options, options.iterations, &mut work)?;
    report(options.batch, &times);
    by_kind(&net.profile(), options.iterations);
    Ok(())
}

fn infer(options: &Options, graph: &Graph, runtime: &Runtime, pictures: &[u8]) -> Result<(), Box<dyn Error>> {
    let weights = formula::weights(graph, 1.0);
    let format = match options.weights {
        Stored::As(format) => format,
        Stored::Quantized => return infer_quantized(options, graph, runtime, pictures),
    };
    let mut model = Model::with_format(graph, &weights, format, runtime)?;
    let mut work = || -> Result<(), Box<dyn Error>> {
        model.run(Images::U8(pictures))?;
        Ok(())
    };
    timed(options, WARM_UP, &mut work)?;
    let times = timed(options, options.iterations, &mut work)?;
    report(options.batch, &times);
    if options.profile {
        model.start_profile();
        for _ in 0..options.iterations {
            model.run(Images::U8(pictures))?;
        }
        by_kind(&model.profile(), options.iterations);
    }
    Ok(())
}

fn infer_quantized(
    options: &Options,
    graph: &Graph,
    runtime: &Runtime,
    pictures: &[u8],
) -> Result<(), Box<dyn Error>> {
    let mut model =
        Quantized::calibrated(graph, &formula::weights(graph, 1.0), runtime, Images::U8(pictures))?;
    let mut work = || -> Result<(), Box<dyn Error>> {
        model.run(Images::U8(pictures))?;
        Ok(())
    };
    timed(options, WARM_UP, &mut work)?;
    report(options.batch, &timed(options, options.iterations, &mut work)?);
    Ok(())
}

/// Milliseconds of an iteration for every kind of step, the slowest first.
fn by_kind(profile: &Profile, iterations: usize) {
    let mut kinds: Vec<(&str, [f64; 2])> = Vec::new();
    for node in &profile.nodes {
        let seconds = [node.forward.seconds, node.backward.seconds];
        match kinds.iter_mut().find(|(kind, _)| *kind == node.kind) {
            Some((_, total)) => *total = [total[0] + seconds[0], total[1] + seconds[1]],
            None => kinds.push((node.kind, seconds)),
        }
    }
    kinds.sort_by(|(_, a), (_, b)| (b[0] + b[1]).total_cmp(&(a[0] + a[1])));
    let each = 1e3 / iterations as f64;
    for (kind, [forward, backward]) in kinds {
        println!("{kind:>18}  forward {:8.4} ms  backward {:8.4} ms", forward * each, backward * each);
    }
}
