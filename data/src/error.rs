//! What can go wrong between a folder and a batch, each with its culprit and its mend.

use std::path::PathBuf;

/// A data call that failed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A name that is neither a source nor a path.
    #[error(
        "no data set or folder `{name}`{}; known: {known}, or the path of a folder or file",
        did_you_mean(nearest)
    )]
    UnknownSource {
        /// What was asked for.
        name: String,
        /// The registered name closest to it, if any is close.
        nearest: Option<String>,
        /// All registered names.
        known: String,
    },
    /// A known source whose files are not there.
    #[error("{name}: not found in {}; expected {expected}", searched(searched_in))]
    NotFound {
        /// Source.
        name: String,
        /// Where it was looked for.
        searched_in: Vec<PathBuf>,
        /// Which files, and where to get them.
        expected: String,
    },
    /// A folder or file that no source recognizes.
    #[error("{}: not a data set: {found}; expected {expected}", path.display())]
    Unrecognized {
        /// Which.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it could hold.
        expected: String,
    },
    /// A file that is not what its place says.
    #[error("{}: expected {expected}, found {found}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file that could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Broken pictures where none are allowed, or nothing but broken ones.
    #[error("{count} broken picture(s), the first {name}: {reason}; {mend}")]
    BrokenPictures {
        /// How many.
        count: usize,
        /// Path or row of the first.
        name: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        mend: String,
    },
    /// An option's text that cannot be read.
    #[error("{option} `{given}`: {reason}; expected {expected}")]
    BadOption {
        /// Which option.
        option: &'static str,
        /// What was given.
        given: String,
        /// What is wrong with it.
        reason: String,
        /// The forms it can have.
        expected: &'static str,
    },
    /// More labels asked for than there are.
    #[error("{option}: asked {asked}, {found}; {mend}")]
    TooFew {
        /// Which option.
        option: &'static str,
        /// What was asked for.
        asked: String,
        /// What there is.
        found: String,
        /// What to ask for instead.
        mend: String,
    },
    /// A draw from a part that holds no picture.
    #[error("there are no {part} pictures to draw from; {mend}")]
    EmptyPart {
        /// Which part.
        part: &'static str,
        /// What to do.
        mend: &'static str,
    },
    /// Pictures that do not fit in memory.
    #[error(
        "{pictures} pictures of {width}x{height}x{channels} need {} MiB decoded, the limit is {} MiB; choose a smaller --image-size",
        need >> 20,
        limit >> 20
    )]
    Memory {
        /// How many pictures.
        pictures: usize,
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// Channels.
        channels: usize,
        /// Bytes needed.
        need: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A loader thread that ended early.
    #[error(
        "a loader thread ended before step {step} was ready; this is a defect of the program, please report it"
    )]
    WorkerEnded {
        /// The step that will not come.
        step: u64,
    },
}

impl DataError {
    /// An I/O error with the path it is about.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Whether the user can mend it (exit code 2) rather than the machine or the program being at fault.
    pub fn is_users(&self) -> bool {
        !matches!(self, Self::WorkerEnded { .. })
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

fn searched(folders: &[PathBuf]) -> String {
    let names: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    names.join(", ")
}
