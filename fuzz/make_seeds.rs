//! Writes the fuzzers' seeds into `fuzz/seeds/`, out of the product's own writers and by hand:
//!
//!     cargo run --example fuzz_seeds
//!
//! Files that fuzzers found lie beside them under names of their own and are left alone. Two kinds are not made here:
//! `state_dict` (PyTorch's own, train/tests/fixtures/state_dict.py) and `parquet` (as in data/tests/fixtures).
#![allow(dead_code)] // of the parsers, only the network is used here

#[path = "src/parsers.rs"]
mod parsers;

use std::collections::HashMap;
use std::error::Error;
use std::io::Cursor;
use std::path::Path;

use models::bundle::{BundleFile, FileRole, Latency, Measured, Probe, RawBundle, Statistic};
use models::formula;
use onnx::proto::{Dimension, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use serde_json::json;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result {
    pictures()?;
    http_bodies()?;
    oip_bodies()?;
    networks()?;
    exported()?;
    keys()?;
    training()?;
    datasets()
}

fn seed(parser: &str, name: &str, bytes: impl AsRef<[u8]>) -> Result {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(parser);
    std::fs::create_dir_all(&folder)?;
    Ok(std::fs::write(folder.join(name), bytes)?)
}

fn encoded(index: usize, format: image::ImageFormat) -> Result<Vec<u8>> {
    let (width, height) = (11, 7);
    let pixels = formula::picture(index, 3, height, width);
    let picture = image::RgbImage::from_raw(width as u32, height as u32, pixels).ok_or("no pixels")?;
    let mut file = Cursor::new(Vec::new());
    image::DynamicImage::from(picture).write_to(&mut file, format)?;
    Ok(file.into_inner())
}

/// One of each format; `picture/tests/fixtures` has many more, which the fuzzer is given too.
fn pictures() -> Result {
    use image::ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    for (index, (name, format)) in
        [("png", Png), ("jpeg", Jpeg), ("webp", WebP), ("bmp", Bmp), ("gif", Gif)].into_iter().enumerate()
    {
        seed("picture", name, encoded(index, format)?)?;
    }
    Ok(())
}

fn http_bodies() -> Result {
    let png = encoded(0, image::ImageFormat::Png)?;
    let text = base64(&png);
    let kinds: [(&str, u8, Vec<u8>); 5] = [
        ("json", 0, json!({"images": [text], "top": 2}).to_string().into_bytes()),
        ("json_data_url", 0, json!({"images": [format!("data:image/png;base64,{text}")]}).to_string().into()),
        ("multipart", 1, [FORM_HEAD, &png[..], b"\r\n--B--\r\n"].concat()),
        ("picture", 2, png.clone()),
        ("no_boundary", 3, [FORM_HEAD, &png[..]].concat()),
    ];
    kinds
        .into_iter()
        .try_for_each(|(name, kind, body)| seed("http_body", name, [&[kind][..], &body].concat()))
}

const FORM_HEAD: &[u8] =
    b"--B\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a.png\"\r\ncontent-type: image/png\r\n\r\n";

/// Base64 in the standard alphabet, padded.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

fn oip_bodies() -> Result {
    let png = encoded(0, image::ImageFormat::Png)?;
    let whole = |json: serde_json::Value| [&[0xff, 0xff], json.to_string().as_bytes()].concat();
    let tensor = |name: &str, datatype: &str, shape: &[usize], data: serde_json::Value| json!({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]});
    seed("oip_body", "json_encoded", whole(tensor("encoded", "BYTES", &[1], json!([base64(&png)]))))?;
    seed("oip_body", "json_pixels", whole(tensor("image", "UINT8", &[1, 8, 8, 1], json!(vec![7; 64]))))?;
    seed("oip_body", "json_values", whole(tensor("input", "FP32", &[1, 1, 8, 8], json!(vec![0.5; 64]))))?;
    let element = [&(png.len() as u32).to_le_bytes()[..], &png].concat();
    let size = element.len();
    seed("oip_body", "binary_encoded", binary("encoded", "BYTES", &[1], size, &element))?;
    seed("oip_body", "binary_pixels", binary("image", "UINT8", &[2, 8, 8, 1], 128, &[9; 128]))?;
    let values: Vec<u8> = [0.25f32; 64].iter().flat_map(|value| value.to_le_bytes()).collect();
    seed("oip_body", "binary_values", binary("input", "FP32", &[1, 1, 8, 8], 256, &values))?;
    seed("oip_body", "raw", [&[0, 0][..], &png].concat())
}

