//! Operations on colors, each as Pillow's `ImageEnhance` and `ImageOps` have it. All work in place on HWC `u8`.
//!
//! A factor of 1 leaves the picture as it is, 0 is the degenerate picture (black, flat gray, gray, blurred).

use crate::PictureShape;

/// Luma of ITU-R 601 in 16.16 fixed point, as Pillow's `convert("L")`.
pub(crate) fn luma(pixel: &[u8]) -> u8 {
    match *pixel {
        [red, green, blue] => {
            ((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16)
                as u8
        }
        _ => pixel[0],
    }
}

/// A point between two levels, or beyond the second; what is after the point is cut off, as `Image.blend` does.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let from = f32::from(from);
    (from + factor * (f32::from(to) - from)) as u8 // the cast saturates
}

/// A table for every level.
type Table = [u8; 256];

fn table(level: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|index| level(index as u8))
}

fn look_up(picture: &mut [u8], table: &Table) {
    picture.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
}

/// `ImageEnhance.Brightness`.
pub fn brightness(picture: &mut [u8], factor: f32) {
    look_up(picture, &table(|level| blend(0, level, factor)));
}

/// `ImageEnhance.Contrast`: away from, or towards, the mean luma.
pub fn contrast(picture: &mut [u8], shape: PictureShape, factor: f32) {
    let pixels = picture.chunks_exact(shape.channels);
    let count = pixels.len().max(1) as f64;
    let sum: u64 = pixels.map(|pixel| u64::from(luma(pixel))).sum();
    let mean = (sum as f64 / count + 0.5) as u8;
    look_up(picture, &table(|level| blend(mean, level, factor)));
}

/// `ImageEnhance.Color`: away from, or towards, the gray picture. Nothing happens to a gray one.
pub fn saturation(picture: &mut [u8], shape: PictureShape, factor: f32) {
    if shape.channels == 3 {
        for pixel in picture.chunks_exact_mut(3) {
            let gray = luma(pixel);
            pixel.iter_mut().for_each(|value| *value = blend(gray, *value, factor));
        }
    }
}

/// Every channel becomes the luma.
pub fn to_gray(picture: &mut [u8], shape: PictureShape) {
    picture.chunks_exact_mut(shape.channels).for_each(|pixel| {
        let gray = luma(pixel);
        pixel.fill(gray);
    });
}

/// `ImageEnhance.Sharpness`: away from, or towards, the picture smoothed by a 3x3 kernel of ones around a five.
/// The outermost pixels stay as they are. `original` is a buffer for a copy.
pub fn sharpness(picture: &mut [u8], shape: PictureShape, factor: f32, original: &mut Vec<u8>) {
    let PictureShape { channels, height, width } = shape;
    original.clear();
    original.extend_from_slice(picture);
    let stride = width * channels;
    for y in 1..height.saturating_sub(1) {
        let above = &original[(y - 1) * stride..][..stride];
        let here = &original[y * stride..][..stride];
        let below = &original[(y + 1) * stride..][..stride];
        let row = &mut picture[y * stride..][..stride];
        for at in channels..stride.saturating_sub(channels) {
            let three = |line: &[u8]| {
                u32::from(line[at - channels]) + u32::from(line[at]) + u32::from(line[at + channels])
            };
            let sum = three(above) + three(here) + three(below) + 4 * u32::from(here[at]);
            row[at] = blend(((2 * sum + 13) / 26) as u8, here[at], factor);
        }
    }
}

/// `ImageOps.posterize`: the highest `bits` of every value.
pub fn posterize(picture: &mut [u8], bits: u32) {
    let mask = !(0xFFu32 >> bits.min(8)) as u8;
    picture.iter_mut().for_each(|value| *value &= mask);
}

/// `ImageOps.solarize`: values at or above the threshold are inverted.
pub fn solarize(picture: &mut [u8], threshold: u32) {
    look_up(picture, &table(|level| if u32::from(level) < threshold { level } else { 255 - level }));
}

/// `ImageOps.autocontrast`: every channel stretched to the whole range.
pub fn autocontrast(picture: &mut [u8], shape: PictureShape) {
    each_channel(picture, shape, |counts| {
        let low = counts.iter().position(|&count| count > 0)?;
        let high = counts.iter().rposition(|&count| count > 0)?;
        (high > low).then(|| {
            let scale = 255.0 / (high - low) as f64;
            let offset = -(low as f64) * scale;
            table(|level| (f64::from(level) * scale + offset) as u8)
        })
    });
}

/// `ImageOps.equalize`: every channel's histogram made flat.
pub fn equalize(picture: &mut [u8], shape: PictureShape) {
    each_channel(picture, shape, |counts| {
        let last = counts.iter().rfind(|&&count| count > 0)?;
        let step = (counts.iter().sum::<u32>() - last) / 255;
        (step > 0).then(|| {
            let mut below = step / 2;
            std::array::from_fn(|level| {
                let equalized = (below / step).min(255) as u8;
                below += counts[level];
                equalized
            })
        })
    });
}

/// Replaces the levels of each channel by the table that its histogram gives, if it gives one.
fn each_channel(picture: &mut [u8], shape: PictureShape, make: impl Fn(&[u32; 256]) -> Option<Table>) {
    match shape.channels {
        3 => each_channel_of::<3>(picture, make),
        _ => each_channel_of::<1>(picture, make),
    }
}

