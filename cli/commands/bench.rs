//! `distill bench`: latency and throughput, against ResNet-18 or any other network.

use std::time::Duration;

use serve::bench::{BenchOptions, BenchTask, bench};

use crate::args::BenchArgs;
use crate::failure::{Failure, Result};
use crate::print;
use crate::settings::stem;

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result {
    let options = BenchOptions {
        models: args.models.clone(),
        against: (args.against != "none").then(|| args.against.clone()),
        task: BenchTask {
            classes: args.classes,
            channels: args.channels,
            size: args.image_size,
            stem: stem(&args.stem)?,
            features: args.features,
        },
        engine: args.engine.as_deref().map(str::parse).transpose().map_err(Failure::mendable)?,
        ort_lib: args.ort_lib.clone(),
        threads: args.threads,
        samples: args.samples,
        budget: Duration::try_from_secs_f64(args.seconds)
            .map_err(|_| Failure::mendable(format!("--seconds: expected a time, found {}", args.seconds)))?,
        batch: args.batch_size,
        http: !args.no_http,
        ..BenchOptions::default()
    };
    let report = bench(&options).map_err(Failure::mendable)?;
    if args.json {
        print::json(&report);
    } else {
        print::line(report.to_table());
    }
    Ok(())
}
