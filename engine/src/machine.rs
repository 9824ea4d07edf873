//! Which machine this is: what stands beside every figure that was measured on it. Nothing is measured here.

use models::Machine;

use crate::Runtime;

/// This machine, with the instruction set that `runtime` computes with.
pub fn describe(runtime: &Runtime) -> Machine {
    Machine {
        cpu: cpu().unwrap_or_else(|| "unknown".into()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernels: runtime.isa().into(),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    }
}

#[cfg(target_os = "macos")]
fn cpu() -> Option<String> {
    let output =
        std::process::Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().into())
}

#[cfg(not(target_os = "macos"))]
fn cpu() -> Option<String> {
    named_in(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// The first `model name` (x86) or `Model` (some ARM boards) of a `cpuinfo`.
#[cfg(not(target_os = "macos"))]
fn named_in(cpuinfo: &str) -> Option<String> {
    let value = |key: &str| {
        let line =
            cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    value("model name").or_else(|| value("Model"))
}

#[cfg(all(test, not(target_os = "macos")))]
mod tests {
    #[test]
    fn the_processor_is_named_by_cpuinfo() {
        let amd = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9R14\nflags\t: fpu\n";
        assert_eq!(super::named_in(amd).unwrap(), "AMD EPYC 9R14");
        assert_eq!(super::named_in("processor: 0\nModel\t: Raspberry Pi 4\n").unwrap(), "Raspberry Pi 4");
        assert_eq!(super::named_in("processor: 0\n"), None);
    }
}
