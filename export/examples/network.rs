//! Writes an architecture of the zoo, on weights filled by a formula, as an ONNX or a safetensors file: something to time
//! others with.
//!
//! `cargo run --release -p distill-export --example network -- resnet18 48 resnet18.onnx [CHANNELS]`
#![allow(clippy::print_stdout)] // an example prints

use std::error::Error;
use std::path::Path;

use export::{Format, Options, export_network};
use models::{Fit, Manifest, Task, formula};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (arch, size, out, channels) = match arguments.as_slice() {
        [arch, size, out] => (arch, size, out, 3),
        [arch, size, out, channels] => (arch, size, out, channels.parse()?),
        _ => return Err("expected ARCH SIZE FILE [CHANNELS]".into()),
    };
    let format = if out.ends_with(".safetensors") { Format::Safetensors } else { Format::Onnx };
    let labels: Vec<String> = (0..10).map(|class| class.to_string()).collect();
    let manifest = Manifest::new(arch, &Task::new(10, channels, size.parse()?), labels, Fit::Stretch)?;
    let weights = formula::weights(&manifest.graph()?, 1.0);
    for parity in export_network(&manifest, &weights, Path::new(out), &Options::new(format))?.parity {
        println!("{parity:?}");
    }
    Ok(())
}
