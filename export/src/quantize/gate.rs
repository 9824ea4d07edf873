//! The gate: what a quantized file has to be before it is written, as accurate as float within what is allowed, and
//! faster on the engine that serves it unless somebody asks for another.
//!
//! Never here: how it was quantized.

use data::score::agreement;
use engine::machine::describe;
use engine::{Device, Images, Model, Quantized, Runtime};
use models::{Graph, Machine, QuantizedNetwork, Weights};
use onnx::OnnxError;
use onnx::runtime::{Found, OrtOptions, OrtSession, find};
use serde::{Deserialize, Serialize};

use super::{Options, Pictures, Tried, measure};
use crate::Result;
use crate::parity::{NATIVE, ONNX_RUNTIME};

/// One way to quantize, and how it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// How ranges were chosen.
    pub calibration: String,
    /// Scales of weights: `per-channel` or `per-tensor`.
    pub granularity: String,
    /// Share of right answers, 0..1; `None` where no labels are known.
    pub top1: Option<f64>,
    /// Share of the answers that are the float network's.
    pub agreement: f64,
}

/// What float and int8 take on an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// The engine.
    pub engine: String,
    /// Median microseconds of the float network for one picture on one thread.
    pub float_us: f64,
    /// The same of the quantized one.
    pub int8_us: f64,
    /// Share of right answers of the quantized file on this engine.
    pub top1: Option<f64>,
    /// Share of its answers that are the float network's on the native engine.
    pub agreement: f64,
}

impl Speed {
    /// Whether the quantized network takes longer.
    pub fn slower(&self) -> bool {
        self.int8_us > self.float_us
    }
}

/// What was tried and measured, and what speaks against the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Data set of the pictures.
    pub data: String,
    /// Part of it that the network is judged by.
    pub split: String,
    /// Pictures that it is judged by.
    pub count: usize,
    /// Pictures that ranges come from.
    pub calibrated_on: usize,
    /// Share of right answers of the float network.
    pub float_top1: Option<f64>,
    /// Every way that was tried.
    pub candidates: Vec<Candidate>,
    /// The one that was kept.
    pub chosen: usize,
    /// Bytes of the float `.onnx` file.
    pub float_bytes: usize,
    /// Bytes of the quantized one, before this report is in it.
    pub int8_bytes: usize,
    /// On every engine that is there; the first is the one that serves the file by default.
    pub engines: Vec<Speed>,
    /// Most points of accuracy that may be lost, in per cent.
    pub max_drop: f64,
    /// What speaks against the file: nothing, or it was written by force.
    pub refusals: Vec<String>,
    /// Where latency was measured.
    pub machine: Machine,
}

impl Gate {
    /// Whether nothing speaks against the file.
    pub fn passed(&self) -> bool {
        self.refusals.is_empty()
    }

    /// The way that was kept.
    pub fn best(&self) -> &Candidate {
        &self.candidates[self.chosen]
    }

    /// Points of accuracy lost, in per cent; negative if some were gained.
    pub fn drop(&self) -> Option<f64> {
        Some((self.float_top1? - self.best().top1?) * 100.0)
    }

    fn find_refusals(&self) -> Vec<String> {
        let accuracy = match (self.drop(), self.float_top1, self.best().top1) {
            (Some(drop), Some(float), Some(int8)) if drop > self.max_drop => Some(format!(
                "it loses {drop:.2} points of accuracy (float {:.2} %, int8 {:.2} %, on {} {} pictures of {}), at most {} \
                 are allowed (--max-drop)",
                float * 100.0,
                int8 * 100.0,
                self.count,
                self.split,
                self.data,
                self.max_drop
            )),
            (None, ..) => Some(format!(
                "its accuracy is not known: the pictures ({}) have no labels; name a data set with --calibrate",
                self.data
            )),
            _ => None,
        };
        let serving = self.engines.first().filter(|speed| speed.slower());
        let latency = serving.map(|speed| {
            let Speed { engine, float_us, int8_us, .. } = speed;
            format!("it is slower than float on {engine}: {int8_us:.0} us against {float_us:.0} us for one picture")
        });
        accuracy.into_iter().chain(latency).collect()
    }
}

/// The two files that are compared.
pub(super) struct Files<'a> {
    pub float: &'a [u8],
    pub int8: &'a [u8],
}

/// Measures the best way on every engine that is there.
pub(super) fn judge(
    graph: &Graph,
    weights: &Weights,
    tried: &Tried,
    files: &Files<'_>,
    pictures: &Pictures,
    options: &Options,
) -> Result<Gate> {
    let (chosen, runtime) = (tried.best(), Runtime::new(Device::Cpu, 1)?);
    let mut engines = vec![native(graph, weights, &tried.networks[chosen], tried, pictures, options)?];
    match find(options.ort_lib.as_deref()) {
        Ok(library) => engines.push(onnx_runtime(&library, files, tried, pictures, options)?),
        // What the user named has to be there; what he did not name may be missing.
        Err(missing) if missing.named() => return Err(OnnxError::NotFound(missing).into()),
        Err(_) => {}
    }
    let mut gate = Gate {
        data: pictures.source.clone(),
        split: pictures.split.clone(),
        count: pictures.count(),
        calibrated_on: pictures.calibration.len() / pictures.each.max(1),
        float_top1: tried.float_top1,
        candidates: tried.candidates.clone(),
        chosen,
        float_bytes: files.float.len(),
        int8_bytes: files.int8.len(),
        engines,
        max_drop: options.max_drop,
        refusals: Vec::new(),
        machine: describe(&runtime),
    };
    gate.refusals = gate.find_refusals();
    Ok(gate)
}

