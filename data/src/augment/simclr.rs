//! SimCLR's view as CoMatch's second strong one has it: a resized crop of 20 to 100 % of the area, a mirror image half
//! of the time, color jitter (0.4, 0.4, 0.4, 0.1) with probability 0.8, gray with probability 0.2; no blur.
//!
//! The order of the four jitters is random, as in torchvision's `ColorJitter`.

use picture::{Region, Size};

use crate::{
    PictureShape,
    augment::{Scratch, color, weak},
    random::Stream,
};

const AREA: (f32, f32) = (0.2, 1.0);
const ASPECT: (f32, f32) = (3.0 / 4.0, 4.0 / 3.0);
const STRENGTH: f32 = 0.4;
const HUE: f32 = 0.1;

/// Writes the view of `picture` to `out`, both `[height, width, channels]`.
pub fn simclr(
    picture: &[u8],
    shape: PictureShape,
    flip: bool,
    random: &mut Stream,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    let size = Size { width: shape.width, height: shape.height };
    let region = crop(shape, random);
    scratch.bytes.resize(shape.bytes(), 0);
    scratch.resizer.resize(picture, shape.channels, size, region, size, &mut scratch.bytes);
    let mirrored = random.chance(0.5) && flip;
    weak::move_by(&scratch.bytes, shape, mirrored, (0, 0), out);
    jitter(out, shape, random);
    if random.chance(0.2) {
        color::to_gray(out, shape);
    }
}

/// A random part of the picture, on whole pixels: torchvision's `RandomResizedCrop`.
fn crop(shape: PictureShape, random: &mut Stream) -> Region {
    let area = (shape.height * shape.width) as f32;
    for _ in 0..10 {
        let target = area * random.uniform(AREA.0, AREA.1);
        let aspect = random.uniform(ASPECT.0.ln(), ASPECT.1.ln()).exp();
        let width = (target * aspect).sqrt().round() as usize;
        let height = (target / aspect).sqrt().round() as usize;
        if (1..=shape.width).contains(&width) && (1..=shape.height).contains(&height) {
            let left = random.below(shape.width - width + 1);
            let top = random.below(shape.height - height + 1);
            return Region::of(left, top, width, height);
        }
    }
    Region::of(0, 0, shape.width, shape.height)
}

fn jitter(picture: &mut [u8], shape: PictureShape, random: &mut Stream) {
    let applied = random.chance(0.8);
    let mut order = [0, 1, 2, 3];
    random.shuffle(&mut order);
    let mut factor = || random.uniform(1.0 - STRENGTH, 1.0 + STRENGTH);
    let (brightness, contrast, saturation) = (factor(), factor(), factor());
    let turn = random.uniform(-HUE, HUE);
    for operation in order.into_iter().filter(|_| applied) {
        match operation {
            0 => color::brightness(picture, brightness),
            1 => color::contrast(picture, shape, contrast),
            2 => color::saturation(picture, shape, saturation),
            _ => color::hue(picture, shape, turn),
        }
    }
}
