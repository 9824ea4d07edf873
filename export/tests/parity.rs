//! Exported files against the engine, through the export itself: every family of the zoo, operations that no zoo
//! network combines, and what happens to a file that does not agree.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod found;
mod networks;

use engine::{Device, Images, Model, Runtime};
use export::parity::{CANDLE_ONNX, ONNX_RUNTIME, TOLERANCE, check, varied_pictures};
use export::writer::onnx_model;
use export::{Answer, ExportError, Format, Options, Parity, contract, export, export_network};
use models::{Manifest, Task, Weights, formula};
use networks::{labeled, odd_graph};
use onnx::pixels::planes;
use onnx::runtime::{OrtOptions, OrtSession};
use onnx::{Contract, ModelProto};

fn network(architecture: &str, channels: usize, size: usize) -> (Manifest, Weights) {
    labeled(architecture, &Task { features: Some(32), ..Task::new(10, channels, size) })
}

fn answer<'a>(parity: &'a [Parity], runtime: &str) -> &'a Answer {
    &parity.iter().find(|parity| parity.runtime == runtime).unwrap().answer
}

fn options() -> Options {
    found::library();
    Options { require_parity: true, threads: 1, ..Options::new(Format::Onnx) }
}

#[test]
fn every_family_agrees_with_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    for (architecture, channels, size) in [
        ("small-cnn-2", 3, 16),
        ("small-cnn-3", 1, 24),
        ("resnet18", 1, 32),
        ("mobilenet-v3-small", 3, 40),
        ("mobilenet-v3-large", 3, 33),
        ("efficientnet-b0", 3, 32),
        ("wrn-10-1", 3, 16),
    ] {
        let (manifest, weights) = network(architecture, channels, size);
        let out = folder.path().join(format!("{architecture}.onnx"));
        let report = export_network(&manifest, &weights, &out, &options())
            .unwrap_or_else(|error| panic!("{architecture}: {error}"));
        assert!(
            matches!(answer(&report.parity, ONNX_RUNTIME), Answer::Agrees(_)),
            "{architecture}: {report:?}"
        );
        assert_eq!(report.files[0].bytes, std::fs::metadata(&out).unwrap().len());
    }
}

#[test]
fn operations_that_no_zoo_network_combines_agree() {
    let graph = odd_graph(true).unwrap();
    let weights = formula::weights(&graph, 1.0);
    let (manifest, _) = network("small-cnn-2", 3, 16);
    let mut contract = contract(&manifest, "").unwrap();
    (contract.input.height, contract.input.width) = (13, 11);
    let file = onnx_model(&graph, &weights, &contract).unwrap();
    let written = file.graph.as_ref().unwrap();
    assert!(written.node.iter().all(|node| node.name != "projection" && node.op_type != "Dropout"));
    let norms = written.node.iter().filter(|node| node.op_type == "BatchNormalization");
    let kept: Vec<&str> = norms.map(|node| node.name.as_str()).collect();
    assert_eq!(kept, ["stem_bn", "after_add", "alone_bn"], "the others are folded");
    let mut model = Model::new(&graph, &weights, &Runtime::new(Device::Cpu, 1).unwrap()).unwrap();
    let parity = check(&mut model, &file.bytes(), &[], TOLERANCE, Some(&found::library().path)).unwrap();
    assert!(matches!(answer(&parity, ONNX_RUNTIME), Answer::Agrees(_)), "{parity:?}");
}

#[test]
fn the_file_says_what_a_server_needs() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    models::save(&run.join("model.safetensors"), &manifest, &weights).unwrap();
    let report = export(&run, &options()).unwrap();
    assert_eq!(report.files[0].path, run.join("model.onnx"));
    let contract =
        Contract::of(&ModelProto::read(&std::fs::read(run.join("model.onnx")).unwrap()).unwrap()).unwrap();
    assert_eq!(contract.labels, manifest.labels);
    assert_eq!((contract.input.fit.as_str(), contract.input.height), ("crop", 16));
    assert_eq!(serde_json::from_str::<Manifest>(&contract.manifest).unwrap(), manifest);
    let stored = std::fs::read(run.join("model.safetensors")).unwrap();
    assert_eq!(contract.weights_sha256, models::file::sha256(&stored));
}

#[test]
fn safetensors_is_the_same_network_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (source, out) = (folder.path().join("model.safetensors"), folder.path().join("copy.safetensors"));
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    models::save(&source, &manifest, &weights).unwrap();
    let options = Options { out: Some(out.clone()), ..Options::new(Format::Safetensors) };
    let report = export(&source, &options).unwrap();
    assert!(report.parity.is_empty());
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&source).unwrap());
}

