//! Plain scalar versions of the kernels, in f64 where it matters, for tests to compare with. Never used otherwise.

use models::Activation;

use crate::simd::Isa;

/// The instruction sets that this machine can run.
pub fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
}

/// Varied numbers within plus and minus `bound`, never at a kink of an activation.
pub fn ramp(len: usize, bound: f32) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 % 1000) as f32 / 500.0 - 0.9987) * bound).collect()
}

/// Asserts that two slices agree within `tolerance` of the larger of 1 and the value.
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "{what} [{index}]: {found}, expected {expected}"
        );
    }
}

/// Value of an activation.
pub fn activate(activation: Activation, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    let relu6 = |x: f64| x.clamp(0.0, 6.0);
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => relu6(x),
        Activation::LeakyRelu(slope) => x * if x > 0.0 { 1.0 } else { f64::from(slope) },
        Activation::Silu => x * sigmoid,
        Activation::HardSwish => x * relu6(x + 3.0) / 6.0,
        Activation::HardSigmoid => relu6(x + 3.0) / 6.0,
        Activation::Sigmoid => sigmoid,
    }
}

/// Derivative of an activation by central differences.
pub fn derivative(activation: Activation, x: f32) -> f32 {
    let (x, step) = (f64::from(x), 1e-6);
    ((activate(activation, x + step) - activate(activation, x - step)) / (2.0 * step)) as f32
}

/// A batch normalization with what follows it, in f64, and its gradients by the chain rule.
pub struct NormReference {
    /// Result.
    pub y: Vec<f32>,
    /// Gradient of the input.
    pub dz: Vec<f32>,
    /// Gradient of what was added.
    pub dresidual: Vec<f32>,
    /// Gradient of the scale.
    pub dscale: Vec<f32>,
    /// Gradient of the shift.
    pub dshift: Vec<f32>,
}

/// What [`norm`] takes, `[samples, positions, channels]`.
pub struct NormInput<'a> {
    /// Samples, positions, channels.
    pub sizes: [usize; 3],
    /// Input.
    pub z: &'a [f32],
    /// Scale per channel.
    pub scale: &'a [f32],
    /// Shift per channel.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// One per sample.
    pub factors: Option<&'a [f32]>,
    /// Added before the activation.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Option<Activation>,
    /// Gradient of the result.
    pub dy: &'a [f32],
}

/// Forward and backward with the batch's statistics.
pub fn norm(input: &NormInput<'_>) -> NormReference {
    let [samples, positions, channels] = input.sizes;
    let count = samples * positions;
    let mut result = NormReference {
        y: vec![0.0; input.z.len()],
        dz: vec![0.0; input.z.len()],
        dresidual: vec![0.0; input.z.len()],
        dscale: vec![0.0; channels],
        dshift: vec![0.0; channels],
    };
    for channel in 0..channels {
        let at = |row: usize| row * channels + channel;
        let column: Vec<f64> = (0..count).map(|row| f64::from(input.z[at(row)])).collect();
        let mean = column.iter().sum::<f64>() / count as f64;
        let variance = column.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / count as f64;
        let inverse = 1.0 / (variance + f64::from(input.eps)).sqrt();
        let (scale, shift) = (f64::from(input.scale[channel]), f64::from(input.shift[channel]));
        let factor = |row: usize| input.factors.map_or(1.0, |factors| f64::from(factors[row / positions]));
        let mut branch = vec![0.0; count];
        for row in 0..count {
            let normal = (column[row] - mean) * inverse;
            let residual = input.residual.map_or(0.0, |residual| f64::from(residual[at(row)]));
            let x = factor(row) * (scale * normal + shift) + residual;
            result.y[at(row)] = input.activation.map_or(x, |activation| activate(activation, x)) as f32;
            let slope =
                input.activation.map_or(1.0, |activation| f64::from(derivative(activation, x as f32)));
            let gradient = f64::from(input.dy[at(row)]) * slope;
            result.dresidual[at(row)] = gradient as f32;
            branch[row] = gradient * factor(row);
        }
        let sum: f64 = branch.iter().sum();
        let product: f64 = branch.iter().zip(&column).map(|(g, z)| g * (z - mean) * inverse).sum();
        result.dshift[channel] = sum as f32;
        result.dscale[channel] = product as f32;
        for row in 0..count {
            let normal = (column[row] - mean) * inverse;
            let centered = branch[row] - sum / count as f64 - normal * product / count as f64;
            result.dz[at(row)] = (scale * inverse * centered) as f32;
        }
    }
    result
}
