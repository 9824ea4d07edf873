//! `distill`: the program. It parses flags, calls a room, prints what comes back, and decides the exit code: 0 done, 2 for
//! what the user can mend, 1 otherwise. Nothing else in the workspace prints.
#![forbid(unsafe_code)]

mod args;
mod bench_host;
mod commands;
mod dataset;
mod failure;
mod job;
mod print;
mod profile;
mod progress;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// Training allocates and frees large buffers all the time; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        None => commands::distill::run(&cli.distill),
        Some(Command::Distill(args)) => commands::distill::run(args),
        Some(Command::Train(args)) => commands::train::run(args),
        Some(Command::Eval(args)) => commands::eval::run(args),
        Some(Command::Predict(args)) => commands::predict::run(args),
        Some(Command::Export(args)) => commands::export::run(args),
        Some(Command::Verify(args)) => commands::verify::run(args),
        Some(Command::Package(args)) => commands::package::run(args),
        Some(Command::Serve(args)) => commands::serve::run(args),
        Some(Command::Bench(args)) => commands::bench::run(args),
        Some(Command::Models(args)) => commands::models::run(args),
        Some(Command::Methods(args)) => commands::methods::run(args),
        Some(Command::Data(args)) => commands::data::run(args),
        Some(Command::Doctor(args)) => commands::doctor::run(args),
        Some(Command::Completions { shell }) => commands::completions::run(*shell),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::note(format!("error: {}", failure.message));
            ExitCode::from(failure.code)
        }
    }
}
