//! Where ONNX Runtime's shared library is. It is looked for and never loaded here.
//!
//! A place that the user named (an option, `ORT_DYLIB_PATH`) is the only one looked at: nothing falls back in silence.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why a library was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The caller named it.
    Asked,
    /// `ORT_DYLIB_PATH` names it.
    Environment,
    /// It lies beside the program.
    BesideProgram,
    /// It belongs to the `onnxruntime` package of the active Python.
    Python,
    /// It lies in one of the system's library folders.
    System,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Asked => "--ort-lib",
            How::Environment => "ORT_DYLIB_PATH",
            How::BesideProgram => "beside the program",
            How::Python => "the active Python's onnxruntime",
            How::System => "the system's libraries",
        })
    }
}

/// A library that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The library.
    pub path: PathBuf,
    /// Why it was taken.
    pub how: How,
}

/// No library, and every place that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// What was looked at, in order.
    pub looked: Vec<(How, String)>,
}

impl NotFound {
    /// The command that brings the library.
    pub const MEND: &'static str = "pip install onnxruntime";

    /// Whether the user named the place that the library is not at.
    pub fn named(&self) -> bool {
        self.looked.len() == 1
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ONNX Runtime is not installed; looked at ")?;
        for (index, (how, place)) in self.looked.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{how} ({place})")?;
        }
        write!(
            f,
            ". Get it with `{}`, or in a checkout `export ORT_DYLIB_PATH=$(cargo xtask ort)`",
            Self::MEND
        )
    }
}

impl std::error::Error for NotFound {}

/// Finds ONNX Runtime's library: `asked` (a file, or a folder that holds it), then `ORT_DYLIB_PATH`, beside the
/// program, the active Python's `onnxruntime`, the system's library folders.
///
/// # Errors
/// [`NotFound`] with every place that was looked at.
pub fn find(asked: Option<&Path>) -> Result<Found, NotFound> {
    let variable = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty()).map(PathBuf::from);
    let program = std::env::current_exe().ok();
    Places { asked, variable: variable.as_deref(), program: program.as_deref(), python: &python_folders }
        .find()
}

/// Where to look; a value, so that tests can say what the machine has.
struct Places<'a> {
    asked: Option<&'a Path>,
    variable: Option<&'a Path>,
    program: Option<&'a Path>,
    python: &'a dyn Fn() -> Vec<PathBuf>,
}

impl Places<'_> {
    fn find(&self) -> Result<Found, NotFound> {
        if let Some(path) = self.asked {
            return named(How::Asked, path);
        }
        if let Some(path) = self.variable {
            return named(How::Environment, path);
        }
        let mut looked = vec![(How::Asked, "not given".into()), (How::Environment, "not set".into())];
        let beside: &dyn Fn() -> Vec<PathBuf> = &|| self.program.map(folders_beside).unwrap_or_default();
        let searches =
            [(How::BesideProgram, beside), (How::Python, self.python), (How::System, &system_folders)];
        for (how, folders) in searches {
            let folders = folders();
            if let Some(path) = folders.iter().find_map(|folder| library_in(folder)) {
                return Ok(Found { path, how });
            }
            looked.push((how, listed(&folders)));
        }
        Err(NotFound { looked })
    }
}

fn named(how: How, path: &Path) -> Result<Found, NotFound> {
    let library = if path.is_dir() { library_in(path) } else { path.is_file().then(|| path.to_path_buf()) };
    library
        .map(|path| Found { path, how })
        .ok_or_else(|| NotFound { looked: vec![(how, format!("no such library: {}", path.display()))] })
}

