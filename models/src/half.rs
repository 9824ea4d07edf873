//! IEEE half precision: the bits of a number in 16, and back. What files store; nothing here computes in it.

/// The largest finite half.
pub const LARGEST: f32 = 65504.0;

/// Whether a number keeps its size: neither beyond the largest half nor not a number.
pub fn holds(value: f32) -> bool {
    value.abs() <= LARGEST
}

/// The number that these bits stand for, exactly.
pub fn decode(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let fraction = f32::from(bits & 0x3ff) / 1024.0;
    match bits >> 10 & 0x1f {
        0 => sign * fraction * 2f32.powi(-14),
        0x1f if fraction == 0.0 => sign * f32::INFINITY,
        0x1f => f32::NAN,
        exponent => sign * (1.0 + fraction) * 2f32.powi(i32::from(exponent) - 15),
    }
}

/// Bits of the nearest half, ties to even; infinity from half a step above [`LARGEST`] on.
pub fn encode(value: f32) -> u16 {
    let sign = (value.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    // Up to 2^-14 halves are whole numbers of 2^-24, and so is the rounding; above, 13 bits of the fraction are dropped.
    if magnitude < 2f32.powi(-14) {
        return sign | (magnitude * 2f32.powi(24)).round_ties_even() as u16;
    }
    let bits = magnitude.to_bits();
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    let half = (rounded >> 13).saturating_sub(112 << 10); // the exponent's bias is 127 there and 15 here
    sign | half.min(0x7c00) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_at_the_edges() {
        assert_eq!(decode(0x7bff), LARGEST);
        assert_eq!(decode(0xfc00), f32::NEG_INFINITY);
        assert!(decode(0x7c01).is_nan() && decode(encode(f32::NAN)).is_nan());
        assert_eq!(decode(0x8000).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn every_half_is_its_own_nearest() {
        for bits in (0..=u16::MAX).filter(|&bits| !decode(bits).is_nan()) {
            assert_eq!(encode(decode(bits)), bits, "{bits:#06x}");
        }
    }

    #[test]
    fn what_lies_between_goes_to_the_nearer_and_ties_to_the_even_one() {
        for low in (0..0x7bff_u16).step_by(7) {
            let (a, b) = (decode(low), decode(low + 1));
            let middle = a + (b - a) / 2.0; // exact: a half has 13 bits less than a float
            assert_eq!(encode(middle), low + (low & 1), "{low:#06x}");
            assert_eq!(encode(middle.next_up()), low + 1, "{low:#06x}");
            assert_eq!(encode(middle.next_down()), low, "{low:#06x}");
        }
        assert_eq!((encode(65519.0), encode(65520.0), encode(-1e30)), (0x7bff, 0x7c00, 0xfc00));
    }
}
