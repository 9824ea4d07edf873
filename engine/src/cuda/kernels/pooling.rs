//! Pooling of NHWC maps, as `crate::kernels::pooling`.

use super::{Argument, Grid, Kernels, Target, arguments};
use crate::Result;
use crate::cuda::{Format, Ptr};
use crate::kernels::norm::Rows;
use crate::kernels::pooling::PoolShape;

/// A window over a batch of maps, as the kernels take it. Columns are vectors of channels.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Window {
    pub batch: u32,
    pub height: u32,
    pub width: u32,
    pub out_height: u32,
    pub out_width: u32,
    pub columns: u32,
    pub kernel: [u32; 2],
    pub stride: [u32; 2],
    pub padding: [u32; 2],
}

impl Argument for Window {}

impl Kernels {
    /// `maps`: pictures, rows and columns of the input, rows and columns of the output, vectors of channels; `taps`: kernel,
    /// stride and padding.
    pub(super) fn window(&self, maps: [usize; 6], taps: [[usize; 2]; 3]) -> Result<Window> {
        let sized = |what, [a, b]: [usize; 2]| {
            Ok::<_, crate::EngineError>([self.size(what, a)?, self.size(what, b)?])
        };
        let ([batch, height, width, out_height, out_width, columns], [kernel, stride, padding]) =
            (maps, taps);
        let [height, width] = sized("rows and columns of a map", [height, width])?;
        let [out_height, out_width] = sized("rows and columns of a map", [out_height, out_width])?;
        Ok(Window {
            batch: self.size("pictures", batch)?,
            height,
            width,
            out_height,
            out_width,
            columns: self.size("channels", columns)?,
            kernel: sized("a kernel", kernel)?,
            stride: sized("a stride", stride)?,
            padding: sized("a padding", padding)?,
        })
    }

    fn pool_window(&self, shape: &PoolShape, width: usize) -> Result<Window> {
        let [out_height, out_width] = shape.out();
        let (columns, pool) = (shape.channels / width, shape.window);
        self.window(
            [shape.batch, shape.height, shape.width, out_height, out_width, columns],
            [pool.kernel, pool.stride, pool.padding],
        )
    }

    /// Largest value of each window into `y`, and the number of its tap, a u16, into `taps` if there is room for them:
    /// two bytes an element of `y`.
    pub(crate) unsafe fn max_forward(
        &self,
        format: Format,
        shape: &PoolShape,
        x: Ptr,
        y: Ptr,
        taps: Option<Ptr>,
    ) -> Result<()> {
        let taps = taps.unwrap_or(Ptr::NONE);
        let width = self.max_width(format, shape, &[x, y, taps])?;
        let (window, wide) = (self.pool_window(shape, width)?, u32::from(width > 1));
        let items = self.size("vectors of a map", outputs(shape) / width)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.max_forward.of(format),
                Grid::flat(items as usize),
                arguments![window, x, y, taps, items, wide],
            )
        }
    }

    /// Gradient of the largest values: each goes to the place that [`Kernels::max_forward`] noted.
    pub(crate) unsafe fn max_backward(
        &self,
        format: Format,
        shape: &PoolShape,
        dy: Ptr,
        taps: Ptr,
        dx: Target,
    ) -> Result<()> {
        let width = self.max_width(format, shape, &[dy, taps, dx.at])?;
        let (window, wide) = (self.pool_window(shape, width)?, u32::from(width > 1));
        let (items, add) = (self.size("vectors of a map", inputs(shape) / width)?, u32::from(dx.add));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.max_backward.of(format),
                Grid::flat(items as usize),
                arguments![window, dy, taps, dx.at, add, items, wide],
            )
        }
    }

    /// Elements a thread takes at once, where a tap has a number.
    fn max_width(&self, format: Format, shape: &PoolShape, pointers: &[Ptr]) -> Result<usize> {
        let taps = shape.window.kernel[0] * shape.window.kernel[1];
        let most = usize::from(u16::MAX);
        if taps > most {
            return Err(self.too_large("taps of a window", taps, most));
        }
        Ok(super::width(format, shape.channels, pointers))
    }

    /// Mean of each window; padding counts as zeros.
    pub(crate) unsafe fn average_forward(
        &self,
        format: Format,
        shape: &PoolShape,
        x: Ptr,
        y: Ptr,
    ) -> Result<()> {
        let width = super::width(format, shape.channels, &[x, y]);
        let (window, wide) = (self.pool_window(shape, width)?, u32::from(width > 1));
        let items = self.size("vectors of a map", outputs(shape) / width)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.average_forward.of(format),
                Grid::flat(items as usize),
                arguments![window, x, y, items, wide],
            )
        }
    }

    /// Gradient of the means.
    pub(crate) unsafe fn average_backward(
        &self,
        format: Format,
        shape: &PoolShape,
        dy: Ptr,
        dx: Target,
    ) -> Result<()> {
        let width = super::width(format, shape.channels, &[dy, dx.at]);
        let (window, wide) = (self.pool_window(shape, width)?, u32::from(width > 1));
        let (items, add) = (self.size("vectors of a map", inputs(shape) / width)?, u32::from(dx.add));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.average_backward.of(format),
                Grid::flat(items as usize),
                arguments![window, dy, dx.at, add, items, wide],
            )
        }
    }

    /// Mean over all positions of each picture.
    pub(crate) unsafe fn global_forward(&self, format: Format, rows: Rows, x: Ptr, y: Ptr) -> Result<()> {
        let sizes = self.picture_sizes(format, rows, &[x, y])?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.global_forward.of(format),
                sizes.grid,
                arguments![x, y, sizes.positions, sizes.columns, sizes.lanes, sizes.wide],
            )
        }
    }

    /// Gradient of the mean over all positions.
    pub(crate) unsafe fn global_backward(
        &self,
        format: Format,
        rows: Rows,
        dy: Ptr,
        dx: Target,
    ) -> Result<()> {
        let map = self.map_sizes(format, rows, &[dy, dx.at])?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.global_backward.of(format),
                map.grid,
                arguments![dy, dx.at, u32::from(dx.add), map.len, map.columns, map.positions, map.wide],
            )
        }
    }
}

fn inputs(shape: &PoolShape) -> usize {
    shape.batch * shape.height * shape.width * shape.channels
}

fn outputs(shape: &PoolShape) -> usize {
    let [height, width] = shape.out();
    shape.batch * height * width * shape.channels
}
