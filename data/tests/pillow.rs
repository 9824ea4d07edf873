//! Every operation of the augmentations against Pillow's answer, within one level (`fixtures/augment.py` made them).
#![allow(clippy::unwrap_used)] // a test that panics has failed

use data::{
    PictureShape,
    augment::{FILL, affine, color},
};

const SIDE: usize = 24;

fn transformed(picture: &mut [u8], shape: PictureShape, matrix: affine::Matrix) {
    let original = picture.to_vec();
    affine::transform(&original, shape, matrix, FILL, picture);
}

fn apply(operation: &str, argument: f64, picture: &mut [u8], shape: PictureShape) {
    let factor = argument as f32;
    match operation {
        "autocontrast" => color::autocontrast(picture, shape),
        "equalize" => color::equalize(picture, shape),
        "brightness" => color::brightness(picture, factor),
        "contrast" => color::contrast(picture, shape, factor),
        "color" => color::saturation(picture, shape, factor),
        "sharpness" => color::sharpness(picture, shape, factor, &mut Vec::new()),
        "posterize" => color::posterize(picture, argument as u32),
        "solarize" => color::solarize(picture, argument as u32),
        "hue" => color::hue(picture, shape, factor),
        "gray" => color::to_gray(picture, shape),
        "rotate" => transformed(picture, shape, affine::rotation(argument, shape)),
        "shear_x" => transformed(picture, shape, affine::shear_x(argument)),
        "shear_y" => transformed(picture, shape, affine::shear_y(argument)),
        "translate_x" => transformed(picture, shape, affine::translation(argument, 0.0)),
        "translate_y" => transformed(picture, shape, affine::translation(0.0, argument)),
        other => panic!("no operation {other}"),
    }
}

#[test]
fn every_operation_equals_pillows_within_one_level() {
    let bytes = include_bytes!("fixtures/augment.bin");
    let shape = |channels| PictureShape { channels, height: SIDE, width: SIDE };
    let (rgb, rest) = bytes.split_at(shape(3).bytes());
    let (gray, mut rest) = rest.split_at(shape(1).bytes());
    for line in include_str!("fixtures/augment.txt").lines() {
        let [operation, argument, name] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let (picture, channels) = if name == "rgb" { (rgb, 3) } else { (gray, 1) };
        let mut ours = picture.to_vec();
        apply(operation, argument.parse().unwrap(), &mut ours, shape(channels));
        let (theirs, after) = rest.split_at(ours.len());
        let most = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 1, "{line}: differs by up to {most}");
        rest = after;
    }
    assert!(rest.is_empty());
}
