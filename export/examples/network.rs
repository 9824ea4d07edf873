//! Writes an architecture of the zoo, on weights filled by a formula, as an ONNX file: something to time others with.
//!
//! `cargo run --release -p distill-export --example network -- resnet18 48 resnet18.onnx`
#![allow(clippy::print_stdout)] // an example prints

use std::error::Error;
use std::path::Path;

use export::{Format, Options, export_network};
use models::{Fit, Manifest, Task, formula};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [arch, size, out] = arguments.as_slice() else { return Err("expected ARCH SIZE FILE".into()) };
    let labels: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    let manifest = Manifest::new(arch, &Task::new(10, 3, size.parse()?), labels, Fit::Stretch)?;
    let weights = formula::weights(&manifest.graph()?, 1.0);
    for parity in export_network(&manifest, &weights, Path::new(out), &Options::new(Format::Onnx))?.parity {
        println!("{parity:?}");
    }
    Ok(())
}
