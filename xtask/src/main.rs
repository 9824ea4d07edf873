//! Chores of this workspace, as `cargo xtask NAME`: fetching what the tests need besides Rust, running them, and
//! measuring against other people's engines. It never touches what a user's run wrote.
#![forbid(unsafe_code)]

mod clients;
mod cuda;
mod fuzz;
mod onnxruntime;
mod peers;
mod python;
mod soak;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Result of a chore; the message is what the user reads.
type Result<T = ()> = std::result::Result<T, String>;

struct Chore {
    name: &'static str,
    summary: &'static str,
    run: fn(&[String]) -> Result,
}

const CHORES: &[Chore] = &[
    Chore { name: "test", summary: "fetch what the tests need, then run all of them", run: test::run },
    Chore {
        name: "ort",
        summary: "fetch ONNX Runtime's shared library and print its path",
        run: onnxruntime::run,
    },
    Chore {
        name: "peers",
        summary: "measure against PyTorch (training), ONNX Runtime (inference) and others, paired",
        run: peers::run,
    },
    Chore {
        name: "cuda",
        summary: "build with GPU support, or test it on an emulator or a GPU",
        run: cuda::run,
    },
    Chore { name: "fuzz", summary: "fuzz every parser that takes outside bytes", run: fuzz::run },
    Chore {
        name: "soak",
        summary: "drive the server with mixed load and reloads, check each answer, watch its memory",
        run: soak::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(chore) = arguments.first().and_then(|name| CHORES.iter().find(|chore| chore.name == name))
    else {
        eprintln!("usage: cargo xtask CHORE\n");
        for chore in CHORES {
            eprintln!("  {:<8}{}", chore.name, chore.summary);
        }
        return ExitCode::from(2);
    };
    match (chore.run)(&arguments[1..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// Where fetched tools are kept; ignored by git.
fn tools() -> PathBuf {
    root().join(".tools")
}

/// What cargo is called.
fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

/// Runs a command to its end; an error names it.
fn run(command: &mut Command) -> Result {
    let shown = format!("{command:?}");
    let status = command.status().map_err(|error| format!("cannot start {shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown} ended with {status}")) }
}

/// Whether a program answers `--version`.
fn answers(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
