//! Files that are not the plain ONNX one: weights in half precision, pixels as the input.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod found;

use std::path::Path;

use export::parity::{NATIVE, ONNX_RUNTIME, varied_pictures};
use export::{Answer, ExportError, Format, Options, Report, export_network};
use models::{Fit, Manifest, Task, Weights, formula};
use onnx::runtime::{OrtOptions, OrtSession};
use onnx::{Contract, Element, ModelProto};

fn network(architecture: &str, channels: usize, size: usize) -> (Manifest, Weights) {
    let labels = (0..10).map(|class| format!("class {class}")).collect();
    let task = Task { features: Some(128), ..Task::new(10, channels, size) };
    let manifest = Manifest::new(architecture, &task, labels, Fit::Crop).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    (manifest, weights)
}

fn written(network: &(Manifest, Weights), out: &Path, options: Options) -> Report {
    let options = Options { require_parity: true, threads: 1, ..options };
    export_network(&network.0, &network.1, out, &options).unwrap()
}

fn logits(file: &Path, pictures: &[u8]) -> Vec<f32> {
    let bytes = std::fs::read(file).unwrap();
    let mut session = OrtSession::open(&found::library(), &bytes, OrtOptions::default()).unwrap();
    session.run_pixels(pictures).unwrap().to_vec()
}

#[test]
fn half_precision_is_half_the_file_and_agrees_within_its_own_tolerance() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, size) in [("small-cnn-2", 16), ("mobilenet-v3-small", 40)] {
        let network = network(architecture, 3, size);
        let (float, half) = (folder.path().join("float.onnx"), folder.path().join("half.onnx"));
        let float = written(&network, &float, Options::new(Format::Onnx)).files[0].bytes;
        let report = written(&network, &half, Options::new(Format::OnnxFp16));
        let share = report.files[0].bytes as f64 / float as f64;
        assert!(share < 0.6, "{architecture}: {share} of the float file");
        let said = report.parity.iter().find(|said| said.runtime == ONNX_RUNTIME).unwrap();
        let Answer::Agrees(difference) = said.answer else { panic!("{architecture}: {said:?}") };
        assert!(difference.largest > 1e-5, "weights were not rounded: {difference:?}");
    }
}

#[test]
fn safetensors_in_half_precision_are_read_back_and_held_against_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let network = network("mobilenet-v3-small", 3, 40);
    let out = folder.path().join("half.safetensors");
    let options = Options::new(Format::SafetensorsFp16);
    let report = export_network(&network.0, &network.1, &out, &options).unwrap();
    assert!(
        matches!(report.parity[0].answer, Answer::Agrees(_)) && report.parity[0].runtime == NATIVE,
        "{report:?}"
    );
    let (manifest, weights) = models::load(&out).unwrap();
    assert_eq!(manifest, network.0);
    assert_ne!(weights, network.1);
}

#[test]
fn weights_that_lose_too_much_in_half_precision_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut network = network("small-cnn-2", 3, 16);
    for value in &mut network.1.get_mut("fc.weight").unwrap().data {
        *value *= 1e-8; // below the smallest half: all of it becomes zero
    }
    network.1.get_mut("fc.bias").unwrap().data.fill(0.0);
    for value in &mut network.1.get_mut("conv1.weight").unwrap().data {
        *value *= 1e8;
    }
    let out = folder.path().join("half.onnx");
    let error = export_network(&network.0, &network.1, &out, &Options::new(Format::OnnxFp16)).unwrap_err();
    assert!(matches!(error, ExportError::Differs { .. } | ExportError::Weight { .. }), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_file_that_takes_pixels_answers_as_the_one_that_takes_planes() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, channels, size) in [("small-cnn-3", 1, 24), ("mobilenet-v3-small", 3, 33)] {
        let network = network(architecture, channels, size);
        let (planes, pixels) = (folder.path().join("planes.onnx"), folder.path().join("pixels.onnx"));
        written(&network, &planes, Options::new(Format::Onnx));
        let options = Options { input: Element::Uint8, ..Options::new(Format::Onnx) };
        let report = written(&network, &pixels, options);
        for said in report.parity.iter().filter(|said| said.runtime == ONNX_RUNTIME) {
            assert!(matches!(said.answer, Answer::Agrees(_)), "{architecture}: {said:?}");
        }
        let pictures = varied_pictures(network.0.graph().unwrap().input_shape(), 9);
        let (expected, found) = (logits(&planes, &pictures), logits(&pixels, &pictures));
        let scale = expected.iter().fold(1.0_f32, |scale, logit| scale.max(logit.abs()));
        let near = expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= 1e-6 * scale);
        assert!(near && found.len() == 90, "{architecture}: {expected:?} {found:?}");
    }
}

#[test]
fn the_contract_says_that_the_file_takes_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let network = network("small-cnn-2", 3, 16);
    let out = folder.path().join("pixels.onnx");
    let options = Options { input: Element::Uint8, ..Options::new(Format::OnnxFp16) };
    written(&network, &out, options);
    let model = ModelProto::read(&std::fs::read(&out).unwrap()).unwrap();
    let input = Contract::of(&model).unwrap().input;
    assert_eq!((input.name.as_str(), input.layout.as_str()), ("image", "NHWC"));
    assert_eq!((input.range, input.element), ([0.0, 255.0], Element::Uint8));
    let mut session =
        OrtSession::open(&found::library(), &std::fs::read(&out).unwrap(), OrtOptions::default()).unwrap();
    let message = session.run(&[0.0; 768]).unwrap_err().to_string();
    assert!(message.contains("expected pixels, uint8"), "{message}");
}
