//! The zip archive that `torch.save` writes: its entries as slices of the file.
//!
//! Only what torch writes is read: entries stored as they are, with ZIP64's fields where it sets them. Nothing is copied
//! or unpacked, so an archive needs no more memory than its names. Checksums are not looked at, as torch does not either
//! (it can be told to write none); entries may lie over each other, which is for their reader to mind.

use std::collections::HashMap;

use super::{Result, StateDictError};

const END: u32 = 0x0605_4b50;
const END_LENGTH: usize = 22;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const LOCATOR64_LENGTH: usize = 20;
const DIRECTORY: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// Extra field of sizes and offsets that 32 bits do not hold.
const EXTRA64: u16 = 1;
const STORED: u16 = 0;
const ENCRYPTED: u16 = 1;
/// How many bytes a comment at the end may have.
const LONGEST_COMMENT: usize = 0xffff;

/// An archive's entries by their names below its one folder.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    entries: HashMap<&'a [u8], Entry>,
    /// The archive's folder, with its slash.
    folder: Vec<u8>,
}

/// What the directory says of an entry.
struct Entry {
    flags: u16,
    method: u16,
    /// Where its local header is.
    header: u64,
    length: u64,
    unpacked: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        let mut directory = Fields { bytes, at: directory_start(bytes)? };
        let mut entries = HashMap::new();
        let mut folder = None;
        while directory.peek() == Some(DIRECTORY) {
            let (name, entry) = directory.entry().ok_or_else(|| broken("a whole directory", "a cut one"))?;
            folder = folder.or_else(|| name.iter().position(|&byte| byte == b'/').map(|end| &name[..=end]));
            entries.insert(name, entry);
        }
        let folder = folder.ok_or_else(|| broken("a folder of entries", "none"))?.to_vec();
        Ok(Self { bytes, entries, folder })
    }

    /// The bytes of an entry, if there is one of that name.
    pub fn get(&self, name: &str) -> Result<Option<&'a [u8]>> {
        let path = [&self.folder, name.as_bytes()].concat();
        let Some(entry) = self.entries.get(path.as_slice()) else { return Ok(None) };
        let wrong = |expected: &str, found: String| {
            let culprit = format!("entry `{name}`");
            StateDictError::Archive { culprit, expected: expected.into(), found }
        };
        if entry.method != STORED || entry.flags & ENCRYPTED != 0 || entry.length != entry.unpacked {
            let found = format!("compression method {}, flags {:#x}", entry.method, entry.flags);
            return Err(wrong("bytes stored as they are, as torch.save writes them", found));
        }
        let data = content(self.bytes, entry);
        let size = self.bytes.len();
        data.map(Some).ok_or_else(|| {
            wrong("to lie within the file", format!("{} bytes in a file of {size}", entry.length))
        })
    }
}

/// Where an entry's bytes are: behind its local header, whose own lengths count.
fn content<'a>(bytes: &'a [u8], entry: &Entry) -> Option<&'a [u8]> {
    let mut header = Fields { bytes, at: usize::try_from(entry.header).ok()? };
    (header.u32()? == LOCAL).then_some(())?;
    header.skip(22)?;
    let skipped = usize::from(header.u16()?) + usize::from(header.u16()?);
    header.skip(skipped)?;
    header.take(usize::try_from(entry.length).ok()?)
}

fn broken(expected: &str, found: &str) -> StateDictError {
    StateDictError::Archive { culprit: "zip archive".into(), expected: expected.into(), found: found.into() }
}

/// Where the directory begins, as the record at the file's end says.
fn directory_start(bytes: &[u8]) -> Result<usize> {
    let end =
        end_record(bytes).ok_or_else(|| broken("its directory at the file's end", "none: cut short?"))?;
    let start = match end64_record(bytes, end) {
        Some(at) => Fields { bytes, at }.skip(48).and_then(Fields::u64),
        None => Fields { bytes, at: end }.skip(16).and_then(Fields::u32).map(u64::from),
    };
    let start = start.and_then(|start| usize::try_from(start).ok()).filter(|&start| start <= end);
    start.ok_or_else(|| broken("its directory within the file", "one that begins beyond"))
}

/// The last record of an end whose comment reaches to the file's end.
fn end_record(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_LENGTH)?;
    (last.saturating_sub(LONGEST_COMMENT)..=last).rev().find(|&at| {
        let mut end = Fields { bytes, at };
        end.u32() == Some(END)
            && end.skip(16).and_then(Fields::u16).is_some_and(|comment| usize::from(comment) == last - at)
    })
}

/// ZIP64's record of the end, if the locator before the old one names it.
fn end64_record(bytes: &[u8], end: usize) -> Option<usize> {
    let mut locator = Fields { bytes, at: end.checked_sub(LOCATOR64_LENGTH)? };
    (locator.u32()? == LOCATOR64).then_some(())?;
    let at = usize::try_from(locator.skip(4)?.u64()?).ok()?;
    (Fields { bytes, at }.u32()? == END64).then_some(at)
}

