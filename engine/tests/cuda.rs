//! Networks on a GPU against the processor's f32: outputs, every gradient, statistics and several updates, in each
//! precision; and what a device must not do from step to step.
//!
//! `cargo xtask cuda test` runs this on a GPU, or on the emulator where there is none. A device that cannot be opened fails
//! the tests rather than passing them by.
#![cfg(all(feature = "candle", feature = "cuda-core"))]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may panic, and says how near it came

use candle_core::{Device as CandleDevice, Tensor};
use engine::{
    BatchNormMode, Device, Fwd, Grad, Images, Model, Net, Observer, Optimizer, Precision, Runtime, Step,
    WeightFormat,
};
use models::{Graph, Stem, Task, Weights, formula, zoo};

const SIZE: usize = 32;
const BATCH: usize = 4;
const CLASSES: usize = 10;

fn gpu(precision: Precision) -> Runtime {
    Runtime::with_precision(Device::Cuda(0), 1, precision)
        .expect("a GPU, or the emulator: cargo xtask cuda test")
}

fn cpu() -> Runtime {
    Runtime::new(Device::Cpu, 2).unwrap()
}

fn pictures(seed: usize) -> Vec<u8> {
    (0..BATCH).flat_map(|index| formula::picture(seed * BATCH + index, 3, SIZE, SIZE)).collect()
}

fn images(seed: usize) -> Tensor {
    Tensor::from_vec(pictures(seed), (BATCH, SIZE, SIZE, 3), &CandleDevice::Cpu).unwrap()
}

fn graph(name: &str) -> Graph {
    // The last maps are more than a point then, or a batch norm would divide by the spread of four numbers.
    zoo::build(name, &Task::new(CLASSES, 3, SIZE).with_stem(Stem::Small)).unwrap()
}

fn net(name: &str, runtime: &Runtime) -> Net {
    let net = Net::new(graph(name), runtime, 3).unwrap();
    net.load(&formula::weights(net.graph(), 1.0)).unwrap();
    net
}

