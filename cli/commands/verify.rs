//! `distill verify`: a bundle or an exported file, checked again, a line per check.

use ::export::accuracy::Pictures;
use ::export::verify::{Outcome, VerifyOptions, manifest_of, verify};

use crate::args::VerifyArgs;
use crate::dataset;
use crate::failure::{Failure, Result};
use crate::print;

/// Checks and reports.
pub fn run(args: &VerifyArgs) -> Result {
    let pictures = pictures(args)?;
    let options = VerifyOptions {
        ort_lib: args.ort_lib.clone(),
        require_ort: args.require_ort,
        pictures: pictures.as_ref(),
        threads: args.threads,
    };
    let verification = verify(&args.target, &options).map_err(Failure::mendable)?;
    if args.json {
        print::json(&verification);
    } else {
        for check in &verification.checks {
            print::line(format!("{:<8} {:<9} {}: {}", check.outcome, check.check, check.of, check.detail));
        }
    }
    let failed = verification.checks.iter().filter(|check| check.outcome == Outcome::Failed).count();
    match failed {
        0 => Ok(()),
        _ => Err(Failure::broken(format!(
            "{}: {failed} of {} checks failed",
            args.target.display(),
            verification.checks.len()
        ))),
    }
}

/// The pictures asked for; none where the target cannot even say what it is, which the checks then tell.
fn pictures(args: &VerifyArgs) -> Result<Option<Pictures>> {
    let (Some(source), Some(manifest)) = (&args.data, manifest_of(&args.target)) else { return Ok(None) };
    let (_, dataset) = dataset::open(Some(source), &args.data_dir, args.threads, &args.target, &manifest)?;
    Pictures::new(dataset, &manifest).map(Some).map_err(Failure::mendable)
}
