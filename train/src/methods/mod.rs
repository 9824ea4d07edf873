//! What a training method is, and the list of them.
//!
//! A method says which pictures a step draws, appends the heads it trains with, and computes a loss; a file each, named
//! after it, that reads like its paper. It does no I/O, sees no clock and owns no optimizer: the loop does all that and
//! knows no method.

pub mod comatch;
pub mod fixmatch;
pub mod mean_teacher;
mod options;
pub mod supervised;
#[cfg(test)]
mod tests_of_gradients;

use candle_core::Tensor;
use data::{Batch, Draw, View};
use engine::Net;
use models::{Graph, GraphError, Weights};

use crate::error::{Result, TrainError};
pub use options::{OptionSpec, Options};

/// A way to train a network.
pub trait Method: Send {
    /// The pictures of one step and their views. The first draw whose pictures an epoch walks over once is
    /// [`Method::main_draw`]. `batch` is the configured batch size: the number of labeled pictures, where there are any.
    fn draws(&self, batch: usize) -> Vec<Draw>;

    /// Index of the draw that defines an epoch: one walk over its part's pictures.
    fn main_draw(&self) -> usize {
        0
    }

    /// Appends projections and further classifiers to the student's graph. They are trained with it and left out of the
    /// saved model.
    ///
    /// # Errors
    /// If the graph lacks what a head reads.
    fn heads(&self, graph: &mut Graph) -> Result<(), GraphError> {
        let _ = graph;
        Ok(())
    }

    /// The loss of one batch. Changes nothing that lasts: what a step has to remember is kept aside until
    /// [`Method::after_step`], so that a skipped step leaves no trace.
    ///
    /// # Errors
    /// The network's or candle's.
    fn loss(&mut self, nets: &Nets<'_>, batch: &Batch, at: Progress) -> Result<Loss>;

    /// Called once the network has moved: queues, momentum banks.
    ///
    /// # Errors
    /// candle's.
    fn after_step(&mut self, at: Progress) -> Result<()> {
        let _ = at;
        Ok(())
    }

    /// Everything that a resumed run needs, by name.
    ///
    /// # Errors
    /// candle's.
    fn state(&self) -> Result<Weights> {
        Ok(Weights::new())
    }

    /// Takes back what [`Method::state`] returned.
    ///
    /// # Errors
    /// If something is missing or of another shape.
    fn restore(&mut self, state: &Weights) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// Where in the run a loss is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Optimizer steps taken before this one.
    pub step: u64,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Batches seen before this one: more than steps where batches are accumulated.
    pub batch: u64,
    /// Seed of the run.
    pub seed: u64,
}

impl Progress {
    /// Share of the run that is done, 0..1.
    pub fn fraction(self) -> f64 {
        self.step as f64 / self.steps.max(1) as f64
    }
}

/// The networks of a run, and the pictures of a step.
pub struct Nets<'a> {
    /// The one that learns.
    pub student: &'a Net,
    /// Its exponential moving average, where the run keeps one.
    pub average: Option<&'a Net>,
    /// Every view of every draw, `[n, height, width, channels]`, `u8`, where the networks take them; see [`Nets::images`].
    pub pictures: &'a Tensor,
}

impl<'a> Nets<'a> {
    /// Views of the batch, one after the other, as images for a forward: `[n, height, width, channels]`, `u8`. Views that
    /// lie so already are not copied.
    ///
    /// # Errors
    /// If a view is not one of this batch.
    pub fn images(&self, views: &[View]) -> Result<Tensor> {
        let part = |run: View| self.pictures.narrow(0, run.first, run.count);
        let parts = runs(views).into_iter().map(part).collect::<Result<Vec<_>, _>>()?;
        match &parts[..] {
            [part] => Ok(part.clone()),
            parts => Ok(Tensor::cat(parts, 0)?),
        }
    }

    /// Number of classes.
    ///
    /// # Errors
    /// If the network has no `logits`.
    pub fn classes(&self) -> Result<usize> {
        let graph = self.student.graph();
        Ok(graph.node(graph.output("logits")?).shape.elements())
    }

