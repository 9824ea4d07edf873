//! Packages and model repositories, as far as that goes without installing them.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::fs;
use std::path::{Path, PathBuf};

use export::bundle::{self, BundleOptions};
use export::package::{LARGEST, PackageOptions, write};
use export::triton::{self, TritonOptions};
use export::{ExportError, Format, Options};
use models::{Bundle, Fit, Manifest, Task, formula};

fn run(folder: &Path) -> PathBuf {
    let run = folder.join("pets");
    fs::create_dir(&run).unwrap();
    let labels = ["cat", "dog", "fox"].map(String::from).to_vec();
    let task = Task { features: Some(16), ..Task::new(3, 3, 16) };
    let manifest = Manifest::new("small-cnn-2", &task, labels, Fit::Stretch).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), 1.0);
    models::save(&run.join("model.safetensors"), &manifest, &weights).unwrap();
    run
}

fn bundled(folder: &Path) -> PathBuf {
    let options = BundleOptions { latency: None, ..BundleOptions::default() };
    bundle::write(&run(folder), None, &options).unwrap().folder
}

/// The smallest thing that is a program: a header without anything.
fn program(folder: &Path, size: usize) -> PathBuf {
    let mut bytes = b"\x7fELF\x02\x01".to_vec();
    bytes.resize(size, 0);
    let path = folder.join("distill-serve");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_package_holds_program_bundle_and_what_runs_them() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundled(folder.path());
    let options = PackageOptions { program: Some(program(folder.path(), 4096)), out: None };
    let report = write(&bundle, &options).unwrap();
    assert_eq!(report.folder.file_name().unwrap(), "pets-package");
    Bundle::open(&report.folder.join("model")).unwrap().check().unwrap();
    let unit = fs::read_to_string(report.folder.join("distill-pets.service")).unwrap();
    for line in ["DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "KillSignal=SIGTERM"] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
    let container = fs::read_to_string(report.folder.join("Containerfile")).unwrap();
    assert!(container.contains("FROM scratch"), "{container}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(report.folder.join("distill-serve")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
    write(&bundle, &options).unwrap(); // in the place of the first
}

#[test]
fn programs_that_are_missing_too_large_or_none_are_refused_with_the_mend() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundled(folder.path());
    let packaged = |program: PathBuf| {
        let options = PackageOptions { program: Some(program), out: None };
        write(&bundle, &options).unwrap_err().to_string()
    };
    let message = packaged("/no/such/program".into());
    assert!(message.contains("found none") && message.contains("cargo build --profile slim"), "{message}");
    let message = packaged(program(folder.path(), LARGEST as usize + 1));
    assert!(message.contains("expected at most 15000000 bytes, found 15000001"), "{message}");
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    assert!(packaged(script).contains("expected a 64-bit Linux program"));
    assert!(!folder.path().join("pets/pets-package").exists());
}

#[test]
fn a_bundle_that_is_not_whole_is_not_packaged() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundled(folder.path());
    fs::write(bundle.join("MODEL_CARD.md"), "another card").unwrap();
    let options = PackageOptions { program: Some(program(folder.path(), 4096)), out: None };
    assert!(matches!(write(&bundle, &options).unwrap_err(), ExportError::Bundle(_)));
}

#[test]
fn a_model_repository_has_tritons_layout() {
    let folder = tempfile::tempdir().unwrap();
    let source = run(folder.path());
    let options = |version: &str| TritonOptions {
        name: None,
        version: version.into(),
        max_batch: 8,
        max_delay_us: 100,
        file: Options { threads: 1, ..Options::new(Format::Onnx) },
    };
    triton::write(&source, &options("3")).unwrap();
    let model = source.join("triton/pets");
    assert_eq!(fs::read_to_string(model.join("labels.txt")).unwrap(), "cat\ndog\nfox\n");
    assert!(fs::read_to_string(model.join("config.pbtxt")).unwrap().contains("\nname: \"pets\"\n"));
    let written = onnx::ModelProto::read(&fs::read(model.join("3/model.onnx")).unwrap()).unwrap();
    assert_eq!(onnx::Contract::of(&written).unwrap().labels, ["cat", "dog", "fox"]);
    let other = folder.path().join("pets/triton/other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes.txt"), "mine").unwrap();
    let taken = TritonOptions { name: Some("other".into()), ..options("1") };
    assert!(matches!(triton::write(&source, &taken).unwrap_err(), ExportError::NotABundle { .. }));
    assert!(other.join("notes.txt").exists());
}
