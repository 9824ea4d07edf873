//! `distill-serve`: the server alone, for the device. The whole tool has the same server as `distill serve`; here are
//! no training code and no library for options.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // this is a program, not a library

use std::io::Write;
use std::process::ExitCode;

use serve::{Ended, SETTINGS, Settings};

const USAGE: &str = "\
Answer pictures over HTTP.

usage: distill-serve [NAME=]MODEL... [--OPTION VALUE]...

A MODEL is a run's or a bundle's folder, a model.safetensors or an .onnx file of `distill export`. The first is the
default; those of one NAME are its versions.
";

/// Pictures, bodies and reloaded networks come and go in all sizes and from all threads; this allocator gives their pages
/// back, where the system's keeps ever more of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How a process ends that was told to stop twice: as the second Ctrl-C would have ended it.
const INTERRUPTED: u8 = 130;
/// Columns of the names in the help.
const NAMES: usize = 28;

/// What the command line asks for.
enum Command {
    Help,
    Version,
    Serve(Box<Settings>),
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => print!("{}", help()),
        Ok(Command::Version) => println!("distill-serve {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Serve(settings)) => return start(*settings),
        Err(message) => {
            eprintln!("error: {message}\n\n{}", help());
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn start(settings: Settings) -> ExitCode {
    let ended = settings.run(std::io::stderr(), |info| {
        info.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        announce(&format!(
            "serving {} ({}, {} workers) on {}",
            info.model, info.engine, info.workers, info.url
        ));
        announce(&format!("try: {}", info.curl));
    });
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::CutShort(connections)) => {
            eprintln!("warning: {connections} connections were cut when the time for draining was over");
            ExitCode::SUCCESS
        }
        Ok(Ended::AtOnce) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// A line for whoever reads it: a server goes on when nobody does.
fn announce(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn help() -> String {
    let line = |name: String, help: &str| format!("  {name:NAMES$}{help}\n");
    let settings = SETTINGS.iter().map(|setting| {
        let help = format!("{} [default: {}]", setting.help, setting.default);
        line(format!("--{} {}", setting.name, setting.value), &help)
    });
    let rest = [("--help", "this text"), ("--version", "the version")];
    let rest = rest.map(|(name, help)| line(name.into(), help));
    format!("{USAGE}\n{}{}", settings.collect::<String>(), rest.concat())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut arguments = arguments;
    let mut settings = Settings::default();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            option if option.starts_with('-') => {
                let (name, value) = match option.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_string())),
                    None => (option, arguments.next()),
                };
                let value = value.ok_or_else(|| format!("{name}: expected a value, found none"))?;
                settings.set(name.trim_start_matches('-'), &value)?;
            }
            _ => settings.models.push(argument),
        }
    }
    if settings.models.is_empty() && settings.repository.is_none() {
        return Err("expected a model or --model-repository DIR, found neither".into());
    }
    Ok(Command::Serve(Box::new(settings)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn options_are_read_in_any_order() {
        let line = "--workers 3 runs/a --addr 0.0.0.0:9 b=runs/b --engine=native";
        let Ok(Command::Serve(settings)) = parsed(line) else { panic!("not understood") };
        assert_eq!(settings.models, ["runs/a", "b=runs/b"]);
        assert_eq!((settings.options.workers, settings.address.port()), (3, 9));
        assert_eq!(settings.load.engine, Some(serve::EngineName::Native));
    }

    #[test]
    fn every_option_is_in_the_help_and_known() {
        let help = help();
        for setting in SETTINGS {
            assert!(help.contains(&format!("  --{} {}", setting.name, setting.value)), "--{}", setting.name);
            assert!(parsed(&format!("model --{} {}", setting.name, setting.example)).is_ok());
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            ("", "expected a model"),
            ("a --queue", "expected a value"),
            ("a --queue many", "found `many`"),
            ("a --engine nativ", "did you mean `native`"),
            ("a --frobnicate 1", "unknown option `--frobnicate`"),
        ] {
            let Err(message) = parsed(line) else { panic!("{line} was understood") };
            assert!(message.contains(expected), "{message}");
        }
    }
}
