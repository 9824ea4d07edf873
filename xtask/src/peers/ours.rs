//! Our side: the engine's examples, which time a network and say what the machine could do at most.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::case::{Case, Kind, Weights};
use crate::{Result, cargo, root, run, target, tools};

/// The programs that are our side, as packages and their examples.
const EXAMPLES: &[(&str, &str)] =
    &[("distill-engine", "step"), ("distill-engine", "limits"), ("distill-export", "network")];

/// Builds the programs.
pub fn build() -> Result {
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--release"]);
    for (package, example) in EXAMPLES {
        build.args(["--package", package, "--example", example]);
    }
    run(&mut build)
}

fn program(example: &str) -> PathBuf {
    target().join("release/examples").join(example)
}

/// The case's network as an ONNX file for peers that read one.
pub fn network(case: &Case) -> Result<PathBuf> {
    let folder = tools().join("peers-networks");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let file = folder.join(format!("{}-{}.onnx", case.arch, case.size));
    let arguments = [&case.arch, &case.size.to_string()];
    run(Command::new(program("network")).args(arguments).arg(&file).stdout(Stdio::null()))?;
    Ok(file)
}

/// What our side did in one turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Of a step or call.
    pub milliseconds: f64,
    /// Multiply-accumulates of a picture's way forward.
    pub macs: f64,
    /// Bytes that the network took at most, where the system tells.
    pub memory: Option<f64>,
}

impl Timing {
    /// Measures.
    pub fn measure(case: &Case, threads: usize) -> Result<Self> {
        let repeats = case.repeats().to_string();
        let mut step = engine("step", case, threads);
        step.args(["--iterations", &repeats]);
        if case.kind == Kind::Infer {
            step.args(["--infer", "--wall"]);
        }
        if case.weights != Weights::F32 {
            step.args(["--weights", case.weights.name()]);
        }
        let text = output(&mut step)?;
        Self::parse(&text).ok_or_else(|| format!("the program `step` printed no figure: {text}"))
    }

    /// Reads what the program `step` prints.
    fn parse(text: &str) -> Option<Self> {
        let before = |mark: &str| text.split_once(mark)?.0.rsplit([' ', '\n']).next()?.parse().ok();
        let after = |mark: &str| text.split_once(mark)?.1.split(' ').next()?.parse().ok();
        Some(Self {
            milliseconds: before(" ms (")?,
            macs: before(" multiply-accumulates")?,
            memory: after("peak memory of the network "),
        })
    }

    /// The figure of a case's table: pictures per second or milliseconds.
    pub fn figure(&self, case: &Case) -> f64 {
        match case.kind {
            Kind::Train => case.batch() as f64 / self.milliseconds * 1e3,
            Kind::Infer => self.milliseconds,
        }
    }
}

/// The least time that a case can take on this machine, and what is done in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    pub milliseconds: f64,
    /// Whether memory decides, not arithmetic.
    pub by_memory: bool,
    pub flops: f64,
    pub weight_bytes: f64,
}

impl Bound {
    /// Measures the machine's limits as they are now.
    pub fn measure(case: &Case, threads: usize) -> Result<Self> {
        let mut limits = engine("limits", case, threads);
        if case.kind == Kind::Train {
            limits.arg("--train");
        }
        match case.weights {
            Weights::F32 => {}
            Weights::Bf16 => drop(limits.args(["--weight-bytes", "2"])),
            Weights::Int8 => drop(limits.arg("--int8")),
        }
        let text = output(&mut limits)?;
        Self::parse(&text).ok_or_else(|| format!("the program `limits` printed no limit: {text}"))
    }

    /// Reads what the program `limits` prints.
    fn parse(text: &str) -> Option<Self> {
        let found: Value = serde_json::from_str(text).ok()?;
        let network = found.get("network")?;
        let number = |name: &str| network.get(name)?.as_f64();
        Some(Self {
            milliseconds: number("milliseconds")?,
            by_memory: network.get("by_memory")?.as_bool()?,
            flops: number("flops")?,
            weight_bytes: number("weight_bytes")?,
        })
    }

    /// The least time as a share of the time taken. Above 1 where a kernel multiplies less than the layer's definition.
    pub fn share(&self, milliseconds: f64) -> f64 {
        self.milliseconds / milliseconds
    }
}

/// An example of the engine, told the case.
fn engine(example: &str, case: &Case, threads: usize) -> Command {
    let mut command = Command::new(program(example));
    command.args(["--arch", &case.arch, "--size", &case.size.to_string()]);
    command.args(["--batch", &case.batch().to_string(), "--threads", &threads.to_string()]);
    command
}

/// What a program prints, if it ends well.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|error| format!("cannot start {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str =
        "resnet18 at 32 px, batch 64, 2 threads, avx512, 37000000 multiply-accumulates a picture
median 32.000 ms (2000.0 pictures/s), best 31.000 ms
peak memory of the network 123000000 bytes
";

    fn case(name: &str) -> Case {
        Case::parse(name).unwrap()
    }

    #[test]
    fn a_timing_is_read_from_what_is_printed() {
        let timing = Timing::parse(PRINTED).unwrap();
        assert_eq!(timing, Timing { milliseconds: 32.0, macs: 37e6, memory: Some(123e6) });
        assert_eq!(timing.figure(&case("train/resnet18/32/b64")), 2000.0);
        assert_eq!(timing.figure(&case("infer/resnet18/32/t1")), 32.0);
    }

    #[test]
    fn memory_may_be_unknown_but_not_the_time() {
        let without = PRINTED.split_once("peak").unwrap().0;
        assert_eq!(Timing::parse(without).unwrap().memory, None);
        assert_eq!(Timing::parse("resnet18 at 32 px"), None);
    }

    #[test]
    fn a_bound_is_read_from_what_is_printed_and_is_a_share_of_a_time() {
        let text = r#"{"threads": 1, "network":
            {"milliseconds": 0.5, "by_memory": true, "flops": 14e6, "weight_bytes": 16e6}}"#;
        let bound = Bound::parse(text).unwrap();
        assert_eq!(bound.share(0.625), 0.8);
        assert!(bound.by_memory && bound.flops == 14e6 && bound.weight_bytes == 16e6);
        assert_eq!(Bound::parse(r#"{"threads": 1}"#), None);
    }
}
