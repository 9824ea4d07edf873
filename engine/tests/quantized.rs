//! A quantized network against the float network that it was made from, on pictures and weights that formulas give.
#![allow(clippy::unwrap_used)] // a test may panic

use engine::{Device, EngineError, Images, Model, Observer, Quantized, Runtime};
use models::{Granularity, Graph, Op, Pool2d, QuantizedNetwork, Task, formula, zoo};

const CLASSES: usize = 10;
const SIDE: usize = 32;

fn pictures(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|index| formula::picture(index, 3, SIDE, SIDE)).collect()
}

fn network(name: &str) -> Graph {
    zoo::build(name, &Task::new(CLASSES, 3, SIDE)).unwrap()
}

fn runtime() -> Runtime {
    Runtime::with_isa(Device::Cpu, 1, "portable").unwrap()
}

fn quantized(graph: &Graph, calibration: &[u8]) -> Result<Quantized, EngineError> {
    Quantized::calibrated(graph, &formula::weights(graph, 1.0), &runtime(), Images::U8(calibration))
}

/// How well logits agree.
#[derive(Debug)]
struct Agreement {
    /// Correlation after the mean of each class over the pictures is taken out.
    correlation: f32,
    /// Root mean square of the difference in units of that of the expected logits.
    error: f32,
    /// Share of pictures with the same first class.
    first: f32,
}

