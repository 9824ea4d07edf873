//! Real engines behind the server: answers over HTTP are the engine's own, for a run and for an exported file.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use engine::{Device, Images, Model, Runtime};
use export::Format;
use fixture::{encoded_picture, multipart, post, send, softmax};
use models::{Fit, Manifest, Task, Weights, formula};
use serve::{Classifier, EngineName, LoadOptions, Options, Served, app};

const SIDE: usize = 24;

struct Run {
    _folder: tempfile::TempDir,
    path: PathBuf,
    manifest: Manifest,
    weights: Weights,
}

/// A run's folder `kittens` with a network of five classes on gray pictures.
fn run() -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kittens");
    std::fs::create_dir(&path).unwrap();
    let labels = ["ant", "bee", "cat", "dog", "elk"].map(String::from).to_vec();
    let task = Task { features: Some(16), ..Task::new(5, 1, SIDE) };
    let manifest = Manifest::new("small-cnn-3", &task, labels, Fit::Stretch).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), 1.5);
    models::save(&path.join("model.safetensors"), &manifest, &weights).unwrap();
    Run { _folder: folder, path, manifest, weights }
}

fn exported(run: &Run) -> PathBuf {
    let found = onnx::runtime::find(None);
    found.unwrap_or_else(|missing| {
        panic!("this test needs ONNX Runtime; `cargo xtask test` brings it. {missing}")
    });
    let options = export::Options { require_parity: true, ..export::Options::new(Format::Onnx) };
    export::export(&run.path, &options).unwrap().files[0].path.clone()
}

fn pixels(index: usize) -> Vec<u8> {
    formula::picture(index, 1, SIDE, SIDE)
}

fn png(pixels: &[u8]) -> Vec<u8> {
    encoded_picture(image::GrayImage::from_raw(SIDE as u32, SIDE as u32, pixels.to_vec()).unwrap())
}

fn expected(run: &Run, pixels: &[u8]) -> Vec<f32> {
    let graph = run.manifest.graph().unwrap();
    let mut model = Model::new(&graph, &run.weights, &Runtime::new(Device::Cpu, 1).unwrap()).unwrap();
    softmax(model.run(Images::U8(pixels)).unwrap())
}

/// Answers over HTTP, one by one and together, against the engine called by hand.
async fn check(run: &Run, model: &Path, engine: &str) {
    let served = Served::open(model, &LoadOptions::default()).unwrap();
    assert_eq!(served.card().engine.name(), engine);
    let server = app(served, &Options { workers: 2, ..Options::default() }).unwrap();
    let pictures: Vec<Vec<u8>> = (0..6).map(pixels).collect();
    let files: Vec<Vec<u8>> = pictures.iter().map(|pixels| png(pixels)).collect();
    let form: Vec<(&str, &[u8])> = files.iter().map(|file| ("x.png", file.as_slice())).collect();
    let together = send(&server, multipart(&form)).await;
    assert_eq!(together.status, StatusCode::OK, "{}", together.json);
    for (index, file) in files.iter().enumerate() {
        let expected = expected(run, &pictures[index]);
        let alone = send(&server, post("image/png", file.clone())).await;
        for prediction in [&together.json["predictions"][index], &alone.json["predictions"][0]] {
            for candidate in prediction["top"].as_array().unwrap() {
                let class = candidate["index"].as_u64().unwrap() as usize;
                assert_eq!(candidate["label"], run.manifest.labels[class]);
                let found = candidate["probability"].as_f64().unwrap() as f32;
                assert!((found - expected[class]).abs() < 1e-4, "{engine}, picture {index}: {prediction}");
            }
        }
    }
}

#[tokio::test]
async fn a_run_is_served_by_the_native_engine() {
    let run = run();
    check(&run, &run.path, "native").await;
    check(&run, &run.path.join("model.safetensors"), "native").await;
}

#[tokio::test]
async fn an_exported_file_is_served_by_onnx_runtime() {
    let run = run();
    check(&run, &exported(&run), "ort").await;
}

