//! How well a file answers: pictures with labels, by split, and the shares of right answers. The same pictures as in
//! training: the recipe says which labels were held out. No accuracy is estimated from a part of a split.

use std::sync::Arc;

use data::{Dataset, Labels, Partition, Selection, Validation};
use models::Manifest;
use models::bundle::Measured;

use crate::answers::Answers;
use crate::{ExportError, Result};

/// Pictures in a call.
const BATCH: usize = 64;
/// Answers that count as right for top-5.
const FIVE: usize = 5;

/// A data set divided as the network's training divided it.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// The data set and its parts.
    pub partition: Partition,
}

/// Shares of right answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Pictures with a label.
    pub count: usize,
    /// Share whose label is the first answer, 0..1.
    pub top1: f64,
    /// Share whose label is among the first five answers, 0..1.
    pub top5: f64,
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
        let labeled = (0..test.len() as u32).filter(|&index| test.labels[index as usize].is_some());
        let test = Selection::of(test, *shape, labeled.collect());
        let parts = [("val", self.partition.val_pictures()), ("test", test)];
        parts.into_iter().filter(|(_, part)| !part.is_empty()).collect()
    }
}

/// A text of the recipe that the network was trained by.
fn recipe<'m>(manifest: &'m Manifest, key: &str) -> Option<&'m str> {
    manifest.training.as_ref()?.recipe.get(key)?.as_str()
}

/// Logits for the pictures of a part, row after row.
///
/// # Errors
/// The engine's.
pub fn logits(answers: &mut Answers, part: &Selection<'_>) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    for batch in part.batches(BATCH) {
        logits.extend_from_slice(answers.call(&batch.pixels)?);
    }
    Ok(logits)
}

/// Labels of the pictures of a part.
pub fn labels(part: &Selection<'_>) -> Vec<Option<u32>> {
    part.batches(BATCH).flat_map(|batch| batch.labels).collect()
}

/// Holds logits against labels; pictures without a label do not count.
pub fn score(logits: &[f32], labels: &[Option<u32>], classes: usize) -> Score {
    let rows = logits.chunks_exact(classes.max(1)).zip(labels);
    let ranks: Vec<usize> =
        rows.filter_map(|(row, label)| Some(rank(row, label.as_ref().map(|&l| l as usize)?))).collect();
    let within = |places: usize| ranks.iter().filter(|&&rank| rank < places).count() as f64;
    let count = ranks.len();
    let share = |right: f64| right / count.max(1) as f64;
    Score { count, top1: share(within(1)), top5: share(within(FIVE)) }
}

/// Classes that are answered before this one; of equals the lower index is first.
fn rank(logits: &[f32], class: usize) -> usize {
    let Some(&own) = logits.get(class) else { return usize::MAX };
    let before = |(index, &logit): (usize, &f32)| logit > own || (logit == own && index < class);
    logits.iter().enumerate().filter(|&(index, logit)| before((index, logit))).count()
}

/// Share of pictures to which both give the same first answer.
pub fn agreement(a: &[f32], b: &[f32], classes: usize) -> f64 {
    let first = |logits: &[f32]| -> Vec<Option<usize>> {
        logits.chunks_exact(classes.max(1)).map(|row| (0..row.len()).find(|&c| rank(row, c) == 0)).collect()
    };
    let (a, b) = (first(a), first(b));
    let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    same as f64 / a.len().max(1) as f64
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
        let found = logits(answers, &part)?;
        let Score { count, top1, top5 } = score(&found, &labels(&part), classes);
        let agreement =
            float.and_then(|float| float.get(index)).map(|float| agreement(float, &found, classes));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_worked_by_hand() {
        let logits = [[0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]].concat();
        let found = score(&logits, &[Some(1), Some(1)], 7);
        assert_eq!((found.count, found.top1, found.top5), (2, 0.5, 1.0), "a tie goes to the lower index");
        let found = score(&logits, &[Some(0), None], 7);
        assert_eq!((found.count, found.top1, found.top5), (1, 0.0, 0.0));
    }

    #[test]
    fn agreement_is_about_first_answers() {
        assert_eq!(agreement(&[1.0, 0.0, 0.0, 1.0], &[9.0, 8.0, 3.0, 2.0], 2), 0.5);
        assert_eq!(agreement(&[1.0, f32::NAN], &[1.0, 0.0], 2), 1.0);
    }
}
