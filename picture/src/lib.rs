//! Bytes of a picture to the `u8` pixels that a network takes: the one place where that happens, so that training,
//! calibration and serving cannot disagree.
//!
//! [`decode`] reads JPEG, PNG, WebP, BMP and the first frame of a GIF, turns the picture as its EXIF orientation says,
//! lays alpha over black and brings 16 bits to 8. [`fit`] makes it the network's size with a bilinear resize with
//! antialiasing that equals Pillow's `resize(BILINEAR)` within one level of 255, and gray or RGB as asked.
//!
//! ```
//! use picture::{Fit, Picture};
//! let gray = Picture { width: 4, height: 2, channels: 1, pixels: vec![0, 0, 255, 255, 0, 0, 255, 255] };
//! assert_eq!(picture::fit(&gray, 2, Fit::Crop, 3), [0, 0, 0, 255, 255, 255, 0, 0, 0, 255, 255, 255]);
//! ```
//!
//! Never here: files and folders, normalization (the graph does that), random changes (see `data`).
#![forbid(unsafe_code)]

mod decode;
mod error;
mod jpeg;
mod resize;

pub use decode::{Info, Limits, Picture, decode, decode_with, probe};
pub use error::PictureError;
pub use resize::{Fit, Region, Resizer, Size, convert, fit};

/// Result of reading a picture.
pub type Result<T, E = PictureError> = std::result::Result<T, E>;
