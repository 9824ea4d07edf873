//! Files written from the zoo's graphs, run by ONNX Runtime, give the logits that torchvision's own networks give on
//! the same weights: neither the writer nor the numbers come from our engine.
//!
//! The numbers were made by `engine/tests/fixtures/torchvision_logits.py`.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod found;

use export::parity::Difference;
use export::writer::onnx_model;
use models::{Task, formula, zoo};
use onnx::pixels::planes;
use onnx::runtime::{OrtOptions, OrtSession};
use onnx::{Contract, Input, ModelProto};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    pictures: usize,
    channels: usize,
    size: usize,
    classes: usize,
    networks: std::collections::BTreeMap<String, Network>,
}

#[derive(Deserialize)]
struct Network {
    gain: f64,
    logits: Vec<Vec<f32>>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../../engine/tests/fixtures/torchvision_logits.json")).unwrap()
}

fn written(name: &str, network: &Network, fixture: &Fixture) -> ModelProto {
    let graph = zoo::build(name, &Task::new(fixture.classes, fixture.channels, fixture.size)).unwrap();
    let contract = Contract {
        labels: (0..fixture.classes).map(|class| class.to_string()).collect(),
        input: Input::new(fixture.channels, fixture.size, fixture.size, "stretch"),
        manifest: "{}".into(),
        weights_sha256: String::new(),
        producer: "test".into(),
    };
    onnx_model(&graph, &formula::weights(&graph, network.gain), &contract).unwrap()
}

fn images(fixture: &Fixture) -> Vec<f32> {
    let Fixture { channels, size, .. } = *fixture;
    let pixels = (0..fixture.pictures).flat_map(|index| formula::picture(index, channels, size, size));
    planes(&pixels.collect::<Vec<_>>(), [channels, size, size])
}

fn check(name: &str) {
    let fixture = fixture();
    let network = &fixture.networks[name];
    let model = written(name, network, &fixture);
    let mut session = OrtSession::open(&found::library(), &model.bytes(), OrtOptions::default()).unwrap();
    let images = images(&fixture);
    let expected: Vec<f32> = network.logits.concat();
    let together = session.run(&images).unwrap().to_vec();
    let difference = Difference::between(&expected, &together, fixture.classes);
    assert!(difference.agrees(), "{name}: {difference:?}");
    let one_by_one: Vec<f32> = images
        .chunks(images.len() / fixture.pictures)
        .flat_map(|one| session.run(one).unwrap().to_vec())
        .collect();
    let difference = Difference::between(&expected, &one_by_one, fixture.classes);
    assert!(difference.agrees(), "{name}, one by one: {difference:?}");
}

#[test]
fn resnet18_answers_as_torchvision_does() {
    check("resnet18");
}

#[test]
fn resnet50_answers_as_torchvision_does() {
    check("resnet50");
}

#[test]
fn mobilenet_v3_small_answers_as_torchvision_does() {
    check("mobilenet-v3-small");
}

#[test]
fn mobilenet_v3_large_answers_as_torchvision_does() {
    check("mobilenet-v3-large");
}

#[test]
fn efficientnet_b0_answers_as_torchvision_does() {
    check("efficientnet-b0");
}

#[test]
fn the_same_graph_gives_the_same_bytes() {
    let fixture = fixture();
    let write = || written("mobilenet-v3-small", &fixture.networks["mobilenet-v3-small"], &fixture).bytes();
    assert_eq!(write(), write());
}
