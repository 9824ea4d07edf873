//! Inference on bytes: convolution, pooling and elementwise kernels whose activations are u8 and whose weights are i8.
//!
//! # The scheme
//! That of ONNX's static per-tensor `QuantizeLinear`: a byte `q` of a tensor stands for `scale * (q - zero_point)`
//! ([`Quantization`]). Weights are i8 without a zero point and have a scale per output channel; a bias is i32 with the
//! scale `x.scale * weight_scale[channel]`. Tensors of i8 are the same numbers 128 lower: see
//! [`Quantization::of_signed`] and [`elementwise::flip_sign`].
//!
//! Products are summed in i32, which cannot overflow ([`Conv::new`] makes sure), so all instruction sets, divisions of the
//! work and thread counts give the same integers. A sum becomes a byte in f32,
//!
//! ```text
//! clamp(round(sum * multiplier[channel]) + zero_point)
//! multiplier = x.scale * weight_scale / y.scale
//! ```
//!
//! where `round` takes ties to the even number, each operation is rounded by itself (none is fused), and `clamp` is the
//! range of the byte or that of a fused ReLU or ReLU6. A residual is added to the byte, and the sum rounded once more. Other activations follow as a [`Table`] of 256 bytes.
//!
//! Padding is the zero point, so at the borders the sums are those of real zeros. The zero point itself is taken out of
//! the sums once, in the bias: `sum of (x - z) w = sum of x w - z * sum of w`.
//!
//! # Layout of the weights
//! Dense: `[group][block of 16 outputs][kh][kw][input quad][16 outputs][4 inputs]`, with zeros up to multiples of 16 outputs
//! and 4 inputs. Without groups the pixels under a row of the kernel lie side by side in the map and count as one pixel
//! of `kw * inputs` channels, which are filled up together: `[block][kh][quad of kw * inputs][16][4]`.
//! Depthwise: `[chunk of 64 channels][kw][kernel row quad][4][16 channels][4 kernel rows]`; see `depthwise.rs`.
//! Taps that meet nothing but padding, as on maps of 1x1, are left out.
//!
//! Never here: the choice of scales, or knowledge of a network.

use models::Activation;
pub use models::Quantization;

use crate::simd::{self, Portable, Simd};

mod conv;
mod depthwise;
pub mod elementwise;
mod lanes;
pub mod pooling;
mod source;
#[cfg(test)]
mod tests;
mod tile;

pub use conv::{Conv, Layer, Residual};

/// A byte for every byte.
pub type Table = [u8; 256];

/// What a layer makes of its sums.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Of the bytes before the table.
    pub quantization: Quantization,
    /// Least byte.
    pub low: u8,
    /// Largest byte.
    pub high: u8,
    /// Replaces every byte, after clamping.
    pub table: Option<Box<Table>>,
    /// What the sums are rounded to before a residual is added to them, as in an ONNX graph whose `Add` stands between
    /// quantized tensors; without it, to `quantization`.
    pub branch: Option<Quantization>,
}

impl Output {
    /// Bytes as they come.
    pub fn new(quantization: Quantization) -> Self {
        Self { quantization, low: 0, high: 255, table: None, branch: None }
    }

    /// An activation that is a range of bytes; `None` for one that needs a table, as [`activation_table`] makes it.
    pub fn clamped(quantization: Quantization, activation: Activation) -> Option<Self> {
        let high = match activation {
            Activation::Relu => 255,
            Activation::Relu6 => quantization.quantize(6.0),
            _ => return None,
        };
        Some(Self { quantization, low: quantization.zero_point, high, table: None, branch: None })
    }

    /// The same with a table behind it.
    pub fn then(mut self, table: Table) -> Self {
        self.table = Some(Box::new(table));
        self
    }

    /// The same for sums that are rounded to `branch` before a residual is added.
    pub fn of_branch(mut self, branch: Quantization) -> Self {
        self.branch = Some(branch);
        self
    }

    /// What sums are counted in.
    fn sums(&self) -> Quantization {
        self.branch.unwrap_or(self.quantization)
    }

    fn rounding(&self) -> lanes::Rounding {
        lanes::Rounding { zero_point: self.quantization.zero_point, low: self.low, high: self.high }
    }

    /// Of a number that has the zero point in it.
    fn rounding_of_sum(&self) -> lanes::Rounding {
        lanes::Rounding { zero_point: 0, ..self.rounding() }
    }

    /// How maps of these quantizations are added.
    fn addition(&self, terms: [Quantization; 2]) -> Addition {
        let factors = terms.map(|term| term.scale / self.quantization.scale);
        let [a, b] = [0, 1].map(|index| factors[index] * f32::from(terms[index].zero_point));
        Addition { factors, offset: f32::from(self.quantization.zero_point) - (a + b) }
    }
}

/// A sum of two maps in steps of the result, its zero point included: `(a * factors[0] + offset) + b * factors[1]`. The
/// order of operations is ONNX Runtime's.
#[derive(Clone, Copy, Debug)]
struct Addition {
    factors: [f32; 2],
    offset: f32,
}

impl Addition {
    #[inline(always)]
    fn of<V: Simd>(self, a: V, b: V) -> V {
        let [x, y] = self.factors.map(V::splat);
        a.mul(x).add(V::splat(self.offset)).add(b.mul(y))
    }
}

/// The table of an activation: for every byte of `x` the byte of `y` nearest to the activation of its number.
pub fn activation_table(x: Quantization, activation: Activation, y: Quantization) -> Table {
    std::array::from_fn(|byte| y.quantize(activated(activation, x.dequantize(byte as u8))))
}

/// Activations in the order of operations that ONNX defines: of the numbers that bytes stand for, many lie in the middle
/// between two bytes.
fn activated(activation: Activation, x: f32) -> f32 {
    let hard_sigmoid = |x: f32| (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0);
    match activation {
        Activation::HardSigmoid => hard_sigmoid(x),
        Activation::HardSwish => x * hard_sigmoid(x),
        _ => simd::activate(activation, Portable::splat(x)).sum() / Portable::LANES as f32,
    }
}
