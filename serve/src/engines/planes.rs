//! Pixels as the contract of an exported file has them: planes of values 0..1. Never a normalization: the graph does
//! that.
#![cfg(any(feature = "ort", feature = "candle-onnx"))]

/// NHWC pixels as NCHW values 0..1.
pub(super) fn fill_planes(pixels: &[u8], [channels, height, width]: [usize; 3], planes: &mut Vec<f32>) {
    planes.clear();
    planes.reserve(pixels.len());
    for picture in pixels.chunks(channels * height * width) {
        for channel in 0..channels.min(picture.len()) {
            planes.extend(picture[channel..].iter().step_by(channels).map(|&pixel| f32::from(pixel) / 255.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_become_planes_picture_by_picture() {
        let mut planes = vec![9.0];
        fill_planes(&[255, 0, 51, 0, 102, 204, 0, 0, 255, 255, 0, 0], [3, 1, 2], &mut planes);
        assert_eq!(planes, [1.0, 0.0, 0.0, 0.4, 0.2, 0.8, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    }
}
