//! What a build with `--features cuda` needs: nvcc and CUDA's headers (those that are installed, or NVIDIA's wheels below
//! `.tools/`), and an environment in which the program comes out starting with and without CUDA.
//!
//! candle asks cudarc to link CUDA's libraries, so that its programs need them merely to start; cudarc's library loads
//! them when they are used if it is compiled with `--cfg feature="dynamic-loading"`, which its build script must not see.
//! cargo keeps RUSTFLAGS from build scripts exactly when a target is named. The libraries that build scripts still ask the
//! linker for are found as empty ones, which it drops. The CUDA runtime, which candle's kernels link, comes from its
//! static archive.
//!
//! Never here: libraries that a program runs with; those come with the driver, CUDA and cuDNN of the machine it runs on.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::TARGET;
use crate::{Result, run as run_command, tools};

/// NVIDIA's wheels of CUDA 13.0, which drivers from 580 on run. What each is for:
const WHEELS: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",    // nvcc, ptxas, cudafe++, fatbinary, nvlink
    "nvidia-nvvm==13.0.88",         // cicc, libdevice
    "nvidia-cuda-crt==13.0.88",     // include/crt
    "nvidia-cuda-cccl==13.0.85",    // include/cccl: cuda::std, cub, thrust
    "nvidia-cuda-runtime==13.0.96", // cuda*.h, libcudart_static.a, libcudadevrt.a
];
/// Releases of an installed CUDA that are taken.
const RELEASES: [&str; 2] = ["release 12.", "release 13."];
/// Libraries that build scripts ask the linker for and nothing refers to.
const STUBS: &[(&str, &str)] = &[
    ("cuda", "libcuda.so.1"),
    ("cublas", "libcublas.so.13"),
    ("cublasLt", "libcublasLt.so.13"),
    ("curand", "libcurand.so.10"),
    ("nvrtc", "libnvrtc.so.13"),
    ("cudnn", "libcudnn.so.9"),
];
/// The capability that candle's kernels are compiled to, as PTX: every GPU from there on translates it once.
const CAPABILITY: &str = "80";
/// Keeps candle's kernels of GGUF and mixtures of experts, nine tenths of their build and nothing that is called here,
/// from being compiled: their functions end the program by name.
const COMPILER: &str = r#"#!/usr/bin/env bash
# Written by `cargo xtask cuda`. nvcc, but for sources of candle-kernels that nothing here calls.
set -euo pipefail
real="$(dirname "$0")/bin/nvcc"
source=/${*: -1} output='' compile=no previous=''
for argument in "$@"; do
  [ "$argument" != -c ] || compile=yes
  [ "$previous" != -o ] || output=$argument
  previous=$argument
done
case $compile:$source in
  yes:*/src/moe/*.cu | yes:*/src/mmq_gguf/*.cu | yes:*/src/mmvq_gguf.cu) ;;
  *) exec "$real" "$@" ;;
esac
{ echo 'int printf(const char *, ...); void abort(void);'
  case $source in */src/mmvq_gguf.cu) # all the names, in the one object
    sed -nE 's/^ *pub fn ([A-Za-z0-9_]+)\(.*/void \1(void) { printf("\1 is not in this build\\n"); abort(); }/p' src/ffi.rs ;;
  esac
} | "${CC:-cc}" -fno-builtin -x c -fPIC -O1 -c -o "$output" -
"#;

/// A CUDA root of our own: links to a real one, but for the libraries that the linker finds.
pub(super) struct Toolchain {
    home: PathBuf,
    fetched: bool,
}

/// Fetches and lays out what is not there yet.
pub(super) fn set_up() -> Result<Toolchain> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err("cargo xtask cuda works on Linux x86_64; elsewhere build with cargo and CUDA_HOME".into());
    }
    let installed = installed();
    let fetched = installed.is_none();
    let real = installed.map_or_else(fetch, Ok)?;
    println!("CUDA: {}", real.display());
    let home = tools().join(if fetched { "cuda" } else { "cuda-installed" });
    lay_out(&real, &home).map_err(|error| format!("cannot lay out {}: {error}", home.display()))?;
    for (name, soname) in STUBS {
        stub(&home.join("lib64"), name, soname)?;
    }
    Ok(Toolchain { home, fetched })
}

