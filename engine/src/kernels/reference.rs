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
