//! The server under other people's clients, over a real socket: NVIDIA's for the Open Inference Protocol, schemathesis
//! for the OpenAPI document, Prometheus' parser for the metrics, Chromium for the page. Each is a script in `clients/`
//! that is told where the server is and where the pictures lie, with the answers that the networks themselves give.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use engine::{Device, Images, Model, Runtime};
use models::{Fit, Manifest, Task, Weights, formula};
use serde_json::{Value, json};
use serve::{LoadOptions, Options, Setup, Source};
use tokio::sync::oneshot;

/// What a guarded server asks for.
const KEY: &str = "a key for the tests alone";
/// Pictures of each network.
const PICTURES: usize = 6;

struct Network {
    manifest: Manifest,
    weights: Weights,
}

impl Network {
    fn new(channels: usize, side: usize, labels: &[&str], gain: f64) -> Self {
        let task = Task { features: Some(16), ..Task::new(labels.len(), channels, side) };
        let labels = labels.iter().map(ToString::to_string).collect();
        let manifest = Manifest::new("small-cnn-3", &task, labels, Fit::Stretch).unwrap();
        let weights = formula::weights(&manifest.graph().unwrap(), gain);
        Self { manifest, weights }
    }

    fn save(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).unwrap();
        models::save(&path.join("model.safetensors"), &self.manifest, &self.weights).unwrap();
        path
    }

    fn logits(&self, pixels: &[u8]) -> Vec<f32> {
        let graph = self.manifest.graph().unwrap();
        let runtime = Runtime::new(Device::Cpu, 1).unwrap();
        Model::new(&graph, &self.weights, &runtime).unwrap().run(Images::U8(pixels)).unwrap().to_vec()
    }

    /// Pictures as files and pixels beside what the network says of them.
    fn describe(&self, folder: &Path, name: &str, version: &str) -> Value {
        let Task { channels, height, width, .. } = self.manifest.task;
        let picture = |index: usize| {
            let pixels = formula::picture(index, channels, height, width);
            let file = format!("{name}.{version}.{index}.png");
            write_png(&folder.join(&file), channels, [width as u32, height as u32], &pixels);
            json!({ "file": file, "pixels": pixels, "logits": self.logits(&pixels) })
        };
        json!({
            "model": name,
            "version": version,
            "labels": self.manifest.labels,
            "shape": [height, width, channels],
            "pictures": (0..PICTURES).map(picture).collect::<Vec<_>>(),
        })
    }
}

fn write_png(path: &Path, channels: usize, [width, height]: [u32; 2], pixels: &[u8]) {
    let pixels = pixels.to_vec();
    if channels == 1 {
        image::GrayImage::from_raw(width, height, pixels).unwrap().save(path).unwrap();
    } else {
        image::RgbImage::from_raw(width, height, pixels).unwrap().save(path).unwrap();
    }
}

/// A server of two models, one of them in two versions, and the folder that the scripts read.
struct Running {
    address: SocketAddr,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    /// Open to everybody.
    fn start() -> Self {
        Self::with(tempfile::tempdir().unwrap(), Options::default())
    }

    /// One that asks for the key.
    fn guarded() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        std::fs::write(&keys, KEY).unwrap();
        Self::with(folder, Options { api_keys: Some(keys), ..Options::default() })
    }

    fn with(folder: tempfile::TempDir, options: Options) -> Self {
        let (gray, color) = (["ant", "bee", "cat", "dog", "elk"], ["red fox", "owl", "hare"]);
        let kittens = [Network::new(1, 24, &gray, 1.5), Network::new(1, 24, &gray, 1.2)];
        let birds = Network::new(3, 32, &color, 1.5);
        let at = folder.path();
        let described = [
            kittens[0].describe(at, "kittens", "1"),
            kittens[1].describe(at, "kittens", "2"),
            birds.describe(at, "birds", "1"),
        ];
        std::fs::write(at.join("expected.json"), json!(described).to_string()).unwrap();
        let paths = vec![kittens[0].save(at, "first"), kittens[1].save(at, "second")];
        let load = LoadOptions::default();
        let setup = Setup::new(&Options { workers: 2, ..options })
            .model(Source::paths("kittens", paths, &load))
            .model(Source::paths("birds", vec![birds.save(at, "birds")], &load));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bound = runtime.block_on(setup.bind(SocketAddr::from(([127, 0, 0, 1], 0)))).unwrap();
        let address = bound.info().address;
        let (stop, stopped) = oneshot::channel::<()>();
        runtime.spawn(bound.run(async { drop(stopped.await) }));
        Self { address, folder, stop: Some(stop), runtime }
    }

    /// Runs a script to its end; what it says is part of the failure.
    fn check(self, script: &str) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let output = Command::new(python())
            .arg(scripts.join(script))
            .arg(format!("http://{}", self.address))
            .arg(self.folder.path())
            .arg(KEY)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script} ended with {}:\n{said}", output.status);
        assert!(said.contains("all is well"), "{script} did not come to its end:\n{said}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody has to be there any longer.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = &self.runtime;
    }
}

/// The interpreter that has the clients; a test without one fails and says what brings it.
fn python() -> PathBuf {
    std::env::var_os("DISTILL_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "this test needs other people's clients; `cargo xtask test` brings them, or set DISTILL_TEST_PYTHON to an \
             interpreter that has tritonclient[http], schemathesis, selenium and prometheus-client"
        )
    })
}

#[test]
fn nvidias_client_gets_the_networks_own_answers() {
    Running::start().check("inference.py");
}

#[test]
fn prometheus_parser_reads_the_metrics() {
    Running::start().check("metrics.py");
}

#[test]
fn the_page_answers_in_a_browser() {
    Running::guarded().check("page.py");
}

#[test]
fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    Running::start().check("openapi.py");
}
