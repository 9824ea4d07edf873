//! What answers for a file: this toolkit's engine, or ONNX Runtime. One way to ask both, for probes, accuracies and
//! latencies. Which one is asked is said by the caller; none stands in for another.

use engine::{Device, Images, Model, Quantized, Runtime};
use models::{Manifest, Weights};
use onnx::ModelProto;
use onnx::network::{Network, Numbers};
use onnx::runtime::{Found, OrtOptions, OrtSession};

use crate::Result;
use crate::parity::{NATIVE, ONNX_RUNTIME};

/// Pictures in a call where many are answered.
const BATCH: usize = 64;

/// An engine with a network.
#[derive(Debug)]
pub enum Answers {
    /// Ours.
    Native(Box<Model>),
    /// Ours over bytes.
    NativeInt8(Box<Quantized>),
    /// ONNX Runtime.
    OnnxRuntime(Box<OrtSession>),
}

impl Answers {
    /// Our engine on a network.
    ///
    /// # Errors
    /// If the weights are not the manifest's.
    pub fn native(manifest: &Manifest, weights: &Weights, threads: usize) -> Result<Self> {
        let runtime = Runtime::new(Device::Cpu, threads)?;
        Ok(Self::Native(Box::new(Model::new(&manifest.graph_for(weights)?, weights, &runtime)?)))
    }

    /// Our engine on an ONNX file that this toolkit wrote, quantized or not.
    ///
    /// # Errors
    /// [`ExportError::Onnx`](crate::ExportError::Onnx) for a file whose network is not that of its manifest.
    pub fn native_onnx(bytes: &[u8], threads: usize) -> Result<Self> {
        let Network { graph, numbers, .. } = onnx::network::read(&ModelProto::read(bytes)?)?;
        let runtime = Runtime::new(Device::Cpu, threads)?;
        Ok(match numbers {
            Numbers::Whole(network) => Self::NativeInt8(Box::new(Quantized::of(&graph, &network, &runtime)?)),
            Numbers::Real(weights) => Self::Native(Box::new(Model::new(&graph, &weights, &runtime)?)),
        })
    }

    /// ONNX Runtime on a file's bytes.
    ///
    /// # Errors
    /// If the library does not load or refuses the file.
    pub fn onnx_runtime(bytes: &[u8], library: &Found, threads: usize) -> Result<Self> {
        let options = OrtOptions { threads, spinning: false };
        Ok(Self::OnnxRuntime(Box::new(OrtSession::open(library, bytes, options)?)))
    }

    /// The engine's name in reports and manifests.
    pub fn engine(&self) -> &'static str {
        match self {
            Answers::Native(_) | Answers::NativeInt8(_) => NATIVE,
            Answers::OnnxRuntime(_) => ONNX_RUNTIME,
        }
    }

    /// One call: pixels, NHWC, 0..=255, to logits, row after row.
    ///
    /// # Errors
    /// The engine's.
    pub fn call(&mut self, pixels: &[u8]) -> Result<&[f32]> {
        match self {
            Answers::Native(model) => Ok(model.run(Images::U8(pixels))?),
            Answers::NativeInt8(network) => Ok(network.run(Images::U8(pixels))?),
            Answers::OnnxRuntime(session) => Ok(session.run_pixels(pixels)?),
        }
    }

    /// As many calls as it takes: pictures of `picture` bytes each.
    ///
    /// # Errors
    /// The engine's.
    pub fn logits(&mut self, pixels: &[u8], picture: usize) -> Result<Vec<f32>> {
        let mut logits = Vec::new();
        for batch in pixels.chunks(BATCH * picture.max(1)) {
            logits.extend_from_slice(self.call(batch)?);
        }
        Ok(logits)
    }
}
