//! Sizes of maps as kernels take them, checked once: how the work is cut, and how many elements a thread reads at once.

use super::{Grid, Kernels, Sums, width};
use crate::Result;
use crate::cuda::{Format, Ptr};
use crate::kernels::norm::Rows;

/// Of a sum over rows.
pub(super) struct SumSizes {
    pub grid: Grid,
    pub parts: u32,
    pub rows: u32,
    /// Rows of a part.
    pub part: u32,
    pub channels: u32,
    /// Vectors of channels.
    pub columns: u32,
    pub lanes: u32,
    pub wide: u32,
}

/// Of a map that is gone over once.
pub(super) struct MapSizes {
    pub grid: Grid,
    /// Vectors.
    pub len: u64,
    pub columns: u32,
    pub positions: u32,
    pub wide: u32,
}

/// Of a sum over the positions of each picture.
pub(super) struct PictureSizes {
    pub grid: Grid,
    pub columns: u32,
    pub lanes: u32,
    pub positions: u32,
    pub wide: u32,
}

impl Kernels {
    /// For a matrix of `rows`; `pointers` are all maps of its size that the kernel touches.
    pub(super) fn sum_sizes(
        &self,
        format: Format,
        rows: usize,
        channels: usize,
        pointers: &[Ptr],
    ) -> Result<SumSizes> {
        let division = Sums::of(rows, channels);
        let width = width(format, channels, pointers);
        let (lanes, tiles) = Sums::lanes(channels, width);
        Ok(SumSizes {
            grid: Grid([tiles as u32, division.parts as u32, 1]),
            parts: division.parts as u32,
            rows: self.size("rows", rows)?,
            part: self.size("rows", division.rows)?,
            channels: self.size("channels", channels)?,
            columns: self.size("channels", channels / width)?,
            lanes: lanes as u32,
            wide: u32::from(width > 1),
        })
    }

    /// For a map; `pointers` as in [`Kernels::sum_sizes`].
    pub(super) fn map_sizes(&self, format: Format, rows: Rows, pointers: &[Ptr]) -> Result<MapSizes> {
        let width = width(format, rows.channels, pointers);
        let columns = rows.channels / width;
        Ok(MapSizes {
            grid: Grid::columns(rows.count(), columns),
            len: (rows.count() * columns) as u64,
            columns: self.size("channels", columns)?,
            positions: self.size("positions", rows.positions)?,
            wide: u32::from(width > 1),
        })
    }

    /// For a map whose pictures are summed; `pointers` as in [`Kernels::sum_sizes`].
    pub(super) fn picture_sizes(&self, format: Format, rows: Rows, pointers: &[Ptr]) -> Result<PictureSizes> {
        let width = width(format, rows.channels, pointers);
        let (lanes, tiles) = Sums::lanes(rows.channels, width);
        Ok(PictureSizes {
            grid: Grid([self.size("pictures", rows.samples)?, tiles as u32, 1]),
            columns: self.size("channels", rows.channels / width)?,
            lanes: lanes as u32,
            positions: self.size("positions", rows.positions)?,
            wide: u32::from(width > 1),
        })
    }
}
