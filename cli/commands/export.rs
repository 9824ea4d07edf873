//! `distill export`: a run as ONNX, safetensors or a bundle, with the answers of other runtimes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::export::accuracy::Pictures;
use ::export::bundle::{self, BundleOptions, BundleReport};
use ::export::quantize::Gate;
use ::export::triton::{self, TritonOptions, TritonReport};
use ::export::{Format, Options, Report, export, input};
use serde_json::Value;

use crate::args::ExportArgs;
use crate::dataset;
use crate::failure::{Failure, Result};
use crate::print::{self, Table, percent, thousands};

/// Writes and reports.
pub fn run(args: &ExportArgs) -> Result {
    let formats = formats(args)?;
    if let Some(layout) = &args.layout {
        return repository(args, layout, &formats);
    }
    if let (Some(folder), 2..) = (&args.out, formats.len()) {
        let wrong = |error| Failure::mendable(format!("--out {}: {error}", folder.display()));
        std::fs::create_dir_all(folder).map_err(wrong)?;
    }
    let mut report = Report { files: Vec::new(), parity: Vec::new() };
    let (mut bundle, mut gate) = (None, None);
    for &format in &formats {
        if format == Format::Bundle {
            bundle = Some(write_bundle(args, formats.len())?);
            continue;
        }
        if format == Format::OnnxInt8 {
            let out = out(args.out.as_deref(), format, formats.len());
            let (written, judged) = super::export_int8::write(args, out.as_deref())?;
            if !args.json {
                show(&Report { files: vec![written.clone()], parity: Vec::new() });
                super::export_int8::show_gate(&judged);
            }
            report.files.push(written);
            gate = Some(judged);
            continue;
        }
        let Report { files, parity } = export(&args.model, &options(args, format, formats.len())?)?;
        if !args.json {
            show(&Report { files: files.clone(), parity: parity.clone() });
        }
        report.files.extend(files);
        report.parity.extend(parity);
    }
    if args.json {
        let mut value = serde_json::to_value(&report).map_err(Failure::broken)?;
        if let Some(bundle) = bundle {
            value["bundle"] = serde_json::to_value(&bundle).map_err(Failure::broken)?;
        }
        add_gate(&mut value, gate.as_ref())?;
        print::json(&value);
    }
    Ok(())
}

/// A model repository: one ONNX file in somebody else's layout.
fn repository(args: &ExportArgs, layout: &str, formats: &[Format]) -> Result {
    let (true, &[format]) = (layout == "triton", formats) else {
        let found = format!("--layout {layout} with {} formats", formats.len());
        return Err(Failure::mendable(format!(
            "expected --layout triton and one ONNX format, found {found}"
        )));
    };
    if !format.is_onnx() {
        let name = format.name();
        return Err(Failure::mendable(format!("--layout triton: expected an ONNX format, found {name}")));
    }
    let options = TritonOptions {
        name: args.model_name.clone(),
        version: args.model_version.clone(),
        max_batch: args.max_batch,
        max_delay_us: args.max_delay_us,
        file: options(args, format, 1)?,
    };
    let (TritonReport { files, parity }, gate) = match format {
        Format::OnnxInt8 => {
            let (report, gate) = super::export_int8::write_repository(args, &options)?;
            (report, Some(gate))
        }
        _ => (triton::write(&args.model, &options)?, None),
    };
    let report = Report { files, parity };
    if args.json {
        let mut value = serde_json::to_value(&report).map_err(Failure::broken)?;
        add_gate(&mut value, gate.as_ref())?;
        print::json(&value);
    } else {
        show(&report);
        gate.iter().for_each(super::export_int8::show_gate);
    }
    Ok(())
}

fn add_gate(report: &mut Value, gate: Option<&Gate>) -> Result {
    if let Some(gate) = gate {
        report["gate"] = serde_json::to_value(gate).map_err(Failure::broken)?;
    }
    Ok(())
}

fn write_bundle(args: &ExportArgs, formats: usize) -> Result<BundleReport> {
    let pictures = pictures(args)?;
    let options = BundleOptions {
        int8: super::export_int8::of_bundle(args, pictures.as_ref())?,
        out: out(args.out.as_deref(), Format::Bundle, formats),
        name: args.model_name.clone(),
        version: args.model_version.clone(),
        latency: latency(args.latency_seconds)?,
        files: Options { require_parity: args.require_parity, ..options(args, Format::Bundle, formats)? },
        ..BundleOptions::default()
    };
    let report = bundle::write(&args.model, pictures.as_ref(), &options)?;
    if !args.json {
        show_bundle(&report);
    }
    Ok(report)
}

