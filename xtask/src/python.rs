//! A Python environment of our own below `.tools/`, so that nothing is installed into the user's.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, run, tools};

/// Makes (once) the environment `name` with `packages` and returns its interpreter.
pub fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = tools().join(name);
    let python = folder.join("bin/python");
    let stamp = folder.join("installed");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder)).map_err(|error| {
        format!("{error}; this needs python3 with the venv module (Debian: python3-venv)")
    })?;
    run(Command::new(&python)
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    std::fs::write(&stamp, wanted).map_err(|error| format!("cannot write {}: {error}", stamp.display()))?;
    Ok(python)
}