#[test]
fn an_exported_file_is_answered_alike_by_the_native_engine() {
    let run = run();
    let options = LoadOptions { engine: Some(EngineName::Native), ..LoadOptions::default() };
    let served = Served::open(&exported(&run), &options).unwrap();
    assert_eq!(served.card().engine, EngineName::Native);
    let logits = served.engine().unwrap().run(&pixels(2)).unwrap().to_vec();
    let expected = expected(&run, &pixels(2));
    assert!(softmax(&logits).iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
}

/// A quantized file of the run's network, with the ranges of a few pictures.
fn quantized(run: &Run) -> PathBuf {
    let graph = run.manifest.graph().unwrap();
    let runtime = Runtime::new(Device::Cpu, 1).unwrap();
    let mut observer = engine::Observer::new(&graph, &run.weights, &runtime).unwrap();
    let mut ranges = vec![[0.0_f32; 2]; observer.points().len()];
    let pictures: Vec<u8> = (0..8).flat_map(pixels).collect();
    let widen = |[low, high]: [f32; 2], value: &f32| [low.min(*value), high.max(*value)];
    observer
        .observe(Images::U8(&pictures), &mut |point, values| {
            ranges[point] = values.iter().fold(ranges[point], widen);
        })
        .unwrap();
    let network = observer.quantize(&ranges, models::Granularity::PerChannel).unwrap();
    let contract = export::contract(&run.manifest, "").unwrap();
    let path = run.path.join("model.int8.onnx");
    let file = export::writer::quantized_model(&graph, &network, &contract).unwrap();
    std::fs::write(&path, file.bytes()).unwrap();
    path
}

#[test]
fn a_quantized_file_is_answered_alike_by_both_engines() {
    let run = run();
    let path = quantized(&run);
    let both: Vec<u8> = (20..22).flat_map(pixels).collect();
    let answers = [None, Some(EngineName::Ort)].map(|engine| {
        let served = Served::open(&path, &LoadOptions { engine, ..LoadOptions::default() }).unwrap();
        assert_eq!(
            served.card().engine,
            engine.unwrap_or(EngineName::Native),
            "native unless asked otherwise"
        );
        assert_eq!(served.card().weights, "int8");
        served.engine().unwrap().run(&both).unwrap().to_vec()
    });
    assert!(answers[0].iter().zip(&answers[1]).all(|(a, b)| (a - b).abs() < 1e-4), "{answers:?}");
    let expected = expected(&run, &pixels(20));
    let near = softmax(&answers[0][..5]).iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.1);
    assert!(near, "{answers:?} {expected:?}");
}

#[test]
fn a_quantized_file_takes_values_as_well_as_pixels() {
    let run = run();
    let path = quantized(&run);
    let mut engine = Served::open(&path, &LoadOptions::default()).unwrap().engine().unwrap();
    let pixels = pixels(20);
    let values: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
    let expected = engine.run(&pixels).unwrap().to_vec();
    let found = engine.run_values(&values).unwrap();
    // A pixel's byte comes from a table, a value's by arithmetic: one may round otherwise.
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 0.02), "{found:?} {expected:?}");
}

#[test]
fn weights_in_half_are_for_float_networks() {
    let run = run();
    let bf16 = "bf16".parse().unwrap();
    let options = LoadOptions { weights: bf16, ..LoadOptions::default() };
    let error = Served::open(&quantized(&run), &options).unwrap_err().to_string();
    assert!(error.contains("weights in bf16 are for float networks"), "{error}");
    let error = Served::open(&exported(&run), &options).unwrap_err().to_string();
    assert!(error.contains("add `--engine native`"), "{error}");
}

#[test]
fn a_quantized_file_that_was_changed_is_refused() {
    let run = run();
    let path = quantized(&run);
    let mut model = onnx::ModelProto::read(&std::fs::read(&path).unwrap()).unwrap();
    model.graph.as_mut().unwrap().initializer.retain(|array| array.name != "fc.bias");
    std::fs::write(&path, model.bytes()).unwrap();
    let error = Served::open(&path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("model.int8.onnx") && error.contains("array `fc.bias`"), "{error}");
}

