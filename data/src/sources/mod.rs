//! Where pictures come from: one registry, a file per source.
//!
//! `--data SPEC` is a registered name (`synth`, `cifar10`), which is generated or looked for in `--data-dir`, or a path,
//! which is recognized by what it holds. A new source is a file and a line in [`SOURCES`].
//!
//! Never here: downloads, augmentation, the choice of labels.

pub mod cifar;
pub mod ferplus;
pub mod folder;
pub mod idx;
pub mod parquet;
pub mod stl10;
pub mod synth;

use std::path::{Path, PathBuf};

use picture::Fit;

use crate::{DataError, Dataset, Result, listing::Listing, parallel};

/// How a data set is read.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Where named data sets are looked for.
    pub data_dir: PathBuf,
    /// Side of the square that pictures become; `None`: their own size when uniform and at most 96, else 224.
    pub image_size: Option<usize>,
    /// 3 or 1; `None`: gray if all pictures are gray.
    pub channels: Option<usize>,
    /// How they become that size.
    pub fit: Fit,
    /// Of the test part that is split off where there is none.
    pub seed: u64,
    /// Threads that decode; 0 is as many as the machine has.
    pub threads: usize,
    /// Whether a broken picture is an error rather than skipped and counted.
    pub strict: bool,
    /// Bytes that decoded pictures may take; `None` is 60 % of the machine's memory.
    pub memory_limit: Option<u64>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            data_dir: "data".into(),
            image_size: None,
            channels: None,
            fit: Fit::Stretch,
            seed: 0,
            threads: 0,
            strict: false,
            memory_limit: None,
        }
    }
}

impl OpenOptions {
    /// How many threads that is.
    pub(crate) fn threads(&self) -> usize {
        if self.threads == 0 { parallel::available() } else { self.threads }
    }
}

/// What a source gives.
#[derive(Debug)]
pub enum Found {
    /// Pictures made or kept in the size asked for.
    Made(Dataset),
    /// Pictures still to be decoded.
    Listed(Listing),
}

/// A kind of data set.
#[derive(Debug)]
pub struct Source {
    /// What `--data` calls it.
    pub name: &'static str,
    /// One line for `distill data --help` and the docs.
    pub about: &'static str,
    /// Where its files are.
    pub place: Place,
}

/// Where the files of a source are.
#[derive(Debug)]
pub enum Place {
    /// Nowhere: it is made. The text after `NAME:` is its argument, empty where there is none.
    BuiltIn(fn(&str, &OpenOptions) -> Result<Dataset>),
    /// In a folder or file that `holds` recognizes and `list` reads.
    Path {
        /// Whether a path holds it.
        holds: fn(&Path) -> bool,
        /// Lists its pictures.
        list: fn(&Path, &OpenOptions) -> Result<Listing>,
        /// Folders below `--data-dir` that its name is looked for in; empty where it has no name of its own.
        folders: &'static [&'static str],
        /// Which files it consists of, and where to get them.
        expected: &'static str,
    },
}

/// All sources. A path belongs to the first that recognizes it.
pub const SOURCES: &[Source] = &[
    synth::SOURCE,
    cifar::CIFAR10,
    cifar::CIFAR100,
    stl10::SOURCE,
    ferplus::SOURCE,
    idx::MNIST,
    idx::FASHION_MNIST,
    parquet::SOURCE,
    folder::SOURCE,
];

/// Reads a data set: a registered name or a path.
///
/// # Errors
/// [`DataError`], with the nearest name for an unknown one.
pub fn open(spec: &str, options: &OpenOptions) -> Result<Dataset> {
    let (name, found) = find(spec, options)?;
    match found {
        Found::Made(dataset) => Ok(dataset),
        Found::Listed(listing) => listing.load(&name, options),
    }
}

