//! Compiles the CUDA kernels with nvcc, for the GPUs named below and as PTX for those to come; nothing without the
//! feature `cuda-core`.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compute capabilities with machine code of their own; the last is kept as PTX too.
const CAPABILITIES: [u32; 4] = [80, 86, 89, 90];
const SOURCE: &str = "cuda/kernels.cu";
/// Set to `emulated` where no GPU code is wanted: the emulator that the tests load brings kernels of its own.
const KERNELS: &str = "DISTILL_CUDA_KERNELS";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=cuda");
    println!("cargo:rerun-if-env-changed={KERNELS}");
    if env::var_os("CARGO_FEATURE_CUDA_CORE").is_none() {
        return Ok(());
    }
    let target = PathBuf::from(env::var("OUT_DIR")?).join("kernels.fatbin");
    match env::var(KERNELS).as_deref() {
        Ok("emulated") => Ok(std::fs::write(target, "emulated kernels\0")?),
        Ok(other) => Err(format!("{KERNELS}: expected `emulated` or nothing, found `{other}`").into()),
        Err(_) => compile(&target),
    }
}

fn compile(target: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(nvcc());
    command.args(["-fatbin", "-std=c++17", "-O3", "-o"]).arg(target).arg(SOURCE);
    for capability in CAPABILITIES {
        command.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
    }
    let newest = CAPABILITIES[CAPABILITIES.len() - 1];
    command.arg(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    let output = command.output().map_err(|error| {
        format!(
            "cannot run {:?}: {error}; the feature `cuda` needs nvcc of CUDA 12 or 13: set CUDA_HOME to where it is \
             installed, or build with `cargo xtask cuda build`, which fetches it",
            command.get_program()
        )
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {}\n{}", output.status, String::from_utf8_lossy(&output.stderr))
        .into())
}

/// The compiler that `NVCC` names, that of `CUDA_HOME` or `CUDA_PATH`, or the one on the path.
fn nvcc() -> PathBuf {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let home = || env::var_os("CUDA_HOME").or_else(|| env::var_os("CUDA_PATH"));
    match (env::var_os("NVCC"), home()) {
        (Some(nvcc), _) => nvcc.into(),
        (None, Some(home)) => Path::new(&home).join("bin/nvcc"),
        (None, None) => "nvcc".into(),
    }
}