#[test]
fn a_file_tells_the_same_of_itself_as_its_run() {
    let run = run();
    let of = |path: &Path| Served::open(path, &LoadOptions::default()).unwrap().card().clone();
    let (run_card, file_card) = (of(&run.path), of(&exported(&run)));
    assert_eq!(run_card.name, "kittens");
    assert_eq!(run_card.arch.as_deref(), Some("small-cnn-3"));
    assert_eq!(file_card, serve::Card { engine: EngineName::Ort, ..run_card });
}

#[test]
fn a_picture_of_any_size_and_color_is_classified_in_process() {
    let run = run();
    let mut classifier = Classifier::new(Served::open(&run.path, &LoadOptions::default()).unwrap()).unwrap();
    let prediction = classifier.classify(&png(&pixels(3)), 2).unwrap();
    let expected = expected(&run, &pixels(3));
    assert_eq!(prediction.top.len(), 2);
    assert!((prediction.top[0].probability - expected[prediction.top[0].index]).abs() < 1e-5);
    assert!(prediction.top[0].probability >= prediction.top[1].probability);
    assert!(prediction.times_us.total >= prediction.times_us.decode + prediction.times_us.inference);
    let large = encoded_picture(image::RgbaImage::from_pixel(90, 31, image::Rgba([200, 10, 10, 255])));
    assert_eq!(classifier.classify(&large, 9).unwrap().top.len(), 5);
    let error = classifier.classify(b"no picture", 1).unwrap_err().to_string();
    assert!(error.contains("not a picture"), "{error}");
}

#[test]
fn an_engine_that_does_not_run_a_model_says_which_one_does() {
    let run = run();
    let open = |path: &Path, engine| {
        Served::open(path, &LoadOptions { engine: Some(engine), ..LoadOptions::default() })
    };
    let error = open(&run.path, EngineName::Ort).unwrap_err().to_string();
    assert!(error.contains("distill export"), "{error}");
}

#[test]
fn what_is_no_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let open = |path: &Path| Served::open(path, &LoadOptions::default()).unwrap_err().to_string();
    for (path, expected) in [
        (folder.path().to_path_buf(), "model.safetensors"),
        (folder.path().join("missing.onnx"), "missing.onnx"),
        (write("text.onnx", b"not onnx"), "not an ONNX model"),
        (write("text.safetensors", b"not safetensors"), "not a whole safetensors file"),
    ] {
        let message = open(&path);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_file_without_our_contract_is_refused() {
    let run = run();
    let path = exported(&run);
    let mut model = onnx::ModelProto::read(&std::fs::read(&path).unwrap()).unwrap();
    model.metadata_props.clear();
    let foreign = path.with_file_name("foreign.onnx");
    std::fs::write(&foreign, model.bytes()).unwrap();
    let error = Served::open(&foreign, &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("foreign.onnx") && error.contains("distill export"), "{error}");
}

#[cfg(feature = "candle-onnx")]
#[tokio::test]
async fn candle_onnx_answers_as_the_engine_does() {
    let run = run();
    let options = LoadOptions { engine: Some(EngineName::CandleOnnx), ..LoadOptions::default() };
    let mut engine = Served::open(&exported(&run), &options).unwrap().engine().unwrap();
    let pictures: Vec<u8> = (0..2).flat_map(pixels).collect();
    let logits = engine.run(&pictures).unwrap().to_vec();
    for (index, logits) in logits.chunks(5).enumerate() {
        let (found, expected) = (softmax(logits), expected(&run, &pixels(index)));
        let near = found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-4);
        assert!(near, "picture {index}: expected {expected:?}, found {found:?}");
    }
}

#[cfg(not(feature = "candle-onnx"))]
#[test]
fn an_engine_that_is_not_in_the_build_says_how_to_get_it() {
    let options = LoadOptions { engine: Some(EngineName::CandleOnnx), ..LoadOptions::default() };
    let message = Served::open(&exported(&run()), &options).unwrap_err().to_string();
    assert!(message.contains("--features candle-onnx"), "{message}");
}
