//! Quantized files against ONNX Runtime: the file that is written, read back and run by the native engine, must answer
//! as ONNX Runtime answers to the same file.
//!
//! Both compute the same whole numbers. They may part where a real number lies next to the middle between two bytes:
//! ONNX Runtime computes tables, sums of maps and products in f32 in another order than the engine. A byte that differs by
//! one then goes through the rest of the network.

#![allow(clippy::unwrap_used)] // a test that panics has failed

mod found;
mod networks;

use engine::{Device, Images, Observer, Quantized, Runtime};
use export::contract;
use export::parity::varied_pictures;
use export::writer::{onnx_model, quantized_model};
use models::{Architecture, Granularity, Graph, Manifest, QuantizedNetwork, Task, Weights, formula, zoo};
use onnx::runtime::{OrtOptions, OrtSession};
use onnx::{ModelProto, Numbers, network};

use networks::{labeled, odd_graph};

const PICTURES: usize = 6;

fn runtime() -> Runtime {
    Runtime::new(Device::Cpu, 1).unwrap()
}

/// The network with the ranges that its maps have on varied pictures.
fn quantized(graph: &Graph, weights: &Weights, granularity: Granularity) -> QuantizedNetwork {
    let mut observer = Observer::new(graph, weights, &runtime()).unwrap();
    let mut ranges = vec![[0.0_f32; 2]; observer.points().len()];
    let pictures = varied_pictures(graph.input_shape(), 12);
    let widen = |[low, high]: [f32; 2], value: &f32| [low.min(*value), high.max(*value)];
    observer
        .observe(Images::U8(&pictures), &mut |point, values| {
            ranges[point] = values.iter().fold(ranges[point], widen);
        })
        .unwrap();
    observer.quantize(&ranges, granularity).unwrap()
}

fn ask_onnx_runtime(file: &[u8], pictures: &[u8]) -> Vec<f32> {
    let options = OrtOptions { threads: 1, spinning: false };
    let mut session = OrtSession::open(&found::library(), file, options).unwrap();
    session.run_pixels(pictures).unwrap().to_vec()
}

/// Largest difference in units of the largest logit.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, logit| scale.max(logit.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max)
}

/// Distance between the native engine and ONNX Runtime on one file, through its bytes, of each picture.
fn engines_apart(manifest: &Manifest, graph: &Graph, network: &QuantizedNetwork) -> Vec<f32> {
    let file = quantized_model(graph, network, &contract(manifest, "").unwrap()).unwrap().bytes();
    let read = network::read(&ModelProto::read(&file).unwrap()).unwrap();
    assert_eq!(read.numbers, Numbers::Whole(network.clone()), "what is read is what was written");
    let pictures = varied_pictures(graph.input_shape(), PICTURES);
    let mut native = Quantized::of(&read.graph, network, &runtime()).unwrap();
    let found = native.run(Images::U8(&pictures)).unwrap().to_vec();
    distances(&found, &ask_onnx_runtime(&file, &pictures))
}

/// By picture, in units of the largest logit of all.
fn distances(found: &[f32], expected: &[f32]) -> Vec<f32> {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, logit| scale.max(logit.abs()));
    let pairs = found.chunks(found.len() / PICTURES).zip(expected.chunks(found.len() / PICTURES));
    pairs.map(|(found, expected)| largest(found, expected) / scale).collect()
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_network_of_the_zoo_answers_alike_on_both_engines() {
    let mut apart = Vec::new();
    for name in zoo::names().filter(|name| Architecture::find(name).unwrap().name() == *name) {
        let task = Task { features: Some(32), ..Task::new(10, 3, 32) };
        let (manifest, weights) = labeled(name, &task);
        let graph = manifest.graph().unwrap();
        if weights.values().map(|array| array.data.len()).sum::<usize>() > 13_000_000 {
            continue; // another of its family stands for it
        }
        for granularity in [Granularity::PerChannel, Granularity::PerTensor] {
            let network = quantized(&graph, &weights, granularity);
            apart.push((name, granularity.name(), engines_apart(&manifest, &graph, &network)));
        }
    }
    for (name, granularity, pictures) in &apart {
        let alike = pictures.iter().filter(|distance| **distance < 1e-5).count();
        let worst = pictures.iter().copied().fold(0.0, f32::max);
        let least = match name {
            // Sigmoid, and batch norms that stand alone, are f32 in ONNX Runtime, in its own order of operations.
            name if name.starts_with("wrn") => 0,
            name if name.starts_with("efficientnet") => PICTURES / 2,
            _ => PICTURES - 1,
        };
        assert!(alike >= least && worst < 0.05, "{name}, {granularity}: {pictures:?}");
    }
}

#[test]
fn operations_that_no_zoo_network_combines_answer_alike() {
    let graph = odd_graph(false).unwrap();
    let weights = formula::weights(&graph, 1.0);
    let network = quantized(&graph, &weights, Granularity::PerChannel);
    let (manifest, _) = labeled("small-cnn-2", &Task::new(7, 3, 16));
    let mut contract = contract(&manifest, "").unwrap();
    (contract.input.height, contract.input.width) = (13, 11);
    let file = quantized_model(&graph, &network, &contract).unwrap();
    let pictures = varied_pictures(graph.input_shape(), PICTURES);
    let mut native = Quantized::of(&graph, &network, &runtime()).unwrap();
    let found = native.run(Images::U8(&pictures)).unwrap().to_vec();
    let apart = distance(&found, &ask_onnx_runtime(&file.bytes(), &pictures));
    assert!(apart < 0.02, "{apart}");
    // A batch norm that no layer took and that something is added to.
    let error = Observer::new(
        &odd_graph(true).unwrap(),
        &formula::weights(&odd_graph(true).unwrap(), 1.0),
        &runtime(),
    );
    assert_eq!(error.unwrap_err().to_string(), "quantization: step `shared`: it has no kernel over bytes");
}

