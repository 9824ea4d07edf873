//! `distill bench`: latency and throughput, against ResNet-18 or any other network.

use std::time::Duration;

use serve::bench::{BenchOptions, BenchReport, BenchTask, ModelProfile, bench};

use super::predict::load_options;
use crate::args::BenchArgs;
use crate::failure::{Failure, Result};
use crate::print;
use crate::profile::{Request, Section};
use crate::settings::stem;

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result {
    let request = Request::of(&args.profile)?;
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
        load: load_options(&args.engine)?,
        samples: args.samples,
        budget: Duration::try_from_secs_f64(args.seconds)
            .map_err(|_| Failure::mendable(format!("--seconds: expected a time, found {}", args.seconds)))?,
        batch: args.batch_size,
        http: !args.no_http,
        profile: request.is_some(),
        ..BenchOptions::default()
    };
    let report = bench(&options).map_err(Failure::mendable)?;
    let sections = sections(&report);
    match (args.json, request) {
        (true, None) => print::json(&report),
        (true, Some(request)) => {
            let mut value = serde_json::to_value(&report).map_err(Failure::broken)?;
            value["profile"] = request.json(sections)?;
            print::json(&value);
        }
        (false, request) => {
            print::line(report.to_table());
            if let Some(request) = request {
                request.show(sections)?;
            }
        }
    }
    Ok(())
}

/// The models whose nodes were timed; says which were not.
fn sections(report: &BenchReport) -> Vec<Section> {
    let mut sections = Vec::new();
    for ModelProfile { model, engine, profile } in &report.profiles {
        match profile {
            Some(profile) => sections.push(Section::of_answers(model, report.threads, profile.clone())),
            None => {
                print::note(format!("{model}: no profile: engine `{engine}` has no times of single nodes"))
            }
        }
    }
    sections
}
