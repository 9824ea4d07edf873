//! Every parser that takes bytes from outside, as a function of those bytes: what the fuzzers run and what
//! `tests/seeds` runs on the committed seeds. A function returns for any bytes, refused or read; what is read has to
//! keep the parser's promises. It opens no file of the user and no socket.

use std::path::Path;
use std::sync::LazyLock;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use data::listing::Item;
use data::sources::{cifar, ferplus, idx, parquet, stl10};
use models::bundle::BundleManifest;
use models::{Manifest, Task};
use onnx::proto::TensorProto;
use picture::{Limits, Resizer, Size};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// A parser under test.
pub struct Parser {
    /// Name of its fuzzer and of its folder of seeds.
    pub name: &'static str,
    /// Reads bytes; panics if a promise is broken.
    pub read: fn(&[u8]),
}

/// All of them.
pub const PARSERS: &[Parser] = &[
    Parser { name: "picture", read: read_picture },
    Parser { name: "http_body", read: read_http_body },
    Parser { name: "oip_body", read: read_oip_body },
    Parser { name: "model_file", read: read_model_file },
    Parser { name: "manifest", read: read_manifest },
    Parser { name: "bundle", read: read_bundle },
    Parser { name: "onnx", read: read_onnx },
    Parser { name: "onnx_network", read: read_onnx_network },
    Parser { name: "parquet", read: read_parquet },
    Parser { name: "cifar", read: read_cifar },
    Parser { name: "idx", read: read_idx },
    Parser { name: "stl10", read: read_stl10 },
    Parser { name: "ferplus", read: read_ferplus },
    Parser { name: "checkpoint", read: read_checkpoint },
    Parser { name: "config", read: read_config },
    Parser { name: "state_dict", read: read_state_dict },
    Parser { name: "keys", read: read_keys },
];

/// The name that errors get to see.
const PATH: &str = "outside";

fn path() -> &'static Path {
    Path::new(PATH)
}

/// An error has to read well enough to be formatted, nothing more.
fn told(error: impl std::fmt::Display) {
    assert!(!error.to_string().is_empty());
}

/// A picture's bytes, as the server and the data room read them. A million pixels are as much work as a fuzzer has time
/// for.
pub fn read_picture(bytes: &[u8]) {
    const MAX_PIXELS: u64 = 1 << 20;
    let header = picture::probe(bytes);
    match picture::decode_with(bytes, Limits { max_pixels: MAX_PIXELS }) {
        Ok(picture) => {
            let info = header.expect("the pixels can be read, so the header can");
            assert_eq!((info.width, info.height), (picture.width, picture.height));
            assert_eq!(picture.pixels.len(), picture.width * picture.height * picture.channels);
            assert!((picture.width * picture.height) as u64 <= MAX_PIXELS);
            let size = Size { width: 8, height: 8 };
            assert_eq!(Resizer::new().fit(&picture, size, picture::Fit::Crop, 3).len(), 8 * 8 * 3);
            assert_eq!(Resizer::new().fit(&picture, size, picture::Fit::Stretch, 1).len(), 8 * 8);
        }
        Err(error) => told(error),
    }
}

/// The content type that a body's first byte stands for.
const CONTENT_TYPES: [&str; 4] =
    ["application/json", "multipart/form-data; boundary=B", "image/png", "multipart/form-data; boundary="];

/// A request's body. The first byte chooses its content type, the rest is the body.
pub fn read_http_body(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let kind = CONTENT_TYPES[usize::from(*kind) % CONTENT_TYPES.len()];
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
    ask("/v1/classify", headers.into_iter().collect(), body);
}

/// A body of the Open Inference Protocol. The first two bytes say how long its JSON is, all ones that no header says so.
pub fn read_oip_body(bytes: &[u8]) {
    let Some((length, body)) = bytes.split_at_checked(2) else { return };
    let length = u16::from_le_bytes([length[0], length[1]]);
    let header = (HeaderName::from_static("inference-header-content-length"), HeaderValue::from(length));
    let headers = Some(header).filter(|_| length != u16::MAX);
    ask("/v2/models/network/infer", headers.into_iter().collect(), body);
}

