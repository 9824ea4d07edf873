//! A quantized network against the float network that it was made from, on pictures and weights that formulas give.

use engine::{Device, EngineError, Images, Model, Quantized, Runtime};
use models::{Graph, Task, formula, zoo};

const CLASSES: usize = 10;
const SIDE: usize = 32;

fn pictures(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|index| formula::picture(index, 3, SIDE, SIDE)).collect()
}

fn network(name: &str) -> Graph {
    zoo::build(name, &Task::new(CLASSES, 3, SIDE)).unwrap()
}

fn model(graph: &Graph, isa: &str, threads: usize) -> Model {
    let runtime = Runtime::with_isa(Device::Cpu, threads, isa).unwrap();
    Model::new(graph, &formula::weights(graph, 1.0), &runtime).unwrap()
}

/// Correlation of logits after each class's mean over the pictures is taken out, and the share of equal first places.
fn agreement(found: &[f32], expected: &[f32]) -> (f32, f32) {
    let centered = |logits: &[f32]| -> Vec<f32> {
        let rows = (logits.len() / CLASSES) as f32;
        let mean = |class: usize| logits.iter().skip(class).step_by(CLASSES).sum::<f32>() / rows;
        logits.iter().enumerate().map(|(index, logit)| logit - mean(index % CLASSES)).collect()
    };
    let (a, b) = (centered(found), centered(expected));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let first = |row: &[f32]| (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let equal =
        found.chunks(CLASSES).zip(expected.chunks(CLASSES)).filter(|(a, b)| first(a) == first(b)).count();
    (dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt(), equal as f32 / (found.len() / CLASSES) as f32)
}

#[test]
fn answers_agree_with_the_float_network() {
    for name in
        ["small-cnn-3", "resnet18", "mobilenet-v3-large", "efficientnet-b0", "resnet50", "wide-resnet-28-2"]
    {
        let Ok(graph) = zoo::build(name, &Task::new(CLASSES, 3, SIDE)) else {
            println!("no {name}");
            continue;
        };
        let mut float = model(&graph, "portable", 1);
        let mut quantized = match Quantized::new(&float, Images::U8(&pictures(0..32))) {
            Ok(q) => q,
            Err(e) => {
                println!("{name}: {e}");
                continue;
            }
        };
        let new = pictures(100..140);
        let expected = float.run(Images::U8(&new)).unwrap().to_vec();
        let found = quantized.run(Images::U8(&new)).unwrap();
        println!("{name} {:?} {:?} {:?}", agreement(found, &expected), &found[..5], &expected[..5]);
    }
}
