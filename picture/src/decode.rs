//! Bytes to pixels.
//!
//! The header is read first: nothing is allocated for a picture that is larger than the limits allow.

use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader,
    metadata::Orientation,
};

use crate::{PictureError, Result, jpeg, resize::convert};

/// A decoded picture: `u8`, HWC, upright.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

/// What the header of a picture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Columns, of the upright picture.
    pub width: usize,
    /// Rows, of the upright picture.
    pub height: usize,
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Name of the format.
    pub format: &'static str,
}

/// What is decoded at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Columns times rows.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 64 million pixels: more than cameras make, and some 200 MB decoded.
    fn default() -> Self {
        Self { max_pixels: 64_000_000 }
    }
}

/// Reads a picture within the default [`Limits`].
///
/// # Errors
/// [`PictureError`] says what the bytes are instead; no bytes make it panic.
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    decode_with(bytes, Limits::default())
}

/// Reads a picture within limits.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(bytes: &[u8], limits: Limits) -> Result<Picture> {
    let format = recognize(bytes)?;
    guarded(format, || decode_as(format, bytes, limits))
}

/// Reads the header of a picture alone.
///
/// # Errors
/// As [`decode`], but for what only the pixels show.
pub fn probe(bytes: &[u8]) -> Result<Info> {
    let format = recognize(bytes)?;
    guarded(format, || {
        let mut decoder = decoder(format, bytes, Limits::default())?;
        let (width, height) = decoder.dimensions();
        let turned = swaps_sides(orientation(&mut decoder));
        let (width, height) = if turned { (height, width) } else { (width, height) };
        let channels = if decoder.color_type().has_color() { 3 } else { 1 };
        Ok(Info { width: width as usize, height: height as usize, channels, format: name(format) })
    })
}

/// A decoder is a library fed with a stranger's bytes: a panic in it is that picture's error, not the server's end.
fn guarded<T>(format: ImageFormat, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(PictureError::Broken { format: name(format), reason: "the decoder gave up on it".into() })
    })
}

/// The format that the bytes start with, if it is one that is read here.
fn recognize(bytes: &[u8]) -> Result<ImageFormat> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let format =
        image::guess_format(bytes).map_err(|_| PictureError::NotAPicture { start: start_of(bytes) })?;
    match format {
        ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP | ImageFormat::Bmp | ImageFormat::Gif => {
            Ok(format)
        }
        other => Err(PictureError::Unsupported { format: format!("{other:?}").to_uppercase() }),
    }
}

/// The first bytes as text, or as hexadecimal numbers where they are none.
fn start_of(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(12)];
    if start.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        format!("`{}`", String::from_utf8_lossy(start))
    } else {
        let hex: Vec<String> = start.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("bytes {}", hex.join(" "))
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Bmp => "BMP",
        _ => "GIF",
    }
}

/// Bytes that a PNG may need besides its pixels, for a row of them or a color profile: a packed one may become a
/// thousand times as large.
const PNG_EXTRAS: u64 = 64 << 20;
/// Bytes that a decoder needs for a pixel at most: four channels of 16 bits.
const LARGEST_PIXEL: u64 = 8;

/// What a decoder may allocate besides the picture, whose size is checked on its own before it is decoded. The library's
/// default would refuse large pictures.
fn allowed(format: ImageFormat, limits: Limits) -> image::Limits {
    let mut allowed = image::Limits::no_limits();
    allowed.max_alloc = Some(match format {
        ImageFormat::Png => PNG_EXTRAS,
        // A frame of a GIF may be larger than the picture that it is a part of.
        _ => limits.max_pixels.saturating_mul(LARGEST_PIXEL),
    });
    allowed
}

fn decoder(format: ImageFormat, bytes: &[u8], limits: Limits) -> Result<impl ImageDecoder + '_> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(allowed(format, limits));
    reader.into_decoder().map_err(|error| explain(format, bytes, error))
}

/// A picture without a readable orientation is upright.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH)
}

fn decode_as(format: ImageFormat, bytes: &[u8], limits: Limits) -> Result<Picture> {
    let mut decoder = decoder(format, bytes, limits)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(PictureError::TooLarge { width, height, limit: limits.max_pixels });
    }
    if format == ImageFormat::Jpeg && !jpeg::is_complete(bytes) {
        return Err(PictureError::Truncated { format: "JPEG", bytes: bytes.len() });
    }
    let orientation = orientation(&mut decoder);
    let mut image = DynamicImage::from_decoder(decoder).map_err(|error| explain(format, bytes, error))?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width() as usize, image.height() as usize);
    if width == 0 || height == 0 {
        return Err(PictureError::Broken { format: name(format), reason: "it has no pixels".into() });
    }
    let (channels, pixels) = to_bytes(image);
    Ok(Picture { width, height, channels, pixels })
}

/// The decoder's error in our words.
fn explain(format: ImageFormat, bytes: &[u8], error: ImageError) -> PictureError {
    let broken = |reason: String| PictureError::Broken { format: name(format), reason };
    match error {
        ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated { format: name(format), bytes: bytes.len() }
        }
        ImageError::Unsupported(what) => broken(format!("not supported: {what}")),
        other => broken(other.to_string()),
    }
}