fn binary(name: &str, datatype: &str, shape: &[usize], size: usize, tail: &[u8]) -> Vec<u8> {
    let head = json!({
        "id": "7",
        "inputs": [{"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": true}}, {"name": "label"},
                    {"name": "probabilities", "parameters": {"classification": 2}}],
    })
    .to_string();
    [&(head.len() as u16).to_le_bytes()[..], head.as_bytes(), tail].concat()
}

/// A network's file without its weights (the fuzzer adds zeros), its manifest alone, in a bundle and in an ONNX file.
fn networks() -> Result {
    let (manifest, graph) = parsers::network();
    let weights = formula::weights(&graph, 1.0);
    let bytes = models::file::to_bytes(&manifest, &weights)?;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    seed("model_file", "ours_without_weights", &bytes[..header])?;
    seed("model_file", "foreign", foreign()?)?;
    let text = serde_json::to_string(&manifest)?;
    seed("manifest", "small_cnn", &text)?;
    seed("onnx", "contract", onnx_file(&manifest, &text).bytes())?;
    seed("bundle", "whole", serde_json::to_string(&bundle(manifest))?)
}

/// Without the values of large arrays, which the fuzzer adds as zeros.
fn light(mut model: ModelProto) -> Vec<u8> {
    let arrays = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    arrays.filter(|array| array.raw_data.len() > 1024).for_each(|array| array.raw_data.clear());
    model.bytes()
}

/// ONNX files as `distill export` writes them: in f32, in half precision, with pixels as the input, in whole numbers.
fn exported() -> Result {
    let (manifest, graph) = parsers::network();
    let weights = formula::weights(&graph, 1.0);
    let contract = export::contract(&manifest, &"00".repeat(32))?;
    let float = || export::writer::onnx_model(&graph, &weights, &contract);
    seed("onnx_network", "float", light(float()?))?;
    let (mut half, mut pixels) = (float()?, float()?);
    export::half::store_half(&mut half)?;
    seed("onnx_network", "half", light(half))?;
    export::input::take_pixels(&mut pixels, graph.input_shape());
    seed("onnx_network", "pixels", light(pixels))?;

    let runtime = engine::Runtime::new(engine::Device::Cpu, 1)?;
    let mut observer = engine::Observer::new(&graph, &weights, &runtime)?;
    let mut ranges = vec![[0f32; 2]; observer.points().len()];
    let picture = formula::picture(0, 1, 8, 8);
    observer.observe(engine::Images::U8(&picture), &mut |point, values| {
        let [low, high] = ranges[point];
        ranges[point] =
            values.iter().fold([low, high], |[low, high], &value| [low.min(value), high.max(value)]);
    })?;
    for (name, granularity) in [
        ("int8_per_channel", models::Granularity::PerChannel),
        ("int8_per_tensor", models::Granularity::PerTensor),
    ] {
        let network = observer.quantize(&ranges, granularity)?;
        seed("onnx_network", name, light(export::writer::quantized_model(&graph, &network, &contract)?))?;
    }
    Ok(())
}

/// A file of API keys, one as itself and one as its hash.
fn keys() -> Result {
    let hash = models::file::sha256(b"correct-horse-battery");
    seed("keys", "both", format!("# staff\n\nann:{hash}\nplain-and-long-enough\n"))?;
    seed("keys", "short", "long-enough-to-be-one\r\nshort\n")
}

fn foreign() -> Result<Vec<u8>> {
    use safetensors::{Dtype, tensor::TensorView};
    let zeros = [0u8; 32];
    let floats =
        [("f64", Dtype::F64, 4), ("f32", Dtype::F32, 8), ("f16", Dtype::F16, 16), ("bf16", Dtype::BF16, 16)];
    let views =
        floats.map(|(name, dtype, length)| Ok((name, TensorView::new(dtype, vec![2, length / 2], &zeros)?)));
    let views = views.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(safetensors::serialize(views, Some(HashMap::from([("format".to_string(), "pt".to_string())])))?)
}

