//! Every small enough network of the zoo, in both stems, trains a step: all parameters get a finite gradient, and
//! evaluation by a folded model and by the network agree.
#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::BTreeSet;

use candle_core::{Device as CandleDevice, Tensor};
use engine::{BatchNormMode, Fwd, Grad, Images, Model, Net, Optimizer, Runtime, Step};
use models::{Graph, Stem, Task, cost, formula, zoo};

mod support;

const SIZE: usize = 32;
/// Parameters beyond which a network takes too long for a test.
const LARGEST: u64 = 6_000_000;

fn check(name: &str, graph: Graph, runtime: &Runtime) {
    let net = Net::new(graph, runtime, 1).unwrap();
    // Not the starting weights: behind a scale that starts as 0 they get no gradient in the first step.
    net.load(&formula::weights(net.graph(), 1.0)).unwrap();
    let pictures: Vec<u8> = (0..3).flat_map(|index| formula::picture(index, 3, SIZE, SIZE)).collect();
    let images = Tensor::from_vec(pictures.clone(), (3, SIZE, SIZE, 3), &CandleDevice::Cpu).unwrap();
    let bn = BatchNormMode::Train { update: true };
    let fwd = Fwd { grad: Grad::Params, bn, want: &["logits"], step: 0, pass: 0 };
    let logits = net.forward(&images, fwd).unwrap().get("logits").unwrap().clone();
    let labels = Tensor::new(&[1_u32, 4, 7], &CandleDevice::Cpu).unwrap();
    candle_nn::loss::cross_entropy(&logits, &labels).unwrap().backward().unwrap();
    assert_eq!(net.non_finite_grad().unwrap(), None, "{name}");
    let reached = |p: &models::Parameter| net.grad(&p.name).unwrap().data.iter().any(|&g| g != 0.0);
    let parameters = net.graph().parameters();
    // Stochastic depth may drop a branch for the whole small batch, so a few may rest.
    let resting = parameters.iter().filter(|p| p.role.trainable() && !reached(p)).count();
    assert!(resting * 4 < parameters.len(), "{name}: {resting} parameters got no gradient");
    let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true };
    let step =
        Step { optimizer, lr: 1e-3, weight_decay: 1e-4, grad_scale: 1.0, clip_norm: Some(1.0), ema: None };
    net.update(&step).unwrap();

    let eval = Fwd { grad: Grad::None, bn: BatchNormMode::Eval, want: &["logits"], step: 0, pass: 0 };
    let logits = net.forward(&images, eval).unwrap().get("logits").unwrap().flatten_all().unwrap();
    let expected: Vec<f32> = logits.to_vec1().unwrap();
    let mut model = Model::new(net.graph(), &net.weights().unwrap(), runtime).unwrap();
    // Not the same bits: a model's weights are prepared for one picture at a time, and other kernels read them.
    let found = model.run(Images::U8(&pictures)).unwrap();
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart <= 2e-5 * largest, "{name}: {apart} apart at {largest}");
}

#[test]
fn every_network_trains_and_answers() {
    let runtime = support::runtime(2);
    let mut seen = BTreeSet::new();
    for name in zoo::names() {
        let architecture = zoo::Architecture::find(name).unwrap();
        if !seen.insert(architecture.name().to_string()) {
            continue;
        }
        for stem in [Stem::Imagenet, Stem::Small] {
            let graph = architecture.build(&Task::new(10, 3, SIZE).with_stem(stem)).unwrap();
            if cost::total(&graph).parameters as u64 <= LARGEST {
                check(name, graph, &runtime);
            }
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
}
