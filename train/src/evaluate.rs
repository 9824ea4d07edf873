//! Measuring a network: accuracy, loss and confusion on pictures in order, without augmentation.

use data::Selection;
use data::score::{Score, Tally, best_class};
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
    let mut counts = Counts::new(classes);
    for batch in pictures.batches(BATCH) {
        let logits = run(&batch.pixels)?;
        for (row, label) in logits.chunks_exact(classes).zip(&batch.labels) {
            if let Some(label) = label {
                counts.add(row, *label as usize);
            }
        }
    }
    Ok(counts.finish())
}

struct Counts {
    tally: Tally,
    loss: f64,
    confusion: Vec<Vec<u32>>,
}

impl Counts {
    fn new(classes: usize) -> Self {
        Self { tally: Tally::default(), loss: 0.0, confusion: vec![vec![0; classes]; classes] }
    }

    fn add(&mut self, logits: &[f32], label: usize) {
        self.tally.add(logits, label);
        self.loss -= log_softmax_at(logits, label);
        self.confusion[label][best_class(logits)] += 1;
    }

    fn finish(self) -> Evaluation {
        let Score { count, top1, top5 } = self.tally.score();
        Evaluation {
            pictures: count,
            accuracy: top1,
            top5,
            loss: self.loss / count.max(1) as f64,
            confusion: self.confusion,
        }
    }
}

/// Logarithm of the softmax at one class, in double precision.
pub fn log_softmax_at(logits: &[f32], class: usize) -> f64 {
    let largest = f64::from(logits[best_class(logits)]);
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    f64::from(logits[class]) - largest - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted() {
        let mut counts = Counts::new(7);
        let ascending = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        counts.add(&ascending, 6);
        counts.add(&ascending, 2);
        counts.add(&ascending, 1);
        let evaluation = counts.finish();
        assert_eq!((evaluation.pictures, evaluation.accuracy), (3, 1.0 / 3.0));
        assert_eq!(evaluation.top5, 2.0 / 3.0);
        assert_eq!((evaluation.confusion[2][6], evaluation.confusion[6][6]), (1, 1));
    }

    #[test]
    fn loss_of_even_logits_is_the_logarithm_of_the_classes() {
        assert!((log_softmax_at(&[3.0; 4], 2) + 4f64.ln()).abs() < 1e-12);
    }
}