fn listed(folders: &[PathBuf]) -> String {
    if folders.is_empty() {
        return "none".into();
    }
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn folders_beside(program: &Path) -> Vec<PathBuf> {
    let Some(folder) = program.parent() else { return Vec::new() };
    vec![folder.to_path_buf(), folder.join("lib"), folder.join("../lib")]
}

fn system_folders() -> Vec<PathBuf> {
    let variable =
        std::env::var_os(if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" });
    let listed = variable.iter().flat_map(std::env::split_paths).filter(|path| !path.as_os_str().is_empty());
    let usual = ["/usr/local/lib", "/usr/lib", "/usr/lib64", "/opt/homebrew/lib"].map(PathBuf::from);
    let multiarch = PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    listed.chain(usual).chain([multiarch]).filter(|folder| folder.is_dir()).collect()
}

/// `onnxruntime/capi` of the active Python: a virtual environment's without asking, else by asking the interpreter,
/// which finds the package without importing it.
fn python_folders() -> Vec<PathBuf> {
    let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let in_environment: Vec<PathBuf> = active.iter().flat_map(|root| capi_below(&root.join("lib"))).collect();
    if !in_environment.is_empty() {
        return in_environment;
    }
    ["python3", "python"].iter().find_map(|name| ask(name)).into_iter().collect()
}

fn capi_below(lib: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(lib) else { return Vec::new() };
    let versions = entries.flatten().map(|entry| entry.path());
    versions.map(|path| path.join("site-packages/onnxruntime/capi")).filter(|path| path.is_dir()).collect()
}

fn ask(interpreter: &str) -> Option<PathBuf> {
    const WHERE: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); \
                         print(s.submodule_search_locations[0] if s else '')";
    let output = Command::new(interpreter).args(["-c", WHERE]).output().ok()?;
    let package = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !package.trim().is_empty()).then(|| Path::new(package.trim()).join("capi"))
}

/// The newest ONNX Runtime library in a folder.
fn library_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    let versions = entries.flatten().filter_map(|entry| Some((version(&entry.file_name())?, entry.path())));
    versions.max().map(|(_, path)| path)
}

/// Version in a library's name, `None` if the name is not one of ONNX Runtime's own library: `libonnxruntime.so`,
/// `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`, `onnxruntime.dll`.
fn version(name: &OsStr) -> Option<Vec<u32>> {
    let name = name.to_str()?;
    let stem = format!("{}onnxruntime", std::env::consts::DLL_PREFIX);
    let mut parts = name.strip_prefix(&stem)?.strip_prefix('.')?.split('.').collect::<Vec<_>>();
    let extension = parts.iter().position(|&part| part == std::env::consts::DLL_EXTENSION)?;
    parts.remove(extension);
    parts.into_iter().map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        folder
    }

    fn library(version: &str) -> String {
        format!("{}onnxruntime.{}{version}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_EXTENSION)
    }

    #[test]
    fn the_newest_library_of_a_folder_is_taken_and_providers_are_none() {
        let names = [library(".1.9.0"), library(".1.31.1"), library("_providers_shared"), "notes.txt".into()];
        let folder = folder_with(&names.each_ref().map(String::as_str));
        assert_eq!(library_in(folder.path()).unwrap().file_name().unwrap(), names[1].as_str());
        assert_eq!(library_in(folder_with(&["libonnxruntime_providers_shared.so"]).path()), None);
    }

    #[test]
    fn a_named_place_is_the_only_one_looked_at() {
        let beside = folder_with(&[&library("")]);
        let program = beside.path().join("distill");
        let nowhere = Path::new("/no/such/library.so");
        let none = || Vec::new();
        let places = Places { asked: Some(nowhere), variable: None, program: Some(&program), python: &none };
        let error = places.find().unwrap_err();
        assert_eq!(error.looked.len(), 1);
        assert!(error.to_string().contains("--ort-lib (no such library: /no/such/library.so)"), "{error}");
        let places = Places { asked: None, variable: Some(nowhere), program: Some(&program), python: &none };
        assert_eq!(places.find().unwrap_err().looked[0].0, How::Environment);
    }

    #[test]
    fn the_program_is_asked_before_python() {
        let (beside, python) = (folder_with(&[&library("")]), folder_with(&[&library(".1.31.1")]));
        let (program, capi) = (beside.path().join("distill"), python.path().to_path_buf());
        let folders = || vec![capi.clone()];
        let mut places = Places { asked: None, variable: None, program: Some(&program), python: &folders };
        assert_eq!(places.find().unwrap().how, How::BesideProgram);
        places.program = None;
        let found = places.find().unwrap();
        assert_eq!((found.how, found.path.parent().unwrap()), (How::Python, python.path()));
    }

    #[test]
    fn the_message_lists_the_places_and_the_command() {
        let looked = vec![(How::BesideProgram, "/opt/distill".into()), (How::Python, "none".into())];
        let message = NotFound { looked }.to_string();
        for expected in ["beside the program (/opt/distill)", "active Python", "`pip install onnxruntime`"] {
            assert!(message.contains(expected), "{message}");
        }
    }
}
