//! Answers held against labels, and against other answers: what training, distillation and export count by, so that no
//! two of them count differently.
//!
//! Never here: whatever gives the answers.

/// Answers that count as right for top-5.
const FIVE: usize = 5;

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

/// Counts right answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    count: usize,
    first: usize,
    in_five: usize,
}

impl Tally {
    /// Counts the logits of one picture.
    pub fn add(&mut self, logits: &[f32], label: usize) {
        let rank = rank(logits, label);
        self.count += 1;
        self.first += usize::from(rank == 0);
        self.in_five += usize::from(rank < FIVE);
    }

    /// Counts rows of `classes` logits; pictures without a label do not count.
    pub fn add_all(&mut self, logits: &[f32], labels: &[Option<u32>], classes: usize) {
        for (row, label) in logits.chunks_exact(classes.max(1)).zip(labels) {
            if let Some(label) = label {
                self.add(row, *label as usize);
            }
        }
    }

    /// The shares; zeros where nothing was counted.
    pub fn score(&self) -> Score {
        let share = |right: usize| right as f64 / self.count.max(1) as f64;
        Score { count: self.count, top1: share(self.first), top5: share(self.in_five) }
    }
}

/// Index of the largest value: the first of equals, and 0 where none is a number.
pub fn best_class(values: &[f32]) -> usize {
    let mut best = 0;
    for (class, value) in values.iter().enumerate() {
        if *value > values[best] || (values[best].is_nan() && !value.is_nan()) {
            best = class;
        }
    }
    best
}

/// The best class of each row of `classes` values.
pub fn best_classes(values: &[f32], classes: usize) -> Vec<usize> {
    values.chunks_exact(classes.max(1)).map(best_class).collect()
}

/// Share of equal answers, 0..1; 0 where there are none.
pub fn agreement(a: &[usize], b: &[usize]) -> f64 {
    let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
    same as f64 / a.len().max(1) as f64
}

/// Classes that are answered before this one: of equals those of lower indices; all, for what is no class or no number.
fn rank(logits: &[f32], class: usize) -> usize {
    let Some(&own) = logits.get(class).filter(|own| !own.is_nan()) else { return usize::MAX };
    let before = |(index, &logit): (usize, &f32)| logit > own || (logit == own && index < class);
    logits.iter().enumerate().filter(|&(index, logit)| before((index, logit))).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_worked_by_hand() {
        let logits = [[0.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]].concat();
        let score = |labels: [Option<u32>; 2]| {
            let mut tally = Tally::default();
            tally.add_all(&logits, &labels, 7);
            tally.score()
        };
        let ties_go_to_the_lower_index = Score { count: 2, top1: 0.5, top5: 1.0 };
        assert_eq!(score([Some(1), Some(1)]), ties_go_to_the_lower_index);
        assert_eq!(score([Some(0), None]), Score { count: 1, top1: 0.0, top5: 0.0 });
        assert_eq!(score([None, None]), Score { count: 0, top1: 0.0, top5: 0.0 });
    }

    #[test]
    fn what_is_first_by_rank_is_the_best_class() {
        for logits in [[1.0, 3.0, 3.0], [f32::NAN, 1.0, 2.0], [2.0, f32::NAN, 2.0], [f32::NEG_INFINITY; 3]] {
            let first = (0..3).find(|&class| rank(&logits, class) == 0);
            assert_eq!(first, Some(best_class(&logits)), "{logits:?}");
        }
        assert_eq!(best_class(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(best_class(&[f32::NAN; 3]), 0);
        assert_eq!(rank(&[f32::NAN; 3], 0), usize::MAX, "what is no number is never right");
    }

    #[test]
    fn agreement_is_about_best_classes() {
        let classes = |values: [f32; 4]| best_classes(&values, 2);
        assert_eq!(agreement(&classes([1.0, 0.0, 0.0, 1.0]), &classes([9.0, 8.0, 3.0, 2.0])), 0.5);
        assert_eq!(agreement(&classes([1.0, f32::NAN, 0.0, 0.0]), &classes([1.0, 0.0, 0.0, 0.0])), 1.0);
        assert_eq!(agreement(&[1, 2, 3, 4], &[1, 2, 0, 4]), 0.75);
        assert_eq!(agreement(&[], &[]), 0.0);
    }
}
