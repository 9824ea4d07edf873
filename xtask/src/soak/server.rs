//! The server that is driven, as a process: started, watched through /proc, and told to stop.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::Build;
use super::client::Client;
use crate::{Result, cargo, root, run};

/// Bytes of a body that the server takes at most.
pub const MAX_BODY: usize = 4 << 20;
/// How long the server waits for a request's head and for its body.
pub const SLOWEST: Duration = Duration::from_secs(2);
/// Time that a server may take until it is ready, and until it has stopped.
const LONG: Duration = Duration::from_secs(60);

/// Options that make limits easy to reach; those that a build does not have are left out.
const OPTIONS: [(&str, &str); 7] = [
    ("--workers", "1"),
    ("--queue", "64"),
    ("--max-pictures", "16"),
    ("--max-body-bytes", "4194304"),
    ("--max-pixels", "4000000"),
    ("--header-timeout-ms", "2000"),
    ("--body-timeout-ms", "2000"),
];

/// A server that runs.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub log: PathBuf,
    /// Whether it gives up on slow clients.
    pub limits_slowness: bool,
}

/// What the system says of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Bytes of memory that it has.
    pub resident: u64,
    /// The most that it ever had.
    pub peak: u64,
    pub threads: u64,
    pub files: u64,
}

impl Server {
    /// Builds the server and starts it on `model`, its words going to `log`.
    pub fn start(model: &Path, log: &Path, kind: Build) -> Result<Self> {
        let mut build = Command::new(cargo());
        build.current_dir(root()).args(["build", "--package", "distill-serve", "--bin", "distill-serve"]);
        run(build.args(kind.flags()))?;
        let program = kind.folder().join("distill-serve");
        let help = Command::new(&program).arg("--help").output().map_err(|error| error.to_string())?;
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let known = OPTIONS.iter().filter(|(option, _)| help.contains(&format!("{option} ")));
        let address = free_address()?;
        let file = File::create(log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = file.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new(&program)
            .arg(model)
            .args(["--addr", &address.to_string()])
            .args(known.flat_map(|(option, value)| [option, value]))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let limits_slowness = help.contains("--header-timeout-ms ");
        let mut server = Self { child, address, log: log.into(), limits_slowness };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result {
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            if let Some(status) = self.ended() {
                return Err(format!("the server ended with {status}; it said: {}", self.words()));
            }
            if Client::new(self.address).get("/readyz").is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the server was not ready after {} s", LONG.as_secs()))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What the system says of it now.
    pub fn sample(&self) -> Option<Sample> {
        let folder = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = std::fs::read_to_string(folder.join("status")).ok()?;
        let files = std::fs::read_dir(folder.join("fd")).ok()?.count() as u64;
        Some(Sample { files, ..Sample::read(&status)? })
    }

    /// Tells it to stop; how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        run(Command::new("kill").arg("-TERM").arg(self.child.id().to_string()))?;
        let begun = Instant::now();
        while begun.elapsed() < LONG {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the server still ran {} s after it was told to stop", LONG.as_secs()))
    }

    /// Everything it has said.
    pub fn words(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to do for one that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sample {
    fn read(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let kibibytes = |name| Some(field(name)? << 10);
        Some(Self {
            resident: kibibytes("VmRSS:")?,
            peak: kibibytes("VmHWM:")?,
            threads: field("Threads:")?,
            files: 0,
        })
    }
}

/// An address that nobody listens on: taken and given back.
fn free_address() -> Result<SocketAddr> {
    let taken = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    taken.map_err(|error| format!("no free port: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_proc_is_read_in_bytes() {
        let status = "Name:\tserve\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\nThreads:\t5\n";
        let sample = Sample::read(status).unwrap();
        assert_eq!((sample.resident, sample.peak, sample.threads), (1 << 20, 2 << 20, 5));
        assert!(Sample::read("Name:\tserve\n").is_none());
    }
}
