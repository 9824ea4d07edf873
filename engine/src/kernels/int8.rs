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
//! clamp(round(sum * multiplier[channel] + residual) + zero_point)
//! multiplier = x.scale * weight_scale / y.scale
//! ```
//!
//! where `round` takes ties to the even number, each operation is rounded by itself (none is fused), and `clamp` is the
//! range of the byte or that of a fused ReLU or ReLU6. Other activations follow as a [`Table`] of 256 bytes.
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

/// How the bytes of a tensor stand for real numbers: `scale * (byte - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// Real numbers between neighboring bytes; above zero.
    pub scale: f32,
    /// The byte of zero.
    pub zero_point: u8,
}

impl Quantization {
    /// The quantization of bytes that are 128 larger than those of a signed tensor with this zero point.
    pub fn of_signed(scale: f32, zero_point: i8) -> Self {
        Self { scale, zero_point: (zero_point as u8) ^ 0x80 }
    }

    /// The finest quantization that holds the numbers from `low` to `high`, and zero exactly.
    ///
    /// Source: ONNX's `DynamicQuantizeLinear`.
    pub fn of_range(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = ((high - low) / 255.0).max(f32::MIN_POSITIVE);
        Self { scale, zero_point: (-low / scale).round_ties_even().clamp(0.0, 255.0) as u8 }
    }

    /// The nearest byte, ties to even; the least or largest for numbers out of range, the least for what is not a
    /// number.
    pub fn quantize(self, real: f32) -> u8 {
        elementwise::byte(real / self.scale, self.zero_point)
    }

    /// The number that a byte stands for.
    pub fn dequantize(self, byte: u8) -> f32 {
        (f32::from(byte) - f32::from(self.zero_point)) * self.scale
    }
}

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
}

impl Output {
    /// Bytes as they come.
    pub fn new(quantization: Quantization) -> Self {
        Self { quantization, low: 0, high: 255, table: None }
    }

    /// An activation that is a range of bytes; `None` for one that needs a table, as [`activation_table`] makes it.
    pub fn clamped(quantization: Quantization, activation: Activation) -> Option<Self> {
        let high = match activation {
            Activation::Relu => 255,
            Activation::Relu6 => quantization.quantize(6.0),
            _ => return None,
        };
        Some(Self { quantization, low: quantization.zero_point, high, table: None })
    }

    /// The same with a table behind it.
    pub fn then(mut self, table: Table) -> Self {
        self.table = Some(Box::new(table));
        self
    }

    fn rounding(&self) -> lanes::Rounding {
        lanes::Rounding { zero_point: self.quantization.zero_point, low: self.low, high: self.high }
    }
}

/// The table of an activation: for every byte of `x` the byte of `y` nearest to the activation of its number.
pub fn activation_table(x: Quantization, activation: Activation, y: Quantization) -> Table {
    std::array::from_fn(|byte| {
        let value = Portable::splat(x.dequantize(byte as u8));
        y.quantize(simd::activate(activation, value).sum() / Portable::LANES as f32)
    })
}

/// Weights of `outputs` output channels as i8, -127..=127, with a scale per channel so that the largest is 127.
///
/// # Panics
/// If there are not equally many for every output.
pub fn quantize_weights(weights: &[f32], outputs: usize) -> (Vec<i8>, Vec<f32>) {
    let each = weights.len() / outputs.max(1);
    assert_eq!(each * outputs, weights.len(), "weights of {outputs} outputs");
    let mut bytes = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(outputs);
    for channel in weights.chunks_exact(each.max(1)) {
        let largest = channel.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        bytes.extend(
            channel.iter().map(|weight| (weight / scale).round_ties_even().clamp(-127.0, 127.0) as i8),
        );
        scales.push(scale);
    }
    (bytes, scales)
}
