//! `cargo xtask cuda build` and `cargo xtask cuda test`: the program with GPU support, and the engine's tests of it.
//!
//! Both work on a machine without GPU, driver and CUDA. What is built starts everywhere: every CUDA library is looked for
//! when the program runs. Tests run on an emulator (engine/cuda/emulator) unless `--hardware` asks for the GPU.

mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, answers, cargo, root, run as run_command, tools};

/// Where cargo builds for another target than the host's own, whose flags build scripts do not see.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// `build [cargo's arguments]`, `test [--hardware] [cargo's arguments]`, or `emulator`.
pub fn run(arguments: &[String]) -> Result {
    let (verb, rest) = arguments.split_first().map_or(("", arguments), |(verb, rest)| (verb.as_str(), rest));
    match verb {
        "build" => build(rest),
        "test" => match rest.split_first() {
            Some((flag, rest)) if flag == "--hardware" => test_on_hardware(rest),
            _ => test_on_emulator(rest),
        },
        "emulator" => emulator().map(|folder| println!("{}", folder.display())),
        _ => Err(format!(
            "cargo xtask cuda: expected `build [cargo's arguments]`, `test [--hardware] [cargo's arguments]` or \
             `emulator`, found `{verb}`"
        )),
    }
}

/// The release build of the `distill` binary with `--features cuda`, or of what the arguments name instead.
fn build(arguments: &[String]) -> Result {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["build", "--release"]);
    if !arguments.iter().any(|argument| argument == "--features" || argument == "-F") {
        command.args(["--features", "cuda"]);
    }
    toolchain::set_up()?.configure(&mut command);
    run_command(command.args(arguments))?;
    let binary = crate::target().join(TARGET).join("release/distill");
    if binary.is_file() {
        starts_anywhere(&binary)?;
        println!("{}: starts with and without CUDA", binary.display());
    }
    Ok(())
}

/// No CUDA library is needed for the program to start.
fn starts_anywhere(binary: &Path) -> Result {
    let shown = binary.display();
    let output = Command::new("readelf")
        .args(["--dynamic", "--wide"])
        .arg(binary)
        .output()
        .map_err(|error| format!("cannot run readelf: {error}; install binutils"))?;
    if !output.status.success() {
        return Err(format!("readelf cannot read {shown}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    match cuda_libraries(&String::from_utf8_lossy(&output.stdout)).as_slice() {
        [] => Ok(()),
        needed => Err(format!(
            "{shown} needs {} merely to start; expected no CUDA library among what it needs",
            needed.join(", ")
        )),
    }
}

/// CUDA's libraries among what `readelf --dynamic` says is needed.
fn cuda_libraries(dynamic: &str) -> Vec<String> {
    let needed = dynamic.lines().filter(|line| line.contains("(NEEDED)"));
    let name = |line: &str| Some(line.split_once('[')?.1.split_once(']')?.0.to_string());
    let families = ["libcu", "libnv"];
    needed.filter_map(name).filter(|name| families.iter().any(|family| name.starts_with(family))).collect()
}

/// The emulator's own test, then the engine's tests on it.
pub fn test_on_emulator(arguments: &[String]) -> Result {
    let folder = emulator()?;
    let own = tools().join("cuda-emulator-selftest");
    run_command(Command::new(root().join("engine/cuda/emulator/selftest/run.sh")).arg(own))?;
    let mut command = Command::new(cargo());
    command
        .current_dir(root())
        .args(["test", "--package", "distill-engine", "--features", "cuda-core"])
        .args(arguments)
        .env("DISTILL_CUDA_KERNELS", "emulated")
        .env("DISTILL_TEST_DEVICE", "cuda")
        .env("LD_LIBRARY_PATH", searched_first(&folder));
    run_command(&mut command)
}

/// The engine's tests with the real kernels on the GPU of this machine.
fn test_on_hardware(arguments: &[String]) -> Result {
    if !Path::new("/dev/nvidiactl").exists() {
        return Err("--hardware: no NVIDIA driver is loaded here (/dev/nvidiactl is missing); leave --hardware out to \
                    test on the emulator"
            .into());
    }
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["test", "--release", "--package", "distill-engine"]);
    command.args(["--features", "cuda-core"]).env("DISTILL_TEST_DEVICE", "cuda");
    toolchain::set_up()?.configure(&mut command);
    run_command(command.args(arguments))
}

/// Builds the emulator where it is not built, and returns its folder.
fn emulator() -> Result<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    if !answers(&compiler) {
        return Err(format!(
            "the CUDA emulator that the tests run on is built with {compiler}, which is not found here: install g++ \
             (Debian: apt install g++), or let CXX name another C++ compiler"
        ));
    }
    let folder = tools().join("cuda-emulator");
    run_command(Command::new(root().join("engine/cuda/emulator/build.sh")).arg(&folder))?;
    Ok(folder)
}

/// `LD_LIBRARY_PATH` with this folder before what was there.
fn searched_first(folder: &Path) -> std::ffi::OsString {
    let before = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&before));
    std::env::join_paths(folders).unwrap_or_else(|_| folder.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_libraries_are_found_among_what_a_binary_needs() {
        let dynamic = "
 0x0000000000000001 (NEEDED)             Shared library: [libcudart.so.13]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [libnvrtc.so.13]
 0x000000000000000e (SONAME)             Library soname: [libcuda.so.1]";
        assert_eq!(cuda_libraries(dynamic), ["libcudart.so.13", "libnvrtc.so.13"]);
    }

    #[test]
    fn a_verb_that_is_none_is_named() {
        let message = run(&["biuld".into()]).unwrap_err();
        assert!(message.contains("`biuld`") && message.contains("`build"), "{message}");
    }
}
