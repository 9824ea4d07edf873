//! `cargo xtask test`: every test of the workspace, with what they need besides Rust fetched first.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Result, cargo, clients, cuda, onnxruntime, root, run as run_command};

/// What is built besides the default. One list for all of a run's tests: another would build most of it again.
const FEATURES: &str = "distill-cli/candle-onnx,distill-cli/cuda-core";

/// Tests that drive a browser have this in their name.
const BROWSER_TESTS: &str = "in_a_browser";

/// Runs `cargo test` over the workspace with candle-onnx and the engine's part on GPUs built, ONNX Runtime, the server's
/// clients and the CUDA emulator found. Takes `--without browser` to leave the browser's tests out; other arguments are
/// passed on. Without any of those, the tests of whole networks follow once more, on the emulated GPU.
pub fn run(arguments: &[String]) -> Result {
    let (without_browser, arguments) = without_browser(arguments)?;
    let library = onnxruntime::library()?;
    let protoc = protoc()?;
    let python = clients::python()?;
    println!("ONNX Runtime: {}\nprotoc: {}", library.display(), protoc.display());
    println!("Python of the client tests: {}", python.display());
    let emulator = cuda::emulator()?;
    println!("CUDA emulator: {}", emulator.display());
    let cargo_test = || {
        let mut command = Command::new(cargo());
        command
            .current_dir(root())
            .args(["test", "--workspace", "--features", FEATURES])
            .env("PROTOC", &protoc);
        cuda::on_emulator(&mut command, &emulator);
        command
    };
    let mut command = cargo_test();
    command.env("ORT_DYLIB_PATH", library).env("DISTILL_TEST_PYTHON", python);
    if without_browser {
        println!("browser: left out, as asked; the web page is not tested");
        command.args(skipping(&arguments, BROWSER_TESTS));
    } else {
        let browser = clients::browser()?;
        println!("browser: {} with {}", browser.chromium, browser.driver);
        command.args(&arguments);
        command.env("DISTILL_CHROMIUM", browser.chromium).env("DISTILL_CHROMEDRIVER", browser.driver);
    }
    run_command(&mut command)?;
    if !arguments.is_empty() {
        println!(
            "networks on the emulated GPU: left out, as other tests were asked for; see cargo xtask cuda test"
        );
        return Ok(());
    }
    cuda::self_test()?;
    for program in network_tests(&mut cargo_test())? {
        println!("on the emulated GPU: {}", program.display());
        let mut command = Command::new(program);
        cuda::on_emulator(&mut command, &emulator);
        run_command(command.current_dir(root().join("engine")).env("DISTILL_TEST_DEVICE", "cuda"))?;
    }
    Ok(())
}

/// The engine's programs that test whole networks, as `cargo_test` has built them. (Asked for by `--test`, cargo would build
/// most of their dependencies once more, with other features.)
fn network_tests(cargo_test: &mut Command) -> Result<Vec<PathBuf>> {
    let output = cargo_test.args(["--no-run", "--message-format", "json"]).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot run cargo: {error}"))?;
    let found: Vec<PathBuf> =
        String::from_utf8_lossy(&output.stdout).lines().filter_map(network_test).collect();
    if found.len() == cuda::NETWORK_TESTS.len() {
        return Ok(found);
    }
    Err(format!("expected programs of the tests {:?}, found {found:?}", cuda::NETWORK_TESTS))
}

/// The program that a line of cargo's JSON tells of, if it is one of those.
fn network_test(line: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_engines = message["package_id"].as_str()?.contains("distill-engine");
    let name = message["target"]["name"].as_str()?;
    let program = message["executable"].as_str()?;
    (is_engines && cuda::NETWORK_TESTS.contains(&name)).then(|| program.into())
}

/// Whether the browser's tests are to be left out, and the arguments without that wish.
fn without_browser(arguments: &[String]) -> Result<(bool, Vec<String>)> {
    let Some(at) = arguments.iter().position(|argument| argument == "--without") else {
        return Ok((false, arguments.to_vec()));
    };
    match arguments.get(at + 1).map(String::as_str) {
        Some("browser") => Ok((true, [&arguments[..at], &arguments[at + 2..]].concat())),
        found => Err(format!("--without: expected `browser`, found {}", found.unwrap_or("nothing"))),
    }
}

/// The arguments, with one more for the test programs themselves: those stand behind `--`.
fn skipping(arguments: &[String], tests: &str) -> Vec<String> {
    let separated = arguments.iter().any(|argument| argument == "--");
    let mut all = arguments.to_vec();
    all.extend((!separated).then(|| "--".into()));
    all.extend(["--skip".into(), tests.into()]);
    all
}

/// The protobuf compiler that candle-onnx's build runs: the one `PROTOC` names, or the one that a crate carries.
fn protoc() -> Result<std::path::PathBuf> {
    match std::env::var_os("PROTOC") {
        Some(path) => Ok(path.into()),
        None => protoc_bin_vendored::protoc_bin_path()
            .map_err(|error| format!("no protoc for this system: {error}; set PROTOC")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn network_tests_are_found_in_cargos_messages() {
        let line = |package: &str, name: &str, program: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///d/{package}","target":{{"name":"{name}"}},"executable":{program}}}"#
            )
        };
        let engine = "engine#distill-engine@0.1.0";
        assert_eq!(network_test(&line(engine, "zoo", r#""/t/zoo-1""#)), Some("/t/zoo-1".into()));
        assert_eq!(network_test(&line(engine, "memory", r#""/t/memory-1""#)), None);
        assert_eq!(network_test(&line("train#distill-train@0.1.0", "gradients", r#""/t/g""#)), None);
        assert_eq!(network_test(&line(engine, "zoo", "null")), None);
    }

    #[test]
    fn the_browser_is_left_out_only_when_asked_and_the_rest_is_passed_on() {
        assert_eq!(without_browser(&words("-p serve -- oip")), Ok((false, words("-p serve -- oip"))));
        assert_eq!(
            without_browser(&words("-p serve --without browser -- oip")),
            Ok((true, words("-p serve -- oip")))
        );
        assert!(without_browser(&words("--without brwser")).unwrap_err().contains("`browser`"));
        assert_eq!(skipping(&words("-p serve"), "x"), words("-p serve -- --skip x"));
        assert_eq!(skipping(&words("-p serve -- oip"), "x"), words("-p serve -- oip --skip x"));
    }
}
