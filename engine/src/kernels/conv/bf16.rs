//! Numbers in the upper half of an f32: weights that are read in half the time.
//!
//! Never here: arithmetic in bf16; sums are f32.

use crate::simd::{Isa, Simd, dispatch};

/// `value` rounded to the nearest bf16, ties to even. Not-a-number stays not-a-number.
pub fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The f32 of a bf16.
pub fn value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Memory of floats as twice as many bf16.
pub fn view(memory: &[f32]) -> &[u16] {
    // SAFETY: the same bytes; an f32 is aligned as a u16 must be, and any bits are a u16.
    unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() * 2) }
}

/// The same, to write.
pub fn view_mut(memory: &mut [f32]) -> &mut [u16] {
    // SAFETY: as in `view`; any bits are an f32.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), memory.len() * 2) }
}

/// All of `from` as f32.
///
/// # Panics
/// If the lengths differ, or are no whole number of vectors.
pub fn widen(isa: Isa, from: &[u16], to: &mut [f32]) {
    assert!(from.len() == to.len() && to.len().is_multiple_of(16), "{} from {} bf16", to.len(), from.len());
    dispatch!(isa, widen_kernel(from: &[u16], to: &mut [f32]));
}

#[inline(always)]
fn widen_kernel<V: Simd>(from: &[u16], to: &mut [f32]) {
    for start in (0..to.len()).step_by(V::LANES) {
        // SAFETY: both are as long as each other, a whole number of vectors.
        unsafe { V::load_bf16(from.as_ptr().add(start)).store(to.as_mut_ptr().add(start)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_ties_to_even() {
        // 1 + 2^-7 is the next bf16 after 1; halfway lies 1 + 2^-8.
        let step = 2.0_f32.powi(-7);
        for (number, expected) in [
            (1.0, 1.0),
            (1.0 + step * 0.5, 1.0),
            (1.0 + step * 0.500_01, 1.0 + step),
            (1.0 + step * 1.5, 1.0 + step * 2.0),
            (-0.0, -0.0),
            (-1.0 - step * 0.5, -1.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
        ] {
            assert_eq!(value(round(number)).to_bits(), f32::to_bits(expected), "{number}");
        }
        assert!(value(round(f32::NAN)).is_nan());
        assert!(value(round(f32::from_bits(0x7f80_0001))).is_nan());
    }

    #[test]
    fn widening_is_exact_under_every_instruction_set() {
        let bits: Vec<u16> = (0..1024).map(|index| index * 61).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut wide = vec![0.0; bits.len()];
            widen(isa, &bits, &mut wide);
            assert!(bits.iter().zip(&wide).all(|(&bits, wide)| wide.to_bits() == u32::from(bits) << 16));
        }
    }
}