/// Has the server answer; nothing that is sent may be its own fault.
fn ask(path: &str, headers: HeaderMap, body: &[u8]) {
    let mut request = Request::post(path).body(Body::from(body.to_vec())).expect("a request of constants");
    *request.headers_mut() = headers;
    SERVER.runtime.block_on(async {
        let answer = SERVER.app.clone().oneshot(request).await.expect("a router never fails");
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("the answer is in memory");
        let expected = parts.status == StatusCode::OK || parts.status.is_client_error();
        assert!(expected, "{}: {}", parts.status, String::from_utf8_lossy(&body));
        let json =
            parts.headers.get("inference-header-content-length").and_then(|length| length.to_str().ok());
        let json = json.map_or(&body[..], |length| &body[..length.parse().expect("a length")]);
        serde_json::from_slice::<serde_json::Value>(json).expect("answers are JSON");
    });
}

/// The server without its socket, with a network small enough that bodies are what takes the time.
struct Server {
    runtime: Runtime,
    app: Router,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let (manifest, graph) = network();
    let weights = models::formula::weights(&graph, 1.0);
    let card = serve::Card::of("network".into(), &manifest);
    let served = serve::Served::network(&graph, &weights, card, &serve::LoadOptions::default());
    let options = serve::Options {
        workers: 1,
        max_pixels: 1 << 16,
        max_body_bytes: 1 << 20,
        ..serve::Options::default()
    };
    let app = serve::http::app(served.expect("the network loads"), &options).expect("the server starts");
    drop(_inside);
    Server { runtime, app }
});

/// A small network that seeds and servers are made of.
pub fn network() -> (Manifest, models::Graph) {
    let task = Task { features: Some(4), ..Task::new(3, 1, 8) };
    let labels = ["cat", "dog", "cow"].map(String::from).to_vec();
    let manifest =
        Manifest::new("small-cnn-3", &task, labels, models::Fit::Stretch).expect("a network of ours");
    let graph = manifest.graph().expect("a network of ours");
    (manifest, graph)
}

/// A `model.safetensors`, and the same bytes as a foreign state dict; once as they are, and once with as many zeros as
/// the header promises weights, so that a seed need not carry them.
pub fn read_model_file(bytes: &[u8]) {
    read_safetensors(bytes);
    if let Some(padded) = padded(bytes) {
        read_safetensors(&padded);
    }
}

/// The bytes with the weights that their header promises, as zeros; none where that is little or far too much.
fn padded(bytes: &[u8]) -> Option<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let header = bytes.get(8..)?.get(..usize::try_from(length).ok()?)?;
    let json: serde_json::Value = serde_json::from_slice(header).ok()?;
    let ends = json.as_object()?.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let end = ends.max().filter(|&end| end <= MOST)?;
    let whole = 8 + header.len() + end as usize;
    (whole > bytes.len()).then(|| [bytes, &vec![0; whole - bytes.len()]].concat())
}

fn read_safetensors(bytes: &[u8]) {
    match models::file::from_bytes(bytes) {
        Ok((manifest, weights)) => {
            let written = models::file::to_bytes(&manifest, &weights).expect("what was read can be written");
            let (again, kept) = models::file::from_bytes(&written).expect("what was written can be read");
            assert_eq!(manifest, again);
            assert!(weights.keys().eq(kept.keys()));
        }
        Err(error) => told(error),
    }
    match models::file::foreign_from_bytes(bytes) {
        Ok(weights) => {
            let whole =
                weights.values().all(|array| array.shape.iter().product::<usize>() == array.data.len());
            assert!(whole, "an array's shape is not its length");
        }
        Err(error) => told(error),
    }
}

/// A manifest alone, as JSON.
pub fn read_manifest(bytes: &[u8]) {
    match serde_json::from_slice::<Manifest>(bytes) {
        Ok(manifest) => match manifest.graph() {
            Ok(graph) => assert!(!graph.outputs().is_empty()),
            Err(error) => told(error),
        },
        Err(error) => told(error),
    }
}

