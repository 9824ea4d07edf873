//! Weights and pictures by formula, the same bits here and in `engine/tests/fixtures/formula.py`: what comparisons
//! with PyTorch are made on, without a file of weights. Never a way to start a training; that is [`crate::Init`]'s.
//!
//! Every value comes from a counter: the hash of the array's name and the place of the value in it. The uniform `u`
//! is a whole number over 2^24, exact in `f32`; what follows is done in `f64` and rounded once.

use crate::{Array, Graph, Parameter, Role, Weights};

/// All of `graph`'s parameters and running statistics: weights of variance `2 gain^2 / fan_in`, batch norm near the
/// identity but nowhere at it.
pub fn weights(graph: &Graph, gain: f64) -> Weights {
    graph
        .parameters()
        .into_iter()
        .map(|parameter| (parameter.name.clone(), array(&parameter, gain)))
        .collect()
}

/// One stored array.
pub fn array(parameter: &Parameter, gain: f64) -> Array {
    let name = hash(&parameter.name);
    let fan_in: usize = parameter.shape.iter().skip(1).product();
    let bound = gain * (6.0 / fan_in as f64).sqrt();
    let value = |index: usize| spread(parameter.role, bound, uniform(name, index as u64)) as f32;
    Array::new(parameter.shape.clone(), (0..parameter.elements()).map(value).collect())
}

/// `u` of 0..1 to where values of this role live; `bound` is the weights'.
fn spread(role: Role, bound: f64, u: f64) -> f64 {
    let signed = 2.0 * u - 1.0;
    match role {
        Role::Weight => signed * bound,
        Role::Scale => 0.8 + 0.4 * u,
        Role::Bias | Role::Shift | Role::RunningMean => signed * 0.05,
        Role::RunningVar => 0.5 + u,
    }
}

/// Picture number `index`: `height` x `width` x `channels` bytes (HWC) of a base color, random 8x8 tiles and a slanted
/// ramp, each number with its own.
pub fn picture(index: usize, channels: usize, height: usize, width: usize) -> Vec<u8> {
    let (bases, tiles) = (hash("base"), hash("tile"));
    let mut pixels = Vec::with_capacity(height * width * channels);
    for row in 0..height {
        for column in 0..width {
            for channel in 0..channels {
                let plane = index * 64 + channel;
                let tile = (plane * 1024 + row / 8) * 1024 + column / 8;
                let base = (uniform(bases, plane as u64) * 128.0) as usize;
                let level = (uniform(tiles, tile as u64) * 64.0) as usize;
                pixels.push((base + level + (row * (index + 1) + column * (channel + 2)) % 64) as u8);
            }
        }
    }
    pixels
}

/// FNV-1a, 64 bits.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Number `index` of the stream `seed`, in 0..1: SplitMix64's finish of a counter, its top 24 bits.
fn uniform(seed: u64, index: u64) -> f64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f64 / 16_777_216.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, zoo};

    #[test]
    fn the_stream_is_splitmix64() {
        // First output of SplitMix64 seeded with 0 is 0xe220a8397b1dcdaf (the generator's published test value).
        assert_eq!(uniform(0, 0), 0xe220a8 as f64 / 16_777_216.0);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c, "FNV-1a's published test value");
    }

    #[test]
    fn weights_are_what_the_python_twin_prints() {
        // python3 engine/tests/fixtures/formula.py
        let graph = zoo::build("resnet18", &Task::new(10, 3, 64)).unwrap();
        let weights = weights(&graph, 1.0);
        let first = |name: &str| weights[name].data[..2].to_vec();
        assert_eq!(first("conv1.weight"), PRINTED[0]);
        assert_eq!(first("bn1.weight"), PRINTED[1]);
        assert_eq!(first("bn1.running_var"), PRINTED[2]);
        assert_eq!(first("fc.bias"), PRINTED[3]);
        let sum: u64 = picture(1, 3, 64, 64).iter().map(|&pixel| u64::from(pixel)).sum();
        assert_eq!(sum, PICTURE_SUM);
    }

    const PRINTED: [[f32; 2]; 4] = [
        [0.018213026, 0.09906029],
        [0.9440816, 1.1297636],
        [1.1423075, 1.2867534],
        [-0.00223487, -0.0019268214],
    ];
    const PICTURE_SUM: u64 = 1_220_480;
}