fn latency(seconds: f64) -> Result<Option<Duration>> {
    let wrong = |_| Failure::mendable(format!("--latency-seconds: expected a time, found {seconds}"));
    let budget = Duration::try_from_secs_f64(seconds).map_err(wrong)?;
    Ok((!budget.is_zero()).then_some(budget))
}

/// The pictures to measure on. What the user named has to be there; what the run was trained on may be elsewhere, which
/// is said.
fn pictures(args: &ExportArgs) -> Result<Option<Pictures>> {
    if args.data.as_deref() == Some("none") {
        return Ok(None);
    }
    let (manifest, _) = super::eval::load(&args.model)?;
    let opened = dataset::open(args.data.as_deref(), &args.data_dir, 0, &args.model, &manifest);
    match (opened, &args.data) {
        (Ok((_, dataset)), _) => Pictures::new(dataset, &manifest).map(Some).map_err(Failure::mendable),
        (Err(failure), Some(_)) => Err(failure),
        (Err(failure), None) => {
            print::note(format!(
                "accuracies are those that the run knows of itself: {}; --data SOURCE measures each file",
                failure.message
            ));
            Ok(None)
        }
    }
}

fn options(args: &ExportArgs, format: Format, formats: usize) -> Result<Options> {
    Ok(Options {
        out: out(args.out.as_deref(), format, formats),
        input: input::find(&args.input).map_err(Failure::mendable)?,
        require_parity: args.require_parity && format.is_onnx(),
        ort_lib: args.ort_lib.clone(),
        ..Options::new(format)
    })
}

/// The file that was asked for; of several formats each has its own in the folder.
fn out(asked: Option<&Path>, format: Format, formats: usize) -> Option<PathBuf> {
    match formats {
        1 => asked.map(Path::to_path_buf),
        _ => asked.map(|folder| folder.join(format.file())),
    }
}

/// The formats asked for, or the one that the file's extension names, or ONNX.
fn formats(args: &ExportArgs) -> Result<Vec<Format>> {
    let extension = args.out.as_deref().and_then(Path::extension).and_then(|extension| extension.to_str());
    match (args.format.as_slice(), extension) {
        ([], Some("safetensors")) => Ok(vec![Format::Safetensors]),
        ([], _) => Ok(vec![Format::Onnx]),
        (names, _) => names.iter().map(|name| name.parse().map_err(Failure::mendable)).collect(),
    }
}

fn show(report: &Report) {
    for file in &report.files {
        let bytes = thousands(file.bytes);
        print::line(format!("{}  {bytes} bytes, sha256 {}", file.path.display(), file.sha256));
    }
    for parity in &report.parity {
        print::line(format!("{:<12} {}", parity.runtime, parity.answer));
    }
}

fn show_bundle(report: &BundleReport) {
    show(&Report { files: report.files.clone(), parity: report.parity.clone() });
    for refused in &report.refused {
        print::line(format!("{} is not in it: {}", refused.file, refused.reason));
    }
    let mut table =
        Table::new(&["file", "engine", "split", "pictures", "top-1 %", "same as float %"]).with_texts(3);
    for row in &report.accuracy {
        table.row([
            row.file.clone(),
            row.engine.clone(),
            format!("{} {}", row.data, row.split),
            thousands(row.count as u64),
            percent(Some(row.top1)),
            percent(row.agreement),
        ]);
    }
    if !report.accuracy.is_empty() {
        table.print();
    }
    let mut table = Table::new(&["file", "engine", "statistic", "us"]).with_texts(3);
    for row in &report.latency {
        let (statistic, time) = (row.statistic.name().to_string(), format!("{:.1}", row.microseconds));
        table.row([row.file.clone(), row.engine.clone(), statistic, time]);
    }
    if !report.latency.is_empty() {
        table.print();
    }
    print::line(format!("\nNext:\n  distill verify {0}\n  distill serve {0}", report.folder.display()));
}