fn native(
    graph: &Graph,
    weights: &Weights,
    network: &QuantizedNetwork,
    tried: &Tried,
    pictures: &Pictures,
    options: &Options,
) -> Result<Speed> {
    let runtime = Runtime::new(Device::Cpu, 1)?;
    let mut float = Model::new(graph, weights, &runtime)?;
    let mut int8 = Quantized::of(graph, network, &runtime)?;
    let mut ask_float = |picture: &[u8]| Ok(float.run(Images::U8(picture)).map(drop)?);
    let mut ask_int8 = |picture: &[u8]| Ok(int8.run(Images::U8(picture)).map(drop)?);
    let [float_us, int8_us] = measure::paired(pictures, options.samples, [&mut ask_float, &mut ask_int8])?;
    let Candidate { top1, agreement, .. } = tried.candidates[tried.best()];
    Ok(Speed { engine: NATIVE.into(), float_us, int8_us, top1, agreement })
}

fn onnx_runtime(
    library: &Found,
    files: &Files<'_>,
    tried: &Tried,
    pictures: &Pictures,
    options: &Options,
) -> Result<Speed> {
    let open = |file: &[u8]| OrtSession::open(library, file, OrtOptions { threads: 1, spinning: false });
    let (mut float, mut int8) = (open(files.float)?, open(files.int8)?);
    let answers = measure::classes(pictures, |batch| Ok(int8.run_pixels(batch)?.to_vec()))?;
    let mut ask_float = |picture: &[u8]| Ok(float.run_pixels(picture).map(drop)?);
    let mut ask_int8 = |picture: &[u8]| Ok(int8.run_pixels(picture).map(drop)?);
    let [float_us, int8_us] = measure::paired(pictures, options.samples, [&mut ask_float, &mut ask_int8])?;
    let agreement = agreement(&tried.float, &answers);
    Ok(Speed { engine: ONNX_RUNTIME.into(), float_us, int8_us, top1: pictures.top1(&answers), agreement })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(top1: Option<f64>, int8_us: f64) -> Gate {
        let speed = |engine: &str, int8_us| Speed {
            engine: engine.into(),
            float_us: 100.0,
            int8_us,
            top1,
            agreement: 0.97,
        };
        let candidate = Candidate {
            calibration: "minmax".into(),
            granularity: "per-channel".into(),
            top1,
            agreement: 0.97,
        };
        Gate {
            data: "cifar10".into(),
            split: "val".into(),
            count: 5000,
            calibrated_on: 512,
            float_top1: top1.map(|_| 0.9),
            candidates: vec![candidate],
            chosen: 0,
            float_bytes: 4000,
            int8_bytes: 1000,
            engines: vec![speed(NATIVE, int8_us), speed(ONNX_RUNTIME, 500.0)],
            max_drop: 1.0,
            refusals: Vec::new(),
            machine: Machine { cpu: "a".into(), cores: 1, kernels: "b".into(), system: "c".into() },
        }
    }

    #[test]
    fn what_loses_no_more_than_allowed_and_is_faster_where_it_is_served_passes() {
        assert_eq!(
            gate(Some(0.8951), 99.0).find_refusals(),
            [""; 0],
            "slower on the other engine is no reason"
        );
        assert_eq!(gate(Some(0.95), 99.0).find_refusals(), [""; 0]);
    }

    #[test]
    fn every_reason_gives_its_numbers() {
        let refusals = gate(Some(0.8849), 101.0).find_refusals();
        assert_eq!(refusals.len(), 2);
        assert!(
            refusals[0].contains("loses 1.51 points") && refusals[0].contains("float 90.00 %, int8 88.49 %")
        );
        assert!(refusals[0].contains("5000 val pictures of cifar10"), "{}", refusals[0]);
        assert!(
            refusals[1].contains("slower than float on native: 101 us against 100 us"),
            "{}",
            refusals[1]
        );
        let unknown = gate(None, 50.0).find_refusals();
        assert!(unknown.len() == 1 && unknown[0].contains("--calibrate"), "{unknown:?}");
    }

    #[test]
    fn the_report_is_read_back_from_its_json() {
        let gate = gate(Some(0.8), 101.0);
        let json = serde_json::to_string(&gate).unwrap();
        assert_eq!(serde_json::from_str::<Gate>(&json).unwrap(), gate);
    }
}
