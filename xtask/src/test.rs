//! `cargo xtask test`: every test of the workspace, with what they need besides Rust fetched first.

use std::process::Command;

use crate::{Result, onnxruntime, root, run as run_command};

/// Runs `cargo test` over the workspace with candle-onnx built and ONNX Runtime found; arguments are passed on.
pub fn run(arguments: &[String]) -> Result {
    let library = onnxruntime::library()?;
    let protoc = protoc()?;
    println!("ONNX Runtime: {}\nprotoc: {}", library.display(), protoc.display());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    run_command(
        Command::new(cargo)
            .current_dir(root())
            .args(["test", "--workspace", "--features", "distill-cli/candle-onnx"])
            .args(arguments)
            .env("ORT_DYLIB_PATH", library)
            .env("PROTOC", protoc),
    )
}

/// The protobuf compiler that candle-onnx's build runs: the one `PROTOC` names, or the one that a crate carries.
fn protoc() -> Result<std::path::PathBuf> {
    match std::env::var_os("PROTOC") {
        Some(path) => Ok(path.into()),
        None => protoc_bin_vendored::protoc_bin_path()
            .map_err(|error| format!("no protoc for this system: {error}; set PROTOC")),
    }
}