/// The `manifest.json` of a bundle.
pub fn read_bundle(bytes: &[u8]) {
    match BundleManifest::from_json(path(), bytes) {
        Ok(manifest) => {
            let written = manifest.to_json().expect("what was read can be written");
            let again =
                BundleManifest::from_json(path(), written.as_bytes()).expect("what was written can be read");
            assert_eq!(*manifest, *again);
            let below = |file: &models::bundle::BundleFile| !file.path.split('/').any(|name| name == "..");
            assert!(manifest.files.iter().all(below), "a file outside the bundle");
        }
        Err(error) => told(error),
    }
}

/// An ONNX file, its contract and the manifest in it.
pub fn read_onnx(bytes: &[u8]) {
    let model = match onnx::ModelProto::read(bytes) {
        Ok(model) => model,
        Err(error) => return told(error),
    };
    match onnx::Contract::of(&model) {
        Ok(contract) => {
            assert!(!contract.labels.is_empty());
            read_manifest(contract.manifest.as_bytes());
        }
        Err(error) => told(error),
    }
}

/// The network in an ONNX file of ours, float or int8, as the native engine gets it: what it does not refuse, it readies.
/// Once as it is, and once with zeros in arrays that have no values, so that a seed need not carry large ones.
pub fn read_onnx_network(bytes: &[u8]) {
    match onnx::ModelProto::read(bytes) {
        Ok(mut model) => {
            ready_network(&model);
            if fill_empty(&mut model) {
                ready_network(&model);
            }
        }
        Err(error) => told(error),
    }
}

/// Fills arrays without values up to a million bytes in all; whether there were any.
fn fill_empty(model: &mut onnx::ModelProto) -> bool {
    const MOST: i64 = 1 << 20;
    let (mut left, mut filled) = (MOST, false);
    for array in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        let width = match array.data_type {
            TensorProto::FLOAT | TensorProto::INT32 => 4,
            TensorProto::FLOAT16 => 2,
            _ => 1,
        };
        let size = array.dims.iter().try_fold(width, |size: i64, &dim| size.checked_mul(dim));
        if let Some(size) = size.filter(|&size| array.raw_data.is_empty() && (1..=left).contains(&size)) {
            array.raw_data = vec![0; size as usize];
            left -= size;
            filled = true;
        }
    }
    filled
}

fn ready_network(model: &onnx::ModelProto) {
    let network = match onnx::network::read(model) {
        Ok(network) => network,
        Err(error) => return told(error),
    };
    let graph = &network.graph;
    let refused = match &network.numbers {
        onnx::network::Numbers::Real(weights) => {
            models::check(graph, weights).expect("what is read fits its network");
            engine::Model::new(graph, weights, &RUNTIME).err()
        }
        onnx::network::Numbers::Whole(numbers) => engine::Quantized::of(graph, numbers, &RUNTIME).err(),
    };
    if let Some(error) = refused {
        told(error);
    }
}

static RUNTIME: LazyLock<engine::Runtime> =
    LazyLock::new(|| engine::Runtime::new(engine::Device::Cpu, 1).expect("one thread"));

/// A parquet file of pictures.
pub fn read_parquet(bytes: &[u8]) {
    match parquet::from_bytes(path(), bytes.to_vec()) {
        Ok((items, _)) => assert!(items.iter().all(|item| item.name.starts_with(PATH))),
        Err(error) => told(error),
    }
}

/// CIFAR's records.
pub fn read_cifar(bytes: &[u8]) {
    for (read, classes) in [(cifar::cifar10 as fn(_, &_) -> _, 10), (cifar::cifar100, 100)] {
        match read(path(), bytes) {
            Ok(items) => keeps_labels_below(&items, classes),
            Err(error) => told(error),
        }
    }
}

fn keeps_labels_below(items: &[Item], classes: u32) {
    assert!(!items.is_empty());
    assert!(items.iter().all(|item| item.label.is_none_or(|label| label < classes)));
}

/// A file of pictures and one of labels in MNIST's layout. The first two bytes say where the second begins.
pub fn read_idx(bytes: &[u8]) {
    let (images, labels) = two_files(bytes);
    match idx::items(path(), images, path(), labels) {
        Ok(items) => keeps_labels_below(&items, 256),
        Err(error) => told(error),
    }
}

