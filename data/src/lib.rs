//! Pictures, labels, splits, augmentation, batches: everything between a folder and a batch of `u8` pixels.
//!
//! Never here: a network, a normalization (the graph does that), printing.
#![forbid(unsafe_code)]

pub mod batch;
pub mod dataset;

pub use batch::{Augment, Batch, Draw, Drawn, Part};
pub use dataset::{Dataset, Partition, PictureShape, Split};
