//! Blocks of training steps, each timed as a whole: the device is waited for at a block's end alone, so that launches
//! overlap as they do in training. Knows no network.

use std::error::Error;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use engine::{Device, Precision, Runtime};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Steps before the first that counts. A GPU runs a pass as it is, then records it, then replays it.
const WARM_UP: usize = 5;
/// Blocks where nobody asks for turns.
const BLOCKS: usize = 5;

/// What is timed.
pub struct Case<'a> {
    pub name: String,
    pub runtime: &'a Runtime,
    /// Pictures that a step takes through the network.
    pub pictures: usize,
    /// Multiply-accumulates of a picture's way forward.
    pub macs: u64,
}

/// Warms up, then times blocks of `steps`: as many as are asked for by lines on the standard input, each answered by a
/// line of JSON after one that says `ready`; else some, of which the median is printed and written to `file`.
pub fn take(
    case: &Case<'_>,
    steps: usize,
    asked: bool,
    file: Option<&Path>,
    mut step: impl FnMut() -> Outcome,
) -> Outcome {
    let mut block = |steps: usize| -> Outcome<f64> {
        let start = Instant::now();
        (0..steps).try_for_each(|_| step())?;
        case.runtime.wait()?;
        Ok(start.elapsed().as_secs_f64())
    };
    block(WARM_UP)?;
    if asked {
        println!("{}", json!({ "ready": case.name }));
        for line in std::io::stdin().lock().lines() {
            line?;
            println!("{}", case.report(steps, block(steps)?));
        }
        return Ok(());
    }
    let mut seconds = (0..BLOCKS).map(|_| block(steps)).collect::<Outcome<Vec<f64>>>()?;
    seconds.sort_by(f64::total_cmp);
    let report = case.report(steps, seconds[BLOCKS / 2]);
    println!("{}", case.line(&report));
    file.map_or(Ok(()), |file| Ok(std::fs::write(file, format!("{report:#}\n"))?))
}

impl Case<'_> {
    /// A block's figures.
    fn report(&self, steps: usize, seconds: f64) -> Value {
        let pictures_per_second = (steps * self.pictures) as f64 / seconds;
        // The way forward, and on the way back the gradients of input and of weights; an operation is half a
        // multiply-accumulate.
        let tflops = pictures_per_second * 3.0 * 2.0 * self.macs as f64 / 1e12;
        let peak = peak(self.runtime);
        json!({
            "case": self.name,
            "device": match self.runtime.device() {
                Device::Cpu => "cpu".into(),
                Device::Cuda(index) => format!("cuda:{index}"),
            },
            "precision": self.runtime.precision().name(),
            "steps": steps,
            "pictures": self.pictures,
            "seconds": seconds,
            "milliseconds": seconds * 1e3 / steps as f64,
            "pictures_per_second": pictures_per_second,
            "macs": self.macs,
            "tflops": tflops,
            "h100_tflops": peak,
            "h100_share": peak.map(|peak| tflops / peak),
        })
    }

    fn line(&self, report: &Value) -> String {
        let number = |key: &str| report[key].as_f64().unwrap_or(f64::NAN);
        let beside = report["h100_tflops"].as_f64().map_or(String::new(), |peak| {
            format!(", {:.1} % of the {peak} of an H100", 100.0 * number("h100_share"))
        });
        format!(
            "{}, {}: median {:.3} ms ({:.1} pictures/s), {:.3} TFLOP/s{beside}",
            self.name,
            self.runtime.precision().name(),
            number("milliseconds"),
            number("pictures_per_second"),
            number("tflops"),
        )
    }
}

/// Dense TFLOP/s of an H100 or H200 SXM by NVIDIA's data sheet; nothing is said of other GPUs, nor of processors.
fn peak(runtime: &Runtime) -> Option<f64> {
    (runtime.device() != Device::Cpu).then_some(match runtime.precision() {
        Precision::F32 => 67.0,
        Precision::Tf32 => 495.0,
        Precision::Bf16 => 989.0,
    })
}
