//! A network quantized to bytes, as a plain value: whole-number weights, and for every map how its bytes stand for real
//! numbers. Calibration makes it, the ONNX writer writes it, a reader gets it back from the file, the engine runs it.
//!
//! # The scheme
//! That of ONNX's static `QuantizeLinear`: a byte `q` of a map stands for `scale * (q - zero_point)`. Weights are i8
//! without a zero point, with a scale per output channel (all equal if they are per tensor). A bias is i32 with the scale
//! `input scale * weight scale`. Batch norm is folded in; one that no layer can take stays in f32.
//!
//! Never here: the choice of ranges, or arithmetic on maps.

use std::collections::BTreeMap;

use crate::Weights;

/// How the bytes of a map stand for real numbers: `scale * (byte - zero_point)`.
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
    ///
    /// Source: ONNX's `QuantizeLinear`.
    #[inline(always)] // an instance for every instruction set
    pub fn quantize(self, real: f32) -> u8 {
        let zero_point = f32::from(self.zero_point);
        let (low, high) = (0.0 - zero_point, 255.0 - zero_point);
        let value = (real / self.scale).round_ties_even();
        let value = if value > low { value } else { low };
        let value = if value < high { value } else { high };
        (value + zero_point) as i32 as u8
    }

    /// The number that a byte stands for.
    ///
    /// Source: ONNX's `DequantizeLinear`.
    #[inline(always)]
    pub fn dequantize(self, byte: u8) -> f32 {
        (f32::from(byte) - f32::from(self.zero_point)) * self.scale
    }
}

/// Whether the weights of a layer share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// A scale for every output channel.
    PerChannel,
    /// One scale for the whole weight.
    PerTensor,
}

impl Granularity {
    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Granularity::PerChannel => "per-channel",
            Granularity::PerTensor => "per-tensor",
        }
    }
}

/// A convolution's or linear layer's whole numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedLayer {
    /// `[out, in / groups, kernel, kernel]` or `[out, in]`, as that of the float weight.
    pub shape: Vec<usize>,
    /// Row-major.
    pub weight: Vec<i8>,
    /// One per output channel.
    pub scales: Vec<f32>,
    /// One per output channel, in units of `input scale * scales[channel]`.
    pub bias: Vec<i32>,
}

impl QuantizedLayer {
    /// Whether one scale holds for the whole weight.
    pub fn granularity(&self) -> Granularity {
        let first = self.scales.first();
        let one = self.scales.iter().all(|scale| Some(scale) == first);
        if one { Granularity::PerTensor } else { Granularity::PerChannel }
    }
}

/// A quantized network: what its graph does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizedNetwork {
    /// Layers by the name of their node.
    pub layers: BTreeMap<String, QuantizedLayer>,
    /// Maps by the name of the node that makes them.
    pub maps: BTreeMap<String, Quantization>,
    /// Arrays of the batch norms that no layer took in, by their names in the float network.
    pub norms: Weights,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_becomes_the_bytes_that_onnx_gives_it() {
        // (-1 .. 2): scale 3 / 255, zero point round(85) = 85; DynamicQuantizeLinear's formula by hand.
        let map = Quantization::of_range(-1.0, 2.0);
        assert_eq!(
            (map.zero_point, map.quantize(0.0), map.quantize(9.0), map.quantize(-9.0)),
            (85, 85, 255, 0)
        );
        assert_eq!(map.dequantize(85), 0.0);
        assert_eq!(Quantization::of_range(0.5, 2.0).zero_point, 0, "zero is always held");
        assert_eq!(
            Quantization { scale: 2.0, zero_point: 1 }.quantize(1.0),
            1,
            "a tie goes to the even number"
        );
        assert_eq!(map.quantize(f32::NAN), 0);
    }

    #[test]
    fn equal_scales_are_one_scale() {
        let layer = |scales: &[f32]| QuantizedLayer {
            shape: vec![2, 1],
            weight: vec![1, 2],
            scales: scales.to_vec(),
            bias: vec![0, 0],
        };
        assert_eq!(layer(&[0.5, 0.5]).granularity(), Granularity::PerTensor);
        assert_eq!(layer(&[0.5, 0.25]).granularity(), Granularity::PerChannel);
    }
}