#[test]
fn another_networks_file_differs() {
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    let graph = manifest.graph().unwrap();
    let mut others = weights.clone();
    others.get_mut("fc.bias").unwrap().data[3] += 0.5;
    let file = onnx_model(&graph, &others, &contract(&manifest, "").unwrap()).unwrap().bytes();
    let mut model = Model::new(&graph, &weights, &Runtime::new(Device::Cpu, 1).unwrap()).unwrap();
    let parity = check(&mut model, &file, &[], TOLERANCE, Some(&found::library().path)).unwrap();
    let Answer::Differs(difference) = answer(&parity, ONNX_RUNTIME) else { panic!("{parity:?}") };
    assert!((difference.largest - 0.5).abs() < 1e-3, "{difference:?}");
}

#[test]
fn a_library_that_was_named_and_is_not_there_stops_the_export() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.onnx");
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    let options = Options { ort_lib: Some("/no/such/library.so".into()), ..options() };
    let error = export_network(&manifest, &weights, &out, &options).unwrap_err();
    assert!(
        matches!(error, ExportError::Onnx(_)) && error.to_string().contains("/no/such/library.so"),
        "{error}"
    );
    assert!(!out.exists());
}

#[test]
fn real_pictures_take_the_place_of_procedural_ones() {
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    let graph = manifest.graph().unwrap();
    let file = onnx_model(&graph, &weights, &contract(&manifest, "").unwrap()).unwrap().bytes();
    let mut model = Model::new(&graph, &weights, &Runtime::new(Device::Cpu, 1).unwrap()).unwrap();
    let real: Vec<u8> = (0..70).flat_map(|index| formula::picture(index, 3, 16, 16)).collect();
    for pictures in [&real[..], &real[..3 * 768], &[]] {
        let parity = check(&mut model, &file, pictures, TOLERANCE, Some(&found::library().path)).unwrap();
        let Answer::Agrees(difference) = answer(&parity, ONNX_RUNTIME) else { panic!("{parity:?}") };
        assert_eq!(difference.pictures, 64);
    }
}

#[test]
fn a_batch_of_any_size_is_taken_and_what_is_no_picture_is_refused() {
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    let graph = manifest.graph().unwrap();
    let file = onnx_model(&graph, &weights, &contract(&manifest, "").unwrap()).unwrap().bytes();
    let mut session = OrtSession::open(&found::library(), &file, OrtOptions::default()).unwrap();
    let mut model = Model::new(&graph, &weights, &Runtime::new(Device::Cpu, 1).unwrap()).unwrap();
    let shape = graph.input_shape();
    for count in [1, 5] {
        let pictures = varied_pictures(shape, count);
        let expected = model.run(Images::U8(&pictures)).unwrap().to_vec();
        let found = session.run(&planes(&pictures, [3, 16, 16])).unwrap();
        assert!(expected.iter().zip(found).all(|(a, b)| (a - b).abs() < 1e-4) && found.len() == 10 * count);
    }
    let error = session.run(&[0.0; 100]).unwrap_err().to_string();
    assert!(error.contains("3 x 16 x 16") && error.contains("100 values"), "{error}");
}

#[test]
fn a_second_library_in_one_process_is_refused_by_name() {
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    let file =
        onnx_model(&manifest.graph().unwrap(), &weights, &contract(&manifest, "").unwrap()).unwrap().bytes();
    let library = found::library();
    OrtSession::open(&library, &file, OrtOptions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join(library.path.file_name().unwrap());
    std::fs::write(&other, "another").unwrap();
    let found = onnx::runtime::find(Some(&other)).unwrap();
    let error = OrtSession::open(&found, &file, OrtOptions::default()).unwrap_err().to_string();
    assert!(error.contains("already runs") && error.contains("start another process"), "{error}");
}

#[cfg(feature = "candle-onnx")]
#[test]
fn candle_onnx_agrees_or_says_what_it_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let export = |architecture: &str| {
        let (manifest, weights) = network(architecture, 3, 32);
        let report =
            export_network(&manifest, &weights, &folder.path().join("model.onnx"), &options()).unwrap();
        answer(&report.parity, CANDLE_ONNX).clone()
    };
    assert!(matches!(export("small-cnn-2"), Answer::Agrees(_)));
    assert_eq!(export("resnet18").to_string(), "cannot run: MaxPool with padding, GlobalAveragePool");
    assert_eq!(export("mobilenet-v3-small").to_string(), "cannot run: GlobalAveragePool, HardSigmoid");
}

#[cfg(not(feature = "candle-onnx"))]
#[test]
fn a_build_without_candle_onnx_says_how_to_get_it() {
    let folder = tempfile::tempdir().unwrap();
    let (manifest, weights) = network("small-cnn-2", 3, 16);
    let report = export_network(&manifest, &weights, &folder.path().join("model.onnx"), &options()).unwrap();
    let said = answer(&report.parity, CANDLE_ONNX).to_string();
    assert!(said.starts_with("not installed") && said.contains("--features candle-onnx"), "{said}");
}
