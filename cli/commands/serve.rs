//! `distill serve`: answers over HTTP until told to stop.

use serve::{Ended, StartInfo};

use crate::args::ServeArgs;
use crate::failure::{Failure, Result};
use crate::print;

/// Exit code of a process that was told to stop twice: as the second Ctrl-C would have ended it.
const INTERRUPTED: u8 = 130;

/// Serves models.
pub fn run(args: &ServeArgs) -> Result {
    let ended = args.settings().map_err(Failure::mendable)?.run(std::io::stderr(), started);
    match ended.map_err(Failure::mendable)? {
        Ended::Drained => Ok(()),
        Ended::CutShort(connections) => {
            print::announce(format!(
                "{connections} connections were cut when the time for draining was over"
            ));
            Ok(())
        }
        Ended::AtOnce => {
            Err(Failure { message: "told to stop a second time: stopped at once".into(), code: INTERRUPTED })
        }
    }
}

fn started(info: &StartInfo) {
    let StartInfo { url, model, engine, workers, curl, warnings, .. } = info;
    warnings.iter().for_each(|warning| print::announce(format!("warning: {warning}")));
    print::announce(format!(
        "{model} at {url}, engine {engine}, {workers} workers; Ctrl-C stops\nTry:\n  {curl}"
    ));
}
