//! Decoding and resizing against Pillow's answers (`fixtures/make.py` made them).
#![allow(clippy::unwrap_used)] // a test that panics has failed

use std::path::PathBuf;

use picture::{Fit, Size};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Largest and mean difference between two rows of pixels.
fn difference(ours: &[u8], theirs: &[u8]) -> (u8, f64) {
    assert_eq!(ours.len(), theirs.len());
    let each = || ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    (each().max().unwrap_or(0), each().map(f64::from).sum::<f64>() / ours.len() as f64)
}

fn check(name: &str, channels: usize, most: u8, mean: f64) {
    let bytes = fixture(name);
    let picture = picture::decode(&bytes).unwrap();
    assert_eq!((picture.width, picture.height, picture.channels), (30, 20, channels), "{name}");
    let (found, average) = difference(&picture.pixels, &fixture(&format!("{name}.raw")));
    assert!(found <= most && average <= mean, "{name}: differs by up to {found}, {average:.3} on average");
    let info = picture::probe(&bytes).unwrap();
    assert_eq!((info.width, info.height, info.channels), (30, 20, channels), "{name}: header");
}

#[test]
fn lossless_pictures_are_equal() {
    for name in ["rgb.png", "palette.png", "rgb.bmp", "first_frame.gif", "rgb.webp"] {
        check(name, 3, 0, 0.0);
    }
    check("gray.png", 1, 0, 0.0);
}

#[test]
fn alpha_and_sixteen_bits_are_equal_within_rounding() {
    for name in ["alpha.png", "alpha.webp"] {
        check(name, 3, 1, 0.5);
    }
    check("gray_alpha.png", 1, 1, 0.5);
    check("gray16.png", 1, 1, 0.5);
}

/// JPEG leaves the inverse transform and the upsampling of colors to the decoder: a few levels where libjpeg-turbo and
/// ours round or interpolate differently.
#[test]
fn lossy_pictures_are_close() {
    check("rgb444.jpg", 3, 4, 0.5);
    check("gray.jpg", 1, 2, 0.2);
    check("rgb420.jpg", 3, 30, 1.5);
    check("progressive.jpg", 3, 30, 1.5);
    check("lossy.webp", 3, 30, 1.5);
    check("cmyk.jpg", 3, 8, 1.5);
}

#[test]
fn every_exif_orientation_is_applied() {
    let jpegs = (2..=8).map(|orientation| (format!("turned{orientation}.jpg"), orientation >= 5));
    for (name, on_its_side) in jpegs.chain([("turned.png".into(), true)]) {
        let picture = picture::decode(&fixture(&name)).unwrap();
        let size = if on_its_side { (20, 30) } else { (30, 20) };
        assert_eq!((picture.width, picture.height), size, "{name}");
        let info = picture::probe(&fixture(&name)).unwrap();
        assert_eq!((info.width, info.height), size, "{name}: header");
        let (_, mean) = difference(&picture.pixels, &fixture(&format!("{name}.raw")));
        assert!(mean < 2.0, "{name}: {mean}");
    }
}

#[test]
fn resizing_equals_pillows_within_one_level() {
    let cases = String::from_utf8(fixture("resize.txt")).unwrap();
    let expected = fixture("resize.raw");
    let mut rest = &expected[..];
    for case in cases.lines() {
        let [name, width, height, fit, channels] = case.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{case}")
        };
        let size = Size { width: width.parse().unwrap(), height: height.parse().unwrap() };
        let channels: usize = channels.parse().unwrap();
        let picture = picture::decode(&fixture(name)).unwrap();
        let ours = picture::fit(&picture, size, fit.parse::<Fit>().unwrap(), channels);
        let (theirs, after) = rest.split_at(ours.len());
        let (most, _) = difference(&ours, theirs);
        assert!(most <= 1, "{case}: differs by up to {most}");
        rest = after;
    }
    assert!(rest.is_empty());
}
