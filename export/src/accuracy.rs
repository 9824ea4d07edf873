//! How well a file answers: pictures with labels, by split, and the shares of right answers. The same pictures as in
//! training: the recipe says which labels were held out. No accuracy is estimated from a part of a split.

use std::sync::Arc;

use data::score::{Score, Tally, agreement, best_classes};
use data::{Dataset, Labels, Partition, Selection, Validation};
use models::Manifest;
use models::bundle::Measured;
use models::manifest::Accuracy;

use crate::answers::Answers;
use crate::{ExportError, Result};

/// Pictures in a call.
const BATCH: usize = 64;

/// A data set divided as the network's training divided it.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// The data set and its parts.
    pub partition: Partition,
}

impl Pictures {
    /// Divides a data set as the manifest's recipe says.
    ///
    /// # Errors
    /// [`ExportError::Classes`] for a data set of other classes, [`ExportError::Data`] where the recipe cannot be
    /// followed on it.
    pub fn new(dataset: Dataset, manifest: &Manifest) -> Result<Self> {
        if dataset.classes != manifest.labels {
            return Err(ExportError::Classes {
                data: dataset.name,
                expected: manifest.labels.join(", "),
                found: dataset.classes.join(", "),
            });
        }
        let seed = manifest.training.as_ref().map_or(0, |training| training.seed);
        let labels: Labels = recipe(manifest, "labels").unwrap_or("all").parse()?;
        let validation: Validation = recipe(manifest, "val").unwrap_or("none").parse()?;
        Ok(Self { partition: Partition::new(Arc::new(dataset), &labels, &validation, seed)? })
    }

    /// Name of the data set.
    pub fn name(&self) -> &str {
        &self.partition.dataset.name
    }

    /// The held-out parts that there are: validation and test, those pictures that have a label.
    pub fn held_out(&self) -> Vec<(&'static str, Selection<'_>)> {
        let Dataset { test, shape, .. } = &*self.partition.dataset;
        let parts = [("val", self.partition.val_pictures()), ("test", Selection::labeled(test, *shape))];
        parts.into_iter().filter(|(_, part)| !part.is_empty()).collect()
    }
}

/// A text of the recipe that the network was trained by.
fn recipe<'m>(manifest: &'m Manifest, key: &str) -> Option<&'m str> {
    manifest.training.as_ref()?.recipe.get(key)?.as_str()
}

/// Logits for the pictures of a part, row after row, and what they are worth.
fn judged(answers: &mut Answers, part: &Selection<'_>, classes: usize) -> Result<(Vec<f32>, Score)> {
    let (mut all, mut tally) = (Vec::new(), Tally::default());
    for batch in part.batches(BATCH) {
        let logits = answers.call(&batch.pixels)?;
        tally.add_all(logits, &batch.labels, classes);
        all.extend_from_slice(logits);
    }
    Ok((all, tally.score()))
}

/// Rows for a file on every held-out part, `float` being the logits of the float network on each; those logits too.
///
/// # Errors
/// The engine's.
pub fn measure(
    file: &str,
    answers: &mut Answers,
    pictures: &Pictures,
    float: Option<&[Vec<f32>]>,
) -> Result<(Vec<Measured>, Vec<Vec<f32>>)> {
    let classes = pictures.partition.dataset.classes.len();
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for (index, (split, part)) in pictures.held_out().into_iter().enumerate() {
        let (found, Score { count, top1, top5 }) = judged(answers, &part, classes)?;
        let best = |logits: &[f32]| best_classes(logits, classes);
        let float = float.and_then(|float| float.get(index));
        let agreement = float.map(|float| agreement(&best(float), &best(&found)));
        rows.push(Measured {
            file: file.into(),
            engine: answers.engine().into(),
            data: pictures.name().into(),
            split: split.into(),
            count,
            top1,
            top5: Some(top5),
            agreement,
        });
        all.push(found);
    }
    Ok((rows, all))
}

/// The row for a file that answers as the network did when its training measured it.
pub(crate) fn known(file: &str, engine: &str, data: &str, accuracy: &Accuracy) -> Measured {
    Measured {
        file: file.into(),
        engine: engine.into(),
        data: data.into(),
        split: accuracy.split.clone(),
        count: accuracy.count,
        top1: accuracy.top1,
        top5: accuracy.top5,
        agreement: None,
    }
}
