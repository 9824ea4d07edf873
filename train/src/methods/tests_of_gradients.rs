//! What the methods' tests share: small trainable matrices and where a loss's gradient goes.

use candle_core::{Device, Tensor, Var};

/// A trainable matrix.
pub fn var<const N: usize>(rows: &[[f32; N]]) -> Var {
    Var::from_tensor(&constant(rows)).unwrap()
}

/// A matrix without gradient.
pub fn constant<const N: usize>(rows: &[[f32; N]]) -> Tensor {
    Tensor::from_slice(rows.as_flattened(), (rows.len(), N), &Device::Cpu).unwrap()
}

/// The one value of a scalar.
pub fn scalar(tensor: &Tensor) -> f32 {
    tensor.to_scalar().unwrap()
}

/// Gradient of `loss` by `var`; zeros where the loss does not reach it.
pub fn gradient_or_zeros(loss: &Tensor, var: &Var) -> Vec<f32> {
    let gradients = loss.backward().unwrap();
    let gradient = gradients.get(var).cloned().unwrap_or_else(|| var.zeros_like().unwrap());
    gradient.flatten_all().unwrap().to_vec1().unwrap()
}
