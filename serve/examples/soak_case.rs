//! Makes what `cargo xtask soak` drives a server with: two versions of a network, files that are none, requests of every
//! kind, and the answer to each that this process gives without a server.
//!
//!     cargo run --release --package distill-serve --example soak_case -- FOLDER
//!
//! No two answers are so near each other that a mixed-up one could pass for the right one.
#![allow(clippy::print_stderr)] // a program, not a library

use std::error::Error;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, ImageFormat, RgbImage};
use models::{Fit, Manifest, Task, Weights, formula};
use serde_json::{Value, json};
use serve::{Classifier, LoadOptions, Served};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const SIDE: usize = 32;
const CLASSES: usize = 10;
const PICTURES: usize = 64;
/// Pictures looked at for so many that are distinct.
const MOST_TRIED: usize = 4096;
/// Two answers differ by at least this in some class; `cargo xtask soak` accepts a hundredth of it.
const APART: f32 = 0.01;
/// What classes' logits are multiplied with, so that an untrained network has opinions.
const OPINIONATED: f32 = 24.0;
const VERSIONS: [&str; 2] = ["a", "b"];

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: soak_case FOLDER");
        return ExitCode::from(2);
    };
    match make(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn make(folder: &Path) -> Result {
    std::fs::create_dir_all(folder.join("bodies"))?;
    let mut versions = Vec::new();
    for (index, name) in VERSIONS.iter().enumerate() {
        let path = folder.join(format!("{name}.safetensors"));
        let (manifest, weights) = network(index)?;
        models::save(&path, &manifest, &weights)?;
        versions.push(Classifier::new(Served::open(&path, &LoadOptions::default())?)?);
    }
    broken_models(folder)?;
    let pictures = distinct_pictures(&mut versions)?;
    let mut asks = Asks { folder, listed: Vec::new() };
    good(&mut asks, &pictures)?;
    bad(&mut asks, &pictures)?;
    let case = json!({
        "tolerance": APART / 100.0,
        "versions": VERSIONS,
        "broken": ["truncated", "contradictory", "empty"],
        "asks": asks.listed,
    });
    Ok(std::fs::write(folder.join("case.json"), format!("{case:#}\n"))?)
}

/// One of the two networks: the same architecture, other weights.
fn network(version: usize) -> Result<(Manifest, Weights)> {
    let labels = (0..CLASSES).map(|class| format!("class {class}")).collect();
    let manifest = Manifest::new("small-cnn-3", &Task::new(CLASSES, 3, SIDE), labels, Fit::Stretch)?;
    let mut weights = formula::weights(&manifest.graph()?, 1.0);
    for name in ["fc.weight", "fc.bias"] {
        let array = weights.get_mut(name).ok_or("small-cnn-3 has no layer `fc`")?;
        // The other version sees the classes in another order.
        let shift = version * 3 * array.data.len() / CLASSES;
        array.data.rotate_left(shift);
        array.data.iter_mut().for_each(|value| *value *= OPINIONATED);
    }
    Ok((manifest, weights))
}

/// Files that a server must refuse to load: cut short, with weights that are not the manifest's, and nothing at all.
fn broken_models(folder: &Path) -> Result {
    let whole = std::fs::read(folder.join("a.safetensors"))?;
    let text = String::from_utf8_lossy(&whole[8..]).into_owned();
    let classes = text.find("\\\"classes\\\":10").ok_or("the manifest does not tell its classes")? + 8;
    let mut contradictory = whole.clone();
    let digit = classes + "\\\"classes\\\":1".len();
    contradictory[digit] = b'1';
    std::fs::write(folder.join("truncated.safetensors"), &whole[..whole.len() / 2])?;
    std::fs::write(folder.join("contradictory.safetensors"), contradictory)?;
    Ok(std::fs::write(folder.join("empty.safetensors"), b"")?)
}

/// A picture file and what each version answers to it.
struct Known {
    kind: &'static str,
    content_type: &'static str,
    bytes: Vec<u8>,
    /// Probabilities by class, a list for each version.
    answers: Vec<Vec<f32>>,
}

/// Pictures whose answers, of either version, are all apart.
fn distinct_pictures(versions: &mut [Classifier]) -> Result<Vec<Known>> {
    let mut kept: Vec<Known> = Vec::new();
    for number in 0..MOST_TRIED {
        let known = picture(number, kept.len(), versions)?;
        if is_distinct(&known, &kept) {
            kept.push(known);
        }
        if kept.len() == PICTURES {
            return Ok(kept);
        }
    }
    Err(format!("{MOST_TRIED} pictures, and only {} whose answers are {APART} apart", kept.len()).into())
}

fn is_distinct(known: &Known, others: &[Known]) -> bool {
    let itself = distance(&known.answers[0], &known.answers[1]) >= APART;
    let from_others = others.iter().flat_map(|other| &other.answers);
    let pairs = from_others.flat_map(|other| known.answers.iter().map(move |answer| distance(answer, other)));
    itself && pairs.into_iter().all(|distance| distance >= APART)
}

fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

/// Picture `number`, in the size and format of the `place` that it may take.
fn picture(number: usize, place: usize, versions: &mut [Classifier]) -> Result<Known> {
    let formats = [
        ("png", "image/png", ImageFormat::Png),
        ("jpeg", "image/jpeg", ImageFormat::Jpeg),
        ("webp", "image/webp", ImageFormat::WebP),
        ("bmp", "application/octet-stream", ImageFormat::Bmp),
    ];
    let (kind, content_type, format) = formats[place % formats.len()];
    let height = if place.is_multiple_of(3) { SIDE } else { SIDE + 2 * place };
    let width = height + place % 7;
    let mut pixels = formula::picture(number, 3, height, width);
    for (at, pixel) in pixels.iter_mut().enumerate() {
        // A tint of its own: strong colors make strong opinions.
        let tint = (number * 89 + at % 3 * (53 + number * 31)) % 256;
        *pixel = (usize::from(*pixel) * tint / 255) as u8;
    }
    let rgb = RgbImage::from_raw(width as u32, height as u32, pixels).ok_or("pixels are missing")?;
    let mut file = Cursor::new(Vec::new());
    DynamicImage::from(rgb).write_to(&mut file, format)?;
    let bytes = file.into_inner();
    let answers = versions.iter_mut().map(|version| probabilities(version, &bytes));
    Ok(Known { kind, content_type, answers: answers.collect::<Result<_>>()?, bytes })
}

fn probabilities(version: &mut Classifier, bytes: &[u8]) -> Result<Vec<f32>> {
    let mut probabilities = vec![0.0; CLASSES];
    for candidate in version.classify(bytes, CLASSES)?.top {
        probabilities[candidate.index] = candidate.probability;
    }
    Ok(probabilities)
}

/// Requests, written down as they are made.
struct Asks<'a> {
    folder: &'a Path,
    listed: Vec<Value>,
}

