//! Moving a picture in its frame: rotation, shear and translation by the nearest pixel.
//!
//! Places are reckoned in 16.16 fixed point as Pillow's `Image.transform(AFFINE, NEAREST)` reckons them, so that the
//! two agree pixel for pixel. What leaves the frame is lost; what enters it is `fill`.

use crate::PictureShape;

/// `[a, b, c, d, e, f]`: the pixel at (x, y) shows what was at (a x + b y + c, d x + e y + f), x to the right, y down,
/// from the top left corner.
pub type Matrix = [f64; 6];

/// Counter-clockwise rotation about the center, as `Image.rotate`.
pub fn rotation(degrees: f64, shape: PictureShape) -> Matrix {
    let (sin, cos) = (-degrees.to_radians()).sin_cos();
    let (x, y) = (shape.width as f64 / 2.0, shape.height as f64 / 2.0);
    [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y]
}

/// Rows moved sideways in proportion to their distance from the top.
pub fn shear_x(slope: f64) -> Matrix {
    [1.0, slope, 0.0, 0.0, 1.0, 0.0]
}

/// Columns moved up or down in proportion to their distance from the left.
pub fn shear_y(slope: f64) -> Matrix {
    [1.0, 0.0, 0.0, slope, 1.0, 0.0]
}

/// Moved left and up by so many pixels.
pub fn translation(left: f64, up: f64) -> Matrix {
    [1.0, 0.0, left, 0.0, 1.0, up]
}

/// Writes the moved picture to `out`, both `[height, width, channels]`.
pub fn transform(picture: &[u8], shape: PictureShape, matrix: Matrix, fill: u8, out: &mut [u8]) {
    match shape.channels {
        3 => transform_pixels::<3>(picture, shape, matrix, fill, out),
        _ => transform_pixels::<1>(picture, shape, matrix, fill, out),
    }
}

fn transform_pixels<const CHANNELS: usize>(
    picture: &[u8],
    shape: PictureShape,
    [a, b, c, d, e, f]: Matrix,
    fill: u8,
    out: &mut [u8],
) {
    let (width, height) = (shape.width as i64, shape.height as i64);
    let (step_x, step_y) = (fixed(a), fixed(d));
    for (row, pixels) in out.chunks_exact_mut(shape.width * CHANNELS).enumerate() {
        let row = row as i64;
        // Centers of pixels are half a pixel in.
        let mut x = fixed(c + (a + b) * 0.5) + row * fixed(b);
        let mut y = fixed(f + (d + e) * 0.5) + row * fixed(e);
        for pixel in pixels.chunks_exact_mut(CHANNELS) {
            let (column, line) = (x >> 16, y >> 16);
            if (0..width).contains(&column) && (0..height).contains(&line) {
                let at = (line * width + column) as usize * CHANNELS;
                pixel.copy_from_slice(&picture[at..][..CHANNELS]);
            } else {
                pixel.fill(fill);
            }
            x += step_x;
            y += step_y;
        }
    }
}

fn fixed(value: f64) -> i64 {
    (value * 65536.0 + 0.5).floor() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PictureShape = PictureShape { channels: 1, height: 2, width: 3 };

    fn moved(matrix: Matrix) -> [u8; 6] {
        let mut out = [0; 6];
        transform(&[1, 2, 3, 4, 5, 6], SHAPE, matrix, 9, &mut out);
        out
    }

    #[test]
    fn worked_cases() {
        assert_eq!(moved(translation(1.0, 0.0)), [2, 3, 9, 5, 6, 9]);
        assert_eq!(moved(translation(0.0, -1.0)), [9, 9, 9, 1, 2, 3]);
        assert_eq!(moved(rotation(180.0, SHAPE)), [6, 5, 4, 3, 2, 1]);
        assert_eq!(moved(shear_x(1.0)), [2, 3, 9, 6, 9, 9]); // half a row down already at the first row's center
    }
}
