//! `distill-serve`: the server alone, for the device. The whole tool has the same server as `distill serve`; here are
//! no training code and no library for options.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // this is a program, not a library

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serve::{LoadOptions, Options, Served};

const HELP: &str = "\
Answer pictures over HTTP.

usage: distill-serve MODEL [OPTION VALUE]...

MODEL is a run's folder, a model.safetensors or an .onnx file of `distill export`.

  --addr ADDRESS         where to listen [default: 127.0.0.1:8080]
  --engine NAME          native or ort [default: native; ort for .onnx]
  --weights FORMAT       how the native engine stores weights: f32 or bf16 [default: f32]
  --threads N            threads of each worker's engine [default: 1]
  --workers N            threads with an engine each [default: one per core]
  --queue N              pictures under way at most; more are refused [default: 256]
  --max-batch N          pictures run together at most, where they wait [default: 16]
  --max-pictures N       pictures in one request at most [default: 64]
  --max-body-bytes N     bytes of a request's body at most [default: 33554432]
  --max-pixels N         pixels of a picture at most [default: 64000000]
  --top N                classes answered if a request does not say [default: 5]
  --ort-lib PATH         ONNX Runtime's library or its folder [default: sought]
  --help                 this text
  --version              the version
";

/// What the command line asks for.
enum Command {
    Help,
    Version,
    Serve(Box<Arguments>),
}

#[derive(Debug, PartialEq)]
struct Arguments {
    model: PathBuf,
    address: SocketAddr,
    load: LoadOptions,
    options: Options,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => print!("{HELP}"),
        Ok(Command::Version) => println!("distill-serve {}", env!("CARGO_PKG_VERSION")),
        Ok(Command::Serve(arguments)) => {
            if let Err(error) = start(*arguments) {
                eprintln!("error: {error}");
                return ExitCode::from(2);
            }
        }
        Err(message) => {
            eprintln!("error: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn start(arguments: Arguments) -> serve::Result<()> {
    let Arguments { model, address, load, options } = arguments;
    let served = Served::open(&model, &load)?;
    serve::run(served, &options, address, |info| {
        println!(
            "serving {} ({}, {} workers) on http://{}",
            info.model, info.engine, info.workers, info.address
        );
        println!("try: {}", info.curl);
    })
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut arguments = arguments;
    let mut model = None;
    let mut parsed = Arguments {
        model: PathBuf::new(),
        address: SocketAddr::from(([127, 0, 0, 1], 8080)),
        load: LoadOptions::default(),
        options: Options::default(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Command::Help),
            "--version" | "-V" => return Ok(Command::Version),
            option if option.starts_with('-') => {
                let value =
                    arguments.next().ok_or_else(|| format!("{option}: expected a value, found none"))?;
                set(&mut parsed, option, &value)?;
            }
            _ if model.is_none() => model = Some(PathBuf::from(argument)),
            other => return Err(format!("expected one model, found `{other}` as well")),
        }
    }
    parsed.model = model.ok_or("expected a model, found none")?;
    Ok(Command::Serve(Box::new(parsed)))
}

fn set(arguments: &mut Arguments, option: &str, value: &str) -> Result<(), String> {
    let Arguments { address, load, options, .. } = arguments;
    match option {
        "--addr" => *address = number(option, value, "an address such as 127.0.0.1:8080")?,
        "--engine" => {
            load.engine = Some(value.parse().map_err(|error: serve::ServeError| error.to_string())?)
        }
        "--weights" => {
            load.weights = value.parse().map_err(|error: engine::EngineError| error.to_string())?
        }
        "--threads" => load.threads = number(option, value, "a number")?,
        "--ort-lib" => load.ort_lib = Some(value.into()),
        "--workers" => options.workers = number(option, value, "a number")?,
        "--queue" => options.queue = number(option, value, "a number")?,
        "--max-batch" => options.max_batch = number(option, value, "a number")?,
        "--max-pictures" => options.max_pictures = number(option, value, "a number")?,
        "--max-body-bytes" => options.max_body_bytes = number(option, value, "a number")?,
        "--max-pixels" => options.max_pixels = number(option, value, "a number")?,
        "--top" => options.top = number(option, value, "a number")?,
        other => return Err(format!("unknown option `{other}`")),
    }
    Ok(())
}

fn number<T: std::str::FromStr>(option: &str, value: &str, expected: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option}: expected {expected}, found `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn options_are_read_in_any_order() {
        let Ok(Command::Serve(arguments)) = parsed("--workers 3 runs/a --addr 0.0.0.0:9 --engine native")
        else {
            panic!("not understood")
        };
        assert_eq!(arguments.model, PathBuf::from("runs/a"));
        assert_eq!((arguments.options.workers, arguments.address.port()), (3, 9));
        assert_eq!(arguments.load.engine, Some(serve::EngineName::Native));
    }

    #[test]
    fn every_option_of_the_help_is_known() {
        let listed = HELP.lines().filter_map(|line| line.trim().strip_prefix("--"));
        for option in listed
            .map(|line| line.split(' ').next().unwrap())
            .filter(|name| !["help", "version"].contains(name))
        {
            let value = match option {
                "addr" => "127.0.0.1:1",
                "engine" => "ort",
                "weights" => "bf16",
                _ => "1",
            };
            assert!(parsed(&format!("model --{option} {value}")).is_ok(), "--{option}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, expected) in [
            ("", "expected a model"),
            ("a b", "`b` as well"),
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