/// A request: where, what, and the statuses that are right.
struct Ask<'a> {
    kind: &'a str,
    path: &'a str,
    headers: Value,
    body: &'a [u8],
    statuses: &'a [u16],
}

impl Asks<'_> {
    /// A request that is answered with the probabilities of `pictures`, in the form that `form` names.
    fn answered(&mut self, ask: &Ask<'_>, form: &str, pictures: &[&Known]) -> Result {
        let of = |version: usize| pictures.iter().map(|known| known.answers[version].clone()).collect();
        let answers: Vec<Vec<Vec<f32>>> = (0..VERSIONS.len()).map(of).collect();
        let mut written = self.write(ask)?;
        written["form"] = form.into();
        written["answers"] = json!(answers);
        self.listed.push(written);
        Ok(())
    }

    /// A request that is refused.
    fn refused(&mut self, ask: &Ask<'_>) -> Result {
        let written = self.write(ask)?;
        self.listed.push(written);
        Ok(())
    }

    fn write(&self, ask: &Ask<'_>) -> Result<Value> {
        let name = format!("bodies/{:03}-{}.bin", self.listed.len(), ask.kind.replace(' ', "-"));
        std::fs::write(self.folder.join(&name), ask.body)?;
        let Ask { kind, path, headers, statuses, .. } = ask;
        Ok(json!({"kind": kind, "path": path, "headers": headers, "body": name, "statuses": statuses}))
    }
}

const CLASSIFY: &str = "/v1/classify?top=10";
const INFER: &str = "/v2/models/soak/infer";

fn typed(content_type: &str) -> Value {
    json!({ "content-type": content_type })
}

/// Every way to send pictures.
fn good(asks: &mut Asks<'_>, pictures: &[Known]) -> Result {
    for known in pictures {
        let Known { kind, content_type, bytes, .. } = known;
        let ask = Ask { kind, path: CLASSIFY, headers: typed(content_type), body: bytes, statuses: &[200] };
        asks.answered(&ask, "classify", &[known])?;
    }
    for several in pictures.chunks(4) {
        let several: Vec<&Known> = several.iter().collect();
        let headers = typed("multipart/form-data; boundary=B");
        let body = multipart(&several);
        let ask = Ask { kind: "multipart", path: CLASSIFY, headers, body: &body, statuses: &[200] };
        asks.answered(&ask, "classify", &several)?;
        let body = in_json(&several[..2]);
        let headers = typed("application/json");
        let ask = Ask { kind: "json", path: CLASSIFY, headers, body: &body, statuses: &[200] };
        asks.answered(&ask, "classify", &several[..2])?;
        inference(asks, &several)?;
    }
    // As many as fit into one request: several of these at once are more than the queue takes.
    let many: Vec<&Known> = pictures.iter().take(16).collect();
    let headers = typed("multipart/form-data; boundary=B");
    let body = multipart(&many);
    let ask = Ask { kind: "burst", path: CLASSIFY, headers, body: &body, statuses: &[200, 429] };
    asks.answered(&ask, "classify", &many)
}

