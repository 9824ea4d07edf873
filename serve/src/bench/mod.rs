//! How fast models answer, as a report that somebody who doubts it can check: MLPerf's single stream and offline in this
//! process, every stage from the bytes of a picture file, servers under load, and the ratio to a reference network of
//! the same input, all by turns in the same run.
//!
//! [`bench()`] measures; a [`BenchReport`] says what was measured, on what, and for how long, and becomes a table, a page,
//! Markdown or JSON. What it cannot measure it says: a row without its file or engine, a percentile of too few samples,
//! a machine that was busy, a rate that was not held, energy that nobody counts.
//!
//! Pictures are in memory and of the network's size. All samples after the warm-up count, none is clipped, and all are
//! kept ([`BenchReport::write`]). Never here: data sets, exporting, printing; who runs the bench is its [`Host`].

mod accuracy;
mod contestant;
mod early_stopping;
mod energy;
mod files;
mod host;
mod latency;
mod load;
mod machine;
mod options;
mod page;
mod picture_files;
mod report;
mod runner;
mod scenarios;
mod stability;
mod stages;
mod table;
mod turns;
mod variant;

pub use accuracy::{Accuracy, Share};
pub use early_stopping::{minimum_count, slower_allowed};
pub use energy::Energy;
pub use files::ModelFile;
pub use host::{Alone, Host, MadeBy};
pub use latency::{Latency, PERCENTS, Percentile, Samples, Series};
pub use load::{Batched, ClosedLoad, Codes, GeneratorLimit, LoadReport, OpenLoad};
pub use machine::{Conditions, Load};
pub use options::{BenchOptions, BenchTask, Effort, HttpOptions, PictureFormat, Span, Url};
pub use report::{
    BenchReport, EffortUsed, Figures, ModelProfile, Outcome, Ratio, Row, SCHEMA, Stages, Throughput,
};
pub use stability::{Stability, Trial};
pub use variant::{Artefact, Entry, VARIANTS, Variant};

use crate::Result;
use contestant::Entrant;
use runner::Runner;

/// Measures all models by turns.
///
/// # Errors
/// For a model that is not there or that no engine can run, and for engines and servers that fail.
pub fn bench(options: &BenchOptions, host: &mut dyn Host) -> Result<BenchReport> {
    options.check()?;
    let before = Load::now();
    let machine = Conditions::describe(options.load.threads)?;
    let mut entrants = Vec::new();
    for name in &options.models {
        entrants.extend(contestant::enter(name, options, host)?);
    }
    let references = add_references(&mut entrants, options)?;
    let mut samples = Vec::new();
    measure_rows(&mut entrants, &references, options, host, &mut samples)?;
    judge_accuracies(&mut entrants, host);
    let http = put_under_load(&mut entrants, options, host, &mut samples)?;
    let profiles = profiles(&mut entrants, options, host)?;
    let mut report = BenchReport {
        schema: SCHEMA.into(),
        made_by: MadeBy { seed: options.http.as_ref().map_or(0, |http| http.seed), ..host.made_by() },
        warnings: machine::warning(before, machine.machine.cores).into_iter().collect(),
        machine,
        load: [before, Load::now()],
        effort: effort(options),
        threads: options.load.threads,
        rows: entrants.into_iter().map(|entrant| entrant.row).collect(),
        http,
        profiles,
        samples,
    };
    report.warnings.extend(page::doubts(&report));
    Ok(report)
}

fn effort(options: &BenchOptions) -> EffortUsed {
    let Effort { name, warm_up, single, .. } = &options.effort;
    EffortUsed {
        name: (*name).into(),
        warm_up: *warm_up,
        samples: single.samples,
        seconds: single.time.as_secs_f64(),
        patience_seconds: single.patience.as_secs_f64(),
        batch: options.batch,
    }
}

/// Appends a reference per distinct input; per entrant, the index of its reference.
fn add_references(entrants: &mut Vec<Entrant>, options: &BenchOptions) -> Result<Vec<Option<usize>>> {
    let Some(against) = &options.against else { return Ok(vec![None; entrants.len()]) };
    let mut references = Vec::new();
    for index in 0..entrants.len() {
        let (input, classes) = (entrants[index].row.input, entrants[index].row.classes);
        let same = |entrant: &Entrant| {
            let Row { reference, input: other, classes: others, .. } = &entrant.row;
            *reference && *other == input && *others == classes
        };
        let position = entrants.iter().position(same);
        if position.is_none() {
            entrants.push(contestant::reference(against, input, classes, options)?);
        }
        references.push(Some(position.unwrap_or(entrants.len() - 1)));
    }
    references.resize(entrants.len(), None);
    Ok(references)
}

