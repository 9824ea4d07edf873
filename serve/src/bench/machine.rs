//! What a figure was measured on: everything that the system tells and that moves figures. Never a guess: what the
//! system does not tell is `None`.

use std::fs::read_to_string;

use engine::machine::describe;
use engine::{Device, Runtime};
use models::Machine;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The machine that it was measured on, and what else moves figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// Processor, cores, kernels, system.
    #[serde(flatten)]
    pub machine: Machine,
    /// The cores that this process may use, as Linux lists them.
    pub affinity: Option<String>,
    /// What chooses the clock's pace.
    pub governor: Option<String>,
    /// Whether the processor may exceed its base clock.
    pub turbo: Option<bool>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The kernel's release.
    pub kernel: Option<String>,
}

/// How busy the machine was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Tasks that ran or waited to run, averaged over a minute, where the system tells.
    pub minute: Option<f64>,
}

impl Load {
    /// Now.
    pub(super) fn now() -> Self {
        let average = read_to_string("/proc/loadavg").ok();
        Self { minute: average.and_then(|line| line.split(' ').next()?.parse().ok()) }
    }
}

impl Conditions {
    /// Of this machine; kernels are those of an engine of `threads`.
    pub(super) fn describe(threads: usize) -> Result<Self> {
        Ok(Self {
            machine: describe(&Runtime::new(Device::Cpu, threads)?),
            affinity: line_of("/proc/self/status", "Cpus_allowed_list"),
            governor: word("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            turbo: turbo(),
            memory: line_of("/proc/meminfo", "MemTotal").and_then(|text| kilobytes(&text)),
            kernel: word("/proc/sys/kernel/osrelease"),
        })
    }

    /// A line of all that is known.
    pub fn text(&self) -> String {
        let said = |name: &str, value: &Option<String>| match value {
            Some(value) => format!("{name} {value}"),
            None => format!("{name} unknown"),
        };
        let turbo = self.turbo.map(|on| if on { "on" } else { "off" }.to_string());
        let memory = self.memory.map(|bytes| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64));
        [
            self.machine.cpu.clone(),
            format!("{} cores", self.machine.cores),
            said("affinity", &self.affinity),
            format!("kernels {}", self.machine.kernels),
            said("governor", &self.governor),
            said("turbo", &turbo),
            said("memory", &memory),
            self.machine.system.clone(),
            said("kernel", &self.kernel),
        ]
        .join(", ")
    }
}

/// What is wrong with measuring on a machine this busy, if anything: other tasks took the share of a core before.
pub(super) fn warning(before: Load, cores: usize) -> Option<String> {
    let busy = before.minute.filter(|&minute| minute > 0.3 * cores as f64)?;
    Some(format!(
        "the machine was busy before it was measured: load average {busy:.2} on {cores} cores; figures are not to be quoted"
    ))
}

fn turbo() -> Option<bool> {
    let on = |path: &str, value: &str| word(path).map(|found| found == value);
    on("/sys/devices/system/cpu/intel_pstate/no_turbo", "0")
        .or_else(|| on("/sys/devices/system/cpu/cpufreq/boost", "1"))
}

fn word(path: &str) -> Option<String> {
    Some(read_to_string(path).ok()?.trim().to_string())
}

fn line_of(path: &str, key: &str) -> Option<String> {
    value_in(&read_to_string(path).ok()?, key)
}

/// The value of the first `key: value`.
fn value_in(text: &str, key: &str) -> Option<String> {
    let of_key = |line: &&str| line.split(':').next().is_some_and(|name| name.trim() == key);
    Some(text.lines().find(of_key)?.split_once(':')?.1.trim().to_string())
}

fn kilobytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_whole() {
        let status = "Cpus_allowed:\t3\nCpus_allowed_list:\t0-1\n";
        assert_eq!(value_in(status, "Cpus_allowed_list").unwrap(), "0-1");
        assert_eq!(value_in(status, "Cpus"), None);
        assert_eq!(kilobytes("7939764 kB"), Some(7_939_764 * 1024));
    }

    #[test]
    fn a_busy_machine_is_said_to_be_busy() {
        let load = |minute| Load { minute: Some(minute) };
        assert!(warning(load(1.4), 2).unwrap().contains("load average 1.40 on 2 cores"));
        assert_eq!(warning(load(0.1), 2), None);
        assert_eq!(warning(Load { minute: None }, 2), None, "what is not known is not said");
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let machine = Conditions { turbo: None, ..Conditions::describe(1).unwrap() };
        assert!(machine.text().contains("turbo unknown"), "{}", machine.text());
    }
}
