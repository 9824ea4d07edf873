//! Whether a JPEG is all there. The decoder is lenient and fills what is missing with gray; a training set or a server
//! that takes half a picture for a whole one is worse off than one that says so.
//!
//! Never here: decoding.

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];

/// Whether an end-of-image marker follows the first scan. Entropy-coded data never holds one (0xFF is followed by 0
/// or a restart marker there), and a thumbnail's lies in a segment before the scan.
pub(crate) fn is_complete(bytes: &[u8]) -> bool {
    let scan = first_scan(bytes).unwrap_or(bytes.len());
    let tail = bytes.get(scan..).unwrap_or_default();
    // Most files end with the marker; some have a trailer.
    (0..tail.len().saturating_sub(1)).rev().any(|at| tail[at..at + 2] == END_OF_IMAGE)
}

/// Where the first start-of-scan marker stands, found by walking from segment to segment.
fn first_scan(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        let marker = *bytes.get(at + 1)?;
        match (bytes[at], marker) {
            (0xFF, START_OF_SCAN) => return Some(at),
            (0xFF, 0xFF) => at += 1, // fill bytes may precede a marker
            (0xFF, 0x01 | 0xD0..=0xD8) => at += 2,
            (0xFF, _) => at += 2 + segment_length(bytes, at + 2)?,
            _ => at += 1, // garbage between segments, as decoders forgive it
        }
    }
}

fn segment_length(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_be_bytes([length[0], length[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: [u8; 13] = [0xFF, 0xD8, 0xFF, 0xE1, 0, 4, 0xFF, 0xD9, 0xFF, 0xDA, 7, 0xFF, 0xD9];

    #[test]
    fn a_thumbnails_end_is_not_the_pictures() {
        assert!(is_complete(&TINY));
        assert!(!is_complete(&TINY[..11]));
        assert!(!is_complete(&TINY[..8]));
    }

    #[test]
    fn trailers_are_forgiven_and_no_bytes_panic() {
        assert!(is_complete(&[&TINY[..], b"trailer"].concat()));
        for end in 0..TINY.len() {
            is_complete(&TINY[..end]);
        }
    }
}