#[test]
fn a_float_file_is_read_back_as_the_network_it_was_written_from() {
    for name in ["mobilenet-v3-small", "wrn-10-1", "small-cnn-2", "resnet18"] {
        let (manifest, weights) = labeled(name, &Task { features: Some(32), ..Task::new(10, 3, 32) });
        let graph = manifest.graph().unwrap();
        let file = onnx_model(&graph, &weights, &contract(&manifest, "").unwrap()).unwrap().bytes();
        let read = network::read(&ModelProto::read(&file).unwrap()).unwrap();
        let Numbers::Real(read) = read.numbers else { panic!("{name} is no float network") };
        let pictures = varied_pictures(graph.input_shape(), PICTURES);
        let [expected, found] = [&weights, &read].map(|weights| {
            let mut model = engine::Model::new(&graph, weights, &runtime()).unwrap();
            model.run(Images::U8(&pictures)).unwrap().to_vec()
        });
        assert!(distance(&found, &expected) < 1e-5, "{name}: {}", distance(&found, &expected));
    }
}

type Slip = fn(&mut onnx::proto::GraphProto);

fn array<'a>(graph: &'a mut onnx::proto::GraphProto, name: &str) -> &'a mut onnx::proto::TensorProto {
    graph.initializer.iter_mut().find(|array| array.name == name).unwrap()
}

#[test]
fn every_wrong_part_of_a_file_is_named() {
    let (manifest, weights) = labeled("small-cnn-2", &Task { features: Some(8), ..Task::new(4, 3, 16) });
    let graph = manifest.graph().unwrap();
    let network = quantized(&graph, &weights, Granularity::PerChannel);
    let good = quantized_model(&graph, &network, &contract(&manifest, "").unwrap()).unwrap();
    let slips: [(&str, Slip); 12] = [
        ("array `conv1.weight` of the ONNX file: expected a stored array, found none", |graph| {
            graph.initializer.retain(|array| array.name != "conv1.weight");
        }),
        ("`conv1.weight`", |graph| array(graph, "conv1.weight").raw_data.truncate(7)),
        ("`conv1.weight`", |graph| array(graph, "conv1.weight").dims = vec![i64::MAX, i64::MAX]),
        ("`fc.weight` of the ONNX file: expected shape [4, 8], found [8, 4]", |graph| {
            array(graph, "fc.weight").dims.reverse();
        }),
        ("`fc.weight_zero_point` of the ONNX file: expected zeros", |graph| {
            array(graph, "fc.weight_zero_point").raw_data[2] = 1;
        }),
        ("`fc.bias_scale`", |graph| array(graph, "fc.bias_scale").raw_data[1] ^= 1),
        ("`fc.bias`", |graph| array(graph, "fc.bias").data_type = 1),
        ("`relu1.output_scale`", |graph| array(graph, "relu1.output_scale").raw_data.clear()),
        ("node `relu1` of the ONNX file", |graph| {
            graph.initializer.retain(|array| array.name != "relu1.output_scale");
        }),
        ("node `conv2` of the ONNX file: expected `Conv`, found `ConvInteger`", |graph| {
            graph.node.iter_mut().find(|node| node.name == "conv2").unwrap().op_type = "ConvInteger".into();
        }),
        ("node `pool2` of the ONNX file: expected `MaxPool`, found none", |graph| {
            graph.node.retain(|node| node.name != "pool2");
        }),
        ("node `extra` of the ONNX file", |graph| {
            let node = onnx::proto::NodeProto { name: "extra".into(), ..graph.node[0].clone() };
            graph.node.push(node);
        }),
    ];
    assert!(network::read(&good).is_ok());
    for (expected, slip) in slips {
        let mut model = good.clone();
        slip(model.graph.as_mut().unwrap());
        let message = match network::read(&model) {
            Err(error) => error.to_string(),
            Ok(read) => panic!("expected `{expected}`, read {:?}", read.numbers),
        };
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
}

#[test]
fn an_array_of_another_shape_than_its_network_asks_for_is_refused() {
    let (manifest, weights) = labeled("small-cnn-2", &Task { features: Some(8), ..Task::new(4, 3, 16) });
    let graph = manifest.graph().unwrap();
    let good = onnx_model(&graph, &weights, &contract(&manifest, "").unwrap()).unwrap();
    assert!(network::read(&good).is_ok());
    // Of no values and very many rows: nothing is to be made for each of them.
    for (name, dims) in
        [("conv1.weight", vec![1 << 40, 0]), ("conv1.bias", vec![0, 1 << 40]), ("fc.weight", vec![32])]
    {
        let mut model = good.clone();
        let array = array(model.graph.as_mut().unwrap(), name);
        if dims.contains(&0) {
            array.raw_data.clear();
        }
        array.dims = dims;
        let message = network::read(&model).unwrap_err().to_string();
        assert!(message.contains(&format!("array `{name}` of the ONNX file: expected shape")), "{message}");
    }
}
