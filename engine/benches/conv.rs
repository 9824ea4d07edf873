//! Speed of the convolution kernels on the layers of the zoo's networks, batch 64 at 32 px with the `imagenet` stem
//! unless a line says otherwise.
//!
//! `cargo bench -p distill-engine --bench conv -- [--threads N] [--isa NAME] [--ms N] [--batch N] [PART OF A NAME]...` prints, per
//! layer, the shortest time of each pass in milliseconds and what that is in GFLOP/s, padding not counted as work.
#![allow(clippy::print_stdout, missing_docs, unsafe_code)]

mod support;

use std::time::Duration;

use engine::buffer::Buffer;
use engine::kernels::conv::{self, ConvShape, Epilogue, Form, Weight, WeightFormat};
use engine::pool::Pool;
use engine::simd::Isa;
use support::{shortest, square, work};

/// Name, batch, map, inputs, outputs, kernel, stride, depthwise.
type Layer = (&'static str, usize, usize, usize, usize, usize, usize, bool);

const LAYERS: &[Layer] = &[
    ("3x3 64->64 32px", 64, 32, 64, 64, 3, 1, false),
    ("resnet18 stem 7x7", 64, 32, 3, 64, 7, 2, false),
    ("resnet18 layer1 3x3 8px", 64, 8, 64, 64, 3, 1, false),
    ("resnet18 layer2 3x3 s2", 64, 8, 64, 128, 3, 2, false),
    ("resnet18 layer2 3x3 4px", 64, 4, 128, 128, 3, 1, false),
    ("resnet18 layer2 1x1 s2", 64, 8, 64, 128, 1, 2, false),
    ("resnet18 layer3 3x3 s2", 64, 4, 128, 256, 3, 2, false),
    ("resnet18 layer3 3x3 2px", 64, 2, 256, 256, 3, 1, false),
    ("resnet18 layer4 3x3 s2", 64, 2, 256, 512, 3, 2, false),
    ("resnet18 layer4 3x3 1px", 64, 1, 512, 512, 3, 1, false),
    ("wrn 3x3 32->32 32px", 64, 32, 32, 32, 3, 1, false),
    ("wrn 3x3 16->32 32px", 64, 32, 16, 32, 3, 1, false),
    ("mobilenet stem 3x3 s2", 64, 32, 3, 16, 3, 2, false),
    ("mobilenet dw3 16 16px", 64, 16, 16, 16, 3, 1, true),
    ("mobilenet 1x1 16->16 16px", 64, 16, 16, 16, 1, 1, false),
    ("mobilenet 1x1 16->64 16px", 64, 16, 16, 64, 1, 1, false),
    ("mobilenet dw3 64 s2 16px", 64, 16, 64, 64, 3, 2, true),
    ("mobilenet 1x1 64->24 8px", 64, 8, 64, 24, 1, 1, false),
    ("mobilenet 1x1 24->72 8px", 64, 8, 24, 72, 1, 1, false),
    ("mobilenet dw3 72 8px", 64, 8, 72, 72, 3, 1, true),
    ("mobilenet dw5 72 s2 8px", 64, 8, 72, 72, 5, 2, true),
    ("mobilenet 1x1 72->40 4px", 64, 4, 72, 40, 1, 1, false),
    ("mobilenet dw5 120 4px", 64, 4, 120, 120, 5, 1, true),
    ("mobilenet dw3 240 s2 4px", 64, 4, 240, 240, 3, 2, true),
    ("mobilenet 1x1 80->480 2px", 64, 2, 80, 480, 1, 1, false),
    ("mobilenet dw3 480 2px", 64, 2, 480, 480, 3, 1, true),
    ("mobilenet 1x1 672->112 2px", 64, 2, 672, 112, 1, 1, false),
    ("mobilenet dw5 960 1px", 64, 1, 960, 960, 5, 1, true),
    ("mobilenet 1x1 160->960 1px", 64, 1, 160, 960, 1, 1, false),
    ("mobilenet 1x1 960->160 1px", 64, 1, 960, 160, 1, 1, false),
    ("mobilenet fc 960->1280", 64, 1, 960, 1280, 1, 1, false),
    ("depthwise 3x3 96 16px", 64, 16, 96, 96, 3, 1, true),
    ("effnet dw5 144 s2 16px", 64, 16, 144, 144, 5, 2, true),
    ("1x1 256->256 16px", 64, 16, 256, 256, 1, 1, false),
    ("linear 1024x1024 of 1024", 1024, 1, 1024, 1024, 1, 1, false),
    ("batch 1: layer1 3x3 8px", 1, 8, 64, 64, 3, 1, false),
    ("batch 1: layer3 3x3 2px", 1, 2, 256, 256, 3, 1, false),
    ("batch 1: layer4 3x3 1px", 1, 1, 512, 512, 3, 1, false),
    ("batch 1: fc 960->1280", 1, 1, 960, 1280, 1, 1, false),
    ("batch 1: 224px layer1", 1, 56, 64, 64, 3, 1, false),
    ("batch 1: 224px layer4", 1, 7, 512, 512, 3, 1, false),
    ("batch 1: 224px layer2", 1, 28, 128, 128, 3, 1, false),
    ("batch 1: 224px layer3", 1, 14, 256, 256, 3, 1, false),
    ("batch 1: 224px stem 7x7", 1, 224, 3, 64, 7, 2, false),
    ("batch 1: small-cnn 3->32 48px", 1, 48, 3, 32, 3, 1, false),
    ("batch 1: small-cnn 32->64 24px", 1, 24, 32, 64, 3, 1, false),
    ("batch 1: small-cnn 64->128 12px", 1, 12, 64, 128, 3, 1, false),
    ("batch 1: small-cnn fc", 1, 1, 4608, 128, 1, 1, false),
    ("batch 1: 224px 1x1 16->64", 1, 112, 16, 64, 1, 1, false),
    ("batch 1: 224px 1x1 64->24", 1, 56, 64, 24, 1, 1, false),
    ("batch 1: 224px 1x1 24->72", 1, 56, 24, 72, 1, 1, false),
    ("batch 1: 224px 1x1 80->480", 1, 14, 80, 480, 1, 1, false),
    ("batch 1: 224px 1x1 160->960", 1, 7, 160, 960, 1, 1, false),
    ("batch 1: 224px 1x1 96->24", 1, 56, 96, 24, 1, 1, false),
];

struct Options {
    threads: usize,
    isa: Isa,
    time: Duration,
    batch: Option<usize>,
    names: Vec<String>,
}

fn options() -> Options {
    let time = Duration::from_millis(60);
    let mut options = Options { threads: 2, isa: Isa::detect(), time, batch: None, names: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_default();
        match arg.as_str() {
            "--threads" => options.threads = value().parse().unwrap_or(2),
            "--ms" => options.time = Duration::from_millis(value().parse().unwrap_or(60)),
            "--batch" => options.batch = value().parse().ok(),
            "--isa" => {
                let name = value();
                options.isa = Isa::ALL.into_iter().find(|isa| isa.name() == name).unwrap_or(options.isa);
            }
            "--bench" => {}
            _ => options.names.push(arg),
        }
    }
    options
}

fn shape(layer: &Layer) -> ConvShape {
    let &(_, batch, map, inputs, outputs, kernel, stride, depthwise) = layer;
    square(batch, map, [inputs, outputs], kernel, stride, depthwise)
}

fn main() {
    let options = options();
    let pool = Pool::with_isa(options.threads, options.isa);
    println!("{} threads, {}", pool.threads(), pool.isa().name());
    println!(
        "{:28} {:>16} {:>16} {:>16} {:>16} {:>16}",
        "ms, GFLOP/s", "forward", "input gradient", "weight gradient", "prepared f32", "prepared bf16"
    );
    for layer in LAYERS {
        if !options.names.is_empty() && !options.names.iter().any(|name| layer.0.contains(name.as_str())) {
            continue;
        }
        let mut shape = shape(layer);
        shape.batch = options.batch.unwrap_or(shape.batch);
        let array = |len: usize| {
            // On huge pages, as in a network.
            let mut array = Buffer::zeros(len);
            array.iter_mut().enumerate().for_each(|(i, value)| *value = (i % 17) as f32 / 16.0 - 0.5);
            array
        };
        let (x, weight) = (array(shape.in_len()), array(conv::weight_len(&shape)));
        let (mut y, mut dx, mut dw) = (array(shape.out_len()), array(x.len()), array(weight.len()));
        let dy = array(y.len());
        let times = [
            shortest(options.threads, options.time, || {
                conv::forward(&pool, &shape, &x, Weight::Plain(&weight), &Epilogue::default(), &mut y)
            }),
            shortest(options.threads, options.time, || {
                conv::backward_input(&pool, &shape, &dy, &weight, &mut dx, false)
            }),
            shortest(options.threads, options.time, || {
                conv::backward_weight(&pool, &shape, &x, &dy, &mut dw, false)
            }),
        ];
        let prepared = [WeightFormat::F32, WeightFormat::Bf16].map(|format| {
            let form = Form::of(&shape, format);
            let mut stored = Buffer::zeros(form.len(&shape));
            form.store(&pool, &shape, &weight, &mut stored);
            shortest(options.threads, options.time, || {
                conv::forward(&pool, &shape, &x, form.weight(&stored), &Epilogue::default(), &mut y)
            })
        });
        let cell = |time: f64| format!("{:9.3} {:6.1}", time * 1e3, 2e-9 * work(&shape) / time);
        let cells: Vec<String> = times.into_iter().chain(prepared).map(cell).collect();
        println!("{:28} {}", layer.0, cells.join(" "));
    }
}
