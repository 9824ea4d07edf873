//! A data set in memory: its official splits, decoded.
//!
//! Never here: files, the choice of labels (see `partition`).

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

    /// Pixels of one picture, `[height, width, channels]`.
    pub fn picture(&self, index: u32, shape: PictureShape) -> &[u8] {
        let bytes = shape.bytes();
        &self.pixels[index as usize * bytes..][..bytes]
    }

    /// How many pictures of each class there are.
    pub fn class_counts(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        for label in self.labels.iter().flatten() {
            counts[*label as usize] += 1;
        }
        counts
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

impl Dataset {
    /// Whether `distill` also trains the student on the labels alone unless told otherwise: cheap on the built-in set,
    /// and what its first table is there to show.
    pub fn baseline_by_default(&self) -> bool {
        self.name == crate::sources::synth::NAME
    }

    /// Whether a mirrored picture still shows its class, as far as class names tell: false where every name is a single
    /// digit or letter.
    pub fn flips(&self) -> bool {
        !self.classes.iter().all(|name| name.chars().count() == 1)
    }

    /// The test part, in order.
    pub fn test_pictures(&self) -> Selection<'_> {
        Selection::whole(&self.test, self.shape)
    }
}

/// Pictures of a split in a fixed order, for evaluation: no augmentation, no shuffling.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    split: &'a Split,
    shape: PictureShape,
    ids: Vec<u32>,
}

impl<'a> Selection<'a> {
    /// All pictures of a split.
    pub fn whole(split: &'a Split, shape: PictureShape) -> Self {
        Self { split, shape, ids: (0..split.len() as u32).collect() }
    }

    /// The pictures of a split that have a label.
    pub fn labeled(split: &'a Split, shape: PictureShape) -> Self {
        let labeled = |id: &u32| split.labels[*id as usize].is_some();
        Self { split, shape, ids: (0..split.len() as u32).filter(labeled).collect() }
    }

    /// These pictures of a split.
    pub fn of(split: &'a Split, shape: PictureShape, ids: Vec<u32>) -> Self {
        Self { split, shape, ids }
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The first `count` pictures, or all if there are fewer.
    pub fn first(mut self, count: usize) -> Self {
        self.ids.truncate(count);
        self
    }

    /// The pictures in batches of `size` (at least 1), the last one shorter.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = EvalBatch> + '_ {
        self.ids.chunks(size.max(1)).map(|ids| self.batch(ids))
    }

    fn batch(&self, ids: &[u32]) -> EvalBatch {
        let mut pixels = Vec::with_capacity(ids.len() * self.shape.bytes());
        for &id in ids {
            pixels.extend_from_slice(self.split.picture(id, self.shape));
        }
        let labels = ids.iter().map(|&id| self.split.labels[id as usize]).collect();
        EvalBatch { ids: ids.to_vec(), labels, pixels }
    }
}

/// Some pictures of a [`Selection`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalBatch {
    /// Index of each picture in its split.
    pub ids: Vec<u32>,
    /// Class of each picture, where it has one.
    pub labels: Vec<Option<u32>>,
    /// `[ids.len(), height, width, channels]`.
    pub pixels: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split() -> Split {
        Split { pixels: (0..10).collect(), labels: vec![Some(0), None, Some(1), Some(1), Some(0)] }
    }

    const SHAPE: PictureShape = PictureShape { channels: 1, height: 1, width: 2 };

    #[test]
    fn batches_keep_order_and_end_short() {
        let split = split();
        let batches: Vec<EvalBatch> = Selection::whole(&split, SHAPE).batches(2).collect();
        assert_eq!(batches.len(), 3);
        assert_eq!(batches[2].ids, [4]);
        assert_eq!(batches[2].pixels, [8, 9]);
        assert_eq!(batches[0].labels, [Some(0), None]);
    }

    #[test]
    fn a_selection_takes_the_ids_it_is_given() {
        let split = split();
        let chosen = Selection::of(&split, SHAPE, vec![3, 1]).first(1);
        assert_eq!(chosen.batches(8).next().unwrap().pixels, [6, 7]);
        assert_eq!(split.class_counts(2), [2, 2]);
    }
}
