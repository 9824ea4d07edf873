//! The peers of a case: who they are, how they are asked, and what they answered. Never our own side.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::case::{Case, Kind, Weights};
use super::median;
use super::process::Process;
use crate::{Result, cargo, root, run, target};

/// What PyTorch is asked for; the fastest of them is the peer.
const MODES: &[&str] = &["eager", "channels_last", "compile"];
/// The same in bfloat16, which we do not train in: for information.
const BF16_MODES: &[&str] = &["channels_last+bf16", "compile+bf16"];
/// For a peer that has but one mode.
const ONE_MODE: &[&str] = &["go"];
/// Training steps of a turn of candle, which is slow at them.
const CANDLE_STEPS: usize = 2;

/// A peer beyond PyTorch and ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// candle's own layers.
    Candle,
    /// tract, inference alone.
    Tract,
    /// PyTorch's training under bfloat16 autocast.
    Bf16,
}

impl Extra {
    pub const ALL: [Extra; 3] = [Extra::Candle, Extra::Tract, Extra::Bf16];

    pub fn name(self) -> &'static str {
        match self {
            Extra::Candle => "candle",
            Extra::Tract => "tract",
            Extra::Bf16 => "bf16",
        }
    }

    /// Reads `candle,tract`; `all` is all of them.
    pub fn parse_list(text: &str) -> Result<Vec<Self>> {
        if text == "all" {
            return Ok(Self::ALL.to_vec());
        }
        let find = |name: &str| Self::ALL.into_iter().find(|extra| extra.name() == name);
        let known = || format!("--with takes all or some of {}", Self::ALL.map(Self::name).join(","));
        text.split(',').map(|name| find(name).ok_or_else(|| format!("{}, found `{name}`", known()))).collect()
    }

    fn joins(self, kind: Kind) -> bool {
        match self {
            Extra::Candle => true,
            Extra::Tract => kind == Kind::Infer,
            Extra::Bf16 => kind == Kind::Train,
        }
    }

    /// Whether it is a program of ours in Rust: its feature and its binary bear its name.
    fn is_rust(self) -> bool {
        self != Extra::Bf16
    }
}

/// Builds those peers that are written in Rust, in a workspace of their own.
pub fn build(extras: &[Extra]) -> Result {
    for extra in extras.iter().filter(|extra| extra.is_rust()) {
        eprintln!("building {} (minutes, the first time)", extra.name());
        run(Command::new(cargo())
            .current_dir(root())
            .args(["build", "--release", "--locked", "--manifest-path", "xtask/peers/rust/Cargo.toml"])
            .args(["--features", extra.name(), "--bin", extra.name()])
            .arg("--target-dir")
            .arg(rust_target()))?;
    }
    Ok(())
}

fn rust_target() -> PathBuf {
    target().join("peers")
}

/// What starting a case's peers takes.
pub struct Ground<'a> {
    pub case: &'a Case,
    pub threads: usize,
    pub python: &'a Path,
    /// The network as ONNX, where the case is inference.
    pub network: Option<&'a Path>,
}

