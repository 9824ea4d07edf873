//! What a training step draws, and what it gets.
//!
//! Never here: how it is drawn (see `loader`).

use serde::{Deserialize, Serialize};

/// Which pictures a draw takes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Those with a label to train on.
    Labeled,
    /// Those without.
    Unlabeled,
    /// Both, labels not to be looked at.
    All,
}

/// How a view of a picture is made; see `augment`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Augment {
    /// The picture itself.
    None,
    /// Flip and shift.
    Weak,
    /// RandAugment as FixMatch has it, then cutout, on top of the weak view's flip and shift.
    Strong,
    /// SimCLR's, as CoMatch's second strong view has it: resized crop, flip, color jitter, gray; no blur.
    SimClr,
}

/// `count` pictures of `part` per step, each seen through every one of `views`.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Where from.
    pub part: Part,
    /// How many pictures a step.
    pub count: usize,
    /// The views, in order.
    pub views: Vec<Augment>,
}

/// The pictures of one draw.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// Index of each picture in `dataset.train`: stable over the whole run, for banks and cached teacher answers.
    pub ids: Vec<u32>,
    /// Class of each picture; [`Drawn::NO_LABEL`] outside [`Part::Labeled`].
    pub labels: Vec<u32>,
    /// The views, in the order of the draw.
    pub views: Vec<View>,
}

/// Where the pictures of a view lie among all of their step, counted in pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Its first picture.
    pub first: usize,
    /// How many there are.
    pub count: usize,
}

impl Draw {
    /// Pictures of all its views.
    pub fn pictures(&self) -> usize {
        self.count * self.views.len()
    }
}

impl Part {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Labeled => "labeled",
            Self::Unlabeled => "unlabeled",
            Self::All => "training",
        }
    }
}

impl Drawn {
    /// Label of a picture whose label is not to be used.
    pub const NO_LABEL: u32 = u32::MAX;
}

/// What one training step draws: one [`Drawn`] per [`Draw`].
#[derive(Clone, Debug)]
pub struct Batch {
    /// Which step it is for; the same step always holds the same bytes.
    pub step: u64,
    /// In the order of the draws.
    pub draws: Vec<Drawn>,
}

/// A batch with its pixels, which go to the device as one.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What was drawn.
    pub batch: Batch,
    /// Every view of every draw, one after the other: `[pictures, height, width, channels]`.
    pub pixels: Vec<u8>,
}

impl Batch {
    /// Where the views of each of these draws lie.
    pub fn views(draws: &[Draw]) -> Vec<Vec<View>> {
        let mut first = 0;
        let mut next = |count| {
            first += count;
            View { first: first - count, count }
        };
        draws.iter().map(|draw| draw.views.iter().map(|_| next(draw.count)).collect()).collect()
    }

    /// Pictures of all views.
    pub fn pictures(&self) -> usize {
        self.draws.iter().flat_map(|drawn| &drawn.views).map(|view| view.count).sum()
    }
}

impl Loaded {
    /// The pixels of a view: `[count, height, width, channels]`.
    pub fn view(&self, view: View) -> &[u8] {
        let picture = self.pixels.len() / self.batch.pictures().max(1);
        &self.pixels[view.first * picture..][..view.count * picture]
    }
}
