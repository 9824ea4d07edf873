//! `distill doctor`: what this machine offers, and how to get what it lacks.

use engine::{Device, Runtime};
use serde_json::json;

use crate::args::DoctorArgs;
use crate::failure::{Failure, Result};
use crate::print;

/// Looks around and reports.
pub fn run(args: &DoctorArgs) -> Result {
    let runtime = Runtime::new(Device::Cpu, 0).map_err(Failure::broken)?;
    let library = onnx::runtime::find(args.ort_lib.as_deref());
    let cuda = Runtime::new(Device::Cuda(0), 1).map(|runtime| runtime.gpu().unwrap_or_default());
    if args.json {
        print::json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernels": runtime.isa(),
            "threads": runtime.threads(),
            "onnx_runtime": library.as_ref().ok().map(|found| found.path.display().to_string()),
            "candle_onnx": cfg!(feature = "candle-onnx"),
            "cuda": cuda.as_ref().ok(),
            "cuda_missing": cuda.as_ref().err().map(ToString::to_string),
        }));
        return Ok(());
    }
    let row = |name: &str, text: String| print::line(format!("{name:<14}{text}"));
    row("distill", env!("CARGO_PKG_VERSION").into());
    row("kernels", format!("{} (of avx512, avx2, portable)", runtime.isa()));
    row("threads", runtime.threads().to_string());
    row(
        "ONNX Runtime",
        match &library {
            Ok(found) => format!("{} ({})", found.path.display(), found.how),
            Err(missing) => format!("not found: {missing}"),
        },
    );
    let candle = if cfg!(feature = "candle-onnx") {
        "built in"
    } else {
        "not in this build; build with --features candle-onnx"
    };
    row("candle-onnx", candle.into());
    row(
        "CUDA",
        match &cuda {
            Ok(gpu) => format!(
                "{gpu}; --device cuda is experimental: it was tested on an emulator, not yet on hardware"
            ),
            Err(missing) => missing.to_string(),
        },
    );
    Ok(())
}
