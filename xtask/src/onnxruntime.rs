//! `cargo xtask ort`: ONNX Runtime's shared library, out of its Python wheel or its npm package.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, answers, run as run_command, tools};

/// The release that the tests and figures were made with.
const VERSION: &str = "1.31.1";

/// Fetches the library and prints its path.
pub fn run(_: &[String]) -> Result {
    println!("{}", library()?.display());
    Ok(())
}

/// Path of ONNX Runtime's shared library: the one that `ORT_DYLIB_PATH` names, or one fetched below `.tools/`.
pub fn library() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("ORT_DYLIB_PATH names {}, which is no file; mend or unset it", path.display()))
        };
    }
    let folder = tools().join(format!("onnxruntime-{VERSION}"));
    if let Some(found) = find(&folder) {
        return Ok(found);
    }
    fetch(&folder)?;
    find(&folder).ok_or_else(|| {
        format!("fetched ONNX Runtime into {}, but no shared library is in it", folder.display())
    })
}

fn fetch(folder: &Path) -> Result {
    if has_pip() {
        let package = format!("onnxruntime=={VERSION}");
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"];
        return run_command(Command::new("python3").args(pip).arg(folder).arg(package));
    }
    if answers("npm") {
        let npm = ["install", "--silent", "--ignore-scripts", "--no-save", "--prefix"];
        return run_command(Command::new("npm").args(npm).arg(folder).arg("onnxruntime-node"));
    }
    Err("the tests need ONNX Runtime's shared library, which comes in its Python wheel or npm package: \
         install python3 with pip, or npm, or set ORT_DYLIB_PATH to a libonnxruntime.so"
        .into())
}

fn has_pip() -> bool {
    Command::new("python3")
        .args(["-m", "pip", "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// The first file named as the library is on this system, below `folder`.
fn find(folder: &Path) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
        .iter()
        .find(|path| path.is_file() && is_library(path))
        .cloned()
        .or_else(|| entries.iter().filter(|path| path.is_dir() && !foreign(path)).find_map(|path| find(path)))
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = if cfg!(target_os = "macos") {
        name.ends_with(".dylib")
    } else if cfg!(windows) {
        name == "onnxruntime.dll"
    } else {
        name.contains(".so")
    };
    named && (name.starts_with("libonnxruntime.") || cfg!(windows))
}

/// The npm package holds a folder per system and processor.
fn foreign(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let systems = ["linux", "darwin", "win32"];
    let processors = ["x64", "arm64"];
    let system = if cfg!(target_os = "macos") {
        "darwin"
    } else if cfg!(windows) {
        "win32"
    } else {
        "linux"
    };
    let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    (systems.contains(&name) && name != system) || (processors.contains(&name) && name != processor)
}
