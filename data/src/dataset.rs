//! A data set in memory and how its pictures are divided.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Size of every picture of a data set, as the network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureShape {
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl PictureShape {
    /// Bytes of one picture.
    pub fn bytes(self) -> usize {
        self.channels * self.height * self.width
    }
}

/// Pictures of one official split, decoded: HWC `u8`, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Split {
    /// `len() * shape.bytes()` bytes.
    pub pixels: Vec<u8>,
    /// Class of each picture; `None` where the source has no label.
    pub labels: Vec<Option<u32>>,
}

impl Split {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// A data set: official splits, not yet divided into labeled, unlabeled and validation.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Name of the source, for reports.
    pub name: String,
    /// Class names, by index.
    pub classes: Vec<String>,
    /// Size of every picture.
    pub shape: PictureShape,
    /// Training pictures, the source's own unlabeled ones (label `None`) among them.
    pub train: Split,
    /// The source's own validation part; empty where it has none.
    pub val: Split,
    /// Test pictures: never used to select anything.
    pub test: Split,
    /// What the user should be told about how it was read: skipped files, a test part split off, ...
    pub notes: Vec<String>,
}

/// A data set divided for a run. Indices are into `dataset.train`, except `val` where the source has its own part.
#[derive(Clone, Debug)]
pub struct Partition {
    /// The data set.
    pub dataset: Arc<Dataset>,
    /// Pictures whose labels may be trained on.
    pub labeled: Vec<u32>,
    /// Pictures trained on without their labels: the rest of the training part. (Methods that, as FixMatch's authors
    /// do, also want the labeled pictures without their labels draw from [`crate::Part::All`].)
    pub unlabeled: Vec<u32>,
    /// Held-out pictures for validation.
    pub val: Vec<u32>,
    /// Whether `val` indexes `dataset.val` rather than `dataset.train`.
    pub val_is_own: bool,
}