/// One forward and backward; the logits.
fn pass(net: &Net, step: u64) -> Vec<f32> {
    let bn = BatchNormMode::Train { update: true };
    let fwd = Fwd { grad: Grad::Params, bn, want: &["logits"], step, pass: 0 };
    let outputs = net.forward(&images(step as usize), fwd).unwrap();
    let logits = outputs.get("logits").unwrap();
    let labels = Tensor::new(&[1_u32, 4, 7, 2], &CandleDevice::Cpu).unwrap();
    candle_nn::loss::cross_entropy(logits, &labels).unwrap().backward().unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn update(net: &Net, average: Option<&Net>, optimizer: Optimizer) {
    let step = Step {
        optimizer,
        lr: 0.01,
        weight_decay: 1e-3,
        grad_scale: 1.0,
        clip_norm: Some(1.0),
        ema: average.map(|average| (average, 0.9)),
    };
    net.update(&step).unwrap();
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Distance of two vectors over the length of the second.
fn apart(found: &[f32], expected: &[f32]) -> f64 {
    let differences: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
    norm(&differences) / norm(expected).max(1e-12)
}

/// All gradients one behind the other.
fn gradients(net: &Net) -> Vec<f32> {
    let trainable = net.graph().parameters().into_iter().filter(|parameter| parameter.role.trainable());
    trainable.flat_map(|parameter| net.grad(&parameter.name).unwrap().data).collect()
}

/// All arrays of one kind, one behind the other.
fn flat(weights: &Weights, running: bool) -> Vec<f32> {
    let kept = weights.iter().filter(|(name, _)| name.contains(".running_") == running);
    kept.flat_map(|(_, array)| array.data.iter().copied()).collect()
}

/// Logits, gradients and statistics of a first step on these pictures; how far each may be from the processor's.
fn check_step(name: &str, precision: Precision, seed: u64, [logits, gradient, statistics]: [f64; 3]) {
    let (ours, theirs) = (net(name, &gpu(precision)), net(name, &cpu()));
    let outputs = apart(&pass(&ours, seed), &pass(&theirs, seed));
    let grads = apart(&gradients(&ours), &gradients(&theirs));
    let running = apart(&flat(&ours.weights().unwrap(), true), &flat(&theirs.weights().unwrap(), true));
    println!(
        "{name} {}: logits {outputs:.1e}, gradient {grads:.1e}, statistics {running:.1e} apart",
        precision.name()
    );
    assert!(outputs < logits, "{name}: logits {outputs:e} apart");
    assert!(grads < gradient, "{name}: gradients {grads:e} apart");
    assert!(running < statistics, "{name}: statistics {running:e} apart");
}

/// Convolutions of every kind, dropout and stochastic depth, gates, residuals before and behind the normalization; with
/// how far PyTorch 2.15's bf16 autocast is apart from its f32 in logits and gradients, on the same weights and pictures.
const NETWORKS: [(&str, [f64; 2]); 5] = [
    ("small-cnn-3", [4.8e-3, 2.4e-2]),
    ("resnet18", [3.1e-2, 0.34]),
    ("wrn-10-2", [6.2e-3, 3.3e-2]),
    ("mobilenet-v3-small", [0.10, 0.27]),
    ("efficientnet-b0", [0.20, 0.46]),
];

/// Pictures on which no argument of an activation lies so near a kink that the last digit of a sum decides the side. On
/// pictures 0 one of mobilenet-v3-small does, where the slope of hard swish falls from -1/2 to 0.
const CLEAR: u64 = 2;

#[test]
fn a_step_in_f32_is_the_processors() {
    for (name, _) in NETWORKS {
        check_step(name, Precision::F32, CLEAR, [5e-5, 2e-4, 1e-5]);
    }
}

/// Fifty roundings to 8 bits one behind the other, each normalized by what a small batch happens to hold, leave gradients
/// far apart, so the bound is what another engine's roundings leave.
#[test]
fn a_step_in_bf16_is_as_near_the_processors_as_pytorchs_autocast() {
    for (name, [logits, gradient]) in NETWORKS {
        check_step(name, Precision::Bf16, 0, [2.5 * logits, 2.5 * gradient, 0.03]);
    }
}

/// The third step's passes are replayed from recordings of the second.
#[test]
fn several_updates_are_the_processors() {
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true };
    let adam = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    // Adam divides by the root of the square, so that a gradient of nothing but rounding moves a weight by a whole step.
    let cases = [("small-cnn-3", sgd, 5e-5), ("mobilenet-v3-small", sgd, 5e-5), ("small-cnn-3", adam, 2e-3)];
    for (name, optimizer, allowed) in cases {
        let run = |runtime: &Runtime| {
            let (net, average) = (net(name, runtime), net(name, runtime));
            average.copy_from(&net).unwrap();
            let losses: Vec<f32> = (0..4)
                .flat_map(|step| {
                    let logits = pass(&net, CLEAR + step);
                    update(&net, Some(&average), optimizer);
                    logits
                })
                .collect();
            (losses, net.weights().unwrap(), average.weights().unwrap(), net.optimizer_state().unwrap())
        };
        let (ours, theirs) = (run(&gpu(Precision::F32)), run(&cpu()));
        let found = [
            apart(&ours.0, &theirs.0),
            apart(&flat(&ours.1, false), &flat(&theirs.1, false)),
            apart(&flat(&ours.2, false), &flat(&theirs.2, false)),
            apart(&flat(&ours.1, true), &flat(&theirs.1, true)),
            apart(&flat(&ours.3, false), &flat(&theirs.3, false)),
        ];
        println!("{name} {optimizer:?}: logits, theta, average, statistics, moments {found:?} apart");
        assert!(found.iter().all(|&apart| apart < allowed), "{name}: {found:?}");
    }
}

#[test]
fn gradients_of_two_passes_add_up_and_a_step_can_be_given_up() {
    let (ours, theirs) = (net("small-cnn-3", &gpu(Precision::F32)), net("small-cnn-3", &cpu()));
    for net in [&ours, &theirs] {
        // Recorded by then, and with both patterns of what is written.
        for _ in 0..3 {
            pass(net, 0);
            pass(net, 1);
            net.discard_step().unwrap();
        }
        pass(net, 0);
        pass(net, 1);
    }
    assert!(apart(&gradients(&ours), &gradients(&theirs)) < 1e-3);
    let start = formula::weights(ours.graph(), 1.0);
    ours.discard_step().unwrap();
    assert_eq!(flat(&ours.weights().unwrap(), true), flat(&start, true), "statistics of before");
    assert_eq!(ours.grad_norm().unwrap(), 0.0);
}

#[test]
fn a_model_on_the_gpu_answers_as_on_the_processor() {
    for (precision, bound) in [(Precision::F32, 1e-4), (Precision::Bf16, 0.05)] {
        let graph = graph("mobilenet-v3-small");
        let weights = formula::weights(&graph, 1.0);
        let mut ours = Model::new(&graph, &weights, &gpu(precision)).unwrap();
        let mut theirs = Model::new(&graph, &weights, &cpu()).unwrap();
        for round in 0..3 {
            let pictures = pictures(round);
            let expected = theirs.run(Images::U8(&pictures)).unwrap();
            let found = apart(ours.run(Images::U8(&pictures)).unwrap(), expected);
            assert!(found < bound, "{} round {round}: {found:e}", precision.name());
        }
    }
}

#[test]
fn what_only_the_processor_does_is_refused() {
    let graph = graph("small-cnn-2");
    let (weights, gpu) = (formula::weights(&graph, 1.0), gpu(Precision::F32));
    let error = Model::with_format(&graph, &weights, WeightFormat::Bf16, &gpu).unwrap_err().to_string();
    assert!(error.contains("--device cpu"), "{error}");
    assert!(Observer::new(&graph, &weights, &gpu).is_err());
}

#[test]
fn networks_of_two_devices_do_not_mix() {
    let (ours, theirs) = (net("small-cnn-2", &gpu(Precision::F32)), net("small-cnn-2", &cpu()));
    let error = ours.copy_from(&theirs).unwrap_err().to_string();
    assert!(error.contains("same device"), "{error}");
    // Another stream of the same device: nothing would order what both touch.
    let apart = net("small-cnn-2", &gpu(Precision::F32));
    assert!(ours.copy_from(&apart).unwrap_err().to_string().contains("same runtime"));
}

#[test]
fn a_device_that_is_not_there_is_an_error_that_says_what_there_is() {
    let error = Runtime::new(Device::Cuda(99), 1).unwrap_err().to_string();
    assert!(error.contains("cuda:99") && error.contains("--device cpu"), "{error}");
    let error = Runtime::with_precision(Device::Cpu, 1, Precision::Bf16).unwrap_err().to_string();
    assert!(error.contains("--precision f32"), "{error}");
}
