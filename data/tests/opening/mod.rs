//! Opening a source at a path, for tests.

use std::path::Path;

use data::{Dataset, OpenOptions, Result, open};

pub fn options() -> OpenOptions {
    OpenOptions { threads: 2, ..Default::default() }
}

pub fn open_path(path: &Path) -> Result<Dataset> {
    open(path.to_str().unwrap(), &options())
}

pub fn error_of(path: &Path) -> String {
    open_path(path).unwrap_err().to_string()
}
