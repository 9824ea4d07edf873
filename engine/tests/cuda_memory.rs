//! A network on a GPU works in the memory that it has after two steps. A program of its own, for the device's free memory
//! is counted, which other tests would change meanwhile.
#![cfg(all(feature = "candle", feature = "cuda-core"))]
#![allow(clippy::unwrap_used)] // a test may panic

use candle_core::{Device as CandleDevice, Tensor};
use engine::{BatchNormMode, Device, Fwd, Grad, Net, Optimizer, Precision, Runtime, Step};
use models::{Task, formula, zoo};

fn step(net: &Net, number: u64) {
    let pictures: Vec<u8> = (0..4).flat_map(|index| formula::picture(index, 3, 32, 32)).collect();
    let images = net.images(pictures).unwrap();
    let bn = BatchNormMode::Train { update: true };
    let fwd = Fwd { grad: Grad::Params, bn, want: &["logits"], step: number, pass: 0 };
    let outputs = net.forward(&images, fwd).unwrap();
    let logits = outputs.get("logits").unwrap().to_device(&CandleDevice::Cpu).unwrap();
    let labels = Tensor::new(&[1_u32, 4, 7, 2], &CandleDevice::Cpu).unwrap();
    candle_nn::loss::cross_entropy(&logits, &labels).unwrap().backward().unwrap();
    let optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true };
    let step =
        Step { optimizer, lr: 0.01, weight_decay: 1e-3, grad_scale: 1.0, clip_norm: Some(1.0), ema: None };
    net.update(&step).unwrap();
}

#[test]
fn nothing_is_allocated_after_the_second_step() {
    let runtime = Runtime::with_precision(Device::Cuda(0), 1, Precision::Bf16);
    let runtime = runtime.expect("a GPU, or the emulator: cargo xtask cuda test");
    let graph = zoo::build("mobilenet-v3-small", &Task::new(10, 3, 32)).unwrap();
    let net = Net::new(graph, &runtime, 3).unwrap();
    let free = || cudarc::driver::CudaContext::new(0).unwrap().mem_get_info().unwrap().0;
    (0..2).for_each(|number| step(&net, number));
    let (before, held) = (free(), net.memory());
    (2..6).for_each(|number| step(&net, number));
    assert_eq!(net.memory(), held);
    assert_eq!(free(), before, "bytes free on the device");
}