fn agreement(found: &[f32], expected: &[f32]) -> Agreement {
    let pictures = (found.len() / CLASSES) as f32;
    let centered = |logits: &[f32]| -> Vec<f32> {
        let mean = |class: usize| logits.iter().skip(class).step_by(CLASSES).sum::<f32>() / pictures;
        logits.iter().enumerate().map(|(index, logit)| logit - mean(index % CLASSES)).collect()
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    let (a, b) = (centered(found), centered(expected));
    let first = |row: &[f32]| (0..CLASSES).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let rows = found.chunks(CLASSES).zip(expected.chunks(CLASSES));
    Agreement {
        correlation: dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt(),
        error: (dot(&difference, &difference) / dot(expected, expected)).sqrt(),
        first: rows.filter(|(a, b)| first(a) == first(b)).count() as f32 / pictures,
    }
}

/// Random weights leave logits close together, so a small error moves the first class sooner than in a trained network.
#[test]
fn answers_agree_with_the_float_network() {
    for (name, correlation, error, first) in [
        ("small-cnn-3", 0.998, 0.03, 0.9),
        ("resnet18", 0.98, 0.1, 0.9),
        ("mobilenet-v3-large", 0.9, 0.4, 0.6),
        ("wrn-10-1", 0.98, 0.1, 0.8),
    ] {
        let graph = network(name);
        let mut float = Model::new(&graph, &formula::weights(&graph, 1.0), &runtime()).unwrap();
        let mut quantized = quantized(&graph, &pictures(0..24)).unwrap();
        let new = pictures(100..124);
        let expected = float.run(Images::U8(&new)).unwrap().to_vec();
        let found = agreement(quantized.run(Images::U8(&new)).unwrap(), &expected);
        let good = found.correlation > correlation && found.error < error && found.first >= first;
        assert!(good, "{name}: {found:?}");
    }
}

#[test]
fn instruction_sets_and_threads_give_the_same_answers() {
    for name in ["small-cnn-3", "mobilenet-v3-small"] {
        // The float models differ in the last place, and with them ranges and scales; so all run one quantized network.
        let quantized = quantized(&network(name), &pictures(0..4)).unwrap();
        let new = pictures(50..54);
        let expected = quantized.clone().run(Images::U8(&new)).unwrap().to_vec();
        for isa in ["avx2", "avx512"] {
            for threads in [1, 2] {
                let Ok(runtime) = Runtime::with_isa(Device::Cpu, threads, isa) else { continue };
                let mut other = quantized.on(&runtime);
                assert_eq!(other.run(Images::U8(&new)).unwrap(), expected, "{name} {isa} {threads}");
            }
        }
    }
}

#[test]
fn bytes_and_floats_of_a_picture_give_the_same_answer() {
    let mut quantized = quantized(&network("small-cnn-3"), &pictures(0..4)).unwrap();
    let bytes = pictures(9..10);
    let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
    let expected = quantized.run(Images::U8(&bytes)).unwrap().to_vec();
    assert_eq!(quantized.run(Images::F32(&floats)).unwrap(), expected);
}

#[test]
fn pictures_of_another_size_are_refused() {
    let graph = network("small-cnn-3");
    let error = quantized(&graph, &[0; 10]).unwrap_err();
    assert!(matches!(error, EngineError::Images { .. }), "{error}");
    let mut quantized = quantized(&graph, &pictures(0..2)).unwrap();
    let error = quantized.run(Images::U8(&[0; 3073])).unwrap_err().to_string();
    assert!(error.contains("expected pictures of 3072 values, found 3073 values"), "{error}");
}

/// A network of one step behind the input.
fn one(op: Op) -> Graph {
    let mut graph = Graph::new(3, 4, 4);
    let step = graph.add("step", op, &[graph.input()]).unwrap();
    graph.set_output("logits", step);
    graph
}

#[test]
fn a_windowed_mean_is_that_of_the_float_network() {
    let graph = one(Op::AvgPool(Pool2d::new(2).padding(1)));
    let picture: Vec<u8> = (0..48).map(|index| (index * 5) as u8).collect();
    let expected = Model::new(&graph, &formula::weights(&graph, 1.0), &runtime())
        .unwrap()
        .run(Images::U8(&picture))
        .unwrap()
        .to_vec();
    let mut quantized = quantized(&graph, &picture).unwrap();
    let found: Vec<f32> = nchw(quantized.run(Images::U8(&picture)).unwrap(), 3);
    let step = 235.0 / 255.0 / 255.0;
    let far = found.iter().zip(&expected).position(|(found, expected)| (found - expected).abs() > step);
    assert_eq!(far, None, "{found:?} {expected:?}");
}

/// The quantized network answers maps as they lie, channels innermost.
fn nchw(map: &[f32], channels: usize) -> Vec<f32> {
    (0..channels).flat_map(|channel| map.iter().skip(channel).step_by(channels).copied()).collect()
}

#[test]
fn a_step_without_a_kernel_is_named() {
    let mut graph = Graph::new(3, 4, 4);
    let pool = graph.add("pool", Op::GlobalAvgPool, &[graph.input()]).unwrap();
    let step = graph.add("late", Op::Normalize { mean: vec![0.0; 3], std: vec![1.0; 3] }, &[pool]).unwrap();
    graph.set_output("logits", step);
    let error = quantized(&graph, &[1; 48]).unwrap_err().to_string();
    assert_eq!(error, "quantization: step `late`: it has no kernel over bytes");
}

/// The value that `Quantized::of` takes, for a small network.
fn network_value(graph: &Graph) -> QuantizedNetwork {
    let observer = Observer::new(graph, &formula::weights(graph, 1.0), &runtime()).unwrap();
    observer.quantize(&vec![[-1.0, 4.0]; observer.points().len()], Granularity::PerChannel).unwrap()
}

#[test]
fn every_wrong_part_of_a_quantized_network_is_named() {
    type Slip = fn(&mut QuantizedNetwork);
    let slips: [(&str, Slip); 8] = [
        ("layer `conv1`: expected its weights, found none", |n| drop(n.layers.remove("conv1"))),
        ("layer `fc`: expected [10, 128] weights", |n| n.layers.get_mut("fc").unwrap().shape.push(1)),
        ("layer `fc`: expected [10, 128] weights", |n| n.layers.get_mut("fc").unwrap().weight.truncate(5)),
        ("layer `fc`: expected 10 scales and biases", |n| n.layers.get_mut("fc").unwrap().bias.truncate(9)),
        ("layer `fc`: expected scales above zero, found NaN", |n| {
            n.layers.get_mut("fc").unwrap().scales[3] = f32::NAN;
        }),
        ("layer `fc`: quantization: sums of output 3 may reach", |n| {
            n.layers.get_mut("fc").unwrap().bias[3] = i32::MIN;
        }),
        ("map `relu1`: expected its scale and zero point, found none", |n| {
            n.maps.retain(|name, _| name != "relu1")
        }),
        ("map `pool1`: expected a scale above zero, found -1", |n| {
            n.maps.get_mut("pool1").unwrap().scale = -1.0;
        }),
    ];
    let graph = network("small-cnn-3");
    let good = network_value(&graph);
    assert!(Quantized::of(&graph, &good, &runtime()).is_ok());
    for (expected, slip) in slips {
        let mut network = good.clone();
        slip(&mut network);
        let error = Quantized::of(&graph, &network, &runtime()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    let mut other = good;
    other.maps.get_mut("pool1").unwrap().zero_point ^= 1;
    let error = Quantized::of(&graph, &other, &runtime()).unwrap_err().to_string();
    assert!(error.contains("map `pool1`: expected") && error.contains("as of the map it reads"), "{error}");
}

#[test]
fn a_batch_over_threads_answers_as_each_picture_alone() {
    let quantized = quantized(&network("small-cnn-3"), &pictures(0..4)).unwrap();
    let new = pictures(20..27);
    let alone: Vec<f32> = new
        .chunks(3 * SIDE * SIDE)
        .flat_map(|picture| quantized.clone().run(Images::U8(picture)).unwrap().to_vec())
        .collect();
    let mut three = quantized.on(&Runtime::new(Device::Cpu, 3).unwrap());
    assert_eq!(three.run(Images::U8(&new)).unwrap(), alone);
}