/// Little-endian fields, one after the other; none beyond the end.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn skip(&mut self, length: usize) -> Option<&mut Self> {
        self.take(length).map(|_| self)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn peek(&self) -> Option<u32> {
        Fields { ..*self }.u32()
    }

    /// A line of the directory.
    fn entry(&mut self) -> Option<(&'a [u8], Entry)> {
        self.skip(8)?; // signature, versions
        let (flags, method) = (self.u16()?, self.u16()?);
        self.skip(8)?; // time, date, checksum
        let (length, unpacked) = (self.u32()?, self.u32()?);
        let lengths = [self.u16()?, self.u16()?, self.u16()?].map(usize::from);
        self.skip(8)?; // disk, attributes
        let header = self.u32()?;
        let name = self.take(lengths[0])?;
        let mut wide = wide_fields(self.take(lengths[1])?);
        self.skip(lengths[2])?;
        // In this order, and only those that 32 bits do not hold.
        let unpacked = wide.instead_of(unpacked)?;
        let length = wide.instead_of(length)?;
        let header = wide.instead_of(header)?;
        Some((name, Entry { flags, method, header, length, unpacked }))
    }

    fn instead_of(&mut self, narrow: u32) -> Option<u64> {
        if narrow == u32::MAX { self.u64() } else { Some(narrow.into()) }
    }
}

/// ZIP64's fields among an entry's extra ones.
fn wide_fields(extra: &[u8]) -> Fields<'_> {
    let mut fields = Fields { bytes: extra, at: 0 };
    while let (Some(kind), Some(length)) = (fields.u16(), fields.u16()) {
        let Some(bytes) = fields.take(length.into()) else { break };
        if kind == EXTRA64 {
            return Fields { bytes, at: 0 };
        }
    }
    Fields { bytes: &[], at: 0 }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An archive of one folder, without checksums; every field may then be turned by hand.
    pub fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        for (name, content) in entries {
            let path = format!("archive/{name}");
            let length = (content.len() as u32).to_le_bytes();
            let header = (bytes.len() as u32).to_le_bytes();
            let names = [(path.len() as u16).to_le_bytes(), [0, 0]].concat();
            let sizes = [&[0; 16][..], &length, &length, &names].concat();
            bytes.extend([b"PK\x03\x04", &sizes[2..], path.as_bytes(), content].concat());
            let rest = [&[0; 10][..], &header, path.as_bytes()].concat();
            directory.extend([b"PK\x01\x02", &sizes[..], &rest].concat());
        }
        let start = (bytes.len() as u32).to_le_bytes();
        bytes.extend([&directory[..], b"PK\x05\x06", &[0; 12], &start, &[0; 2]].concat());
        bytes
    }

    fn error(bytes: &[u8], name: &str) -> String {
        Archive::open(bytes).and_then(|archive| archive.get(name).map(drop)).unwrap_err().to_string()
    }

    #[test]
    fn entries_are_slices_of_the_file() {
        let bytes = archive(&[("data.pkl", b"one"), ("data/0", b"")]);
        let opened = Archive::open(&bytes).unwrap();
        assert_eq!(opened.get("data.pkl").unwrap(), Some(&b"one"[..]));
        assert_eq!(opened.get("data/0").unwrap(), Some(&b""[..]));
        assert_eq!(opened.get("data/1").unwrap(), None);
    }

    #[test]
    fn a_compressed_entry_is_refused() {
        let mut bytes = archive(&[("data.pkl", b"one")]);
        let directory = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
        bytes[directory + 10] = 8;
        let message = error(&bytes, "data.pkl");
        assert!(message.contains("entry `data.pkl`") && message.contains("method 8"), "{message}");
    }

    #[test]
    fn an_entry_beyond_the_file_is_refused() {
        let mut bytes = archive(&[("data.pkl", b"one")]);
        let directory = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
        for at in [20, 24] {
            bytes[directory + at + 3] = 0x7f;
        }
        let message = error(&bytes, "data.pkl");
        assert!(message.contains("found 2130706435 bytes in a file of"), "{message}");
    }

    #[test]
    fn wide_fields_stand_for_those_that_are_full() {
        // An entry of the format's specification (APPNOTE 4.5.3): the size alone is full, so the field holds it alone.
        let mut bytes = archive(&[("data.pkl", b"one")]);
        let directory = bytes.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
        bytes[directory + 20..directory + 24].fill(0xff);
        assert!(error(&bytes, "data.pkl").contains("a cut one"), "a full field without its wide one");
        let extra = [1, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        bytes[directory + 30] = extra.len() as u8;
        let end = directory + 46 + "archive/data.pkl".len();
        bytes.splice(end..end, extra);
        assert_eq!(Archive::open(&bytes).unwrap().get("data.pkl").unwrap(), Some(&b"one"[..]));
    }

    #[test]
    fn no_archive_and_a_cut_one_are_refused() {
        let bytes = archive(&[("data.pkl", b"one")]);
        for length in 0..bytes.len() {
            assert!(Archive::open(&bytes[..length]).is_err(), "{length}");
        }
    }
}
