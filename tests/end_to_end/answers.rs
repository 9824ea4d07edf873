//! What a trained network answers: by predict, by its exported file, over HTTP, and in the benchmark's report.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::tempdir;

use crate::{command, fail, succeed, tiny_run};

/// An 8 x 8 picture of one color as a PNG, written byte by byte: the tests need no picture library.
pub fn png() -> Vec<u8> {
    let header = [0, 0, 0, 8, 0, 0, 0, 8, 8, 2, 0, 0, 0];
    let row: Vec<u8> = std::iter::once(0).chain([200, 40, 90].repeat(8)).collect();
    let raw = row.repeat(8);
    let length = raw.len() as u16;
    let mut zlib = vec![0x78, 0x01, 0x01];
    zlib.extend(length.to_le_bytes());
    zlib.extend((!length).to_le_bytes());
    zlib.extend(&raw);
    zlib.extend(adler32(&raw).to_be_bytes());
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", &header[..]), (b"IDAT", &zlib), (b"IEND", &[])] {
        file.extend((data.len() as u32).to_be_bytes());
        let chunk: Vec<u8> = kind.iter().chain(data).copied().collect();
        file.extend(&chunk);
        file.extend(crc32(&chunk).to_be_bytes());
    }
    file
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1u32, 0u32), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

fn probabilities(answer: &Value) -> Vec<f64> {
    answer["top"].as_array().unwrap().iter().map(|class| class["probability"].as_f64().unwrap()).collect()
}

#[test]
fn predict_export_and_eval_agree() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    std::fs::write(folder.path().join("picture.png"), png()).unwrap();
    succeed(folder.path(), "export runs/a --require-parity -o a.onnx");
    let answers = ["runs/a", "a.onnx"].map(|model| {
        let printed = succeed(folder.path(), &format!("predict {model} picture.png --json"));
        serde_json::from_str::<Value>(&printed).unwrap()
    });
    for answer in &answers {
        let picture = &answer[0];
        assert_eq!(picture["path"], "picture.png");
        assert!(
            picture["top"][0]["label"].is_string() && picture["top"][0]["index"].is_number(),
            "{picture}"
        );
        assert!(picture["times_us"].is_object(), "{picture}");
        assert!(probabilities(picture).windows(2).all(|pair| pair[0] >= pair[1]), "{picture}");
    }
    for (ours, theirs) in probabilities(&answers[0][0]).iter().zip(probabilities(&answers[1][0])) {
        assert!((ours - theirs).abs() < 1e-4, "{answers:?}");
    }
    let evaluation: Value = serde_json::from_str(&succeed(folder.path(), "eval runs/a --json")).unwrap();
    assert!(evaluation["accuracy"].is_number(), "{evaluation}");
}

#[test]
fn the_benchmark_gives_a_ratio_to_resnet18() {
    let folder = tempdir().unwrap();
    let printed =
        succeed(folder.path(), "bench small-cnn-3 --channels 1 --image-size 48 --seconds 0.2 --json");
    let report: Value = serde_json::from_str(&printed).unwrap();
    let rows = report["rows"].as_array().unwrap();
    let measured = |row: &&Value| row["figures"]["latency"]["percentiles"].is_array();
    let figures: Vec<&Value> = rows.iter().filter(measured).collect();
    let weights: Vec<&str> = figures.iter().filter_map(|row| row["weights"].as_str()).collect();
    assert_eq!(weights[..2], ["f32", "int8"], "{report}");
    assert_eq!(figures[0]["figures"]["ratio"]["against"], "resnet18", "{report}");
    assert!(rows.iter().all(|row| row["figures"].is_object() || row["missing"].is_string()), "{report}");
    assert_eq!(report["http"][0]["closed"][0]["connections"], 1, "{report}");
    for (command, expected) in [
        ("bench resnet81 --seconds 0.1", "resnet18"),
        ("bench", "<MODEL>"),
        ("bench small-cnn-2 --rows ort-int", "did you mean `ort-int8`"),
        ("bench small-cnn-2 --url https://example.org", "url: expected http://HOST:PORT"),
        ("bench small-cnn-2 --header nothing", "--header: expected NAME: VALUE"),
        ("bench small-cnn-2 --quick --mlperf", "--mlperf"),
    ] {
        let message = fail(folder.path(), command);
        assert!(message.contains(expected), "{command}: {message}");
    }
}

#[test]
fn the_benchmarks_report_says_how_accurate_the_file_is_on_the_data_named() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    let flags =
        "--data synth:60/40 --rows native --against none --samples 5 --no-http --report report --json";
    let printed = succeed(folder.path(), &format!("bench runs/a {flags}"));
    let report: Value = serde_json::from_str(&printed).unwrap();
    let row = &report["rows"][0];
    let sha256 =
        models::file::sha256(&std::fs::read(folder.path().join("runs/a/model.safetensors")).unwrap());
    assert_eq!(row["file"]["sha256"].as_str(), Some(sha256.as_str()), "{report}");
    let evaluation: Value =
        serde_json::from_str(&succeed(folder.path(), "eval runs/a --data synth:60/40 --json")).unwrap();
    assert_eq!(row["accuracy"]["status"], "measured", "{report}");
    assert_eq!(
        (&row["accuracy"]["top1"], &row["accuracy"]["count"]),
        (&evaluation["accuracy"], &evaluation["pictures"])
    );
    assert_eq!(row["figures"]["latency"]["count"], 5, "{report}");
    let page = std::fs::read_to_string(folder.path().join("report/report.html")).unwrap();
    assert!(page.contains(&sha256) && page.contains("--no-http"), "the file and the command are in the page");
}

/// A server on a free port, killed when dropped.
pub struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Serves what `model` names.
    pub fn start(folder: &Path, model: &str) -> Self {
        let mut process = command(folder, &format!("serve {model} --addr 127.0.0.1:0"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().unwrap().contains("http://127.0.0.1:")).unwrap().unwrap();
        let start = line.find("127.0.0.1:").unwrap();
        let address: String =
            line[start..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        Self { process, address }
    }

    /// One request; its status and body.
    pub fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_server_answers_and_goes_on_after_broken_bodies() {
    let folder = tempdir().unwrap();
    tiny_run(folder.path(), "a");
    let server = Server::start(folder.path(), "runs/a");
    assert_eq!(server.send("GET", "/healthz", "text/plain", b"").0, 200);
    assert_eq!(server.send("GET", "/readyz", "text/plain", b"").0, 200);
    for broken in [&b"no picture"[..], &png()[..40], b""] {
        let (status, answer) = server.send("POST", "/v1/classify", "image/png", broken);
        assert!((400..500).contains(&status) && answer.contains("error"), "{answer}");
    }
    let (status, answer) = server.send("POST", "/v1/classify", "image/png", &png());
    assert_eq!(status, 200, "{answer}");
    assert!(answer.to_lowercase().contains("server-timing:") && answer.contains("probability"), "{answer}");
}
