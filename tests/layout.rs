//! House rules as tests: which room may link which, where `unsafe` may stand, how files open.
#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every room with the rooms it may link, as ARCHITECTURE.md draws them.
const ARROWS: &[(&str, &[&str])] = &[
    ("models", &[]),
    ("picture", &[]),
    ("engine", &["models"]),
    ("data", &["picture"]),
    ("train", &["models", "engine", "data"]),
    ("distill", &["models", "engine", "data", "train"]),
    ("onnx", &["models"]),
    ("export", &["models", "engine", "data", "onnx"]),
    ("serve", &["models", "engine", "picture", "onnx", "data"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rooms that a crate's `[dependencies]` link, by the folder they live in.
fn links(room: &str) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap();
    let names: BTreeSet<&str> =
        dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).collect();
    let folder = |name: &str| if name == "distillation" { "distill".to_string() } else { name.to_string() };
    let rooms = ARROWS.iter().map(|(room, _)| *room).chain(["distillation"]);
    rooms.filter(|room| names.contains(room)).map(folder).collect()
}

#[test]
fn rooms_link_only_what_the_arrows_allow() {
    for (room, allowed) in ARROWS {
        let allowed: BTreeSet<String> = allowed.iter().map(|room| room.to_string()).collect();
        let found = links(room);
        let beyond: Vec<_> = found.difference(&allowed).collect();
        assert!(beyond.is_empty(), "{room} links {beyond:?}; ARCHITECTURE.md allows {allowed:?}");
    }
}

#[test]
fn the_slim_server_links_no_training_code() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["tree", "--offline", "--package", "distill-serve", "--edges", "normal", "--prefix", "none"])
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("distill-engine"), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    for unwanted in ["candle-core", "distill-train", "distill-data", "distill-distillation", "parquet"] {
        let found = tree.lines().any(|line| line.split(' ').next() == Some(unwanted));
        assert!(!found, "distill-serve links {unwanted}");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let rooms = ARROWS.iter().map(|(room, _)| *room).chain(["cli", "tests", "xtask"]);
    for room in rooms {
        sources(&root().join(room), &mut found);
    }
    found
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    for path in all_sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn unsafe_lives_in_the_engine_alone() {
    for (room, _) in ARROWS.iter().filter(|(room, _)| *room != "engine") {
        let library = std::fs::read_to_string(root().join(room).join("src/lib.rs")).unwrap();
        assert!(library.contains("#![forbid(unsafe_code)]"), "{room} does not forbid unsafe code");
    }
}

#[test]
fn no_place_has_a_name_that_says_nothing() {
    const VAGUE: &[&str] = &["utils", "util", "common", "core", "helpers", "manager", "misc"];
    for path in all_sources() {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        let folder = path.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let vague = VAGUE.contains(&stem.as_str()) || VAGUE.contains(&folder.as_str());
        assert!(!vague, "{} has a name that says nothing", path.display());
    }
}
