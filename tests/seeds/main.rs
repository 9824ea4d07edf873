//! The fuzzers' seeds, and what fuzzers found, through every parser of outside bytes: an ordinary test, so that seeds
//! stay what they are for and no finding comes back. `cargo xtask fuzz` goes on from here; docs/hardening.md tells more.
#![allow(clippy::unwrap_used)] // a test that panics has failed

#[path = "../../fuzz/src/parsers.rs"]
mod parsers;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use parsers::PARSERS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Every seed of a parser.
fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = fuzz().join("seeds").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_parser_reads_or_refuses_its_seeds() {
    for parser in PARSERS {
        let seeds = seeds(parser.name);
        assert!(!seeds.is_empty(), "{} has no seeds", parser.name);
        for (path, bytes) in seeds {
            let read = std::panic::catch_unwind(|| (parser.read)(&bytes));
            assert!(read.is_ok(), "{} panics on {}", parser.name, path.display());
        }
    }
}

#[test]
fn every_parser_survives_its_seeds_cut_short_and_with_a_bit_turned() {
    for parser in PARSERS {
        for (path, bytes) in seeds(parser.name) {
            // So many places that a seed takes no longer than the rest.
            for at in (0..bytes.len()).step_by(bytes.len().div_ceil(12).max(1)) {
                let mut turned = bytes.clone();
                turned[at] ^= 1 << (at % 8);
                for bytes in [&bytes[..at], &turned] {
                    let read = std::panic::catch_unwind(|| (parser.read)(bytes));
                    assert!(read.is_ok(), "{} panics on {}, place {at}", parser.name, path.display());
                }
            }
        }
    }
}

#[test]
fn every_parser_is_a_fuzzer_and_every_fuzzer_a_parser() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let bins = manifest.split("[[bin]]").skip(1);
    let built: BTreeSet<&str> = bins.map(|bin| bin.split('"').nth(1).unwrap()).collect();
    let known: BTreeSet<&str> = PARSERS.iter().map(|parser| parser.name).collect();
    assert_eq!(built, known);
    for name in known {
        let text = std::fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("fuzz::fuzzer!(read_{name});")), "{name}");
    }
}

#[test]
fn seeds_are_small() {
    for parser in PARSERS {
        for (path, bytes) in seeds(parser.name) {
            assert!(bytes.len() <= 16 << 10, "{}: {} bytes", path.display(), bytes.len());
        }
    }
}
