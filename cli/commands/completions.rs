//! `distill completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Result;
use crate::print;

/// Prints the completion script.
pub fn run(shell: Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "distill", &mut script);
    print::line(String::from_utf8_lossy(&script));
    Ok(())
}
