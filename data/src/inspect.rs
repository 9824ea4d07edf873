//! What is in a data set, without training on it: for `distill data FOLDER`.
//!
//! Never here: printing (but [`Inspection`] says how it reads as text).

use std::fmt;

use picture::Info;
use serde::Serialize;

use crate::{
    Dataset, PictureShape, Result, Split,
    listing::{self, Item, Listing},
    sources::{Found, OpenOptions, find},
};

/// What one part holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartCounts {
    /// `train`, `val` or `test`.
    pub name: &'static str,
    /// Pictures of each class.
    pub per_class: Vec<usize>,
    /// Pictures without a label.
    pub unlabeled: usize,
}

/// What a data set holds. Broken pictures are counted in their parts, and listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Name of the data set.
    pub name: String,
    /// Class names, by index.
    pub classes: Vec<String>,
    /// Training, validation and test part; those that hold nothing are left out.
    pub parts: Vec<PartCounts>,
    /// Smallest width and height.
    pub smallest: (usize, usize),
    /// Largest width and height; equal to the smallest where all pictures have one size.
    pub largest: (usize, usize),
    /// Gray pictures.
    pub gray: usize,
    /// Color pictures.
    pub color: usize,
    /// Each broken picture and why.
    pub broken: Vec<(String, String)>,
    /// What the user should be told.
    pub notes: Vec<String>,
}

/// Looks at every picture of a data set, decoding all of them.
///
/// # Errors
/// As [`crate::open`], but broken pictures are part of the answer.
pub fn inspect(spec: &str, options: &OpenOptions) -> Result<Inspection> {
    let (name, found) = find(spec, options)?;
    Ok(match found {
        Found::Made(dataset) => of_dataset(dataset),
        Found::Listed(listing) => of_listing(name, listing, options.threads()),
    })
}

fn of_dataset(dataset: Dataset) -> Inspection {
    let classes = dataset.classes.len();
    let count = |name, split: &Split| PartCounts {
        name,
        per_class: split.class_counts(classes),
        unlabeled: split.labels.iter().filter(|label| label.is_none()).count(),
    };
    let parts = [count("train", &dataset.train), count("val", &dataset.val), count("test", &dataset.test)];
    let pictures = dataset.train.len() + dataset.val.len() + dataset.test.len();
    let PictureShape { channels, height, width } = dataset.shape;
    Inspection {
        name: dataset.name,
        classes: dataset.classes,
        parts: parts.into_iter().filter(PartCounts::holds_any).collect(),
        smallest: (width, height),
        largest: (width, height),
        gray: if channels == 1 { pictures } else { 0 },
        color: if channels == 3 { pictures } else { 0 },
        broken: Vec::new(),
        notes: dataset.notes,
    }
}

fn of_listing(name: String, listing: Listing, threads: usize) -> Inspection {
    let classes = listing.classes.len();
    let parts = [("train", &listing.train), ("val", &listing.val), ("test", &listing.test)];
    let mut infos: Vec<Info> = Vec::new();
    let mut broken = Vec::new();
    for (_, items) in parts {
        infos.extend(listing::probe_all(items, threads).into_iter().flatten());
        broken.extend(listing::find_broken(items, threads).into_iter().map(|one| (one.name, one.reason)));
    }
    let counts = parts.map(|(name, items)| count_items(name, items, classes));
    let sides = |pick: fn(usize, usize) -> usize| {
        let sizes = infos.iter().map(|info| (info.width, info.height));
        sizes.reduce(|a, b| (pick(a.0, b.0), pick(a.1, b.1))).unwrap_or_default()
    };
    let gray = infos.iter().filter(|info| info.channels == 1).count();
    Inspection {
        name,
        parts: counts.into_iter().filter(PartCounts::holds_any).collect(),
        smallest: sides(usize::min),
        largest: sides(usize::max),
        gray,
        color: infos.len() - gray,
        broken,
        classes: listing.classes,
        notes: listing.notes,
    }
}

fn count_items(name: &'static str, items: &[Item], classes: usize) -> PartCounts {
    let labels = items.iter().map(|item| item.label).collect();
    let split = Split { pixels: Vec::new(), labels };
    let unlabeled = split.labels.iter().filter(|label| label.is_none()).count();
    PartCounts { name, per_class: split.class_counts(classes), unlabeled }
}

impl PartCounts {
    fn holds_any(&self) -> bool {
        self.unlabeled > 0 || self.per_class.iter().any(|&count| count > 0)
    }
}

impl Inspection {
    /// Pictures without a label, over all parts.
    pub fn unlabeled(&self) -> usize {
        self.parts.iter().map(|part| part.unlabeled).sum()
    }

    fn size_text(&self) -> String {
        let text = |(width, height): (usize, usize)| format!("{width}x{height}");
        if self.smallest == self.largest {
            format!("all {}", text(self.smallest))
        } else {
            format!("{} to {}", text(self.smallest), text(self.largest))
        }
    }
}

impl fmt::Display for Inspection {
    /// A table of classes and parts, then a line for each other fact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = self.classes.iter().map(|name| name.chars().count()).chain([11]).max().unwrap_or(11);
        let row = |f: &mut fmt::Formatter<'_>, name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:>8}")).collect();
            writeln!(f, "{name:<wide$}{cells}")
        };
        row(f, "class", self.parts.iter().map(|part| part.name.into()).collect())?;
        for (index, class) in self.classes.iter().enumerate() {
            row(f, class, self.parts.iter().map(|part| part.per_class[index].to_string()).collect())?;
        }
        row(f, "(unlabeled)", self.parts.iter().map(|part| part.unlabeled.to_string()).collect())?;
        writeln!(f, "sizes: {}", self.size_text())?;
        writeln!(f, "colors: {} RGB, {} gray", self.color, self.gray)?;
        writeln!(f, "broken: {}", self.broken.len())?;
        for (name, reason) in &self.broken {
            writeln!(f, "  {name}: {reason}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
