//! A peer in a process of its own, which answers questions with figures.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::Result;

/// A process that holds a network and measures it when told to, a line each.
pub struct Process {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output of the peer")?);
        Ok(Self { child, answers })
    }

    /// Asks a question; the answer is a number.
    pub fn ask(&mut self, question: &str) -> Result<f64> {
        let questions = self.child.stdin.as_mut().ok_or("the peer takes no input")?;
        writeln!(questions, "{question}").map_err(|error| format!("the peer is gone: {error}"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|error| format!("the peer is gone: {error}"))?;
        line.trim().parse().map_err(|_| format!("the peer answered `{}` to {question}", line.trim()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Closing its input ends the process; waiting leaves no zombie.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
