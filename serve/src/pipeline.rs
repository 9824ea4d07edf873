//! One picture's way, stage by stage: bytes, pixels of the network's size, logits, labels; and the clock beside it.

use std::time::{Duration, Instant};

use picture::{Fit, Limits, PictureError, Size};

use crate::http::wire::Candidate;

/// What a picture must become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub fit: Fit,
}

/// A picture of the network's size, and how long it took to get there.
pub(crate) struct Prepared {
    pub pixels: Vec<u8>,
    pub decode: Duration,
    pub preprocess: Duration,
}

pub(crate) fn prepare(bytes: &[u8], target: Target, limits: Limits) -> Result<Prepared, PictureError> {
    let begun = Instant::now();
    let picture = picture::decode_with(bytes, limits)?;
    let decoded = Instant::now();
    let size = Size { width: target.width, height: target.height };
    let pixels = picture::fit(&picture, size, target.fit, target.channels);
    Ok(Prepared { pixels, decode: decoded - begun, preprocess: decoded.elapsed() })
}

/// The `top` most probable classes, most probable first; of two as probable the one of the lower index.
pub(crate) fn ranked(logits: &[f32], labels: &[String], top: usize) -> Vec<Candidate> {
    let probabilities = softmax(logits);
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]).then(a.cmp(&b)));
    let candidate = |index: usize| Candidate {
        index,
        label: labels.get(index).cloned().unwrap_or_else(|| index.to_string()),
        probability: probabilities[index],
    };
    order.into_iter().take(top).map(candidate).collect()
}

pub(crate) fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_worked_by_hand() {
        let probabilities = softmax(&[0.0, 2.0_f32.ln(), 5.0_f32.ln()]);
        for (found, expected) in probabilities.iter().zip([0.125, 0.25, 0.625]) {
            assert!((found - expected).abs() < 1e-6, "{probabilities:?}");
        }
        assert_eq!(softmax(&[1000.0, 0.0]), [1.0, 0.0], "large logits do not overflow");
    }

    #[test]
    fn the_most_probable_come_first_and_ties_by_index() {
        let labels = ["a", "b", "c"].map(String::from);
        let top = ranked(&[1.0, 3.0, 1.0], &labels, 3);
        let named: Vec<_> = top.iter().map(|candidate| (candidate.index, candidate.label.as_str())).collect();
        assert_eq!(named, [(1, "b"), (0, "a"), (2, "c")]);
        assert_eq!(ranked(&[1.0, 3.0, 1.0], &labels, 1).len(), 1);
        assert_eq!(ranked(&[1.0, 3.0, 1.0], &labels, 9).len(), 3);
    }
}
