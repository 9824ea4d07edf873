//! What a Linux program asks of the system it runs on: whether it brings its own loader and libraries, and the newest C
//! library that it names. Only as much of ELF is read as that takes; bytes from outside can be anything.

use std::fmt;

use serde::Serialize;

/// What a program needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "linking")]
pub enum Linking {
    /// Nothing: it holds all it needs.
    Static,
    /// The GNU C library of at least this version, and its loader.
    Glibc {
        /// The newest version that it names.
        major: u32,
        /// Second part of that version.
        minor: u32,
    },
    /// A loader of another C library.
    Other {
        /// Path of the loader.
        loader: String,
    },
}

/// Type of the program header that names the loader.
const INTERPRETER: u32 = 3;

impl Linking {
    /// Reads a program; `None` for what is no 64-bit little-endian ELF one.
    pub fn of(program: &[u8]) -> Option<Self> {
        if program.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let Some(loader) = loader(program)? else { return Some(Self::Static) };
        match newest_glibc(program) {
            Some((major, minor)) => Some(Self::Glibc { major, minor }),
            None => Some(Self::Other { loader }),
        }
    }
}

impl fmt::Display for Linking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Linking::Static => f.write_str("statically linked"),
            Linking::Glibc { major, minor } => write!(f, "linked to glibc {major}.{minor} or newer"),
            Linking::Other { loader } => write!(f, "linked to the libraries of {loader}"),
        }
    }
}

/// Path of the loader that the program headers name; `None` inside for a program without one, outside for a cut file.
fn loader(program: &[u8]) -> Option<Option<String>> {
    let table = usize::try_from(number(program, 32, 8)?).ok()?;
    let (size, count) = (number(program, 54, 2)? as usize, number(program, 56, 2)? as usize);
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        if number(program, header, 4)? as u32 == INTERPRETER {
            let at = usize::try_from(number(program, header.checked_add(8)?, 8)?).ok()?;
            let length = usize::try_from(number(program, header.checked_add(32)?, 8)?).ok()?;
            let path = program.get(at..at.checked_add(length)?)?;
            return Some(Some(String::from_utf8_lossy(path).trim_end_matches('\0').into()));
        }
    }
    Some(None)
}

/// A little-endian number of up to 8 bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// The newest `GLIBC_x.y` among the versions of symbols that a program names.
fn newest_glibc(program: &[u8]) -> Option<(u32, u32)> {
    const PREFIX: &[u8] = b"\0GLIBC_";
    let places = program.windows(PREFIX.len()).enumerate().filter(|(_, window)| *window == PREFIX);
    places.filter_map(|(at, _)| version(&program[at + PREFIX.len()..])).max()
}

/// The version at the start of a text that ends in a zero: `2.34`, `2.2.5`.
fn version(text: &[u8]) -> Option<(u32, u32)> {
    let end = text.iter().take(16).position(|&byte| byte == 0)?;
    let mut parts = std::str::from_utf8(&text[..end]).ok()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of a header, one program header of this type, and what follows.
    fn program(kind: u32, rest: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        let mut header = vec![0; 56];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..16].copy_from_slice(&120_u64.to_le_bytes());
        header[32..40].copy_from_slice(&11_u64.to_le_bytes());
        [bytes, header, rest.to_vec()].concat()
    }

    #[test]
    fn what_a_program_needs_is_read_from_it() {
        assert_eq!(Linking::of(&program(1, b"")), Some(Linking::Static));
        let gnu = program(INTERPRETER, b"/lib/ld.so\0\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBC_PRIVATE\0");
        assert_eq!(Linking::of(&gnu), Some(Linking::Glibc { major: 2, minor: 34 }));
        let other = Linking::of(&program(INTERPRETER, b"/lib/ld.so\0"));
        assert_eq!(other, Some(Linking::Other { loader: "/lib/ld.so".into() }));
    }

    #[test]
    fn cut_programs_and_others_are_none() {
        let whole = program(INTERPRETER, b"/lib/ld.so\0");
        for length in 0..whole.len() {
            assert_eq!(Linking::of(&whole[..length]), None, "cut at {length}");
        }
        assert_eq!(Linking::of(b"#!/bin/sh\n"), None);
        let mut endless = whole;
        endless[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(Linking::of(&endless), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_very_test_is_a_program() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let linking = Linking::of(&own).unwrap();
        let gnu = cfg!(target_env = "gnu");
        assert_eq!(matches!(linking, Linking::Glibc { major: 2, minor: 17.. }), gnu, "{linking}");
    }
}
