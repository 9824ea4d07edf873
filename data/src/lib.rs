//! Pictures, labels, splits, augmentation, batches: everything between a folder and a batch of `u8` pixels.
//!
//! [`open`] reads a [`Dataset`] from a registered source, [`Partition::new`] chooses the labels a run may see, and a
//! [`Loader`] makes its batches:
//!
//! ```
//! use std::sync::Arc;
//! use data::{Augment, Draw, Labels, Loader, LoaderOptions, OpenOptions, Part, Partition, Validation};
//!
//! let dataset = Arc::new(data::open("synth:200/50", &OpenOptions::default())?);
//! let partition = Partition::new(dataset, &"20".parse::<Labels>()?, &Validation::Auto, 1)?;
//! let draws = vec![
//!     Draw { part: Part::Labeled, count: 4, views: vec![Augment::Weak] },
//!     Draw { part: Part::Unlabeled, count: 28, views: vec![Augment::Weak, Augment::Strong] },
//! ];
//! let mut loader = Loader::new(Arc::new(partition), draws, 1, LoaderOptions::default())?;
//! let loaded = loader.next()?;
//! let strong = loaded.batch.draws[1].views[1];
//! assert_eq!(loaded.view(strong).len(), 28 * 32 * 32 * 3);
//! # Ok::<(), data::DataError>(())
//! ```
//!
//! Never here: a network, a normalization (the graph does that), printing.
#![forbid(unsafe_code)]

pub mod augment;
pub mod batch;
pub mod dataset;
mod error;
pub mod inspect;
pub mod listing;
pub mod loader;
mod memory;
mod parallel;
pub mod partition;
pub mod random;
pub mod score;
pub mod sources;

pub use batch::{Augment, Batch, Draw, Drawn, Loaded, Part, View};
pub use dataset::{Dataset, EvalBatch, PictureShape, Selection, Split};
pub use error::DataError;
pub use inspect::{Inspection, inspect};
pub use loader::{Loader, LoaderOptions};
pub use partition::{Labels, Partition, Validation};
pub use sources::{OpenOptions, SOURCES, open};

/// Result of a data call.
pub type Result<T, E = DataError> = std::result::Result<T, E>;
