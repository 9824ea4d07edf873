//! `distill export`: a run as ONNX, safetensors or a bundle, with the answers of other runtimes.

use std::path::{Path, PathBuf};

use ::export::{ExportError, Format, Options, Report, export, input};

use crate::args::ExportArgs;
use crate::failure::{Failure, Result};
use crate::print::{self, thousands};

/// Writes and reports.
pub fn run(args: &ExportArgs) -> Result {
    let formats = formats(args)?;
    let mut report = Report { files: Vec::new(), parity: Vec::new() };
    for &format in &formats {
        let Report { files, parity } =
            export(&args.model, &options(args, format, formats.len())?).map_err(failure)?;
        if !args.json {
            show(&Report { files: files.clone(), parity: parity.clone() });
        }
        report.files.extend(files);
        report.parity.extend(parity);
    }
    if args.json {
        print::json(&report);
    }
    Ok(())
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

/// A file that answers otherwise is our fault; all else can be mended by another path, flag or an installed runtime.
fn failure(error: ExportError) -> Failure {
    match error {
        ExportError::Differs { .. } => Failure::broken(error),
        _ => Failure::mendable(error),
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
