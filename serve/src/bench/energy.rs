//! Joules of the processor packages, from Linux' RAPL counters where this process may read them. Never an estimate: what
//! is not counted is "not measured".

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What a picture took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Energy {
    /// Joules for each picture, of whole packages: whatever else the machine did is in it.
    JoulesPerPicture(f64),
    /// The words "not measured", and why.
    NotMeasured(String),
}

impl Energy {
    /// As tables have it.
    pub fn text(&self) -> String {
        match self {
            Energy::JoulesPerPicture(joules) => format!("{:.3} mJ", joules * 1e3),
            Energy::NotMeasured(_) => "not measured".into(),
        }
    }
}

/// The counters of all packages.
pub(super) struct Counters(Vec<Counter>);

struct Counter {
    file: PathBuf,
    /// Where it starts again from zero.
    range: u64,
}

/// What the counters said at a moment, in microjoules.
pub(super) type Reading = Vec<u64>;

impl Counters {
    /// The counters of this machine, or why there are none.
    pub fn find() -> Result<Self, String> {
        Self::below(Path::new("/sys/class/powercap"))
    }

    fn below(folder: &Path) -> Result<Self, String> {
        let entries = std::fs::read_dir(folder)
            .map_err(|error| format!("not measured: {}: {error}", folder.display()))?;
        let mut counters = Vec::new();
        for entry in entries.flatten().filter(|entry| is_package(&entry.file_name().to_string_lossy())) {
            let file = entry.path().join("energy_uj");
            number(&file).map_err(|reason| format!("not measured: {reason}; root may read it"))?;
            let range = number(&entry.path().join("max_energy_range_uj")).unwrap_or(u64::MAX);
            counters.push(Counter { file, range });
        }
        match counters.is_empty() {
            true => Err(format!("not measured: no RAPL package in {}", folder.display())),
            false => Ok(Self(counters)),
        }
    }

    /// What they say now; `None` once one cannot be read.
    pub fn read(&self) -> Option<Reading> {
        self.0.iter().map(|counter| number(&counter.file).ok()).collect()
    }

    /// Joules between two readings.
    pub fn joules(&self, before: &Reading, after: &Reading) -> f64 {
        let between = self.0.iter().zip(before.iter().zip(after)).map(|(counter, (&before, &after))| {
            // A counter that came round counted to its range first.
            if after >= before { after - before } else { counter.range - before + after }
        });
        between.sum::<u64>() as f64 / 1e6
    }
}

/// `intel-rapl:0` is a package; `intel-rapl:0:1` is a part of one, `intel-rapl` none.
fn is_package(name: &str) -> bool {
    name.starts_with("intel-rapl:") && name.matches(':').count() == 1
}

fn number(file: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    text.trim().parse().map_err(|_| format!("{}: expected a number, found `{}`", file.display(), text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(folder: &Path, name: &str, energy: u64) {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("energy_uj"), format!("{energy}\n")).unwrap();
        std::fs::write(folder.join("max_energy_range_uj"), "1000\n").unwrap();
    }

    #[test]
    fn packages_are_summed_parts_are_not_and_counters_come_round() {
        let folder = tempfile::tempdir().unwrap();
        for (name, energy) in [("intel-rapl:0", 900), ("intel-rapl:1", 10), ("intel-rapl:0:0", 5)] {
            package(folder.path(), name, energy);
        }
        let counters = Counters::below(folder.path()).unwrap();
        let before = counters.read().unwrap();
        assert_eq!(before.len(), 2);
        let after: Vec<u64> = before.iter().map(|&reading| if reading == 900 { 100 } else { 40 }).collect();
        assert!((counters.joules(&before, &after) - (200.0 + 30.0) / 1e6).abs() < 1e-12);
    }

    #[test]
    fn without_counters_the_words_are_not_measured() {
        let folder = tempfile::tempdir().unwrap();
        let reason = Counters::below(folder.path()).err().unwrap();
        assert!(reason.starts_with("not measured: no RAPL package"), "{reason}");
        assert!(Counters::below(&folder.path().join("none")).err().unwrap().starts_with("not measured"));
        assert_eq!(Energy::NotMeasured(reason).text(), "not measured");
    }
}
