//! Where the patches of a map lie.
//!
//! Never here: arithmetic on what lies there.

use super::super::gather::Source;
use super::Size;
use super::transform::{MOST, MOST_TARGETS};

/// The patches of all pictures: by picture, row and column.
#[derive(Clone, Copy)]
pub struct Grid {
    pub size: Size,
    pub batch: usize,
    pub source: Source,
    /// Rows and columns of zeros before the source.
    pub padding: [usize; 2],
    /// Height and width of the target map.
    pub target: [usize; 2],
}

impl Grid {
    /// Number of patches.
    pub fn patches(&self) -> usize {
        self.batch * self.size.patches(self.target)
    }

    /// Picture, row and column of a patch's first target.
    fn place(&self, patch: usize) -> (usize, usize, usize) {
        let targets = self.size.targets();
        let [height, width] = self.target.map(|size| size.div_ceil(targets));
        (patch / (height * width), patch / width % height * targets, patch % width * targets)
    }

    /// The source pixels of a patch; `zeros` stands for those in the padding.
    pub fn pixels(&self, patch: usize, zeros: &[f32]) -> [*const f32; MOST] {
        let (picture, row, column) = self.place(patch);
        let side = self.size.side();
        let mut pixels = [zeros.as_ptr(); MOST];
        for down in 0..side {
            let row = (row + down).wrapping_sub(self.padding[0]);
            if row >= self.source.height {
                continue;
            }
            for across in 0..side {
                let column = (column + across).wrapping_sub(self.padding[1]);
                if column < self.source.width {
                    pixels[down * side + across] = self.source.at(picture, row, column);
                }
            }
        }
        pixels
    }

    /// Where the targets of a patch begin in a map of `columns` channels; none beyond the map.
    pub fn targets(&self, patch: usize, columns: usize) -> [Option<usize>; MOST_TARGETS] {
        let (picture, row, column) = self.place(patch);
        let ([height, width], side) = (self.target, self.size.targets());
        let mut places = [None; MOST_TARGETS];
        for (index, place) in places.iter_mut().enumerate().take(side * side) {
            let (row, column) = (row + index / side, column + index % side);
            if row < height && column < width {
                *place = Some(((picture * height + row) * width + column) * columns);
            }
        }
        places
    }
}