/// Gray or RGB bytes: 16 bits and floats brought to 8, alpha laid over black.
fn to_bytes(image: DynamicImage) -> (usize, Vec<u8>) {
    match image {
        DynamicImage::ImageLuma8(gray) => (1, gray.into_raw()),
        DynamicImage::ImageRgb8(rgb) => (3, rgb.into_raw()),
        DynamicImage::ImageLumaA8(gray) => (1, over_black::<2>(gray)),
        DynamicImage::ImageRgba8(rgba) => (3, over_black::<4>(rgba)),
        other if other.color().has_alpha() && !other.color().has_color() => {
            (1, over_black::<2>(other.into_luma_alpha8()))
        }
        other if other.color().has_alpha() => (3, over_black::<4>(other.into_rgba8())),
        other if !has_color(other.color()) => (1, other.into_luma8().into_raw()),
        other => (3, other.into_rgb8().into_raw()),
    }
}

fn has_color(color: ColorType) -> bool {
    color.has_color()
}

/// Lays pixels of `N` channels, the last of them alpha, over black.
fn over_black<const N: usize>(image: ImageBuffer<impl image::Pixel<Subpixel = u8>, Vec<u8>>) -> Vec<u8> {
    let raw = image.into_raw();
    let mut pixels = Vec::with_capacity(raw.len() / N * (N - 1));
    for pixel in raw.chunks_exact(N) {
        let alpha = u32::from(pixel[N - 1]);
        pixels.extend(pixel[..N - 1].iter().map(|&value| ((u32::from(value) * alpha + 127) / 255) as u8));
    }
    pixels
}

impl Picture {
    /// The picture in gray (1) or RGB (3).
    pub fn with_channels(self, channels: usize) -> Self {
        if channels == self.channels {
            return self;
        }
        Self { pixels: convert(&self.pixels, self.channels, channels), channels, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_picture_is_named_by_its_first_bytes() {
        assert_eq!(decode(b""), Err(PictureError::Empty));
        let error = decode(b"<!DOCTYPE html><html>").unwrap_err().to_string();
        assert!(error.starts_with("not a picture: starts with `<!DOCTYPE ht`"), "{error}");
        let error = decode(&[0, 1, 2, 3]).unwrap_err().to_string();
        assert!(error.contains("bytes 00 01 02 03"), "{error}");
        assert!(
            decode(b"II*\0\x08\0\0\0").unwrap_err().to_string().starts_with("TIFF pictures are not read")
        );
    }

    fn chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
        let step = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 };
        let named = [kind, data].concat();
        let sum =
            !named.iter().fold(!0u32, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), |sum, _| step(sum)));
        [&(data.len() as u32).to_be_bytes()[..], &named, &sum.to_be_bytes()].concat()
    }

    /// `runs` times 258 zeros as a zlib stream: a block of fixed codes, where a run takes 13 bits.
    fn packed_zeros(runs: usize) -> Vec<u8> {
        let literal = [false, false, true, true, false, false, false, false];
        let run = [true, true, false, false, false, true, false, true, false, false, false, false, false];
        let mut bits = vec![true, true, false];
        bits.extend(literal);
        bits.extend(run.iter().cycle().take(13 * runs));
        bits.extend([false; 7]);
        let packed =
            bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |sum, &bit| sum << 1 | u8::from(bit)));
        // Adler-32 of 1 + 258 * runs zeros.
        let adler = ((1 + 258 * runs as u32) % 65521) << 16 | 1;
        [0x78, 0x9c].into_iter().chain(packed).chain(adler.to_be_bytes()).collect()
    }

    /// A gray pixel with a color profile of so many zeros.
    fn png_with_profile(runs: usize) -> Vec<u8> {
        let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0];
        let profile = [b"profile\0\0", &packed_zeros(runs)[..]].concat();
        let pixel = [0x78, 0x01, 1, 2, 0, 0xfd, 0xff, 0, 7, 0, 9, 0, 8];
        let chunks =
            [chunk(b"IHDR", &header), chunk(b"iCCP", &profile), chunk(b"IDAT", &pixel), chunk(b"IEND", &[])];
        [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
    }

    #[test]
    fn a_png_whose_packed_profile_is_a_bomb_is_not_unpacked() {
        let profile = |runs| {
            let bytes = png_with_profile(runs);
            assert_eq!(decode(&bytes).unwrap().pixels, [7], "the picture itself is whole");
            decoder(ImageFormat::Png, &bytes, Limits::default()).unwrap().icc_profile().unwrap()
        };
        assert_eq!(profile(100).map(|profile| profile.len()), Some(1 + 25_800), "a small one is");
        assert_eq!(profile(PNG_EXTRAS as usize / 258 + 1), None);
    }

    #[test]
    fn a_gif_whose_frame_is_larger_than_its_picture_is_refused_before_it_is_decoded() {
        // A screen of 1x1, a frame of 65535x65535: 17 GB for 40 bytes.
        let mut bytes = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff".to_vec();
        bytes.extend(b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;");
        let error = decode(&bytes).unwrap_err();
        assert!(matches!(error, PictureError::Broken { format: "GIF", .. }), "{error}");
        assert!(error.to_string().contains("emory"), "{error}");
    }

    #[test]
    fn alpha_is_laid_over_black() {
        let image =
            image::RgbaImage::from_raw(3, 1, vec![200, 100, 50, 255, 200, 100, 50, 128, 200, 100, 50, 0]);
        let (channels, pixels) = to_bytes(DynamicImage::ImageRgba8(image.unwrap()));
        assert_eq!((channels, &pixels[..]), (3, &[200, 100, 50, 100, 50, 25, 0, 0, 0][..]));
    }
}
