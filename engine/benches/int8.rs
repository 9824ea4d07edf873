//! Speed of the kernels over bytes beside those over f32, on the layers of the zoo's networks, one picture at a time
//! unless `--batch` says otherwise.
//!
//! `cargo bench -p distill-engine --bench int8 -- [--threads N] [--isa NAME] [--bytes NAME] [--ms N] [--batch N] [--layers] [PART OF A NAME]...`
//! prints, per layer, the shortest time of f32 and of bytes in milliseconds, their ratio, and what the latter is in
//! Gop/s, two operations per product, padding not counted as work. Both end with bias and ReLU. Then whole networks, at
//! 32 and 224 px with weights that a formula gives. `--layers` prints the layers alone, for `xtask/peers/int8.py`, which times ONNX Runtime on the same.
#![allow(clippy::print_stdout, missing_docs, unsafe_code)]

mod support;

use std::time::Duration;

use engine::buffer::Buffer;
use engine::kernels::conv::{self, ConvShape, Epilogue, Form};
use engine::kernels::int8::{Conv, Layer as Numbers, Output, Quantization};
use engine::pool::Pool;
use engine::simd::{ByteIsa, Isa};
use engine::{Device, Images, Model, Quantized, Runtime, WeightFormat};
use models::{Activation, Task, formula, zoo};
use support::{shortest, square, work};

