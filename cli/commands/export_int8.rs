//! `distill export --format onnx-int8`: the pictures, the gate, and the table of what it measured.

use std::path::Path;

use ::export::quantize::{self, Gate, Options, Pictures, Quantization, pictures::PROCEDURAL};
use ::export::triton::{self, TritonOptions, TritonReport};
use ::export::{Encoded, ExportError, Written};
use ::export::{accuracy, bundle};
use models::{Granularity, Manifest};

use crate::args::{ExportArgs, Int8Args};
use crate::dataset;
use crate::failure::{Failure, Result};
use crate::print::{self, Table, percent, thousands};

/// Writes the file if it is good enough, or by force.
pub fn write(args: &ExportArgs, out: Option<&Path>) -> Result<(Written, Gate)> {
    check_input(args)?;
    let (written, gate) = quantize::export(&args.model, out, &pictures(args)?, &options(args)?)?;
    note_refusals(&gate);
    Ok((written, gate))
}

/// The same into a model repository.
pub fn write_repository(args: &ExportArgs, repository: &TritonOptions) -> Result<(TritonReport, Gate)> {
    check_input(args)?;
    let (pictures, options) = (pictures(args)?, options(args)?);
    let mut judged = None;
    let report = triton::write_with(&args.model, repository, |manifest, weights, out| {
        let Quantization { bytes, gate } = quantize::quantize(manifest, weights, out, &pictures, &options)?;
        judged = Some(gate);
        Ok(Encoded { bytes, parity: Vec::new() })
    })?;
    let gate = judged.ok_or_else(|| Failure::broken("a repository was written without its network"))?;
    note_refusals(&gate);
    Ok((report, gate))
}

fn check_input(args: &ExportArgs) -> Result {
    match args.input.as_str() {
        "f32-nchw" => Ok(()),
        other => Err(Failure::mendable(format!(
            "--input {other}: a file in int8 takes f32-nchw, found another; leave --input out"
        ))),
    }
}

fn note_refusals(gate: &Gate) {
    for refusal in &gate.refusals {
        print::note(format!("written by --force and marked in its metadata: {refusal}"));
    }
}

fn options(args: &ExportArgs) -> Result<Options> {
    Ok(Options {
        calibrations: calibrations(&args.int8)?,
        granularities: granularities(&args.int8.granularity)?,
        max_drop: args.int8.max_drop,
        force: args.int8.force,
        ort_lib: args.ort_lib.clone(),
        ..Options::default()
    })
}

/// How the quantized file of a bundle is made: from the pictures that the bundle is measured on, unless --calibrate names
/// others. None where there are no pictures at all, which is said.
pub fn of_bundle(args: &ExportArgs, measured: Option<&accuracy::Pictures>) -> Result<Option<bundle::Int8>> {
    let pictures = match (measured, &args.int8.calibrate) {
        (_, Some(_)) => pictures(args)?,
        (Some(measured), None) => {
            let (manifest, _) = super::eval::load(&args.model)?;
            Pictures::of(measured, &manifest, counts(args)?)?
        }
        (None, None) => {
            print::note(
                "the bundle has no model.int8.onnx: there are no pictures; --calibrate SOURCE names some",
            );
            return Ok(None);
        }
    };
    Ok(Some(bundle::Int8 { pictures, options: options(args)? }))
}

fn calibrations(args: &Int8Args) -> Result<Vec<quantize::Calibration>> {
    let named = args.calibration.iter().map(|name| name.parse());
    let named = named.collect::<std::result::Result<Vec<_>, ExportError>>().map_err(Failure::mendable)?;
    Ok(if named.is_empty() { quantize::calibration::ALL.to_vec() } else { named })
}

fn granularities(name: &str) -> Result<Vec<Granularity>> {
    let both = [Granularity::PerChannel, Granularity::PerTensor];
    if name == "both" {
        return Ok(both.to_vec());
    }
    both.into_iter().find(|granularity| granularity.name() == name).map(|one| vec![one]).ok_or_else(|| {
        let known = ["both", "per-channel", "per-tensor"];
        let suggestion = models::nearest::suggestion(name, known);
        Failure::mendable(format!("no granularity `{name}`{suggestion}; known: {}", known.join(", ")))
    })
}

fn pictures(args: &ExportArgs) -> Result<Pictures> {
    let (manifest, _) = super::eval::load(&args.model)?;
    let counts = counts(args)?;
    let asked = args.int8.calibrate.as_deref();
    if asked == Some(PROCEDURAL) {
        let graph = manifest.graph().map_err(Failure::mendable)?;
        return Ok(Pictures::procedural(graph.input_shape(), counts));
    }
    of_dataset(args, asked, &manifest, counts)
}

fn counts(args: &ExportArgs) -> Result<[usize; 2]> {
    let counts = [args.int8.calibration_pictures, args.int8.held_out];
    match counts.contains(&0) {
        true => {
            let reason = "--calibration-pictures and --held-out: expected numbers above zero, found 0";
            Err(Failure::mendable(reason))
        }
        false => Ok(counts),
    }
}

fn of_dataset(
    args: &ExportArgs,
    asked: Option<&str>,
    manifest: &Manifest,
    counts: [usize; 2],
) -> Result<Pictures> {
    let source = asked.or(args.data.as_deref().filter(|&data| data != "none"));
    let (_, dataset) = dataset::open(source, &args.data_dir, 0, &args.model, manifest)
        .map_err(|failure| Failure { message: format!("{}; {MEND}", failure.message), ..failure })?;
    let divided = accuracy::Pictures::new(dataset, manifest)?;
    Ok(Pictures::of(&divided, manifest, counts)?)
}

const MEND: &str = "a file in int8 is calibrated on pictures like those it will see: name a data set with --calibrate SOURCE";

/// What the gate measured, as tables.
pub fn show_gate(gate: &Gate) {
    print::line(format!(
        "\ncalibrated on {} pictures of {}, judged by {} {} pictures",
        thousands(gate.calibrated_on as u64),
        gate.data,
        thousands(gate.count as u64),
        gate.split
    ));
    let mut table = Table::new(&["", "ranges", "weights", "top-1 %", "same as float %"]).with_texts(3);
    table.row([String::new(), "float".into(), String::new(), percent(gate.float_top1), percent(Some(1.0))]);
    for (index, candidate) in gate.candidates.iter().enumerate() {
        table.row([
            if index == gate.chosen { "kept".into() } else { String::new() },
            candidate.calibration.clone(),
            candidate.granularity.clone(),
            percent(candidate.top1),
            percent(Some(candidate.agreement)),
        ]);
    }
    table.print();
    print::line("");
    let mut table =
        Table::new(&["engine", "float us", "int8 us", "times as fast", "top-1 %", "same as float %"]);
    for speed in &gate.engines {
        let slower = if speed.slower() { " (slower)" } else { "" };
        table.row([
            speed.engine.clone(),
            format!("{:.0}", speed.float_us),
            format!("{:.0}", speed.int8_us),
            format!("{:.2}{slower}", speed.float_us / speed.int8_us),
            percent(speed.top1),
            percent(Some(speed.agreement)),
        ]);
    }
    table.print();
    print::line(format!(
        "\n{} bytes, {:.0} % of the float file; {}, one thread, one picture, medians",
        thousands(gate.int8_bytes as u64),
        100.0 * gate.int8_bytes as f64 / gate.float_bytes.max(1) as f64,
        gate.machine.cpu
    ));
}
