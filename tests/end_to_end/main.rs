//! The program as a user meets it: through the binary, in a temporary folder, over HTTP.
#![allow(clippy::unwrap_used)] // a test may panic

mod answers;
mod bundles;
#[cfg(any(feature = "cuda", feature = "cuda-core"))]
mod gpu;
mod jobs;
mod messages;
mod profiles;
mod resume;

use std::path::Path;
use std::process::{Command, Output};

/// `distill` in `folder` with arguments separated by spaces.
fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_distill"));
    command.current_dir(folder).args(arguments.split_whitespace());
    command
}

/// Runs to the end.
fn run(folder: &Path, arguments: &str) -> Output {
    command(folder, arguments).output().unwrap()
}

/// Runs to the end, which has to be a good one; its standard output.
fn succeed(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "distill {arguments}\n{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs to an end with exit code 2; its standard error.
fn fail(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(2), "distill {arguments}\n{}", text(&output));
    String::from_utf8(output.stderr).unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A training of a few steps on the built-in data: a run in `runs/NAME`.
fn tiny_run(folder: &Path, name: &str) {
    let flags = "--data synth --labels 40 --steps 4 --batch-size 8 --threads 1";
    succeed(folder, &format!("train --arch small-cnn-2 {flags} --out runs/{name}"));
}
