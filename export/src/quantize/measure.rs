//! What a network answers and how fast: best classes, and the latency of two networks in turns.
//!
//! Never here: what is good enough.

use std::time::Instant;

use data::score::best_classes;
use engine::{Images, Model, Runtime};
use models::{Graph, Weights};

use super::Pictures;
use crate::Result;

/// Pictures that an engine is given at once.
const BATCH: usize = 64;
/// Calls before the first that counts.
const WARM_UP: usize = 20;

/// Best classes of the float network for the pictures held out.
pub fn float_classes(
    graph: &Graph,
    weights: &Weights,
    runtime: &Runtime,
    pictures: &Pictures,
) -> Result<Vec<usize>> {
    let mut model = Model::new(graph, weights, runtime)?;
    classes(pictures, |batch| Ok(model.run(Images::U8(batch))?.to_vec()))
}

/// Best classes for the pictures held out.
pub fn classes(pictures: &Pictures, mut run: impl FnMut(&[u8]) -> Result<Vec<f32>>) -> Result<Vec<usize>> {
    let mut classes = Vec::with_capacity(pictures.count());
    for batch in pictures.held_out.chunks(BATCH * pictures.each) {
        let logits = run(batch)?;
        let width = logits.len() / (batch.len() / pictures.each).max(1);
        classes.extend(best_classes(&logits, width));
    }
    Ok(classes)
}

/// Answers a picture.
type Callee<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// Median microseconds of two callees for one picture, asked in turns so that a disturbance meets both.
pub fn paired(pictures: &Pictures, samples: usize, [a, b]: [&mut Callee<'_>; 2]) -> Result<[f64; 2]> {
    let mut times = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
    let all = pictures.held_out.chunks_exact(pictures.each).cycle();
    for (index, picture) in all.take(samples.max(1) + WARM_UP).enumerate() {
        let taken = [timed(a, picture)?, timed(b, picture)?];
        if index >= WARM_UP {
            times.iter_mut().zip(taken).for_each(|(times, taken)| times.push(taken));
        }
    }
    Ok(times.map(median))
}

fn timed(callee: &mut Callee<'_>, picture: &[u8]) -> Result<f64> {
    let start = Instant::now();
    callee(picture)?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_what_was_taken() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
    }
}
