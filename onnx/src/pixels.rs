//! Pixels as a file's input wants them: values 0..1 in planes, where it does not take the pixels themselves. The one
//! place where this is done; nothing is resized here.

/// NHWC pixels as NCHW values 0..1, in place of what `planes` holds. Bytes beyond the last whole picture become none.
pub fn fill_planes(pixels: &[u8], picture: [usize; 3], planes: &mut Vec<f32>) {
    fill(pixels, picture, planes, |pixel| f32::from(pixel) / 255.0);
}

/// The same for pictures that are values already.
pub fn fill_planes_of_values(values: &[f32], picture: [usize; 3], planes: &mut Vec<f32>) {
    fill(values, picture, planes, |value| value);
}

fn fill<T: Copy>(
    pixels: &[T],
    [channels, height, width]: [usize; 3],
    planes: &mut Vec<f32>,
    value: impl Fn(T) -> f32,
) {
    planes.clear();
    planes.reserve(pixels.len());
    for picture in pixels.chunks_exact((channels * height * width).max(1)) {
        for channel in 0..channels {
            planes.extend(picture[channel..].iter().step_by(channels).map(|&pixel| value(pixel)));
        }
    }
}

/// The same as new values.
pub fn planes(pixels: &[u8], picture: [usize; 3]) -> Vec<f32> {
    let mut planes = Vec::new();
    fill_planes(pixels, picture, &mut planes);
    planes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_planes_picture_by_picture() {
        let mut values = vec![9.0];
        fill_planes(&[255, 0, 51, 0, 102, 204, 0, 0, 255, 255, 0, 0, 7], [3, 1, 2], &mut values);
        assert_eq!(values, [1.0, 0.0, 0.0, 0.4, 0.2, 0.8, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        fill_planes_of_values(&[1.0, 2.0, 3.0, 4.0], [2, 1, 2], &mut values);
        assert_eq!(values, [1.0, 3.0, 2.0, 4.0]);
        assert_eq!(planes(&[51, 102], [1, 1, 1]), [0.2, 0.4]);
    }
}
