//! Measuring a network: accuracy, loss and confusion on pictures in order, without augmentation.

use data::Selection;
use engine::{Images, Model};

use crate::error::Result;

/// Pictures that go through the network at once.
const BATCH: usize = 128;

/// A network's answers against labels.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Evaluation {
    /// Pictures with a label.
    pub pictures: usize,
    /// Share of right answers, 0..1.
    pub accuracy: f64,
    /// Share of pictures whose class is among the five best answers, 0..1.
    pub top5: f64,
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Pictures by true class (row) and answer (column).
    pub confusion: Vec<Vec<u32>>,
}

/// Logits of all pictures of a selection, `[pictures, classes]` row-major.
///
/// # Errors
/// The engine's.
pub fn logits(model: &mut Model, pictures: &Selection<'_>) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for batch in pictures.batches(BATCH) {
        all.extend_from_slice(model.run(Images::U8(&batch.pixels))?);
    }
    Ok(all)
}

/// Measures `model` on the labeled pictures of a selection.
///
/// # Errors
/// The engine's.
pub fn evaluate(model: &mut Model, pictures: &Selection<'_>, classes: usize) -> Result<Evaluation> {
    evaluate_with(pictures, classes, |batch| Ok(model.run(Images::U8(batch))?.to_vec()))
}

/// The same for whatever answers a batch of pixels, NHWC, with its logits.
///
/// # Errors
/// Those of `run`.
pub fn evaluate_with<E>(
    pictures: &Selection<'_>,
    classes: usize,
    mut run: impl FnMut(&[u8]) -> Result<Vec<f32>, E>,
) -> Result<Evaluation, E> {
    let mut tally = Tally::new(classes);
    for batch in pictures.batches(BATCH) {
        let logits = run(&batch.pixels)?;
        for (row, label) in logits.chunks_exact(classes).zip(&batch.labels) {
            if let Some(label) = label {
                tally.add(row, *label as usize);
            }
        }
    }
    Ok(tally.finish())
}

struct Tally {
    right: usize,
    in_five: usize,
    loss: f64,
    confusion: Vec<Vec<u32>>,
}

impl Tally {
    fn new(classes: usize) -> Self {
        Self { right: 0, in_five: 0, loss: 0.0, confusion: vec![vec![0; classes]; classes] }
    }

    fn add(&mut self, logits: &[f32], label: usize) {
        let answer = argmax(logits);
        let better = logits.iter().filter(|&&logit| logit > logits[label]).count();
        self.right += usize::from(answer == label);
        self.in_five += usize::from(better < 5);
        self.loss -= log_softmax_at(logits, label);
        self.confusion[label][answer] += 1;
    }

    fn finish(self) -> Evaluation {
        let pictures = self.confusion.iter().flatten().sum::<u32>() as usize;
        let share = |count: usize| count as f64 / pictures.max(1) as f64;
        Evaluation {
            pictures,
            accuracy: share(self.right),
            top5: share(self.in_five),
            loss: self.loss / pictures.max(1) as f64,
            confusion: self.confusion,
        }
    }
}

/// Index of the largest value; the first of equals, and 0 where none compares.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Logarithm of the softmax at one class, in double precision.
pub fn log_softmax_at(logits: &[f32], class: usize) -> f64 {
    let largest = f64::from(logits[argmax(logits)]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    f64::from(logits[class]) - largest - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted() {
        let mut tally = Tally::new(7);
        let ascending = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        tally.add(&ascending, 6);
        tally.add(&ascending, 2);
        tally.add(&ascending, 1);
        let evaluation = tally.finish();
        assert_eq!((evaluation.pictures, evaluation.accuracy), (3, 1.0 / 3.0));
        assert_eq!(evaluation.top5, 2.0 / 3.0);
        assert_eq!((evaluation.confusion[2][6], evaluation.confusion[6][6]), (1, 1));
    }

    #[test]
    fn loss_of_even_logits_is_the_logarithm_of_the_classes() {
        assert!((log_softmax_at(&[3.0; 4], 2) + 4f64.ln()).abs() < 1e-12);
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