fn two_files(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((length, rest)) = bytes.split_at_checked(2) else { return (&[], &[]) };
    rest.split_at(usize::from(u16::from_le_bytes([length[0], length[1]])).min(rest.len()))
}

/// STL-10's labels, of as many pictures as the first byte says; and the same bytes, over and over, as a picture.
pub fn read_stl10(bytes: &[u8]) {
    let Some((&pictures, labels)) = bytes.split_first() else { return };
    match stl10::labels(path(), labels, usize::from(pictures)) {
        Ok(labels) => assert!(labels.iter().all(|&label| label < 10)),
        Err(error) => told(error),
    }
    assert!(stl10::picture(labels).is_none_or(|_| labels.len() == stl10::RECORD));
    let record: Vec<u8> = bytes.iter().copied().cycle().take(stl10::RECORD).collect();
    let picture = stl10::picture(&record).expect("a whole record is a picture");
    assert_eq!(picture.pixels.len(), stl10::RECORD);
}

/// FER+'s two files. The first two bytes say where the second begins.
pub fn read_ferplus(bytes: &[u8]) {
    let (pictures, votes) = two_files(bytes);
    match ferplus::from_bytes(path(), pictures, path(), votes) {
        Ok(listing) => assert!(listing.items().all(|item| item.label.is_some_and(|label| label < 8))),
        Err(error) => told(error),
    }
}

/// A `last.ckpt`.
pub fn read_checkpoint(bytes: &[u8]) {
    if let Err(error) = train::checkpoint::Checkpoint::from_bytes(path(), bytes) {
        told(error);
    }
}

/// A `config.toml`.
pub fn read_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match train::Config::from_toml(path(), text) {
        Ok(config) => {
            let written = config.to_toml().expect("what was read can be written");
            train::Config::from_toml(path(), &written).expect("what was written can be read");
            let _ = config.resolve(0.999);
        }
        Err(error) => told(error),
    }
}

/// A file of `torch.save`; and bytes that are a pickle as the one in such a file, with storages of zeros, so that a
/// mutation need not keep an archive whole.
pub fn read_state_dict(bytes: &[u8]) {
    read_torch(bytes);
    if bytes.first() == Some(&0x80) {
        let zeros = [0; 256];
        let storages = ["data/0", "data/1", "data/2", "data/3"].map(|name| (name, &zeros[..]));
        read_torch(&archive(&[&[("data.pkl", bytes)][..], &storages].concat()));
    }
}

fn read_torch(bytes: &[u8]) {
    match train::state_dict::from_bytes(bytes) {
        Ok(weights) => {
            let count = |array: &models::Array| {
                assert_eq!(array.shape.iter().product::<usize>(), array.data.len());
                array.data.len()
            };
            assert!(weights.values().map(count).sum::<usize>() <= bytes.len(), "more values than bytes");
        }
        Err(error) => told(error),
    }
}

/// A zip archive of one folder, as far as readers of PyTorch's files look at it.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let path = format!("archive/{name}");
        let (length, header) = ((content.len() as u32).to_le_bytes(), (bytes.len() as u32).to_le_bytes());
        let sizes = [&[0; 16][..], &length, &length, &[path.len() as u8, 0, 0, 0]].concat();
        bytes.extend([b"PK\x03\x04", &sizes[2..], path.as_bytes(), content].concat());
        directory.extend([b"PK\x01\x02", &sizes[..], &[0; 10], &header, path.as_bytes()].concat());
    }
    let start = (bytes.len() as u32).to_le_bytes();
    bytes.extend([&directory[..], b"PK\x05\x06", &[0; 12], &start, &[0; 2]].concat());
    bytes
}

/// A file of API keys.
pub fn read_keys(bytes: &[u8]) {
    match serve::http::keys::hashes(bytes) {
        Ok(hashes) => {
            assert!(!hashes.is_empty());
            let digits = |hash: &String| hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            assert!(hashes.iter().all(|hash| hash.len() == 64 && digits(hash)), "no SHA-256");
        }
        Err(error) => told(error),
    }
}