/// Single stream, offline and stages of all rows that run.
fn measure_rows(
    entrants: &mut [Entrant],
    references: &[Option<usize>],
    options: &BenchOptions,
    host: &mut dyn Host,
    series: &mut Vec<Series>,
) -> Result<()> {
    let running: Vec<usize> = (0..entrants.len()).filter(|&index| entrants[index].runner.is_some()).collect();
    let mut runners: Vec<&mut Runner> =
        entrants.iter_mut().filter_map(|entrant| entrant.runner.as_mut()).collect();
    host.phase("single stream");
    let single = scenarios::single_stream(&mut runners, options)?;
    host.phase("offline");
    let offline = scenarios::offline(&mut runners, options)?;
    host.phase("stages of picture files");
    let stages = stages::measure(&mut runners, options)?;
    drop(runners);
    let measured = single.into_iter().zip(offline).zip(stages);
    for (&index, ((single, (throughput, batches)), stages)) in running.iter().zip(measured) {
        let latency = single.summary();
        let mut keep = |name: &str, samples: Samples| {
            series.push(Series { name: format!("row-{index}-{name}"), samples });
        };
        keep("single-stream", single);
        keep("offline-batches", batches);
        stages.samples.into_iter().for_each(|(name, samples)| keep(&name, samples));
        let figures = Figures { latency, throughput, stages: stages.stages, ratio: None };
        entrants[index].row.outcome = Outcome::Figures(Box::new(figures));
    }
    for &index in &running {
        let ratio = references[index].and_then(|reference| ratio(entrants, index, reference));
        if let Outcome::Figures(figures) = &mut entrants[index].row.outcome {
            figures.ratio = ratio;
        }
    }
    Ok(())
}

fn ratio(entrants: &[Entrant], index: usize, reference: usize) -> Option<Ratio> {
    let (own, other) = (entrants[index].row.figures()?, entrants[reference].row.figures()?);
    let http = |figures: &Figures| Some(figures.stages.first()?.http.as_ref()?.at(50.0));
    Some(Ratio {
        against: entrants[reference].row.model.clone(),
        in_process: other.latency.at(50.0) / own.latency.at(50.0),
        http: http(other).zip(http(own)).map(|(other, own)| other / own),
    })
}

/// Accuracy beside every row that runs: measured on its own engine where the host has data, else as recorded.
fn judge_accuracies(entrants: &mut [Entrant], host: &mut dyn Host) {
    for Entrant { row, runner } in entrants {
        let Some(runner) = runner else { continue };
        row.accuracy = if row.random_weights {
            Accuracy::NotMeasured { reason: "its weights are random".into() }
        } else {
            host.phase(&format!("accuracy of {} on {}", row.model, row.title()));
            let card = runner.card().clone();
            match host.accuracy(&card, row.training_seed, runner.engine.as_mut()) {
                Some(Ok(share)) => Accuracy::Measured(share),
                Some(Err(reason)) => Accuracy::NotMeasured { reason },
                None => row.file.as_ref().and_then(accuracy::recorded).unwrap_or(Accuracy::NotMeasured {
                    reason: "name pictures with --data; nothing is recorded of this file".into(),
                }),
            }
        };
    }
}

/// The server that was named, or one for each model's first row that runs.
fn put_under_load(
    entrants: &mut [Entrant],
    options: &BenchOptions,
    host: &mut dyn Host,
    series: &mut Vec<Series>,
) -> Result<Vec<LoadReport>> {
    let Some(http) = &options.http else { return Ok(Vec::new()) };
    let mut reports = Vec::new();
    let mut keep = |name: String, (report, samples): (LoadReport, Vec<Series>)| {
        let named = samples.into_iter().map(|one| Series { name: format!("{name}-{}", one.name), ..one });
        series.extend(named);
        reports.push(report);
    };
    if let Some(url) = &http.url {
        host.phase(&format!("http://{} under load", url.host));
        keep("url".into(), load::of_url(url, options, http)?);
        return Ok(reports);
    }
    let mut seen: Vec<String> = Vec::new();
    for (index, Entrant { row, runner }) in entrants.iter_mut().enumerate() {
        let Some(runner) = runner else { continue };
        if row.reference || seen.contains(&row.model) {
            continue;
        }
        seen.push(row.model.clone());
        host.phase(&format!("{} on {} under load", row.model, row.title()));
        let (report, samples) = load::of_model(runner, &row.title(), options, http)?;
        keep(format!("row-{index}"), (LoadReport { model: row.model.clone(), ..report }, samples));
    }
    Ok(reports)
}

fn profiles(
    entrants: &mut [Entrant],
    options: &BenchOptions,
    host: &mut dyn Host,
) -> Result<Vec<ModelProfile>> {
    let mut profiles = Vec::new();
    for Entrant { row, runner } in entrants.iter_mut().filter(|_| options.profile) {
        if let Some(runner) = runner {
            host.phase(&format!("nodes of {} on {}", row.model, row.title()));
            profiles.push(scenarios::profile(runner, &row.model, options)?);
        }
    }
    Ok(profiles)
}
