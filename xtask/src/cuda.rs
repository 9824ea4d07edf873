//! `cargo xtask cuda build` and `cargo xtask cuda test`: the program with GPU support, and the engine's tests of it.
//!
//! Both work on a machine without GPU, driver and CUDA. What is built starts everywhere: every CUDA library is looked for
//! when the program runs. Tests run on an emulator (engine/cuda/emulator) unless `--hardware` asks for the GPU.

mod pack;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, answers, cargo, root, run as run_command, tools};

/// Where cargo builds for another target than the host's own, whose flags build scripts do not see.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The engine's tests of whole networks, which run on the device that `DISTILL_TEST_DEVICE` names.
pub const NETWORK_TESTS: [&str; 4] = ["network", "gradients", "zoo", "torchvision"];

/// The program's tests that train on a GPU.
const PROGRAM_TESTS: [&str; 3] = ["--test", "end_to_end", "gpu::"];

/// `build [cargo's arguments]`, `test [--hardware] [cargo's arguments]`, `pack DIR`, or `emulator`.
pub fn run(arguments: &[String]) -> Result {
    let (verb, rest) = arguments.split_first().map_or(("", arguments), |(verb, rest)| (verb.as_str(), rest));
    match verb {
        "build" => build(rest),
        "test" => match rest.split_first() {
            Some((flag, rest)) if flag == "--hardware" => test_on_hardware(rest),
            _ => test_on_emulator(rest),
        },
        "pack" => pack::run(rest),
        "emulator" => emulator().map(|folder| println!("{}", folder.display())),
        _ => Err(format!(
            "cargo xtask cuda: expected `build [cargo's arguments]`, `test [--hardware] [cargo's arguments]`, \
             `pack DIR` or `emulator`, found `{verb}`"
        )),
    }
}

/// The release build of the `distill` binary with `--features cuda`, or of what the arguments name instead.
fn build(arguments: &[String]) -> Result {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["build", "--release"]);
    let named = |flags: &[&str]| arguments.iter().any(|argument| flags.contains(&argument.as_str()));
    if !named(&["--features", "-F"]) {
        command.args(["--features", "cuda"]);
    }
    if !named(&["--package", "-p", "--workspace"]) {
        command.args(["--package", "distill-cli"]);
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

/// The emulator's own test, the engine's tests on it, and those of the program that train there. Arguments are cargo's for
/// the engine's tests, and leave out the others.
fn test_on_emulator(arguments: &[String]) -> Result {
    let folder = emulator()?;
    let cargo_test = |package: &str| {
        let mut command = Command::new(cargo());
        command.current_dir(root()).args(["test", "--package", package, "--features", "cuda-core"]);
        on_emulator(&mut command, &folder);
        command.env("DISTILL_TEST_DEVICE", "cuda");
        command
    };
    if !arguments.is_empty() {
        return run_command(cargo_test("distill-engine").args(arguments));
    }
    self_test()?;
    run_command(&mut cargo_test("distill-engine"))?;
    run_command(cargo_test("distill-cli").args(PROGRAM_TESTS))
}

/// Lets what a command builds and starts run on the emulator in this folder.
pub fn on_emulator(command: &mut Command, folder: &Path) {
    command.env("DISTILL_CUDA_KERNELS", "emulated").env("LD_LIBRARY_PATH", searched_first(folder));
}

/// The emulator's own test.
pub fn self_test() -> Result {
    let folder = tools().join("cuda-emulator-selftest");
    run_command(Command::new(root().join("engine/cuda/emulator/selftest/run.sh")).arg(folder))
}

/// The engine's tests with the real kernels on the GPU of this machine, and those of the program that train there.
fn test_on_hardware(arguments: &[String]) -> Result {
    if !Path::new("/dev/nvidiactl").exists() {
        return Err("--hardware: no NVIDIA driver is loaded here (/dev/nvidiactl is missing); leave --hardware out to \
                    test on the emulator"
            .into());
    }
    let toolchain = toolchain::set_up()?;
    let cargo_test = |package: &str, feature: &str| {
        let mut command = Command::new(cargo());
        command.current_dir(root()).args(["test", "--release", "--package", package, "--features", feature]);
        toolchain.configure(command.env("DISTILL_TEST_DEVICE", "cuda"));
        command
    };
    run_command(cargo_test("distill-engine", "cuda-core").args(arguments))?;
    if arguments.is_empty() {
        run_command(cargo_test("distill-cli", "cuda").args(PROGRAM_TESTS))?;
    }
    Ok(())
}

/// Builds the emulator where it is not built, and returns its folder.
pub fn emulator() -> Result<PathBuf> {
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
