//! The servers: ours on each engine, and Python's. Each is a process of its own on a free port, killed when dropped.

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Result, cargo, onnxruntime, root, run, target, tools};

/// How long a server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// The network that all serve, and what they are asked about.
pub struct Network {
    /// As safetensors, for our own engine.
    weights: PathBuf,
    /// As ONNX.
    onnx: PathBuf,
    /// A PNG file of the network's size.
    pub picture: PathBuf,
    python: PathBuf,
    library: PathBuf,
}

impl Network {
    /// Builds our side, and writes the network and the picture.
    pub fn make(arch: &str, channels: usize, size: usize, python: &Path) -> Result<Self> {
        let mut build = Command::new(cargo());
        build.args(["build", "--release", "--package", "distill-serve", "--bin", "distill-serve"]);
        run(build.args(["--package", "distill-export", "--example", "network"]).current_dir(root()))?;
        let folder = tools().join("peers-networks");
        std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let file = |ending: &str| folder.join(format!("{arch}-{channels}x{size}.{ending}"));
        for ending in ["safetensors", "onnx"] {
            let shape = [size, channels].map(|number| number.to_string());
            let mut write = Command::new(target().join("release/examples/network"));
            write.arg(arch).arg(&shape[0]).arg(file(ending)).arg(&shape[1]).stdout(Stdio::null());
            run(&mut write)?;
        }
        let picture = file("png");
        run(Command::new(python)
            .arg(script())
            .arg("picture")
            .arg(&picture)
            .args([channels, size].map(|number| number.to_string())))?;
        let (weights, onnx) = (file("safetensors"), file("onnx"));
        Ok(Self { weights, onnx, picture, python: python.into(), library: onnxruntime::library()? })
    }
}

fn script() -> PathBuf {
    root().join("xtask/peers/serving.py")
}

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `distill-serve` on its own engine.
    Native,
    /// `distill-serve` on ONNX Runtime.
    OnnxRuntime,
    /// FastAPI and uvicorn with ONNX Runtime.
    Python { workers: usize },
}

impl Side {
    /// Its name in tables.
    pub fn name(self) -> String {
        match self {
            Side::Native => "distill-serve, native".into(),
            Side::OnnxRuntime => "distill-serve, ort".into(),
            Side::Python { workers } => format!("FastAPI, uvicorn, {workers} worker(s)"),
        }
    }

    fn command(self, network: &Network, port: u16) -> Command {
        let ours = |model: &Path, engine: &str| {
            let mut command = Command::new(target().join("release/distill-serve"));
            command.arg(model).args(["--engine", engine, "--addr", &format!("127.0.0.1:{port}")]);
            // No line for each request, as on the other side.
            command.args(["--log", "off"]).env("ORT_DYLIB_PATH", &network.library).stdout(Stdio::null());
            command
        };
        match self {
            Side::Native => ours(&network.weights, "native"),
            Side::OnnxRuntime => ours(&network.onnx, "ort"),
            Side::Python { workers } => {
                let mut command = Command::new(&network.python);
                command.arg(script()).arg("serve").arg(&network.onnx);
                command.args([port.to_string(), workers.to_string()]);
                command
            }
        }
    }
}

/// A server that answers.
pub struct Server {
    side: Side,
    process: Child,
    port: u16,
    picture: Vec<u8>,
}

impl Server {
    /// Starts one and waits until it answers.
    pub fn start(network: &Network, side: Side) -> Result<Self> {
        let failed = |error: std::io::Error| format!("cannot start {}: {error}", side.name());
        let port = free_port().map_err(failed)?;
        let picture = std::fs::read(&network.picture).map_err(failed)?;
        let mut command = side.command(network, port);
        // A group of its own: uvicorn's workers are children of its.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = command.stdin(Stdio::null()).spawn().map_err(failed)?;
        let mut server = Self { side, process, port, picture };
        let begun = Instant::now();
        while server.class().is_err() {
            if let Ok(Some(status)) = server.process.try_wait() {
                return Err(format!("{} ended with {status}", side.name()));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} did not answer in {PATIENCE:?}: {:?}", side.name(), server.class()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Where it is asked for the class of a picture.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/classify?top=1", self.port)
    }

    /// The class that it answers first.
    pub fn class(&self) -> Result<u64> {
        let said = self.ask().map_err(|error| format!("{}: {error}", self.side.name()))?;
        let answer: Value = said
            .split_once("\r\n\r\n")
            .and_then(|(_, body)| serde_json::from_str(body).ok())
            .ok_or_else(|| format!("{} answered `{said}`", self.side.name()))?;
        answer["predictions"][0]["top"][0]["index"]
            .as_u64()
            .ok_or_else(|| format!("{} answered no class: {answer}", self.side.name()))
    }

    fn ask(&self) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let head = format!(
            "POST /v1/classify?top=1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
             image/png\r\ncontent-length: {}\r\n\r\n",
            self.picture.len()
        );
        stream.write_all(&[head.as_bytes(), &self.picture].concat())?;
        let mut said = String::new();
        BufReader::new(stream).read_to_string(&mut said)?;
        Ok(said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // uvicorn's workers end with it only if it is asked, not killed.
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
