//! Pixels of one size to pixels of another: bilinear with antialiasing, as Pillow's `resize(BILINEAR)`.

use fast_image_resize as fir;
use fir::{
    PixelTrait,
    images::{TypedImage, TypedImageRef},
    pixels::{U8, U8x3},
};
use serde::{Deserialize, Serialize};

use crate::Picture;

/// How a picture becomes the network's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The whole picture, its aspect ratio given up.
    #[default]
    Stretch,
    /// The largest central part of the network's aspect ratio (Pillow's `ImageOps.fit`).
    Crop,
}

impl Fit {
    /// All ways.
    pub const ALL: [Self; 2] = [Self::Stretch, Self::Crop];

    /// Its name in options and manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stretch => "stretch",
            Self::Crop => "crop",
        }
    }
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Fit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fit| fit.name() == text);
        found.ok_or_else(|| format!("unknown fit `{text}`; expected `stretch` or `crop`"))
    }
}

/// Size of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl From<usize> for Size {
    /// A square.
    fn from(side: usize) -> Self {
        Self { width: side, height: side }
    }
}

/// A part of a picture, in pixels from its top left corner; borders may lie within a pixel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// First column.
    pub left: f64,
    /// First row.
    pub top: f64,
    /// Columns.
    pub width: f64,
    /// Rows.
    pub height: f64,
}

impl Region {
    /// A part on whole pixels.
    pub fn of(left: usize, top: usize, width: usize, height: usize) -> Self {
        Self { left: left as f64, top: top as f64, width: width as f64, height: height as f64 }
    }

    /// The whole picture.
    pub fn whole(size: Size) -> Self {
        Self::of(0, 0, size.width, size.height)
    }

    /// The largest central part with the aspect ratio of `to`.
    pub fn central(from: Size, to: Size) -> Self {
        let (width, height) = (from.width as f64, from.height as f64);
        let aspect = to.width as f64 / to.height as f64;
        let (part_width, part_height) =
            if width / height > aspect { (height * aspect, height) } else { (width, width / aspect) };
        Self {
            left: (width - part_width) / 2.0,
            top: (height - part_height) / 2.0,
            width: part_width,
            height: part_height,
        }
    }
}

/// Resizes pictures and keeps its buffers between them; one per thread.
#[derive(Debug, Default)]
pub struct Resizer(fir::Resizer);

impl Resizer {
    /// A resizer without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the `region` of `pixels` (`[from.height, from.width, channels]`, 1 or 3 channels) to `out`
    /// (`[to.height, to.width, channels]`). A region of the target's size on whole pixels is copied.
    ///
    /// # Panics
    /// If a buffer is not as long as its size says, a size is 0 or the region leaves the picture: the caller's mistake,
    /// never a picture's.
    pub fn resize(
        &mut self,
        pixels: &[u8],
        channels: usize,
        from: Size,
        region: Region,
        to: Size,
        out: &mut [u8],
    ) {
        assert!(
            out.len() == to.width * to.height * channels
                && pixels.len() == from.width * from.height * channels
        );
        if region == Region::whole(from) && from == to {
            return out.copy_from_slice(pixels);
        }
        let resized = match channels {
            3 => self.resize_pixels::<U8x3>(pixels, from, region, to, out),
            _ => self.resize_pixels::<U8>(pixels, from, region, to, out),
        };
        assert!(resized.is_ok(), "resize {from:?} {region:?} to {to:?}: {resized:?}");
    }

    /// One kind of pixels at a time: the library's entry for all kinds compiles some twenty of them.
    fn resize_pixels<P: PixelTrait>(
        &mut self,
        pixels: &[u8],
        from: Size,
        region: Region,
        to: Size,
        out: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error>> {
        let options = fir::ResizeOptions::new()
            .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear))
            .crop(region.left, region.top, region.width, region.height)
            .use_alpha(false);
        let source = TypedImageRef::<P>::from_buffer(from.width as u32, from.height as u32, pixels)?;
        let mut target = TypedImage::<P>::from_buffer(to.width as u32, to.height as u32, out)?;
        Ok(self.0.resize_typed(&source, &mut target, &options)?)
    }

    /// A picture in the network's size and channels: `[size.height, size.width, channels]`.
    pub fn fit(&mut self, picture: &Picture, size: impl Into<Size>, fit: Fit, channels: usize) -> Vec<u8> {
        let to = size.into();
        let from = Size { width: picture.width, height: picture.height };
        let region = match fit {
            Fit::Stretch => Region::whole(from),
            Fit::Crop => Region::central(from, to),
        };
        // Fewer channels first: resizing is the costlier step.
        let gray_first = channels < picture.channels;
        let converted = gray_first.then(|| convert(&picture.pixels, picture.channels, channels));
        let pixels = converted.as_deref().unwrap_or(&picture.pixels);
        let resized_channels = picture.channels.min(channels);
        let mut out = vec![0; to.width * to.height * resized_channels];
        self.resize(pixels, resized_channels, from, region, to, &mut out);
        if resized_channels == channels { out } else { convert(&out, resized_channels, channels) }
    }
}

/// A picture in the network's size and channels: `[size.height, size.width, channels]`. See [`Resizer`] for many.
pub fn fit(picture: &Picture, size: impl Into<Size>, fit: Fit, channels: usize) -> Vec<u8> {
    Resizer::new().fit(picture, size, fit, channels)
}

/// Gray (1) to RGB (3) by repeating, RGB to gray by ITU-R 601's luma as Pillow's `convert("L")`.
pub fn convert(pixels: &[u8], from: usize, to: usize) -> Vec<u8> {
    match (from, to) {
        (1, 3) => pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
        (3, 1) => pixels.chunks_exact(3).map(luma).collect(),
        _ => pixels.to_vec(),
    }
}

fn luma(rgb: &[u8]) -> u8 {
    let [red, green, blue] = [rgb[0], rgb[1], rgb[2]].map(u32::from);
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_are_copied() {
        let picture = Picture { width: 3, height: 2, channels: 3, pixels: (0..18).collect() };
        assert_eq!(fit(&picture, Size { width: 3, height: 2 }, Fit::Stretch, 3), picture.pixels);
    }

    #[test]
    fn crop_takes_the_center() {
        let wide = Region::central(Size { width: 10, height: 4 }, Size::from(7));
        assert_eq!(wide, Region::of(3, 0, 4, 4));
        let tall = Region::central(Size { width: 3, height: 10 }, Size { width: 6, height: 2 });
        assert_eq!(tall, Region { left: 0.0, top: 4.5, width: 3.0, height: 1.0 });
    }

    #[test]
    fn channels_convert_both_ways() {
        assert_eq!(convert(&[255, 0, 0, 0, 255, 0, 0, 0, 255], 3, 1), [76, 150, 29]);
        assert_eq!(convert(&[7, 9], 1, 3), [7, 7, 7, 9, 9, 9]);
        assert_eq!(convert(&[7, 9], 1, 1), [7, 9]);
    }

    #[test]
    fn a_fit_reads_its_own_name() {
        for way in Fit::ALL {
            assert_eq!(way.name().parse(), Ok(way));
        }
        assert!("squash".parse::<Fit>().is_err());
    }
}