impl Ground<'_> {
    /// The case's main peer, then the extra ones that join in it. One that cannot start is a message.
    pub fn rivals(&self, extras: &[Extra]) -> Vec<Result<Rival>> {
        let main = match self.case.kind {
            Kind::Train => Rival::start("PyTorch", MODES, &mut self.pytorch()),
            Kind::Infer => {
                let stored = if self.case.weights == Weights::Int8 { "int8, " } else { "" };
                let name = format!("ONNX Runtime, {stored}{} thread(s)", self.threads);
                Rival::start(&name, ONE_MODE, &mut self.onnx_runtime())
            }
        };
        let joining = extras.iter().filter(|extra| extra.joins(self.case.kind));
        std::iter::once(main).chain(joining.map(|&extra| self.extra(extra))).collect()
    }

    fn extra(&self, extra: Extra) -> Result<Rival> {
        match extra {
            Extra::Candle => Rival::start("candle-nn", ONE_MODE, &mut self.candle()),
            Extra::Tract => Rival::start("tract", ONE_MODE, &mut self.tract()),
            Extra::Bf16 => {
                let rival = Rival::start("PyTorch", BF16_MODES, &mut self.pytorch())?;
                Ok(Rival { information: true, ..rival })
            }
        }
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new(self.python);
        command.arg(root().join("xtask/peers").join(script));
        command
    }

    fn rust(&self, name: &str) -> Command {
        Command::new(rust_target().join("release").join(name))
    }

    fn pytorch(&self) -> Command {
        let Case { arch, size, .. } = self.case;
        let mut command = self.python("training.py");
        command.arg(arch).args([*size, self.case.batch(), self.threads, self.case.repeats()].map(text));
        command
    }

    fn onnx_runtime(&self) -> Command {
        let mut command = self.python("inference.py");
        command.args(self.network).args([self.threads, self.case.repeats()].map(text));
        if self.case.weights == Weights::Int8 {
            command.arg("int8");
        }
        command
    }

    fn candle(&self) -> Command {
        let Case { kind, arch, size, .. } = self.case;
        let (what, steps) = match kind {
            Kind::Train => ("train", CANDLE_STEPS),
            Kind::Infer => ("infer", self.case.repeats().min(100)),
        };
        let mut command = self.rust("candle");
        command.env("RAYON_NUM_THREADS", text(self.threads));
        command.args([what, arch]).args([*size, self.case.batch(), steps].map(text));
        command
    }

    fn tract(&self) -> Command {
        let mut command = self.rust("tract");
        command.args(self.network).args([self.case.size, self.threads, self.case.repeats()].map(text));
        command
    }

    /// Peak bytes of PyTorch's steps in a mode, in a process that does nothing else; none where the system does not tell.
    pub fn pytorch_memory(&self, mode: &str) -> Result<Option<f64>> {
        let bytes = Process::start(&mut self.pytorch())?.ask(&format!("memory {mode}"))?;
        Ok(bytes.is_finite().then_some(bytes))
    }
}

fn text(number: usize) -> String {
    number.to_string()
}

/// A peer at work, with its figures of every mode so far.
pub struct Rival {
    name: String,
    modes: Vec<(&'static str, Vec<f64>)>,
    process: Process,
    /// Whether it does something else than we, and stands in the table for information alone.
    pub information: bool,
}

impl Rival {
    fn start(name: &str, modes: &[&'static str], command: &mut Command) -> Result<Self> {
        let process = Process::start(command).map_err(|error| format!("{name}: {error}"))?;
        let modes = modes.iter().map(|&mode| (mode, Vec::new())).collect();
        Ok(Self { name: name.into(), modes, process, information: false })
    }

    /// Measures every mode once.
    pub fn take_turn(&mut self) -> Result {
        for (mode, figures) in &mut self.modes {
            let figure = self.process.ask(mode).map_err(|error| format!("{}: {error}", self.name))?;
            figures.push(figure);
        }
        Ok(())
    }

    /// The best mode for a kind of case, with its figures.
    pub fn best(&self, kind: Kind) -> Option<(&'static str, &[f64])> {
        let favor = |figures: &[f64]| kind.ratio(median(figures), 1.0);
        let best = self.modes.iter().max_by(|a, b| favor(&a.1).total_cmp(&favor(&b.1)));
        best.map(|(mode, figures)| (*mode, figures.as_slice()))
    }

    /// What the table calls it in a mode.
    pub fn label(&self, mode: &str) -> String {
        let name = &self.name;
        if self.modes.len() > 1 { format!("{name}, {mode}") } else { name.clone() }
    }

    /// Whether its memory can be asked for.
    pub fn tells_memory(&self) -> bool {
        self.modes.iter().any(|(mode, _)| MODES.contains(mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_read_from_a_list_or_all_at_once() {
        assert_eq!(Extra::parse_list("all").unwrap(), Extra::ALL);
        assert_eq!(Extra::parse_list("tract,bf16").unwrap(), [Extra::Tract, Extra::Bf16]);
        let message = Extra::parse_list("candel").unwrap_err();
        assert_eq!(message, "--with takes all or some of candle,tract,bf16, found `candel`");
    }

    #[test]
    fn the_best_mode_is_the_fastest_by_the_kinds_unit() {
        let process = Process::start(&mut Command::new("true")).unwrap();
        let modes = vec![("slow", vec![1.0, 3.0, 2.0]), ("fast", vec![9.0, 1.0, 8.0])];
        let rival = Rival { name: "peer".into(), modes, process, information: false };
        assert_eq!(rival.best(Kind::Train).unwrap().0, "fast");
        assert_eq!(rival.best(Kind::Infer).unwrap().0, "slow");
        assert_eq!(rival.label("fast"), "peer, fast");
    }
}
