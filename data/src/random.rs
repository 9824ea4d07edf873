//! Counter-based randomness: what happens to a picture depends on what it is, never on who got to it first.
//!
//! A [`Stream`] is named by numbers such as (seed, epoch, sample, view) and yields the same values on every machine,
//! in every thread, in any order of streams. The generator is SplitMix64 (Steele, Lea and Flood, 2014): the `n`-th
//! value is a bijective mixing of `key + n * gamma`, so that nothing but a key and a counter is kept.
//!
//! Never here: a global generator, entropy from the system, cryptography.

/// 2^64 / golden ratio, odd: SplitMix64's step.
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finalizer: a bijection of `u64` in which every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A stream of random values named by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of these names; their order and number matter.
    ///
    /// ```
    /// use data::random::Stream;
    /// let (seed, epoch, sample, view) = (3, 0, 1207, 1);
    /// let once = Stream::new(&[seed, epoch, sample, view]).next_u64();
    /// assert_eq!(once, Stream::new(&[seed, epoch, sample, view]).next_u64());
    /// assert_ne!(once, Stream::new(&[seed, epoch, view, sample]).next_u64());
    /// ```
    pub fn new(names: &[u64]) -> Self {
        let key = names.iter().fold(names.len() as u64, |key, &name| {
            mix(key.wrapping_add(GAMMA)) ^ mix(name.wrapping_mul(GAMMA).wrapping_add(1))
        });
        Self { state: mix(key) }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A whole number in `0..bound`, by multiplication and shift (a bias below 2^-32 for bounds of 32 bits).
    /// 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A whole number in `low..=high`.
    pub fn between(&mut self, low: i32, high: i32) -> i32 {
        low + self.below((high - low + 1).max(0) as usize) as i32
    }

    /// A number in `0.0..1.0`, on a grid of 2^-24.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// A number in `low..high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// A number with mean 0 and variance 1 whose tails end at 3.46: the sum of four uniform ones, scaled. Enough for
    /// pixel noise, cheap, and without a library's logarithm, so that it is the same everywhere.
    pub fn noise(&mut self) -> f32 {
        let bits = self.next_u64();
        let sum: u32 = (0..4).map(|quarter| (bits >> (16 * quarter)) as u16 as u32).sum();
        (sum as f32 / 65536.0 - 2.0) * 3.0f32.sqrt()
    }

    /// Puts the items in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The numbers `0..count` in the random order that these names give.
pub fn permutation(count: usize, names: &[u64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    Stream::new(names).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first three values of SplitMix64 from state 1234567, as published with the reference generator in C.
    #[test]
    fn the_generator_is_splitmix64() {
        let mut stream = Stream { state: 1_234_567 };
        let first: Vec<u64> = (0..3).map(|_| stream.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    /// Chi-squared of 16 cells over the first value of 64,000 neighboring streams: 15 degrees of freedom, and 50 is
    /// beyond the 1e-5 quantile.
    #[test]
    fn neighboring_streams_are_uniform() {
        for varied in 0..4 {
            let mut cells = [0f64; 16];
            for n in 0..64_000u64 {
                let mut names = [7, 1, 2, 3];
                names[varied] = n;
                cells[Stream::new(&names).below(16)] += 1.0;
            }
            let chi: f64 = cells.iter().map(|&cell| (cell - 4000.0).powi(2) / 4000.0).sum();
            assert!(chi < 50.0, "name {varied}: chi-squared {chi}");
        }
    }

    #[test]
    fn values_stay_in_their_ranges_and_spread() {
        let mut stream = Stream::new(&[1]);
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for _ in 0..20_000 {
            assert!(stream.below(7) < 7);
            assert!((-3..=3).contains(&stream.between(-3, 3)));
            assert!((0.0..1.0).contains(&stream.unit()));
            let noise = f64::from(stream.noise());
            sum += noise;
            squares += noise * noise;
        }
        assert!((sum / 20_000.0).abs() < 0.05 && (squares / 20_000.0 - 1.0).abs() < 0.05);
        assert_eq!(stream.below(0), 0);
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = permutation(1000, &[5, 6]);
        assert_ne!(order, permutation(1000, &[5, 7]));
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..1000));
        assert!(permutation(0, &[1]).is_empty());
    }
}