/// Name, map, inputs, outputs, kernel, stride, depthwise.
type Layer = (&'static str, usize, usize, usize, usize, usize, bool);

const LAYERS: &[Layer] = &[
    ("3x3 64->64 32px", 32, 64, 64, 3, 1, false),
    ("resnet18 stem 7x7", 32, 3, 64, 7, 2, false),
    ("resnet18 layer1 3x3 8px", 8, 64, 64, 3, 1, false),
    ("resnet18 layer2 3x3 s2", 8, 64, 128, 3, 2, false),
    ("resnet18 layer2 3x3 4px", 4, 128, 128, 3, 1, false),
    ("resnet18 layer2 1x1 s2", 8, 64, 128, 1, 2, false),
    ("resnet18 layer3 3x3 s2", 4, 128, 256, 3, 2, false),
    ("resnet18 layer3 3x3 2px", 2, 256, 256, 3, 1, false),
    ("resnet18 layer4 3x3 s2", 2, 256, 512, 3, 2, false),
    ("resnet18 layer4 3x3 1px", 1, 512, 512, 3, 1, false),
    ("wrn 3x3 32->32 32px", 32, 32, 32, 3, 1, false),
    ("wrn 3x3 16->32 32px", 32, 16, 32, 3, 1, false),
    ("mobilenet stem 3x3 s2", 32, 3, 16, 3, 2, false),
    ("mobilenet dw3 16 16px", 16, 16, 16, 3, 1, true),
    ("mobilenet 1x1 16->16 16px", 16, 16, 16, 1, 1, false),
    ("mobilenet 1x1 16->64 16px", 16, 16, 64, 1, 1, false),
    ("mobilenet dw3 64 s2 16px", 16, 64, 64, 3, 2, true),
    ("mobilenet 1x1 64->24 8px", 8, 64, 24, 1, 1, false),
    ("mobilenet 1x1 24->72 8px", 8, 24, 72, 1, 1, false),
    ("mobilenet dw3 72 8px", 8, 72, 72, 3, 1, true),
    ("mobilenet dw5 72 s2 8px", 8, 72, 72, 5, 2, true),
    ("mobilenet 1x1 72->40 4px", 4, 72, 40, 1, 1, false),
    ("mobilenet dw5 120 4px", 4, 120, 120, 5, 1, true),
    ("mobilenet dw3 240 s2 4px", 4, 240, 240, 3, 2, true),
    ("mobilenet 1x1 80->480 2px", 2, 80, 480, 1, 1, false),
    ("mobilenet dw3 480 2px", 2, 480, 480, 3, 1, true),
    ("mobilenet 1x1 672->112 2px", 2, 672, 112, 1, 1, false),
    ("mobilenet dw5 960 1px", 1, 960, 960, 5, 1, true),
    ("mobilenet 1x1 160->960 1px", 1, 160, 960, 1, 1, false),
    ("mobilenet 1x1 960->160 1px", 1, 960, 160, 1, 1, false),
    ("mobilenet fc 960->1280", 1, 960, 1280, 1, 1, false),
    ("depthwise 3x3 96 16px", 16, 96, 96, 3, 1, true),
    ("effnet dw5 144 s2 16px", 16, 144, 144, 5, 2, true),
    ("1x1 256->256 16px", 16, 256, 256, 1, 1, false),
    ("224px stem 7x7", 224, 3, 64, 7, 2, false),
    ("224px layer1 3x3", 56, 64, 64, 3, 1, false),
    ("224px layer2 3x3", 28, 128, 128, 3, 1, false),
    ("224px layer3 3x3", 14, 256, 256, 3, 1, false),
    ("224px layer4 3x3", 7, 512, 512, 3, 1, false),
    ("224px 1x1 16->64 112px", 112, 16, 64, 1, 1, false),
    ("224px 1x1 96->24 56px", 56, 96, 24, 1, 1, false),
    ("224px dw3 64 s2 112px", 112, 64, 64, 3, 2, true),
    ("224px dw5 120 28px", 28, 120, 120, 5, 1, true),
    ("224px dw3 240 14px", 14, 240, 240, 3, 1, true),
    ("224px 1x1 672->112 14px", 14, 672, 112, 1, 1, false),
];

/// Name, channels and side of the pictures.
const NETWORKS: &[(&str, usize, usize)] = &[
    ("small-cnn-3", 3, 32),
    ("resnet18", 3, 32),
    ("mobilenet-v3-small", 3, 32),
    ("mobilenet-v3-large", 3, 32),
    ("efficientnet-b0", 3, 32),
    ("wrn-28-2", 3, 32),
    ("small-cnn-3", 1, 48),
    ("resnet18", 3, 48),
    ("resnet18", 3, 224),
    ("resnet50", 3, 224),
    ("mobilenet-v3-small", 3, 224),
    ("mobilenet-v3-large", 3, 224),
    ("efficientnet-b0", 3, 224),
];

struct Options {
    threads: usize,
    isa: Isa,
    byte_isa: Option<ByteIsa>,
    time: Duration,
    batch: usize,
    layers: bool,
    names: Vec<String>,
}

fn options() -> Options {
    let time = Duration::from_millis(60);
    let mut options = Options {
        threads: 1,
        isa: Isa::detect(),
        byte_isa: None,
        time,
        batch: 1,
        layers: false,
        names: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--threads" => options.threads = value().parse().unwrap_or(1),
            "--ms" => options.time = Duration::from_millis(value().parse().unwrap_or(60)),
            "--batch" => options.batch = value().parse().unwrap_or(1),
            "--isa" => {
                let name = value();
                options.isa = Isa::ALL.into_iter().find(|isa| isa.name() == name).unwrap_or(options.isa);
            }
            "--bytes" => {
                let name = value();
                options.byte_isa = ByteIsa::ALL.into_iter().find(|isa| isa.name() == name);
            }
            "--layers" => options.layers = true,
            "--bench" => {}
            _ => options.names.push(arg),
        }
    }
    options
}

fn shape(layer: &Layer, batch: usize) -> ConvShape {
    let &(_, map, inputs, outputs, kernel, stride, depthwise) = layer;
    square(batch, map, [inputs, outputs], kernel, stride, depthwise)
}

/// Seconds of a layer over f32, its weights prepared as for a network that answers.
fn real(pool: &Pool, shape: &ConvShape, time: Duration) -> f64 {
    let array = |len: usize| (0..len).map(|i| (i % 17) as f32 / 16.0 - 0.5).collect::<Vec<f32>>();
    let (x, weight) = (array(shape.in_len()), array(conv::weight_len(shape)));
    let (bias, mut y) = (array(shape.out_channels), array(shape.out_len()));
    let epilogue = Epilogue { bias: Some(&bias), residual: None, activation: Some(Activation::Relu) };
    let form = Form::of(shape, WeightFormat::F32);
    let mut stored = Buffer::zeros(form.len(shape));
    form.store(pool, shape, &weight, &mut stored);
    let weight = form.weight(&stored);
    shortest(pool.threads(), time, || conv::forward(pool, shape, &x, weight, &epilogue, &mut y))
}

