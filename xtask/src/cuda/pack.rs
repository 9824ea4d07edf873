//! `cargo xtask cuda pack DIR`: everything that a machine with a GPU but without cargo and network needs in order to check
//! and time distill in one run: programs, tests and the scripts that run them. It holds no data.
//!
//! `bash DIR/check.sh` is what runs there; docs/cuda.md says how.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{emulator, toolchain};
use crate::{Result, answers, cargo, root, run as run_command};

/// What is copied as it is.
const SCRIPTS: [&str; 5] = [
    "xtask/cuda/check.sh",
    "xtask/cuda/check.py",
    "xtask/cuda/turns.py",
    "xtask/peers/cuda_training.py",
    "xtask/peers/networks.py",
];
/// Whose they are.
const PACKAGES: [&str; 3] = ["--package=distill-cli", "--package=distill-engine", "--package=distill-train"];
/// The engine's tests that mean a GPU; its unit tests come beside them.
const TESTS: [&str; 6] = ["cuda", "cuda_tensors", "gradients", "network", "torchvision", "zoo"];
/// What a folder may weigh, data not counted.
const MOST_BYTES: u64 = 40 << 20;

/// `DIR`, and `--emulated` for programs that run on the emulator, to try the scripts with.
pub(super) fn run(arguments: &[String]) -> Result {
    let (folder, emulated) = match arguments {
        [folder] if !folder.starts_with('-') => (Path::new(folder), false),
        [folder, flag] if flag == "--emulated" => (Path::new(folder), true),
        _ => return Err("usage: cargo xtask cuda pack DIR [--emulated]".into()),
    };
    for program in ["strip", "tar", "xz"] {
        if !answers(program) {
            return Err(format!("{program} is not found here; install binutils, tar and xz-utils"));
        }
    }
    let programs = built(emulated)?;
    let stage = crate::target().join(if emulated { "cuda-pack-emulated" } else { "cuda-pack" });
    fresh(&stage)?;
    for (name, program) in &programs {
        run_command(Command::new("strip").arg("-o").arg(stage.join(name)).arg(program))?;
    }
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    compress(&stage, &folder.join("programs.tar.xz"))?;
    for script in SCRIPTS.map(|script| root().join(script)) {
        copy(&script, folder)?;
    }
    let note = folder.join("built.txt");
    std::fs::write(&note, revision()).map_err(|error| format!("cannot write {}: {error}", note.display()))?;
    weigh(folder)
}

/// Builds all programs; their names in the pack with where they lie.
fn built(emulated: bool) -> Result<BTreeMap<String, PathBuf>> {
    let feature = if emulated { "cuda-core" } else { "cuda" };
    let features = format!("--features=distill-cli/{feature},distill-engine/{feature}");
    let mut programs = Command::new(cargo());
    programs.args(["build", "--bin=distill", "--example=step", "--example=method_step"]);
    let mut tests = Command::new(cargo());
    tests.args(["test", "--no-run", "--lib"]).args(TESTS.map(|test| format!("--test={test}")));
    let mut found = BTreeMap::new();
    let toolchain = if emulated { None } else { Some(toolchain::set_up()?) };
    for mut command in [programs, tests] {
        // The same packages in both, or cargo would build what they share twice, with other features.
        command.args(["--release", &features]).args(PACKAGES);
        match &toolchain {
            Some(toolchain) => toolchain.configure(&mut command),
            None => drop(command.env("DISTILL_CUDA_KERNELS", "emulated")),
        }
        found.extend(executables(&mut command)?);
    }
    if emulated {
        println!("the emulator lies in {}", emulator()?.display());
    }
    Ok(found)
}

/// The executables of a build, by [`name`].
fn executables(command: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    command.current_dir(root()).arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} ended with {}", output.status));
    }
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = |message: Value| Some((name(&message)?, message["executable"].as_str()?.into()));
    Ok(messages.filter_map(program).collect())
}

/// What an artifact is called in the pack: tests have a word before their target's name. Unit tests of other crates are no
/// part of it.
fn name(artifact: &Value) -> Option<String> {
    let target = artifact["target"]["name"].as_str()?;
    let test = artifact["profile"]["test"].as_bool()?;
    let is_packed = !test || target == "engine" || TESTS.contains(&target);
    is_packed.then(|| if test { format!("tests-{target}") } else { target.into() })
}

fn fresh(folder: &Path) -> Result {
    let _ = std::fs::remove_dir_all(folder); // it may not be there
    std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

/// The programs hold the same kernels, which a window of 64 MiB finds again.
fn compress(folder: &Path, archive: &Path) -> Result {
    let mut tar = Command::new("tar");
    tar.env("XZ_OPT", "-9").args(["--create", "--xz", "--sort=name", "--owner=0", "--group=0", "--file"]);
    run_command(tar.arg(archive).arg("--directory").arg(folder).arg("."))
}

fn copy(file: &Path, folder: &Path) -> Result {
    let name = file.file_name().ok_or_else(|| format!("{} is no file", file.display()))?;
    std::fs::copy(file, folder.join(name)).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(())
}

/// What was built, for the head of a report.
fn revision() -> String {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["log", "-1", "--format=%h %cI %s"]);
    let known = git.output().ok().filter(|output| output.status.success());
    known.map_or_else(|| "unknown\n".into(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Says what a folder weighs.
fn weigh(folder: &Path) -> Result {
    let unreadable = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut total = 0;
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let bytes = entry.metadata().map_err(unreadable)?.len();
        println!("{:>10.2} MiB  {}", bytes as f64 / f64::from(1 << 20), entry.path().display());
        total += bytes;
    }
    let mebibytes = total as f64 / f64::from(1 << 20);
    println!(
        "{mebibytes:>10.2} MiB  in all; run bash {}/check.sh on the machine with the GPU",
        folder.display()
    );
    if total > MOST_BYTES {
        return Err(format!("{} weighs {mebibytes:.1} MiB, expected at most 40", folder.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_keep_their_names_and_tests_are_told_apart() {
        let artifact = |name: &str, test: bool| serde_json::json!({ "target": { "name": name }, "profile": { "test": test } });
        assert_eq!(name(&artifact("distill", false)).unwrap(), "distill");
        assert_eq!(name(&artifact("cuda", true)).unwrap(), "tests-cuda");
        assert_eq!(name(&artifact("engine", true)).unwrap(), "tests-engine");
        assert_eq!(name(&artifact("train", true)), None);
        assert_eq!(name(&serde_json::json!({ "reason": "build-finished" })), None);
    }

    #[test]
    fn what_the_pack_copies_is_there() {
        for script in SCRIPTS {
            assert!(root().join(script).is_file(), "{script}");
        }
    }

    #[test]
    fn a_slip_in_the_arguments_shows_how_it_is_called() {
        for words in [&["dir", "--emulate"][..], &["--emulated"], &[]] {
            let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
            assert!(run(&words).unwrap_err().contains("usage"), "{words:?}");
        }
    }
}
