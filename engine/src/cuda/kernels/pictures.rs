//! Views of pictures that lie on the device, as `data::augment` makes them: a mirror image, a shift, a hole.

use super::{Argument, Grid, Kernels, arguments};
use crate::Result;
use crate::cuda::Ptr;

/// Which picture, and how it is shown, as it lies on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Pick {
    /// The picture's number.
    pub index: u32,
    /// Whether it is mirrored, 0 or 1; before it is moved.
    pub mirrored: u32,
    /// Pixels that it moves down and right.
    pub down: i32,
    pub right: i32,
    /// Rows and columns of the hole, `first..end`, within the picture; empty for none.
    pub hole_rows: [u32; 2],
    pub hole_columns: [u32; 2],
}

/// What enters where a picture has moved away from its border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// Its reflection in the outermost row or column, which is not repeated.
    Reflect,
    /// This value.
    Fill(u8),
}

/// Sizes of the pictures, as the kernel takes them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Frame {
    height: u32,
    width: u32,
    channels: u32,
    /// 0 to reflect, else one more than the value.
    border: u32,
    /// What the hole is filled with.
    fill: u32,
}

impl Argument for Frame {}

impl Kernels {
    /// A view of each pick: `data` u8 `[N][height][width][channels]`, `picks` an array of [`Pick`] on the device, `y` u8
    /// `[count][height][width][channels]`. Holes hold `fill`.
    #[allow(clippy::too_many_arguments)] // three arrays, their sizes, two ways to fill
    pub(crate) unsafe fn augment(
        &self,
        [height, width, channels]: [usize; 3],
        data: Ptr,
        picks: Ptr,
        count: usize,
        border: Border,
        fill: u8,
        y: Ptr,
    ) -> Result<()> {
        let frame = Frame {
            height: self.size("rows of a picture", height)?,
            width: self.size("columns of a picture", width)?,
            channels: self.size("channels", channels)?,
            border: match border {
                Border::Reflect => 0,
                Border::Fill(value) => 1 + u32::from(value),
            },
            fill: u32::from(fill),
        };
        let pixels = self.size("pixels", count * height * width)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                &self.functions.augment,
                Grid::flat(pixels as usize),
                arguments![frame, data, picks, pixels, y],
            )
        }
    }
}
