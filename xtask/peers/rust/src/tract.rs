//! tract's side of `cargo xtask peers`: median milliseconds of a call with one picture.
//!
//! Arguments: ONNX file, picture size, threads, calls. Answers each line of its input with a figure. One picture at a
//! fixed size is told to tract before it optimizes, and its threads share the matrix products.

use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, size, threads, calls] = arguments.as_slice() else {
        return Err("expected FILE SIZE THREADS CALLS".into());
    };
    let (size, threads, calls): (usize, usize, usize) = (size.parse()?, threads.parse()?, calls.parse()?);
    if threads > 1 {
        set_default_executor(Executor::multithread(threads));
    }
    let shape = [1, 3, size, size];
    let model = tract_onnx::onnx()
        .model_for_path(path)?
        .with_input_fact(0, f32::fact(shape).into())?
        .into_optimized()?
        .into_runnable()?;
    let mut state = model.spawn()?;
    let pixels = (0..3 * size * size).map(|index| (index % 251) as f32 / 250.0).collect::<Vec<_>>();
    let picture: TValue = Tensor::from_shape(&shape, &pixels)?.into();
    let mut call = || -> TractResult<f64> {
        let start = Instant::now();
        state.run(tvec!(picture.clone()))?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    for _ in 0..5 {
        call()?;
    }
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut times = (0..calls).map(|_| call()).collect::<TractResult<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        println!("{}", times[times.len() / 2]);
    }
    Ok(())
}
