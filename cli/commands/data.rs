//! `distill data`: what a data set holds.

use ::data::{OpenOptions, inspect::inspect};

use crate::args::DataArgs;
use crate::failure::{Failure, Result};
use crate::print;

/// Looks at every picture and reports.
pub fn run(args: &DataArgs) -> Result {
    let options = OpenOptions { data_dir: args.data_dir.clone(), ..OpenOptions::default() };
    let inspection = inspect(&args.source, &options).map_err(Failure::mendable)?;
    if args.json {
        print::json(&inspection);
    } else {
        print::line(inspection.to_string().trim_end());
    }
    Ok(())
}