/// Seconds of a layer over bytes.
fn bytes(pool: &Pool, shape: &ConvShape, time: Duration) -> f64 {
    let array = |len: usize| (0..len).map(|i| (i * 7919 % 251) as u8).collect::<Vec<u8>>();
    let weights = shape.out_channels * shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1];
    let weight: Vec<i8> = array(weights).into_iter().map(|byte| byte as i8).collect();
    let numbers = Numbers {
        x: Quantization { scale: 0.02, zero_point: 128 },
        weight: &weight,
        weight_scales: &vec![0.01; shape.out_channels],
        bias: &vec![100; shape.out_channels],
    };
    let output = Output::clamped(Quantization { scale: 0.5, zero_point: 3 }, Activation::Relu);
    let conv = output.and_then(|output| Conv::new(shape, &numbers, output).ok());
    let (x, mut y) = (array(shape.in_len()), array(shape.out_len()));
    conv.map_or(f64::NAN, |conv| shortest(pool.threads(), time, || conv.forward(pool, &x, None, &mut y)))
}

/// Seconds of a network over f32 and over bytes, for a batch.
fn network(name: &str, [channels, side]: [usize; 2], options: &Options) -> Option<[f64; 2]> {
    let task = Task { features: Some(128), ..Task::new(10, channels, side) };
    let graph = zoo::build(name, &task).ok()?;
    let runtime = Runtime::with_isa(Device::Cpu, options.threads, options.isa.name()).ok()?;
    let weights = formula::weights(&graph, 1.0);
    let mut model = Model::new(&graph, &weights, &runtime).ok()?;
    let pictures: Vec<u8> =
        (0..options.batch).flat_map(|index| formula::picture(index, channels, side, side)).collect();
    let pictures = Images::U8(&pictures);
    let mut quantized = Quantized::calibrated(&graph, &weights, &runtime, pictures).ok()?;
    let time = options.time * 5;
    Some([
        shortest(options.threads, time, || assert!(model.run(pictures).is_ok())),
        shortest(options.threads, time, || assert!(quantized.run(pictures).is_ok())),
    ])
}

fn main() {
    let options = options();
    let wanted =
        |name: &str| options.names.is_empty() || options.names.iter().any(|part| name.contains(part));
    let layers = LAYERS.iter().filter(|layer| wanted(layer.0));
    if options.layers {
        for (name, map, inputs, outputs, kernel, stride, depthwise) in layers {
            println!("{name},{map},{inputs},{outputs},{kernel},{stride},{}", usize::from(*depthwise));
        }
        return;
    }
    let mut pool = Pool::with_isa(options.threads, options.isa);
    if let Some(byte_isa) = options.byte_isa {
        pool = pool.with_byte_isa(byte_isa);
    }
    println!("{} threads, {} and {}", pool.threads(), pool.isa().name(), pool.byte_isa().name());
    println!("{:28} {:>9} {:>9} {:>6} {:>8}", "ms", "f32", "int8", "ratio", "Gop/s");
    for layer in layers {
        let shape = shape(layer, options.batch);
        let (real, bytes) = (real(&pool, &shape, options.time), bytes(&pool, &shape, options.time));
        let speed = 2e-9 * work(&shape) / bytes;
        println!("{:28} {:9.4} {:9.4} {:6.2} {:8.1}", layer.0, real * 1e3, bytes * 1e3, real / bytes, speed);
    }
    for &(name, channels, side) in NETWORKS {
        let title = format!("{name} {side}px, whole");
        if !wanted(&title) {
            continue;
        }
        if let Some([real, bytes]) = network(name, [channels, side], &options) {
            println!("{title:28} {:9.4} {:9.4} {:6.2}", real * 1e3, bytes * 1e3, real / bytes);
        }
    }
}
