//! Depthwise convolution, as `crate::kernels::conv` computes it: a kernel of any size, step and padding for every
//! channel. Weights and their gradient are f32 `[kh][kw][channel]` in either format.

use super::pooling::Window;
use super::{Grid, Kernels, Sums, Target, arguments};
use crate::Result;
use crate::cuda::{Format, Ptr};
use crate::kernels::conv::ConvShape;

/// Neighboring outputs that a thread computes.
const TOGETHER: usize = 4;

impl Kernels {
    fn conv_window(&self, shape: &ConvShape, width: usize) -> Result<Window> {
        debug_assert!(shape.is_depthwise(), "{shape:?}");
        let columns = shape.in_channels / width;
        self.window(
            [shape.batch, shape.in_height, shape.in_width, shape.out_height(), shape.out_width(), columns],
            [shape.kernel, shape.stride, shape.padding],
        )
    }

    /// The sums alone: [`Kernels::finish`] adds what follows them.
    pub(crate) unsafe fn depthwise_forward(
        &self,
        format: Format,
        shape: &ConvShape,
        x: Ptr,
        weight: Ptr,
        y: Ptr,
    ) -> Result<()> {
        let width = super::width(format, shape.in_channels, &[x, weight, y]);
        let (window, wide) = (self.conv_window(shape, width)?, u32::from(width > 1));
        let rows = shape.batch * shape.out_height() * shape.out_width().div_ceil(TOGETHER);
        let items = self.size("vectors of a map", rows * shape.in_channels / width)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.depthwise_forward.of(format),
                Grid::flat(items as usize),
                arguments![window, x, weight, y, items, wide],
            )
        }
    }

    /// Gradient of the input.
    pub(crate) unsafe fn depthwise_backward_input(
        &self,
        format: Format,
        shape: &ConvShape,
        dy: Ptr,
        weight: Ptr,
        dx: Target,
    ) -> Result<()> {
        let width = super::width(format, shape.in_channels, &[dy, weight, dx.at]);
        let (window, wide) = (self.conv_window(shape, width)?, u32::from(width > 1));
        let rows = shape.batch * shape.in_height * shape.in_width.div_ceil(TOGETHER);
        let items = self.size("vectors of a map", rows * shape.in_channels / width)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.depthwise_backward_input.of(format),
                Grid::flat(items as usize),
                arguments![window, dy, weight, dx.at, u32::from(dx.add), items, wide],
            )
        }
    }

    /// Bytes of scratch memory that [`Kernels::depthwise_backward_weight`] needs.
    pub(crate) fn depthwise_scratch(shape: &ConvShape) -> usize {
        let rows = shape.batch * shape.out_height() * shape.out_width();
        4 * Sums::of(rows, shape.in_channels).parts * shape.kernel[0] * shape.kernel[1] * shape.in_channels
    }

    /// Gradient of the weights, f32.
    pub(crate) unsafe fn depthwise_backward_weight(
        &self,
        format: Format,
        shape: &ConvShape,
        x: Ptr,
        dy: Ptr,
        dw: Target,
        scratch: Ptr,
    ) -> Result<()> {
        let rows = shape.batch * shape.out_height() * shape.out_width();
        let division = Sums::of(rows, shape.in_channels);
        let width = super::width(format, shape.in_channels, &[x, dy]);
        let (lanes, tiles) = Sums::lanes(shape.in_channels, width);
        let (window, wide) = (self.conv_window(shape, width)?, u32::from(width > 1));
        let (all, part) = (self.size("rows", rows)?, self.size("rows", division.rows)?);
        let (lanes, parts) = (lanes as u32, division.parts as u32);
        let [kernel_rows, kernel_columns] = shape.kernel;
        let weights = self.size("weights", kernel_rows * kernel_columns * shape.in_channels)?;
        let grid = Grid([tiles as u32, parts, self.size("rows of a kernel", kernel_rows)?]);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.depthwise_weight_parts.of(format),
                grid,
                arguments![window, x, dy, scratch, all, part, lanes, wide],
            )?;
            self.launch(
                &self.functions.column_total,
                Sums::total(kernel_rows * kernel_columns * shape.in_channels),
                arguments![scratch, dw.at, u32::from(dw.add), parts, weights],
            )
        }
    }
}
