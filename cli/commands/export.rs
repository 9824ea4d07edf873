//! `distill export`: a run as ONNX or safetensors, with the answers of other runtimes.

use ::export::{ExportError, Format, Options, Report, export};

use crate::args::ExportArgs;
use crate::failure::{Failure, Result};
use crate::print::{self, thousands};

/// Writes and reports.
pub fn run(args: &ExportArgs) -> Result {
    let options = Options {
        out: args.out.clone(),
        require_parity: args.require_parity,
        ort_lib: args.ort_lib.clone(),
        ..Options::new(format(args)?)
    };
    let report = export(&args.model, &options).map_err(failure)?;
    if args.json {
        print::json(&report);
    } else {
        show(&report);
    }
    Ok(())
}

/// The format asked for, or the one that the file's extension names, or ONNX.
fn format(args: &ExportArgs) -> Result<Format> {
    let extension =
        || args.out.as_ref().and_then(|out| out.extension()).and_then(|extension| extension.to_str());
    match (&args.format, extension()) {
        (Some(name), _) => name.parse().map_err(Failure::mendable),
        (None, Some("safetensors")) => Ok(Format::Safetensors),
        (None, _) => Ok(Format::Onnx),
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
