//! A package: a bundle, the server's slim program, and what a machine needs to run both: a hardened systemd unit, a
//! Containerfile, and a page that says how to install them. Nothing is installed here, and nothing runs.

use std::fs;
use std::path::{Path, PathBuf};

use models::Bundle;
use models::bundle::MANIFEST;
use serde::Serialize;

use crate::bundle::write_folder;
use crate::{ExportError, Result, Written};

mod elf;
mod texts;

pub use elf::Linking;

/// Name of the server's program.
pub const PROGRAM: &str = "distill-serve";
/// The command that builds it small.
pub const BUILD: &str = "cargo build --profile slim -p distill-serve";
/// Bytes of the program at most: the promise of a slim server.
pub const LARGEST: u64 = 15_000_000;
/// Folder of the bundle in the package.
const MODEL: &str = "model";

/// How a package is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackageOptions {
    /// The folder; `NAME-package` beside the bundle if not given.
    pub out: Option<PathBuf>,
    /// The server's program; sought beside the running one if not given.
    pub program: Option<PathBuf>,
}

/// A package that was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackageReport {
    /// Its folder.
    pub folder: PathBuf,
    /// Its files.
    pub files: Vec<Written>,
    /// Libraries that the program needs of the system, as far as that was looked at.
    pub linking: Linking,
}

/// Writes a package around a bundle.
///
/// # Errors
/// [`ExportError::Bundle`] for a bundle that is not whole, [`ExportError::Program`] for a program that is not there, is
/// none, or is too large.
pub fn write(bundle: &Path, options: &PackageOptions) -> Result<PackageReport> {
    let whole = Bundle::open(bundle)?;
    whole.check()?;
    let program = program(options.program.as_deref())?;
    let bytes = fs::read(&program).map_err(at(&program))?;
    let linking = linking(&program, &bytes)?;
    let folder = options.out.clone().unwrap_or_else(|| beside(bundle, &whole.name));
    check_place(&folder)?;
    let texts = texts::of(&whole.name, &linking);
    let model = files_of(&whole)?;
    let mut contents: Vec<(&str, &[u8])> = vec![(PROGRAM, &bytes)];
    contents.extend(texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())));
    contents.extend(model.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())));
    write_folder(&folder, &contents)?;
    make_executable(&folder.join(PROGRAM))?;
    let files = contents.iter().map(|(name, bytes)| Written::of(folder.join(name), bytes)).collect();
    Ok(PackageReport { folder, files, linking })
}

fn beside(bundle: &Path, name: &str) -> PathBuf {
    let full = bundle.canonicalize().unwrap_or_else(|_| bundle.to_path_buf());
    full.with_file_name(format!("{name}-package"))
}

/// The program asked for, or the one beside this one, or in the profile that it is built in.
fn program(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = asked {
        return match path.is_file() {
            true => Ok(path.to_path_buf()),
            false => Err(refused(path, "expected the server's program, found none")),
        };
    }
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().unwrap_or(Path::new("."));
    let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let places = [folder.join("../slim").join(&name), folder.join(&name)];
    match places.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(refused(folder, "expected the server's program here or in ../slim, found none")),
    }
}

fn linking(path: &Path, bytes: &[u8]) -> Result<Linking> {
    let linking = Linking::of(bytes)
        .ok_or_else(|| refused(path, "expected a 64-bit Linux program (ELF), found none"))?;
    let size = bytes.len() as u64;
    match size > LARGEST {
        true => Err(refused(path, &format!("expected at most {LARGEST} bytes, found {size}"))),
        false => Ok(linking),
    }
}

fn refused(path: &Path, reason: &str) -> ExportError {
    let reason = format!("{reason}; build it with `{BUILD}`, or name one with --binary PATH");
    ExportError::Program { path: path.into(), reason }
}

/// A package may take the place of a package, and of nothing else.
fn check_place(folder: &Path) -> Result<()> {
    let package = folder.join(PROGRAM).is_file() && Bundle::is_at(&folder.join(MODEL));
    let empty = || fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    match folder.exists() && !package && !empty() {
        true => Err(ExportError::NotABundle { path: folder.into() }),
        false => Ok(()),
    }
}

/// The manifest and the files that it lists, below the package's folder.
fn files_of(bundle: &Bundle) -> Result<Vec<(String, Vec<u8>)>> {
    let manifest = bundle.folder().join(MANIFEST);
    let mut files = vec![(format!("{MODEL}/{MANIFEST}"), fs::read(&manifest).map_err(at(&manifest))?)];
    for file in &bundle.files {
        files.push((format!("{MODEL}/{}", file.path), bundle.read(file)?));
    }
    Ok(files)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(at(path))
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> ExportError {
    let path = path.to_path_buf();
    move |source| ExportError::File { path, source }
}
