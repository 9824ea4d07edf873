//! The strong view's operations: RandAugment as FixMatch's authors have it (N = 2 of 14 with replacement, each applied
//! with probability 1/2 at a level of 1 to 9 of 10), then cutout.
//!
//! Translations are given for 32 pixels in the paper's code and grow with the size here.

use crate::{
    PictureShape,
    augment::{FILL, Scratch, affine, color},
    random::Stream,
};

/// How many operations are drawn.
const DRAWN: usize = 2;

/// One operation of RandAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the paper's
pub enum Operation {
    AutoContrast,
    Brightness,
    Color,
    Contrast,
    Equalize,
    Identity,
    Posterize,
    Rotate,
    Sharpness,
    ShearX,
    ShearY,
    Solarize,
    TranslateX,
    TranslateY,
}

/// All operations.
pub const OPERATIONS: [Operation; 14] = [
    Operation::AutoContrast,
    Operation::Brightness,
    Operation::Color,
    Operation::Contrast,
    Operation::Equalize,
    Operation::Identity,
    Operation::Posterize,
    Operation::Rotate,
    Operation::Sharpness,
    Operation::ShearX,
    Operation::ShearY,
    Operation::Solarize,
    Operation::TranslateX,
    Operation::TranslateY,
];

impl Operation {
    /// Applies it in place at a level of 0 to 10; `negative` turns the direction of those that have one.
    pub fn apply(
        self,
        picture: &mut [u8],
        shape: PictureShape,
        level: u32,
        negative: bool,
        scratch: &mut Scratch,
    ) {
        let factor = level as f32 * 0.18 + 0.1;
        match self {
            Self::Identity => {}
            Self::AutoContrast => color::autocontrast(picture, shape),
            Self::Equalize => color::equalize(picture, shape),
            Self::Brightness => color::brightness(picture, factor),
            Self::Color => color::saturation(picture, shape, factor),
            Self::Contrast => color::contrast(picture, shape, factor),
            Self::Sharpness => color::sharpness(picture, shape, factor, &mut scratch.bytes),
            Self::Posterize => color::posterize(picture, 4 - level * 4 / 10),
            Self::Solarize => color::solarize(picture, 256 - level * 256 / 10),
            _ => self.place(picture, shape, level, negative, scratch),
        }
    }

    fn place(
        self,
        picture: &mut [u8],
        shape: PictureShape,
        level: u32,
        negative: bool,
        scratch: &mut Scratch,
    ) {
        let sign = if negative { -1.0 } else { 1.0 };
        let level = f64::from(level) * sign;
        let pixels = |size: usize| (level * size as f64 / 32.0).round();
        let matrix = match self {
            Self::Rotate => affine::rotation(level * 3.0, shape),
            Self::ShearX => affine::shear_x(level * 0.03),
            Self::ShearY => affine::shear_y(level * 0.03),
            Self::TranslateX => affine::translation(pixels(shape.width), 0.0),
            _ => affine::translation(0.0, pixels(shape.height)),
        };
        scratch.bytes.clear();
        scratch.bytes.extend_from_slice(picture);
        affine::transform(&scratch.bytes, shape, matrix, FILL, picture);
    }
}

/// Two random operations, in place.
pub fn rand_augment(picture: &mut [u8], shape: PictureShape, random: &mut Stream, scratch: &mut Scratch) {
    for _ in 0..DRAWN {
        let operation = OPERATIONS[random.below(OPERATIONS.len())];
        let (level, negative) = (random.between(1, 9) as u32, random.chance(0.5));
        if random.chance(0.5) {
            operation.apply(picture, shape, level, negative, scratch);
        }
    }
}

/// A gray square of half the size around a random pixel, cut off at the border (16 at 32 pixels).
pub fn cutout(picture: &mut [u8], shape: PictureShape, random: &mut Stream) {
    let rows = hole(shape.height, random);
    let columns = hole(shape.width, random);
    let stride = shape.width * shape.channels;
    for row in picture.chunks_exact_mut(stride).skip(rows.start).take(rows.len()) {
        row[columns.start * shape.channels..columns.end * shape.channels].fill(FILL);
    }
}

fn hole(size: usize, random: &mut Stream) -> std::ops::Range<usize> {
    let (center, half) = (random.below(size), size / 4);
    center.saturating_sub(half)..(center + half).min(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutout_covers_up_to_a_quarter_and_nothing_else() {
        let shape = PictureShape { channels: 3, height: 32, width: 32 };
        let mut most = 0;
        for sample in 0..200 {
            let mut picture = vec![1; shape.bytes()];
            cutout(&mut picture, shape, &mut Stream::new(&[sample]));
            let covered = picture.iter().filter(|&&value| value == FILL).count();
            assert_eq!(covered % 3, 0);
            assert!(picture.iter().all(|&value| value == 1 || value == FILL));
            most = most.max(covered);
        }
        assert_eq!(most, 16 * 16 * 3);
    }

    #[test]
    fn every_operation_is_registered_once() {
        for (index, operation) in OPERATIONS.iter().enumerate() {
            assert_eq!(*operation as usize, index);
        }
    }
}
