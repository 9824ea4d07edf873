//! ONNX Runtime behind the engine's trait: pixels become planes of values 0..1, as the file's contract says.

use onnx::runtime::OrtSession;

use super::Engine;
use crate::Result;

/// A session of its own.
#[derive(Debug)]
pub struct OnnxRuntime {
    session: OrtSession,
    planes: Vec<f32>,
}

impl OnnxRuntime {
    /// Wraps a session.
    pub fn new(session: OrtSession) -> Self {
        Self { session, planes: Vec::new() }
    }
}

impl Engine for OnnxRuntime {
    fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        fill_planes(images, self.session.picture(), &mut self.planes);
        Ok(self.session.run(&self.planes)?)
    }
}

/// NHWC pixels as NCHW values 0..1.
fn fill_planes(pixels: &[u8], [channels, height, width]: [usize; 3], planes: &mut Vec<f32>) {
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
