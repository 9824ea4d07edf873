//! TensorBoard's event file: records of protocol-buffer messages, each with its length and both checksummed.
//!
//! A record is `length: u64, crc(length): u32, data, crc(data): u32`, little-endian, the checksums CRC-32C "masked"
//! (rotated and shifted). Messages as in TensorFlow's event.proto and summary.proto; only the fields that a scalar needs
//! are written.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::Result;
use crate::event::{Event, Sink};

use super::Log;
use super::metrics::logged;

/// Writes scalars.
pub struct TensorBoard {
    log: Log,
}

impl TensorBoard {
    /// Goes on after the first `keep` bytes of the file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, keep: u64) -> Result<Self> {
        let mut log = Log::open(path, keep)?;
        if log.length == 0 {
            log.append(&record(&version_message(now())))?;
        }
        Ok(Self { log })
    }

    /// Flushes to the disk and returns the file's length in bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn sync(&mut self) -> Result<u64> {
        self.log.sync()
    }

    fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.log.append(&record(&scalars_message(now(), step, values)))
    }
}

impl Sink for TensorBoard {
    fn receive(&mut self, _stage: &str, event: &Event) -> Result<()> {
        match event {
            Event::Step(report) if logged(report.step, report.steps) => {
                let parts: Vec<(String, f64)> =
                    report.parts.iter().map(|(name, value)| (format!("loss/{name}"), *value)).collect();
                let mut values = vec![("loss/total", report.loss), ("lr", report.lr)];
                values.push(("pictures_per_second", report.pictures_per_second));
                values.push(("wait_share", report.wait_share));
                values.extend(parts.iter().map(|(name, value)| (name.as_str(), *value)));
                self.scalars(report.step, &values)
            }
            Event::Evaluated { step, split, accuracy, loss, .. } => {
                let names = [format!("{split}/accuracy"), format!("{split}/loss")];
                self.scalars(*step, &[(&names[0], *accuracy), (&names[1], *loss)])
            }
            _ => Ok(()),
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Event { wall_time = 1, file_version = 3 }`, the first of a file.
fn version_message(wall_time: f64) -> Vec<u8> {
    [double(1, wall_time), bytes(3, b"brain.Event:2")].concat()
}

/// `Event { wall_time = 1, step = 2, summary = 5 { value = 1 { tag = 1, simple_value = 2 } ... } }`
fn scalars_message(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let value =
        |(tag, value): &(&str, f64)| bytes(1, &[bytes(1, tag.as_bytes()), float(2, *value as f32)].concat());
    let summary: Vec<u8> = values.iter().flat_map(value).collect();
    [double(1, wall_time), [varint(2 << 3), varint(step)].concat(), bytes(5, &summary)].concat()
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let checksum = |bytes: &[u8]| masked_crc(bytes).to_le_bytes();
    [&length[..], &checksum(&length), data, &checksum(data)].concat()
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

// Protocol buffers: a field is its number and wire type in a varint, then the value.

fn varint(mut value: u64) -> Vec<u8> {
    let mut encoded = Vec::new();
    while value >= 0x80 {
        encoded.push(value as u8 | 0x80);
        value >>= 7;
    }
    encoded.push(value as u8);
    encoded
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

fn float(field: u64, value: f32) -> Vec<u8> {
    [varint(field << 3 | 5), value.to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data of each record; panics if a length or checksum is wrong.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let (header, rest) = file.split_at(12);
            let length = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc(&header[..8]).to_le_bytes(), header[8..]);
            let (data, rest) = rest.split_at(length);
            assert_eq!(masked_crc(data).to_le_bytes(), rest[..4]);
            found.push(data.to_vec());
            file = &rest[4..];
        }
        found
    }

    #[test]
    fn a_file_begins_as_every_event_file_does() {
        // TensorFlow's own files begin with these twelve bytes: the first message has 24 bytes.
        let expected = [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22];
        assert_eq!(record(&version_message(0.0))[..12], expected);
    }

    #[test]
    fn a_file_decodes_into_its_scalars() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.distill");
        let mut board = TensorBoard::open(&path, 0).unwrap();
        board.scalars(300, &[("val/accuracy", 0.5)]).unwrap();
        let kept = board.sync().unwrap();
        board.scalars(400, &[("lost", 1.0)]).unwrap();
        TensorBoard::open(&path, kept).unwrap().scalars(301, &[("lr", 0.03)]).unwrap();

        let records = records(&std::fs::read(&path).unwrap());
        assert_eq!(records.len(), 3, "the version, one scalar kept, one after");
        assert!(records[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        let scalar = [&b"\x2a\x15\x0a\x13\x0a\x0cval/accuracy\x15"[..], &0.5f32.to_le_bytes()].concat();
        assert!(records[1].ends_with(&scalar), "{:x?}", records[1]);
        assert_eq!(records[1][9..12], [0x10, 0xac, 0x02], "step 300 as a varint");
        assert!(records[2].windows(2).any(|pair| pair == b"lr"));
    }
}
