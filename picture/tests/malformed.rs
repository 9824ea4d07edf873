//! Bytes that are no whole picture: an error that says what they are, never a panic, never half a picture.
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::path::PathBuf;

use picture::{Limits, PictureError};

const PICTURES: [&str; 10] = [
    "rgb.png",
    "alpha.png",
    "palette.png",
    "rgb420.jpg",
    "progressive.jpg",
    "turned6.jpg",
    "lossy.webp",
    "rgb.webp",
    "rgb.bmp",
    "first_frame.gif",
];

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Pseudo-random numbers, so that a failure can be repeated.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn every_truncation_is_an_error() {
    for name in PICTURES {
        let whole = fixture(name);
        // The last bytes of PNG and GIF only say that nothing follows; of a WebP they are padding.
        let end =
            if name.ends_with(".jpg") || name.ends_with(".bmp") { whole.len() } else { whole.len() - 16 };
        for length in (0..end).step_by(7).chain([end - 1]) {
            let found = picture::decode(&whole[..length]);
            if name == "first_frame.gif" {
                continue; // the first frame may be whole before the second one ends
            }
            assert!(found.is_err(), "{name} cut to {length} of {} bytes decodes", whole.len());
        }
    }
}

#[test]
fn half_a_jpeg_is_called_truncated() {
    let whole = fixture("rgb420.jpg");
    let error = picture::decode(&whole[..whole.len() / 2 + 200]).unwrap_err();
    assert!(matches!(error, PictureError::Truncated { format: "JPEG", .. }), "{error}");
}

#[test]
fn half_a_png_is_called_truncated() {
    let whole = fixture("rgb.png");
    let error = picture::decode(&whole[..whole.len() / 2]).unwrap_err();
    assert!(matches!(error, PictureError::Truncated { format: "PNG", .. }), "{error}");
}

#[test]
fn mutated_bytes_never_panic() {
    let mut random = Lcg(1);
    for name in PICTURES {
        let whole = fixture(name);
        for _ in 0..200 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.below(6) {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
            // A size of billions of pixels is what the limits are for.
            let limits = Limits { max_pixels: 1 << 20 };
            if let Ok(picture) = picture::decode_with(&bytes, limits) {
                assert_eq!(picture.pixels.len(), picture.width * picture.height * picture.channels);
            }
            let _ = picture::probe(&bytes);
        }
    }
}

#[test]
fn a_bomb_is_refused_before_it_is_decoded() {
    let mut bytes = fixture("rgb.bmp");
    bytes[18..22].copy_from_slice(&30_000u32.to_le_bytes());
    bytes[22..26].copy_from_slice(&30_000u32.to_le_bytes());
    let error = picture::decode(&bytes).unwrap_err();
    assert_eq!(error, PictureError::TooLarge { width: 30_000, height: 30_000, limit: 64_000_000 });
    assert_eq!(error.to_string(), "too large: 30000x30000 exceeds 64000000 pixels");
}

#[test]
fn the_limit_counts_pixels() {
    let bytes = fixture("rgb.png");
    assert!(picture::decode_with(&bytes, Limits { max_pixels: 600 }).is_ok());
    assert!(picture::decode_with(&bytes, Limits { max_pixels: 599 }).is_err());
}