impl Toolchain {
    /// Makes `cargo` compile with it.
    pub(super) fn configure(&self, cargo: &mut Command) {
        let inherited = |name: &str| std::env::var(name).unwrap_or_default();
        let path = format!("{}:{}", self.home.join("bin").display(), inherited("PATH"));
        // Other flags would mean another build of everything.
        let loading = r#"--cfg feature="dynamic-loading""#;
        let mut flags = inherited("RUSTFLAGS");
        if !flags.contains("dynamic-loading") {
            flags = format!("{flags} {loading}").trim().to_string();
        }
        cargo
            .env("CUDA_HOME", &self.home)
            .env("CUDA_PATH", &self.home)
            .env("NVCC", self.home.join("nvcc"))
            .env("PATH", path)
            .env("RUSTFLAGS", flags)
            .env("CARGO_BUILD_TARGET", TARGET)
            .env_remove("DISTILL_CUDA_KERNELS");
        if std::env::var_os("CUDA_COMPUTE_CAP").is_none() {
            cargo.env("CUDA_COMPUTE_CAP", CAPABILITY);
        }
        if self.fetched {
            cargo.env("NVCC_APPEND_FLAGS", "--compress-mode=size");
        }
    }
}

/// The root of an installed CUDA 12 or 13.
fn installed() -> Option<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let usual = PathBuf::from("/usr/local/cuda");
    named.chain([usual]).find(|root| {
        let nvcc = root.join("bin/nvcc");
        if !nvcc.is_file() {
            return false;
        }
        let taken = is_taken(&nvcc);
        if !taken {
            eprintln!("note: {} is not of CUDA 12 or 13 and is passed over", nvcc.display());
        }
        taken
    })
}

fn is_taken(nvcc: &Path) -> bool {
    let Ok(output) = Command::new(nvcc).arg("--version").output() else { return false };
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    RELEASES.iter().any(|release| version.contains(release))
}

/// Installs the wheels below `.tools/` if they are not there, and returns the CUDA root within.
fn fetch() -> Result<PathBuf> {
    let folder = tools().join("cuda-wheels");
    let (stamp, wanted) = (folder.join("installed"), WHEELS.join(" "));
    let root = folder.join("nvidia/cu13");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(root);
    }
    println!("fetching nvcc (270 MB on disk): {wanted}");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| format!("cannot remove {}: {error}", folder.display()))?;
    }
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"];
    let exactly = ["--no-deps", "--only-binary=:all:", "--no-compile", "--target"];
    let mut command = Command::new("python3");
    command.args(pip).args(exactly).arg(&folder).args(WHEELS);
    run_command(&mut command).map_err(|error| {
        format!(
            "{error}; without CUDA 12 or 13 installed, nvcc is fetched with pip: install python3 with pip, or CUDA, and \
             let CUDA_HOME name it"
        )
    })?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(root)
}

/// Links to everything of `real`, with a folder of libraries of our own.
fn lay_out(real: &Path, home: &Path) -> std::io::Result<()> {
    if home.exists() {
        std::fs::remove_dir_all(home)?;
    }
    let lib64 = home.join("lib64");
    std::fs::create_dir_all(&lib64)?;
    for part in ["bin", "include", "nvvm", "targets"] {
        if real.join(part).exists() {
            symlink(real.join(part), home.join(part))?;
        }
    }
    let holding =
        |name: &str| ["lib64", "lib"].map(|part| real.join(part).join(name)).into_iter().find(|p| p.exists());
    for name in ["libcudart_static.a", "libcudadevrt.a"] {
        let missing = || std::io::Error::other(format!("{} holds no {name}", real.display()));
        symlink(holding(name).ok_or_else(missing)?, lib64.join(name))?;
    }
    // The only one to be found by this name, so that the runtime is linked statically.
    symlink("libcudart_static.a", lib64.join("libcudart.a"))?;
    let compiler = home.join("nvcc");
    std::fs::write(&compiler, COMPILER)?;
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o755))
}

/// A shared library with a name and nothing in it. Only the linker ever reads it.
fn stub(folder: &Path, name: &str, soname: &str) -> Result {
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let soname = format!("-Wl,-soname,{soname}");
    let library = folder.join(format!("lib{name}.so"));
    run_command(
        Command::new(compiler)
            .args(["-x", "c", "-shared", "-nostdlib", &soname, "-o"])
            .arg(library)
            .arg("/dev/null"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_links_the_runtime_statically_and_hides_the_real_libraries() {
        let folder = std::env::temp_dir().join(format!("distill-cuda-layout-{}", std::process::id()));
        let (real, home) = (folder.join("real"), folder.join("home"));
        for part in ["bin", "include", "lib64"] {
            std::fs::create_dir_all(real.join(part)).unwrap();
        }
        let message = lay_out(&real, &home).unwrap_err().to_string();
        assert!(message.contains("libcudart_static.a"), "{message}");
        for name in ["libcudart_static.a", "libcudadevrt.a", "libcudart.so"] {
            std::fs::write(real.join("lib64").join(name), name).unwrap();
        }
        lay_out(&real, &home).unwrap();
        assert!(home.join("bin").is_dir() && home.join("include").is_dir());
        assert_eq!(std::fs::read_to_string(home.join("lib64/libcudart.a")).unwrap(), "libcudart_static.a");
        assert!(!home.join("lib64/libcudart.so").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