fn multipart(pictures: &[&Known]) -> Vec<u8> {
    let part = |known: &&Known| {
        let head = "--B\r\ncontent-disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n";
        [head.as_bytes(), &known.bytes, b"\r\n"].concat()
    };
    pictures.iter().map(part).chain([b"--B--\r\n".to_vec()]).collect::<Vec<_>>().concat()
}

fn in_json(pictures: &[&Known]) -> Vec<u8> {
    let images: Vec<String> = pictures.iter().map(|known| STANDARD.encode(&known.bytes)).collect();
    json!({"images": images, "top": CLASSES}).to_string().into_bytes()
}

/// The Open Inference Protocol, all in JSON and with bytes behind the JSON.
fn inference(asks: &mut Asks<'_>, pictures: &[&Known]) -> Result {
    let images: Vec<String> = pictures.iter().map(|known| STANDARD.encode(&known.bytes)).collect();
    let (shape, outputs) = (json!([pictures.len()]), json!([{"name": "probabilities"}]));
    let tensor = json!({"name": "encoded", "shape": shape, "datatype": "BYTES", "data": images});
    let body = json!({"inputs": [tensor], "outputs": outputs}).to_string().into_bytes();
    let headers = typed("application/json");
    let ask = Ask { kind: "oip json", path: INFER, headers, body: &body, statuses: &[200] };
    asks.answered(&ask, "oip", pictures)?;
    let files: Vec<u8> = pictures
        .iter()
        .flat_map(|known| [&(known.bytes.len() as u32).to_le_bytes()[..], &known.bytes].concat())
        .collect();
    let sized = json!({"binary_data_size": files.len()});
    let tensor = json!({"name": "encoded", "shape": shape, "datatype": "BYTES", "parameters": sized});
    let outputs = json!([{"name": "probabilities", "parameters": {"binary_data": true}}]);
    let head = json!({"inputs": [tensor], "outputs": outputs}).to_string();
    let body = [head.as_bytes(), &files].concat();
    let mut headers = typed("application/octet-stream");
    headers["inference-header-content-length"] = head.len().to_string().into();
    let ask = Ask { kind: "oip binary", path: INFER, headers, body: &body, statuses: &[200] };
    asks.answered(&ask, "oip", pictures)
}

/// A kind of refused request: its path, headers and body, and the status codes that are right.
type Refusal<'a> = (&'a str, &'a str, Value, &'a [u8], &'a [u16]);

/// What a stranger sends by mistake or by intent, and what has to be said to it.
fn bad(asks: &mut Asks<'_>, pictures: &[Known]) -> Result {
    let (png, jpeg) = (&pictures[0].bytes, &pictures[1].bytes);
    let mut bomb = png.clone();
    bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0]); // 100000 by 100000 pixels
    let crowd = multipart(&[&pictures[0]; 17]);
    let image = || typed("image/png");
    let text = || typed("application/json");
    let form = || typed("multipart/form-data; boundary=B");
    let cut_form = &multipart(&[&pictures[0]])[..60];
    let cases: &[Refusal<'_>] = &[
        ("half a png", CLASSIFY, image(), &png[..png.len() / 2], &[422]),
        ("half a jpeg", CLASSIFY, image(), &jpeg[..jpeg.len() / 2], &[422]),
        ("no picture", CLASSIFY, image(), b"<html>not found</html>", &[415]),
        ("pixel bomb", CLASSIFY, image(), &bomb, &[413, 422]),
        ("empty body", CLASSIFY, image(), b"", &[400]),
        ("wrong content type", CLASSIFY, typed("text/html"), png, &[415]),
        ("malformed json", CLASSIFY, text(), b"{\"images\": [", &[400]),
        ("bad base64", CLASSIFY, text(), b"{\"images\": [\"%%%\"]}", &[400]),
        ("malformed multipart", CLASSIFY, form(), cut_form, &[400]),
        ("too many pictures", CLASSIFY, form(), &crowd, &[413]),
        ("bad query", "/v1/classify?top=many", image(), png, &[400]),
        ("unknown route", "/v1/clasify", image(), png, &[404]),
        ("wrong method", "/healthz", image(), png, &[405]),
        ("unknown model", "/v1/models/nobody/classify", image(), png, &[404]),
    ];
    for (kind, path, headers, body, statuses) in cases {
        asks.refused(&Ask { kind, path, headers: headers.clone(), body, statuses })?;
    }
    Ok(())
}
