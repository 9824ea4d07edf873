//! Similarities between embeddings, and graphs of samples as targets for them.

use candle_core::{D, Result, Tensor};

use super::{log_softmax, normalize_rows};

/// Rows scaled to Euclidean length one.
///
/// # Errors
/// candle's.
pub fn unit_rows(values: &Tensor) -> Result<Tensor> {
    // Within the root, so that a row of zeros has a finite gradient.
    let lengths = (values.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    values.broadcast_div(&lengths)
}

/// Cosine similarities of unit rows over a temperature: `[n, d]` and `[m, d]` to `[n, m]`.
///
/// # Errors
/// candle's.
pub fn similarity(a: &Tensor, b: &Tensor, temperature: f64) -> Result<Tensor> {
    a.contiguous()?.matmul(&b.t()?.contiguous()?)? / temperature
}

/// CoMatch's pseudo-label graph W^q: `probabilities . probabilities^T` with ones on the diagonal, zero below
/// `threshold`, rows summing to one (Li et al. 2021, eq. 8).
///
/// # Errors
/// candle's.
pub fn pseudo_label_graph(probabilities: &Tensor, threshold: f64) -> Result<Tensor> {
    let n = probabilities.dim(0)?;
    let overlap = probabilities.matmul(&probabilities.t()?.contiguous()?)?;
    let diagonal = Tensor::eye(n, overlap.dtype(), overlap.device())?;
    let with_self = ((&diagonal + (&overlap * diagonal.affine(-1.0, 1.0)?)?)?).contiguous()?;
    let kept = with_self.ge(threshold)?.to_dtype(with_self.dtype())?;
    normalize_rows(&(with_self * kept)?)
}

/// Mean over rows of `-sum_j target_ij log softmax(similarities_i)_j`: the embedding graph is pulled towards the target
/// graph.
///
/// # Errors
/// candle's.
pub fn graph_cross_entropy(target: &Tensor, similarities: &Tensor) -> Result<Tensor> {
    (log_softmax(similarities)? * target)?.sum(D::Minus1)?.neg()?.mean_all()
}

#[cfg(test)]
mod tests {
    use super::super::check::{close, constant};
    use super::*;

    #[test]
    fn rows_become_unit_length() {
        close(&unit_rows(&constant(&[[3.0, 4.0], [0.0, -2.0]])).unwrap(), &[0.6, 0.8, 0.0, -1.0]);
    }

    #[test]
    fn the_graph_keeps_self_loops_and_strong_edges() {
        // 0.9*0.8 + 0.1*0.2 = 0.74 is an edge at 0.7; 0.9*0.1 + 0.1*0.9 = 0.18 and 0.26 are not.
        let graph = pseudo_label_graph(&constant(&[[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]), 0.7).unwrap();
        let (own, edge) = (1.0 / 1.74, 0.74 / 1.74);
        close(&graph, &[own, edge, 0.0, edge, own, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_graph_equal_to_the_softmax_costs_its_entropy() {
        let similarities = constant(&[[0.0, 0.0], [0.0, 0.0]]);
        let loss = graph_cross_entropy(&constant(&[[0.5, 0.5], [1.0, 0.0]]), &similarities).unwrap();
        close(&loss, &[std::f32::consts::LN_2]);
    }
}
