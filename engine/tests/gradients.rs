//! Gradients, losses and running statistics of one training step against PyTorch's.
//!
//! `fixtures/torch_gradients.py` made the numbers.
#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may panic, and says how far it was off

use candle_core::{Device as CandleDevice, Tensor};
use engine::{BatchNormMode, Fwd, Grad, Net};
use models::{Task, formula, zoo};
use serde_json::Value;

mod support;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn samples(data: &[f32]) -> [f64; 3] {
    [data[0], data[data.len() / 2], data[data.len() - 1]].map(f64::from)
}

fn sum(data: &[f32]) -> f64 {
    data.iter().map(|&x| f64::from(x)).sum()
}

fn norm(data: &[f32]) -> f64 {
    data.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// One step of `name`: loss, every gradient's sum, norm and samples, and running statistics.
fn check(name: &str) {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/torch_gradients.json")).unwrap();
    let case = &fixture[name];
    let number = |key: &str| case[key].as_u64().unwrap() as usize;
    let (channels, size, classes, batch) =
        (number("channels"), number("size"), number("classes"), number("batch"));
    let mut task = Task::new(classes, channels, size);
    task.features = Some(128);
    let graph = zoo::build(name, &task).unwrap().without_noise();
    let net = Net::new(graph, &support::runtime(2), 0).unwrap();
    net.load(&formula::weights(net.graph(), 1.0)).unwrap();

    let pictures: Vec<u8> =
        (0..batch).flat_map(|index| formula::picture(index, channels, size, size)).collect();
    let images = Tensor::from_vec(pictures, (batch, size, size, channels), &CandleDevice::Cpu).unwrap();
    let labels: Vec<u32> = (0..batch).map(|index| ((7 * index + 3) % classes) as u32).collect();
    let labels = Tensor::from_vec(labels, batch, &CandleDevice::Cpu).unwrap();
    let bn = BatchNormMode::Train { update: true };
    let outputs =
        net.forward(&images, Fwd { grad: Grad::Params, bn, want: &["logits"], step: 0, pass: 0 }).unwrap();
    let loss = candle_nn::loss::cross_entropy(outputs.get("logits").unwrap(), &labels).unwrap();
    loss.backward().unwrap();

    let expected = case["loss"].as_f64().unwrap();
    let found = f64::from(loss.to_scalar::<f32>().unwrap());
    assert!((found - expected).abs() < 1e-4 * expected.max(1.0), "{name}: loss {found}, expected {expected}");
    let gradients = case["gradients"].as_object().unwrap();
    let largest = gradients.values().map(|row| numbers(row)[1]).fold(0.0, f64::max);
    let mut worst = [(found - expected).abs() / expected.max(1.0), 0.0, 0.0];
    for (parameter, row) in gradients {
        let expected = numbers(row);
        let gradient = net.grad(parameter).unwrap();
        // What is zero but for rounding (a bias before a batch norm) is compared with the largest of all.
        let scale = expected[1].max(1e-3 * largest);
        let error = (norm(&gradient.data) - expected[1]).abs();
        assert!(
            error < 2e-3 * scale,
            "{name} {parameter}: norm {}, expected {}",
            norm(&gradient.data),
            expected[1]
        );
        worst[1] = worst[1].max(error / scale);
        let spread = scale * (gradient.data.len() as f64).sqrt();
        let error = (sum(&gradient.data) - expected[0]).abs();
        assert!(
            error < 1e-3 * spread,
            "{name} {parameter}: sum {}, expected {}",
            sum(&gradient.data),
            expected[0]
        );
        worst[1] = worst[1].max(error / spread);
        for (found, expected) in samples(&gradient.data).into_iter().zip(&expected[2..]) {
            let error = (found - expected).abs();
            worst[1] = worst[1].max(error / scale);
            assert!(error < 2e-3 * scale, "{name} {parameter}: {found}, expected {expected} (norm {scale})");
        }
    }
    let weights = net.weights().unwrap();
    for (statistic, row) in case["statistics"].as_object().unwrap() {
        let (expected, data) = (numbers(row), &weights[statistic].data);
        let found = [sum(data)].into_iter().chain(samples(data));
        for (found, expected) in found.zip(&expected) {
            let error = (found - expected).abs();
            worst[2] = worst[2].max(error / expected.abs().max(1.0));
            assert!(
                error < 1e-4 * expected.abs().max(1.0),
                "{name} {statistic}: {found}, expected {expected}"
            );
        }
    }
    for (what, error) in ["loss", "gradient", "statistics"].into_iter().zip(worst) {
        println!("worst {what} of {name} {error:e}");
    }
}

#[test]
fn small_cnn_3() {
    check("small-cnn-3");
}

#[test]
fn resnet18() {
    check("resnet18");
}

#[test]
fn mobilenet_v3_small() {
    check("mobilenet-v3-small");
}

#[test]
fn efficientnet_b0() {
    check("efficientnet-b0");
}

#[test]
fn wide_resnet() {
    check("wrn-10-2");
}
