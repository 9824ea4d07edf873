//! Picture files for requests: the network's own size and channels, so that no stage is idle and none is exaggerated.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, ImageResult};

use super::options::PictureFormat;
use crate::{Result, ServeError};

/// `count` procedural pictures of channels, height and width as files.
pub(super) fn encoded(format: PictureFormat, input: [usize; 3], count: usize) -> Result<Vec<Vec<u8>>> {
    let [channels, height, width] = input;
    let picture = |index| models::formula::picture(index, channels, height, width);
    let file = |index| encode(format, &picture(index), input);
    let files: ImageResult<Vec<Vec<u8>>> = (0..count).map(file).collect();
    files.map_err(|error| ServeError::io("write a picture file")(std::io::Error::other(error)))
}

fn encode(
    format: PictureFormat,
    pixels: &[u8],
    [channels, height, width]: [usize; 3],
) -> ImageResult<Vec<u8>> {
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let (width, height) = (width as u32, height as u32);
    let mut file = Vec::new();
    match format {
        PictureFormat::Png => PngEncoder::new(&mut file).write_image(pixels, width, height, color)?,
        PictureFormat::Jpeg => {
            JpegEncoder::new_with_quality(&mut file, 90).write_image(pixels, width, height, color)?;
        }
    }
    Ok(file)
}
