//! Cross-entropy against classes, smoothed classes and soft targets, with a weight per sample.

use candle_core::{D, DType, Device, Result, Tensor};

use super::log_softmax;

/// Rows of zeros with a one at each label: `[n, classes]`.
///
/// # Errors
/// candle's.
///
/// # Panics
/// If a label is not a class: a slip of the caller, since data checks its labels.
pub fn one_hot(labels: &[u32], classes: usize, device: &Device) -> Result<Tensor> {
    smoothed_one_hot(labels, classes, 0.0, device)
}

/// [`one_hot`] of labels that are a tensor, `[n]` of `u32`, where they lie.
///
/// # Errors
/// candle's.
pub fn one_hot_of(labels: &Tensor, classes: usize) -> Result<Tensor> {
    let all = Tensor::arange(0, classes as u32, labels.device())?;
    labels.unsqueeze(1)?.broadcast_eq(&all.unsqueeze(0)?)?.to_dtype(DType::F32)
}

/// One-hot rows of which a share `smoothing` is spread evenly over all classes, the right one among them
/// (Szegedy et al. 2016; torch's `label_smoothing`).
///
/// # Errors
/// candle's.
///
/// # Panics
/// As [`one_hot`].
pub fn smoothed_one_hot(labels: &[u32], classes: usize, smoothing: f32, device: &Device) -> Result<Tensor> {
    let mut rows = vec![smoothing / classes as f32; labels.len() * classes];
    for (row, &label) in rows.chunks_exact_mut(classes).zip(labels) {
        row[label as usize] += 1.0 - smoothing;
    }
    Tensor::from_vec(rows, (labels.len(), classes), device)
}

/// Mean over the batch of `-sum_k target_k log softmax(logits)_k`; `targets` as [`one_hot`] or any soft labels.
///
/// # Errors
/// candle's.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    per_sample(logits, targets)?.mean_all()
}

/// Sum of the samples' cross-entropies times their `weights` `[n]`, divided by the batch's size, not by the weights'
/// sum: a mask of few ones gives a small loss, as FixMatch and CoMatch have it.
///
/// # Errors
/// candle's.
pub fn weighted_cross_entropy(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    (per_sample(logits, targets)? * weights)?.mean_all()
}

fn per_sample(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    (log_softmax(logits)? * targets)?.sum(D::Minus1)?.neg()
}

// The numbers are PyTorch 2.15's; `a`, `b` are the logits of `check::logits`:
//   F.cross_entropy(a, torch.tensor([0, 2]))                       and  label_smoothing=0.1, with .backward()
//   (F.cross_entropy(a, softmax(b, 1), reduction='none') * tensor([1., 0.])).mean()
#[cfg(test)]
mod tests {
    use super::super::check::{close, gradient, logits};
    use super::super::softmax;
    use super::*;

    #[test]
    fn equals_torch() {
        let (a, _) = logits();
        let loss = cross_entropy(&a, &one_hot(&[0, 2], 3, &Device::Cpu).unwrap()).unwrap();
        let found = one_hot_of(&Tensor::new(&[0_u32, 2], &Device::Cpu).unwrap(), 3).unwrap();
        assert_eq!(found.to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]);
        close(&loss, &[2.648_148_3]);
    }

    #[test]
    fn smoothing_equals_torch() {
        let (a, _) = logits();
        let loss = cross_entropy(&a, &smoothed_one_hot(&[0, 2], 3, 0.1, &Device::Cpu).unwrap()).unwrap();
        close(&loss, &[2.606_481_6]);
        let expected = [-0.073_868_16, 0.002_889_62, 0.070_978_53, 0.006_895_04, 0.456_582_9, -0.463_477_94];
        close(&gradient(&loss, &a), &expected);
    }

    #[test]
    fn a_weight_of_zero_removes_the_sample_but_not_its_place_in_the_mean() {
        let (a, b) = logits();
        let weights = Tensor::new(&[1f32, 0.0], &Device::Cpu).unwrap();
        let loss = weighted_cross_entropy(&a, &softmax(&b).unwrap(), &weights).unwrap();
        close(&loss, &[0.555_271_3]);
        close(&gradient(&loss, &a), &[0.060_178_04, -0.102_807_95, 0.042_629_91, 0.0, 0.0, 0.0]);
    }
}
