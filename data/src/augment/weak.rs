//! The weak view: a mirror image half of the time, and a shift of up to an eighth of the size, the border reflected
//! (FixMatch's `flip and shift`: 4 pixels at 32, 12 at 96).

use crate::{PictureShape, random::Stream};

/// Writes the weak view of `picture` to `out`, both `[height, width, channels]`.
pub fn weak(picture: &[u8], shape: PictureShape, flip: bool, random: &mut Stream, out: &mut [u8]) {
    let mirrored = random.chance(0.5) && flip;
    let down = shift(shape.height, random);
    let right = shift(shape.width, random);
    move_by(picture, shape, mirrored, (down, right), out);
}

fn shift(size: usize, random: &mut Stream) -> i32 {
    let most = (size as f32 / 8.0).round() as i32;
    random.between(-most, most)
}

/// Mirrors a picture, if asked to, and moves it `down` and `right` by whole pixels; what enters at the border is the
/// reflection of the picture in its outermost row or column, which is not repeated (`numpy.pad`'s `reflect`).
pub fn move_by(
    picture: &[u8],
    shape: PictureShape,
    mirrored: bool,
    (down, right): (i32, i32),
    out: &mut [u8],
) {
    let PictureShape { channels, height, width } = shape;
    let columns: Vec<usize> = (0..width as i32)
        .map(|x| reflect(x - right, width))
        .map(|x| if mirrored { width - 1 - x } else { x })
        .collect();
    for (y, row) in out.chunks_exact_mut(width * channels).enumerate() {
        let from = &picture[reflect(y as i32 - down, height) * width * channels..][..width * channels];
        match channels {
            3 => gather::<3>(from, &columns, row),
            _ => gather::<1>(from, &columns, row),
        }
    }
}

fn gather<const CHANNELS: usize>(from: &[u8], columns: &[usize], to: &mut [u8]) {
    for (pixel, &x) in to.chunks_exact_mut(CHANNELS).zip(columns) {
        pixel.copy_from_slice(&from[x * CHANNELS..][..CHANNELS]);
    }
}

/// The place in `0..size` that a place outside it shows.
fn reflect(place: i32, size: usize) -> usize {
    let last = size as i32 - 1;
    if last == 0 {
        return 0;
    }
    let folded = place.rem_euclid(2 * last);
    (if folded > last { 2 * last - folded } else { folded }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(picture: &[u8], mirrored: bool, right: i32) -> Vec<u8> {
        let shape = PictureShape { channels: 1, height: 1, width: picture.len() };
        let mut out = vec![0; picture.len()];
        move_by(picture, shape, mirrored, (0, right), &mut out);
        out
    }

    #[test]
    fn shifts_reflect_without_repeating_the_border() {
        assert_eq!(row(&[1, 2, 3, 4, 5], false, 2), [3, 2, 1, 2, 3]);
        assert_eq!(row(&[1, 2, 3, 4, 5], false, -1), [2, 3, 4, 5, 4]);
        assert_eq!(row(&[1, 2, 3, 4, 5], true, 0), [5, 4, 3, 2, 1]);
        assert_eq!(row(&[1, 2, 3, 4, 5], true, 1), [4, 5, 4, 3, 2]);
    }

    #[test]
    fn rows_move_down_and_pixels_keep_their_channels() {
        let shape = PictureShape { channels: 3, height: 3, width: 1 };
        let mut out = [0; 9];
        move_by(&[1, 2, 3, 4, 5, 6, 7, 8, 9], shape, true, (1, 0), &mut out);
        assert_eq!(out, [4, 5, 6, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn without_flip_no_picture_is_mirrored_and_shifts_reach_an_eighth() {
        let shape = PictureShape { channels: 1, height: 1, width: 32 };
        let picture: Vec<u8> = (0..32).collect();
        let mut shifts = std::collections::BTreeSet::new();
        for sample in 0..300 {
            let mut out = [0; 32];
            weak(&picture, shape, false, &mut Stream::new(&[sample]), &mut out);
            assert!(out[10] < out[20], "mirrored");
            shifts.insert(16 - i32::from(out[16]));
        }
        assert!(shifts.into_iter().eq(-4..=4));
    }
}
