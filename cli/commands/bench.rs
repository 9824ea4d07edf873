//! `distill bench`: latency, throughput and accuracy by engine, servers under load, against ResNet-18 or any other
//! network; as a table, and as a report with `--report`.

use std::time::Duration;

use serve::bench::{
    BenchOptions, BenchReport, BenchTask, Effort, HttpOptions, ModelProfile, Span, Variant, bench,
};

use super::predict::load_options;
use crate::args::{BenchArgs, BenchEffort, BenchHttp, BenchTaskArgs};
use crate::bench_host::BenchHost;
use crate::failure::{Failure, Result};
use crate::print;
use crate::profile::{Request, Section};
use crate::settings::stem;

/// Measures and prints.
pub fn run(args: &BenchArgs) -> Result {
    let request = Request::of(&args.profile)?;
    let options = options(args, request.is_some())?;
    let report = bench(&options, &mut BenchHost::new(args, &options.rows)?).map_err(Failure::mendable)?;
    if let Some(folder) = &args.report {
        report.write(folder).map_err(Failure::mendable)?;
        print::note(format!("report: {}", folder.join("report.html").display()));
    }
    show(&report, args.json, request)
}

fn show(report: &BenchReport, as_json: bool, request: Option<Request>) -> Result {
    let sections = sections(report);
    match (as_json, request) {
        (true, None) => print::json(report),
        (true, Some(request)) => {
            let mut value = serde_json::to_value(report).map_err(Failure::broken)?;
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

fn options(args: &BenchArgs, profile: bool) -> Result<BenchOptions> {
    let load = load_options(&args.engine)?;
    let named: Result<Vec<Variant>> =
        args.rows.iter().map(|name| name.parse().map_err(Failure::mendable)).collect();
    let rows = match named? {
        none if none.is_empty() => Variant::of(load.engine, load.weights),
        named => named,
    };
    Ok(BenchOptions {
        models: args.models.clone(),
        rows,
        against: (args.against != "none").then(|| args.against.clone()),
        task: task(&args.task)?,
        load,
        effort: effort(&args.effort)?,
        batch: args.effort.batch_size,
        http: if args.http.no_http { None } else { Some(http(&args.http)?) },
        profile,
    })
}

fn task(args: &BenchTaskArgs) -> Result<BenchTask> {
    Ok(BenchTask {
        classes: args.classes,
        channels: args.channels,
        size: args.image_size,
        stem: stem(&args.stem)?,
        features: args.features,
    })
}

/// One of the efforts; `--samples` and `--seconds` say otherwise of the single stream, and bound the rest.
fn effort(args: &BenchEffort) -> Result<Effort> {
    let effort = match (args.quick, args.mlperf) {
        (true, _) => Effort::quick(),
        (_, true) => Effort::mlperf(),
        _ => Effort::default(),
    };
    let seconds = args.seconds.map(seconds).transpose()?;
    let Some(single) = single(args.samples, seconds, effort.single) else { return Ok(effort) };
    let bounded = |span: Span| {
        let most = single.patience.min(span.patience);
        Span { samples: span.samples.min(single.samples.max(1)), time: span.time.min(most), patience: most }
    };
    let load = seconds.map_or(effort.load, |seconds| seconds.min(effort.load));
    Ok(Effort {
        name: "own",
        single,
        offline: bounded(effort.offline),
        stage: bounded(effort.stage),
        load,
        ..effort
    })
}

fn single(samples: Option<usize>, seconds: Option<Duration>, usual: Span) -> Option<Span> {
    match (samples, seconds) {
        (None, None) => None,
        (Some(samples), seconds) => {
            Some(Span { samples, time: Duration::ZERO, patience: seconds.unwrap_or(usual.patience) })
        }
        (None, Some(time)) => Some(Span { samples: 1, time, patience: time }),
    }
}

fn seconds(seconds: f64) -> Result<Duration> {
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
    time.ok_or_else(|| Failure::mendable(format!("--seconds: expected a time, found {seconds}")))
}

fn http(args: &BenchHttp) -> Result<HttpOptions> {
    let header = |text: &String| match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() && !text.contains(['\r', '\n']) => {
            Ok((name.trim().to_string(), value.trim().to_string()))
        }
        _ => Err(Failure::mendable(format!("--header: expected NAME: VALUE, found `{text}`"))),
    };
    Ok(HttpOptions {
        url: args.url.as_deref().map(str::parse).transpose().map_err(Failure::mendable)?,
        headers: args.header.iter().map(header).collect::<Result<_>>()?,
        connections: args.connections.clone(),
        rates: args.rates.clone(),
        open_connections: args.open_connections,
        picture: args.picture.parse().map_err(Failure::mendable)?,
        pictures: args.pictures,
        seed: args.seed,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn args(samples: Option<usize>, seconds: Option<f64>) -> BenchEffort {
        BenchEffort { quick: false, mlperf: false, samples, seconds, batch_size: 32 }
    }

    #[test]
    fn samples_and_seconds_bound_everything() {
        let five = effort(&args(Some(5), None)).unwrap();
        assert_eq!((five.single.samples, five.single.time, five.stage.samples), (5, Duration::ZERO, 5));
        let short = effort(&args(None, Some(0.2))).unwrap();
        let fifth = Duration::from_millis(200);
        assert_eq!((short.single.patience, short.offline.patience, short.load), (fifth, fifth, fifth));
        assert_eq!(effort(&args(None, None)).unwrap(), Effort::default());
        assert!(effort(&args(None, Some(-1.0))).unwrap_err().message.contains("--seconds: expected a time"));
    }
}