fn each_channel_of<const CHANNELS: usize>(picture: &mut [u8], make: impl Fn(&[u32; 256]) -> Option<Table>) {
    let mut counts = [[0u32; 256]; CHANNELS];
    let (pixels, _) = picture.as_chunks_mut::<CHANNELS>();
    for pixel in pixels.iter() {
        for (counts, &value) in counts.iter_mut().zip(pixel) {
            counts[usize::from(value)] += 1;
        }
    }
    let tables = counts.map(|counts| make(&counts).unwrap_or_else(|| table(|level| level)));
    for pixel in pixels {
        for (table, value) in tables.iter().zip(pixel) {
            *value = table[usize::from(*value)];
        }
    }
}

/// Hue moved around the circle by `turn` (-0.5..0.5), by way of Pillow's 8-bit HSV as torchvision's `adjust_hue`.
/// Nothing happens to a gray picture.
pub fn hue(picture: &mut [u8], shape: PictureShape, turn: f32) {
    if shape.channels == 3 {
        let step = (turn * 255.0) as i32 as u8;
        for pixel in picture.chunks_exact_mut(3) {
            let [hue, saturation, value] = to_hsv([pixel[0], pixel[1], pixel[2]]);
            pixel.copy_from_slice(&from_hsv([hue.wrapping_add(step), saturation, value]));
        }
    }
}

fn to_hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let (high, low) = (red.max(green).max(blue), red.min(green).min(blue));
    if high == low {
        return [0, 0, high];
    }
    let range = f32::from(high - low);
    let below = |value: u8| f32::from(high - value) / range;
    let sixth = if red == high {
        below(blue) - below(green)
    } else if green == high {
        2.0 + below(red) - below(blue)
    } else {
        4.0 + below(green) - below(red)
    };
    let turns = sixth / 6.0;
    let hue = if turns < 0.0 { turns + 1.0 } else { turns };
    [(hue * 255.0) as u8, (range / f32::from(high) * 255.0) as u8, high]
}

fn from_hsv([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    let place = f32::from(hue) * 6.0 / 255.0;
    let sector = place as u8;
    let part = place - f32::from(sector);
    let saturation = f32::from(saturation) / 255.0;
    let level = |share: f32| (f32::from(value) * (1.0 - saturation * share) + 0.5) as u8;
    let (least, falling, rising) = (level(1.0), level(part), level(1.0 - part));
    match sector % 6 {
        0 => [value, rising, least],
        1 => [falling, value, least],
        2 => [least, value, rising],
        3 => [least, falling, value],
        4 => [rising, least, value],
        _ => [value, least, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAY: PictureShape = PictureShape { channels: 1, height: 1, width: 4 };

    fn after(operation: impl Fn(&mut [u8])) -> [u8; 4] {
        let mut picture = [10, 60, 130, 250];
        operation(&mut picture);
        picture
    }

    #[test]
    fn worked_cases() {
        assert_eq!(after(|p| brightness(p, 1.5)), [15, 90, 195, 255]);
        assert_eq!(after(|p| contrast(p, GRAY, 0.0)), [113; 4]); // mean 112.5, rounded up
        assert_eq!(after(|p| posterize(p, 1)), [0, 0, 128, 128]);
        assert_eq!(after(|p| posterize(p, 8)), [10, 60, 130, 250]);
        assert_eq!(after(|p| solarize(p, 128)), [10, 60, 125, 5]);
        assert_eq!(after(|p| autocontrast(p, GRAY)), [0, 53, 127, 255]);
        assert_eq!(after(|p| equalize(p, GRAY)), [10, 60, 130, 250]); // too few pixels for a step
        assert_eq!(after(|p| hue(p, GRAY, 0.3)), [10, 60, 130, 250]);
    }

    #[test]
    fn channels_are_stretched_and_equalized_each_by_itself() {
        let shape = PictureShape { channels: 3, height: 40, width: 40 };
        let plane_shape = PictureShape { channels: 1, ..shape };
        // Levels 40 to 139, 0 to 255 and one level alone, unevenly spread.
        let level = |n: usize, channel: usize| match channel {
            0 => (40 + n * n % 100) as u8,
            1 => (n * 31 % 256 * (n % 3) / 2) as u8,
            _ => 77,
        };
        let picture: Vec<u8> = (0..4800).map(|n| level(n / 3, n % 3)).collect();
        for operation in [autocontrast, equalize] {
            let mut together = picture.clone();
            operation(&mut together, shape);
            for channel in 0..3 {
                let mut plane: Vec<u8> = picture.iter().skip(channel).step_by(3).copied().collect();
                operation(&mut plane, plane_shape);
                assert!(together.iter().skip(channel).step_by(3).eq(&plane), "channel {channel}");
            }
            assert_ne!(together, picture);
        }
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        let shape = PictureShape { channels: 3, height: 4, width: 4 };
        let picture: Vec<u8> = (0..48).map(|n| (n * 53 % 256) as u8).collect();
        let mut changed = picture.clone();
        brightness(&mut changed, 1.0);
        contrast(&mut changed, shape, 1.0);
        saturation(&mut changed, shape, 1.0);
        sharpness(&mut changed, shape, 1.0, &mut Vec::new());
        assert_eq!(changed, picture);
    }

    #[test]
    fn a_full_turn_of_hue_comes_back_within_rounding() {
        let red = from_hsv(to_hsv([200, 40, 40]));
        assert!(red.iter().zip([200, 40, 40]).all(|(&a, b)| a.abs_diff(b) <= 1), "{red:?}");
    }
}
