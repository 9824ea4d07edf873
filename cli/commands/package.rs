//! `distill package`: a bundle with the slim server and what installs both.

use ::export::package::{PackageOptions, PackageReport, write};

use crate::args::PackageArgs;
use crate::failure::{Failure, Result};
use crate::print::{self, thousands};

/// Writes and reports.
pub fn run(args: &PackageArgs) -> Result {
    let options = PackageOptions { out: args.out.clone(), program: args.binary.clone() };
    let report = write(&args.bundle, &options).map_err(Failure::mendable)?;
    if args.json {
        print::json(&report);
    } else {
        show(&report);
    }
    Ok(())
}

fn show(report: &PackageReport) {
    for file in &report.files {
        print::line(format!("{}  {} bytes", file.path.display(), thousands(file.bytes)));
    }
    let folder = report.folder.display();
    print::line(format!(
        "the program is {}\n\nNext: {folder}/README.md says how to install it",
        report.linking
    ));
}
