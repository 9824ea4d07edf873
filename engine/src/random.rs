//! Counter-based random numbers: what is drawn depends on the key and the position alone, never on the order in which
//! threads or steps ask.

/// A stream of random numbers addressed by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stream(u64);

impl Stream {
    /// The stream of this seed.
    pub(crate) fn new(seed: u64) -> Self {
        Stream(mix(seed ^ 0x9e37_79b9_7f4a_7c15))
    }

    /// A stream of its own for `key` within this one.
    pub(crate) fn with(self, key: u64) -> Self {
        Stream(mix(self.0.wrapping_add(mix(key.wrapping_add(0x632b_e59b_d9b4_e019)))))
    }

    /// A stream of its own for a name within this one.
    pub(crate) fn named(self, name: &str) -> Self {
        let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        self.with(name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fnv))
    }

    /// What the stream is made of, for a device to draw from.
    #[cfg_attr(not(feature = "cuda-core"), allow(dead_code))]
    pub(crate) fn key(self) -> u64 {
        self.0
    }

    /// 64 random bits.
    #[inline]
    pub(crate) fn bits(self, position: u64) -> u64 {
        mix(self.0.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in `0..1`, in steps of 2^-24.
    #[inline]
    pub(crate) fn uniform(self, position: u64) -> f32 {
        (self.bits(position) >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal (Box and Muller).
    pub(crate) fn normal(self, position: u64) -> f32 {
        let bits = self.bits(position);
        let radius_draw = ((bits >> 32) as f64 + 1.0) / 4_294_967_296.0;
        let angle_draw = (bits & 0xffff_ffff) as f64 / 4_294_967_296.0;
        ((-2.0 * radius_draw.ln()).sqrt() * (std::f64::consts::TAU * angle_draw).cos()) as f32
    }
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014).
#[inline]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_key_and_position_alone() {
        let stream = Stream::new(3).named("conv.weight");
        assert_eq!(stream.bits(7), Stream::new(3).named("conv.weight").bits(7));
        assert_ne!(stream.bits(7), stream.bits(8));
        assert_ne!(stream.bits(7), Stream::new(4).named("conv.weight").bits(7));
        assert_ne!(stream.bits(7), Stream::new(3).named("conv.bias").bits(7));
        assert_ne!(stream.with(0).bits(0), stream.with(1).bits(0));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let (stream, count) = (Stream::new(1), 100_000);
        let moments = |draw: &dyn Fn(u64) -> f32| {
            let mean = (0..count).map(|i| f64::from(draw(i))).sum::<f64>() / count as f64;
            let var = (0..count).map(|i| (f64::from(draw(i)) - mean).powi(2)).sum::<f64>() / count as f64;
            (mean, var)
        };
        let (mean, var) = moments(&|i| stream.uniform(i));
        assert!((mean - 0.5).abs() < 0.005 && (var - 1.0 / 12.0).abs() < 0.002, "{mean} {var}");
        let (mean, var) = moments(&|i| stream.normal(i));
        assert!(mean.abs() < 0.015 && (var - 1.0).abs() < 0.02, "{mean} {var}");
    }
}
