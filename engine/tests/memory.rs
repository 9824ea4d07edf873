//! What is foretold of memory is what a network takes: by its own buffers, and by the system's account.
#![allow(clippy::unwrap_used)] // a test may panic
#![cfg(feature = "candle")]

use candle_core::{Device as CandleDevice, Tensor};
use engine::{
    BatchNormMode, Device, Fwd, Grad, Images, Model, Net, Optimizer, Runtime, Step, memory,
    memory::TrainingMemory,
};
use models::{Graph, Task, formula, zoo};

const SGD: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true };
const ADAMW: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

/// One step on `batch` pictures.
fn step(net: &Net, optimizer: Optimizer, average: Option<&Net>, batch: usize) {
    let [height, width] = net.graph().input_shape().spatial();
    let pictures: Vec<u8> = (0..batch).flat_map(|index| formula::picture(index, 3, height, width)).collect();
    let images = Tensor::from_vec(pictures, (batch, height, width, 3), &CandleDevice::Cpu).unwrap();
    let bn = BatchNormMode::Train { update: true };
    let fwd = Fwd { grad: Grad::Params, bn, want: &["logits"], step: 0, pass: 0 };
    let outputs = net.forward(&images, fwd).unwrap();
    outputs.get("logits").unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap();
    let ema = average.map(|average| (average, 0.99));
    let (lr, weight_decay) = (0.01, 0.0);
    net.update(&Step { optimizer, lr, weight_decay, grad_scale: 1.0, clip_norm: None, ema }).unwrap();
}

fn graph(name: &str, size: usize) -> Graph {
    zoo::build(name, &Task::new(10, 3, size)).unwrap()
}

/// The system's account of this process, in bytes: the largest so far.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// On a network that is large enough to be what the process is made of, and before any other has been there.
fn the_system_agrees(runtime: &Runtime) {
    let graph = graph("resnet18", 64);
    let foretold = memory::training(&graph, 32, SGD, false).unwrap().total();
    let Some(before) = peak() else { return };
    let net = Net::new(graph, runtime, 0).unwrap();
    step(&net, SGD, None, 32);
    let grown = peak().unwrap() - before;
    let ratio = grown as f64 / foretold as f64;
    assert!((0.7..1.3).contains(&ratio), "{grown} bytes, foretold {foretold}: {ratio:.3}");
}

/// One test, since others would work in the same process meanwhile.
#[test]
fn a_network_takes_what_was_foretold() {
    let runtime = Runtime::new(Device::Cpu, 2).unwrap();
    the_system_agrees(&runtime);
    for (name, optimizer) in [("small-cnn-2", SGD), ("mobilenet-v3-small", ADAMW), ("resnet18", SGD)] {
        let graph = graph(name, 32);
        let foretold = memory::training(&graph, 8, optimizer, true).unwrap();
        let [net, average] = [0, 1].map(|seed| Net::new(graph.clone(), &runtime, seed).unwrap());
        step(&net, optimizer, Some(&average), 8);
        let TrainingMemory { parameters, statistics, .. } = average.memory();
        let found = TrainingMemory { average: parameters + statistics, ..net.memory() };
        // The statistics before the step are let go with its update.
        let found = TrainingMemory { statistics: 2 * found.statistics, ..found };
        assert_eq!(found, foretold, "{name}");

        let foretold = memory::inference(&graph, 1, engine::WeightFormat::F32).unwrap();
        let mut model = Model::new(&graph, &net.weights().unwrap(), &runtime).unwrap();
        model.run(Images::U8(&formula::picture(0, 3, 32, 32))).unwrap();
        assert_eq!(model.memory(), foretold, "{name}");
    }
}