fn onnx_file(manifest: &models::Manifest, text: &str) -> ModelProto {
    let dims = |lengths: &[i64]| {
        let fixed = lengths.iter().map(|&length| Dimension::Length(length));
        std::iter::once(Dimension::Name("N".into())).chain(fixed).collect()
    };
    let contract = onnx::Contract {
        labels: manifest.labels.clone(),
        input: onnx::Input::new(1, 8, 8, "stretch"),
        manifest: text.into(),
        weights_sha256: "00".repeat(32),
        producer: "distill 0.1.0".into(),
    };
    let node = NodeProto {
        op_type: "Gemm".into(),
        input: ["input", "fc.weight"].map(String::from).into(),
        output: vec!["logits".into()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        initializer: vec![TensorProto::floats("fc.weight", &[3, 2], &[0.5; 6])],
        input: vec![ValueInfoProto::floats("input", dims(&[1, 8, 8]))],
        output: vec![ValueInfoProto::floats("logits", dims(&[3]))],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: 8,
        graph: Some(graph),
        metadata_props: contract.to_metadata(),
        ..ModelProto::default()
    }
}

fn bundle(manifest: models::Manifest) -> RawBundle {
    let file = "model.safetensors".to_string();
    let measured = Measured {
        file: file.clone(),
        engine: "native".into(),
        data: "synth".into(),
        split: "test".into(),
        count: 10,
        top1: 0.5,
        top5: None,
        agreement: Some(1.0),
    };
    let latency = Latency {
        file: file.clone(),
        engine: "native".into(),
        threads: 1,
        batch: 1,
        statistic: Statistic::P50,
        count: 100,
        microseconds: 12.5,
        machine: models::machine::Machine {
            cpu: "a processor".into(),
            cores: 2,
            kernels: "avx2".into(),
            system: "linux x86_64".into(),
        },
    };
    let answers = vec![models::bundle::Answer::new(file.clone(), 1e-4, &[0.1, 0.2, 0.3], 3)];
    RawBundle {
        bundle: models::bundle::FORMAT,
        name: "small".into(),
        version: "1".into(),
        producer: "distill 0.1.0".into(),
        model: manifest,
        files: vec![BundleFile::of(file, FileRole::Weights, b"weights")],
        accuracy: vec![measured],
        latency: vec![latency],
        refused: Vec::new(),
        probe: Probe { count: 1, answers, ..Probe::default() },
    }
}

/// What a run's folder holds.
fn training() -> Result {
    let weights = |values: &[f32]| {
        let array = models::Array::new([1, values.len()], values.to_vec());
        models::Weights::from([("features.0.weight".to_string(), array)])
    };
    let checkpoint = train::checkpoint::Checkpoint {
        position: train::checkpoint::Position::start(9),
        student: weights(&[1.0, -0.0]),
        average: weights(&[0.5]),
        optimizer: weights(&[0.25]),
        method: models::Weights::new(),
        best: weights(&[0.125]),
    };
    let path = std::env::temp_dir().join(format!("seed-{}.ckpt", std::process::id()));
    checkpoint.write(&path)?;
    seed("checkpoint", "small", std::fs::read(&path)?)?;
    std::fs::remove_file(&path)?;
    seed("config", "defaults", train::Config::default().to_toml()?)?;
    seed(
        "config",
        "few",
        "arch = \"wrn-28-2\"\nlabels = \"10%\"\nepochs = 3\nlr = 0.03\n[options]\nthreshold = 0.95\n",
    )
}

/// Files of the data sets' authors' layouts.
fn datasets() -> Result {
    let record = |labels: &[u8]| [labels, &vec![7; 3072]].concat();
    seed("cifar", "cifar10", record(&[9]))?;
    seed("cifar", "cifar100", record(&[19, 99]))?;
    let split =
        |first: &[u8], second: &[u8]| [&(first.len() as u16).to_le_bytes()[..], first, second].concat();
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3][..], &[5; 12]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 0, 9];
    seed("idx", "plain", split(&images, &labels))?;
    let color = [&[0, 0, 8, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3][..], &[5; 6]].concat();
    seed("idx", "color", split(&color, &[0, 0, 8, 1, 0, 0, 0, 1, 3]))?;
    seed("idx", "gzipped", split(&gzipped(&images), &gzipped(&labels)))?;
    seed("stl10", "labels", [3, 1, 10, 5])?;
    let pictures = format!("emotion,pixels,Usage\n0,{},Training\n", vec!["7"; 48 * 48].join(" "));
    let votes = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n\
                 Training,fer0000000.png,9,0,0,1,0,0,0,0,0,0\n";
    seed("ferplus", "one_face", split(pictures.as_bytes(), votes.as_bytes()))
}

/// A gzip file whose one block is stored as it is.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u16;
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let lengths = [length.to_le_bytes(), (!length).to_le_bytes()].concat();
    let sums = [crc32(bytes).to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
    [&head[..], &lengths, bytes, &sums].concat()
}

/// CRC-32 as gzip has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| step(sum)))
}