    /// The moving average, for methods that teach with it.
    ///
    /// # Errors
    /// If the run keeps none.
    pub fn teacher(&self) -> Result<&'a Net> {
        self.average.ok_or_else(|| {
            TrainError::setting("ema", "a decay above 0: this method's teacher is the average", "0")
        })
    }
}

/// The views with neighbors joined.
fn runs(views: &[View]) -> Vec<View> {
    let mut runs: Vec<View> = Vec::new();
    for view in views {
        match runs.last_mut() {
            Some(last) if last.first + last.count == view.first => last.count += view.count,
            _ => runs.push(*view),
        }
    }
    runs
}

/// What a step minimizes.
#[derive(Debug)]
pub struct Loss {
    /// The scalar to differentiate.
    pub total: Tensor,
    /// Named scalars for the log, detached: the terms of the total, shares of confident pictures, ...
    pub parts: Vec<(&'static str, Tensor)>,
}

impl Loss {
    /// A loss of several parts; they are detached here.
    pub fn new(total: Tensor, parts: &[(&'static str, &Tensor)]) -> Self {
        Self { total, parts: parts.iter().map(|(name, part)| (*name, part.detach())).collect() }
    }

    /// The total and the parts, read from the device at once.
    ///
    /// # Errors
    /// candle's, and of a part that is no scalar.
    pub(crate) fn values(&self) -> Result<Vec<f32>> {
        let total = self.total.detach();
        let all: Vec<&Tensor> = [&total].into_iter().chain(self.parts.iter().map(|(_, part)| part)).collect();
        Ok(Tensor::stack(&all, 0)?.to_vec1()?)
    }
}

/// A registered method.
pub struct MethodEntry {
    /// Name on the command line.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Where it comes from.
    pub paper: &'static str,
    /// Whether it learns from pictures without labels.
    pub uses_unlabeled: bool,
    /// Decay of the moving average by default; 0 for none.
    pub ema: f32,
    /// Its options with their defaults.
    pub options: &'static [OptionSpec],
    /// Builds it from checked options.
    pub build: fn(&Options) -> Result<Box<dyn Method>>,
}

/// Every method of this crate, in the order of the lists.
pub static METHODS: &[&MethodEntry] =
    &[&supervised::ENTRY, &fixmatch::ENTRY, &mean_teacher::ENTRY, &comatch::ENTRY];

/// The registered method of this name.
///
/// # Errors
/// [`TrainError::Unknown`] with the nearest name.
pub fn find(name: &str) -> Result<&'static MethodEntry> {
    METHODS.iter().copied().find(|entry| entry.name == name).ok_or_else(|| {
        let known = || METHODS.iter().map(|entry| entry.name);
        TrainError::Unknown {
            kind: "method".into(),
            name: name.into(),
            suggestion: models::nearest::suggestion(name, known()),
            known: known().collect::<Vec<_>>().join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    #[test]
    fn names_are_unique_and_every_method_builds_from_its_defaults() {
        let mut taken = HashSet::new();
        for entry in METHODS {
            assert!(taken.insert(entry.name), "{} is registered twice", entry.name);
            assert!(!entry.summary.is_empty() && !entry.paper.is_empty(), "{} says too little", entry.name);
            let options = Options::parse(entry.name, entry.options, &BTreeMap::new()).unwrap();
            let method = (entry.build)(&options).unwrap();
            let draws = method.draws(8);
            assert!(method.main_draw() < draws.len(), "{}", entry.name);
            let unlabeled = draws.iter().any(|draw| draw.part != data::Part::Labeled);
            assert_eq!(unlabeled, entry.uses_unlabeled, "{}", entry.name);
        }
    }

    #[test]
    fn an_unknown_method_suggests_its_neighbor() {
        let error = find("fixmach").err().unwrap().to_string();
        assert!(error.contains("did you mean `fixmatch`?"), "{error}");
    }
}
