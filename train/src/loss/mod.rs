//! Losses as pure functions on candle tensors: logits `[n, classes]` in, a scalar out.
//!
//! Nothing here knows a network, a batch or a method. What must not receive a gradient is detached by the caller, where
//! the algorithm says so.

mod contrast;
mod cross_entropy;
mod divergence;

use candle_core::{D, Result, Tensor};

pub use contrast::{graph_cross_entropy, pseudo_label_graph, similarity, unit_rows};
pub use cross_entropy::{cross_entropy, one_hot, one_hot_of, smoothed_one_hot, weighted_cross_entropy};
pub use divergence::{kl, mean_squared_error, softmax_mse};

/// Logarithm of the softmax over the last dimension.
///
/// The maximum that keeps the exponentials finite is a constant to the gradient, which is exact: it cancels.
///
/// # Errors
/// candle's, as for every function here: shapes that do not fit.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let normalizer = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    shifted.broadcast_sub(&normalizer)
}

/// Softmax over the last dimension.
///
/// # Errors
/// candle's.
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    log_softmax(logits)?.exp()
}

/// Rows of non-negative values scaled so that each sums to one.
///
/// # Errors
/// candle's.
pub fn normalize_rows(values: &Tensor) -> Result<Tensor> {
    values.broadcast_div(&values.sum_keepdim(D::Minus1)?)
}

/// 1 where the largest value of a row of `probabilities` is at least `threshold`, else 0: `[n]`.
///
/// # Errors
/// candle's.
pub fn confident(probabilities: &Tensor, threshold: f64) -> Result<Tensor> {
    probabilities.max(D::Minus1)?.ge(threshold)?.to_dtype(probabilities.dtype())
}

#[cfg(test)]
mod check {
    //! Comparison with numbers worked elsewhere.
    use super::*;
    use candle_core::{Device, Var};

    /// `tensor` holds `expected` within 2e-6.
    pub fn close(tensor: &Tensor, expected: &[f32]) {
        let found: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(found.len(), expected.len());
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 2e-6 * b.abs().max(1.0));
        assert!(near, "expected {expected:?}, found {found:?}");
    }

    /// A trainable matrix.
    pub fn var<const N: usize>(rows: &[[f32; N]]) -> Var {
        Var::from_tensor(&constant(rows)).unwrap()
    }

    /// A matrix without gradient.
    pub fn constant<const N: usize>(rows: &[[f32; N]]) -> Tensor {
        Tensor::from_slice(rows.as_flattened(), (rows.len(), N), &Device::Cpu).unwrap()
    }

    /// Gradient of `loss` by `var`.
    pub fn gradient(loss: &Tensor, var: &Var) -> Tensor {
        loss.backward().unwrap().get(var).expect("the loss reaches this variable").clone()
    }

    /// Student's and teacher's logits of the tests.
    pub fn logits() -> (Var, Tensor) {
        (var(&[[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]), constant(&[[1.0, 0.0, -1.0], [0.5, 0.25, 2.0]]))
    }
}

#[cfg(test)]
mod tests {
    use super::check::{close, constant};
    use super::*;

    #[test]
    fn softmax_survives_large_logits() {
        close(&softmax(&constant(&[[1000.0, 1000.0], [-1e4, 0.0]])).unwrap(), &[0.5, 0.5, 0.0, 1.0]);
    }

    #[test]
    fn confidence_includes_the_threshold() {
        close(
            &confident(&constant(&[[0.5, 0.5], [0.75, 0.25], [0.1, 0.9]]), 0.75).unwrap(),
            &[0.0, 1.0, 1.0],
        );
    }
}
