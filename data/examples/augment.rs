//! Nanoseconds of each operation of RandAugment, and of the weak and strong views, a picture.
//!
//! `cargo run --release -p distill-data --example augment -- [SIDE]` prints the best of many trials on an RGB picture.
#![allow(clippy::print_stdout)] // an example prints

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use data::augment::{Scratch, apply, rand_augment::OPERATIONS};
use data::random::Stream;
use data::{Augment, PictureShape};

/// Pictures in a trial.
const PICTURES: u64 = 64;
const TRIALS: usize = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let side: usize = std::env::args().nth(1).map_or(Ok(32), |side| side.parse())?;
    let shape = PictureShape { channels: 3, height: side, width: side };
    let pixel = |index: usize| (index * 37 % 251 / 2 + index / (side * 3) % 97) as u8;
    let picture: Vec<u8> = (0..shape.bytes()).map(pixel).collect();
    let mut scratch = Scratch::default();
    let mut out = picture.clone();
    println!("{side} x {side} RGB, ns a picture");
    for operation in OPERATIONS {
        let best = best(|sample| {
            out.copy_from_slice(&picture);
            let level = 1 + (sample % 9) as u32;
            operation.apply(black_box(&mut out), shape, level, sample % 2 == 0, &mut scratch);
        });
        println!("{:<14}{best:>9.0}", format!("{operation:?}"));
    }
    for kind in [Augment::Weak, Augment::Strong] {
        let best = best(|sample| {
            let mut random = Stream::new(&[sample]);
            apply(kind, &picture, shape, true, &mut random, &mut scratch, black_box(&mut out));
        });
        println!("{:<14}{best:>9.0}", format!("{kind:?} view"));
    }
    Ok(())
}

/// Nanoseconds a picture of the fastest trial.
fn best(mut work: impl FnMut(u64)) -> f64 {
    let trial = |_| {
        let begun = Instant::now();
        (0..PICTURES).for_each(&mut work);
        begun.elapsed().as_nanos() as f64 / PICTURES as f64
    };
    (0..TRIALS).map(trial).fold(f64::INFINITY, f64::min)
}
