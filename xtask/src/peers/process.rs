//! A peer in a process of its own, which answers questions with figures.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Result;

/// A Python process that holds a network and measures it when told to, a line each.
pub struct Peer {
    process: Child,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a script.
    pub fn start(python: &Path, script: &Path, arguments: &[&str]) -> Result<Self> {
        let mut process = Command::new(python)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", python.display()))?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output of the peer")?);
        Ok(Self { process, answers })
    }

    /// Asks a question; the answer is a number.
    pub fn measure(&mut self, question: &str) -> Result<f64> {
        let questions = self.process.stdin.as_mut().ok_or("the peer takes no input")?;
        writeln!(questions, "{question}").map_err(|error| format!("the peer is gone: {error}"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("the peer is gone: {error}"))?;
        line.trim().parse().map_err(|_| format!("the peer answered `{}` to {question}", line.trim()))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Closing its input ends the process; waiting leaves no zombie.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