/// Finds a data set without decoding its pictures; the name is for reports.
///
/// # Errors
/// As [`open`].
pub fn find(spec: &str, options: &OpenOptions) -> Result<(String, Found)> {
    let (name, argument) = spec.split_once(':').unwrap_or((spec, ""));
    if let Some(source) = SOURCES.iter().find(|source| source.name == name) {
        match source.place {
            Place::BuiltIn(make) => return Ok((name.into(), Found::Made(make(argument, options)?))),
            Place::Path { folders: [_, ..], .. } => return find_named(source, options),
            Place::Path { .. } => {}
        }
    }
    let path = [PathBuf::from(spec), options.data_dir.join(spec)].into_iter().find(|path| path.exists());
    match path {
        Some(path) => Ok((name_of(&path), Found::Listed(list(&path, options)?))),
        None => Err(unknown(spec)),
    }
}

/// The last part of a path, without what only says where it is or how it is stored.
fn name_of(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    full.file_stem().map_or_else(|| full.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Looks for a named source below the data folder, in its own layout or any other, and in the data folder in its own.
fn find_named(source: &Source, options: &OpenOptions) -> Result<(String, Found)> {
    let Place::Path { holds, list: list_own, folders, expected } = source.place else {
        return Err(unknown(source.name));
    };
    let below: Vec<PathBuf> = folders.iter().map(|folder| options.data_dir.join(folder)).collect();
    let found = if let Some(path) = below.iter().find(|path| holds(path)) {
        list_own(path, options)?
    } else if let Some(path) = below.iter().find(|path| path.exists()) {
        list(path, options)?
    } else if holds(&options.data_dir) {
        list_own(&options.data_dir, options)?
    } else {
        let (name, expected) = (source.name.into(), format!("{expected}; --data-dir says where to look"));
        return Err(DataError::NotFound { name, searched_in: below, expected });
    };
    Ok((source.name.into(), Found::Listed(found)))
}

/// Lists what a path holds.
fn list(path: &Path, options: &OpenOptions) -> Result<Listing> {
    for source in SOURCES {
        if let Place::Path { holds, list, .. } = source.place
            && holds(path)
        {
            return list(path, options);
        }
    }
    let forms: Vec<&str> = SOURCES
        .iter()
        .filter_map(|source| match source.place {
            Place::Path { expected, .. } => Some(expected),
            Place::BuiltIn(_) => None,
        })
        .collect();
    Err(DataError::Unrecognized { path: path.into(), found: describe(path), expected: forms.join("; or ") })
}

/// A few names of what is in a folder.
fn describe(path: &Path) -> String {
    if path.is_file() {
        return "a file of another kind".into();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    match names.len() {
        0 => "an empty folder".into(),
        count @ 1..=4 => format!("{count} entries ({})", names.join(", ")),
        count => format!("{count} entries ({}, ...)", names[..4].join(", ")),
    }
}

fn unknown(name: &str) -> DataError {
    let names: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
    let nearest = names.iter().min_by_key(|known| distance(name, known)).filter(|known| {
        // A third of the letters wrong is a slip; more is another name.
        distance(name, known) <= known.len().div_ceil(3)
    });
    DataError::UnknownSource {
        name: name.into(),
        nearest: nearest.map(|name| name.to_string()),
        known: names.join(", "),
    }
}

/// Levenshtein's distance: insertions, deletions and replacements from one text to the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_lower_case_and_described() {
        let mut taken = std::collections::HashSet::new();
        for source in SOURCES {
            assert!(taken.insert(source.name), "duplicate name {}", source.name);
            assert_eq!(source.name, source.name.to_lowercase());
            assert!(!source.about.is_empty() && !source.about.ends_with('.'), "{}", source.name);
        }
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let error = open("sinth", &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("did you mean `synth`?"), "{error}");
        let error = open("cifar", &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("did you mean `cifar10`?"), "{error}");
        let error = open("no/such/folder", &OpenOptions::default()).unwrap_err().to_string();
        assert!(!error.contains("did you mean") && error.contains("known: synth"), "{error}");
    }

    #[test]
    fn worked_distances() {
        assert_eq!(distance("cifar10", "cifar100"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
