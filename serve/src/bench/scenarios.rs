//! MLPerf's scenarios in this process: single stream and offline; and the profile, which takes part in neither.

use std::time::Instant;

use engine::Profile;

use super::energy::{Counters, Energy};
use super::latency::Samples;
use super::options::{BenchOptions, Span};
use super::report::{ModelProfile, Throughput};
use super::runner::{PICTURES, Runner};
use super::turns::by_turns;
use crate::Result;

/// One picture after the other, each from call to answer.
pub(super) fn single_stream(runners: &mut [&mut Runner], options: &BenchOptions) -> Result<Vec<Samples>> {
    let pictures: Vec<Vec<u8>> = runners.iter().map(|runner| runner.pictures(PICTURES)).collect();
    let effort = &options.effort;
    by_turns(runners.len(), effort.warm_up, effort.single, 1, |runner, index| {
        let size = pictures[runner].len() / PICTURES;
        let picture = &pictures[runner][index % PICTURES * size..][..size];
        let begun = Instant::now();
        runners[runner].engine.run(picture)?;
        Ok(begun.elapsed())
    })
}

/// Batches as fast as they go, with the processor's energy beside.
pub(super) fn offline(
    runners: &mut [&mut Runner],
    options: &BenchOptions,
) -> Result<Vec<(Throughput, Samples)>> {
    let batches: Vec<Vec<u8>> = runners.iter().map(|runner| runner.pictures(options.batch)).collect();
    let counters = Counters::find();
    let mut joules = vec![Some(0.0); runners.len()];
    let warm_up = options.effort.warm_up.min(2);
    let mut calls = vec![0; runners.len()];
    let samples = by_turns(runners.len(), warm_up, options.effort.offline, options.batch, |runner, _| {
        let before = counters.as_ref().ok().and_then(Counters::read);
        let begun = Instant::now();
        runners[runner].engine.run(&batches[runner])?;
        let took = begun.elapsed();
        let after = counters.as_ref().ok().and_then(Counters::read);
        calls[runner] += 1;
        if calls[runner] > warm_up {
            joules[runner] = between(&counters, before, after).zip(joules[runner]).map(|(a, b)| a + b);
        }
        Ok(took)
    })?;
    let figures = samples.into_iter().zip(joules).map(|(samples, joules)| {
        let energy = energy(&counters, joules, samples.len() * options.batch);
        (throughput(&samples, options.batch, energy), samples)
    });
    Ok(figures.collect())
}

fn between(
    counters: &Result<Counters, String>,
    before: Option<Vec<u64>>,
    after: Option<Vec<u64>>,
) -> Option<f64> {
    Some(counters.as_ref().ok()?.joules(&before?, &after?))
}

fn energy(counters: &Result<Counters, String>, joules: Option<f64>, pictures: usize) -> Energy {
    match (counters, joules) {
        (Err(reason), _) => Energy::NotMeasured(reason.clone()),
        (Ok(_), None) => Energy::NotMeasured("not measured: a counter could not be read".into()),
        (Ok(_), Some(joules)) => Energy::JoulesPerPicture(joules / pictures as f64),
    }
}

fn throughput(samples: &Samples, batch: usize, energy: Energy) -> Throughput {
    let pictures = (samples.len() * batch) as f64;
    Throughput {
        batch,
        count: samples.len(),
        pictures_per_second: pictures / samples.total().as_secs_f64(),
        energy,
    }
}

/// Single stream once more, in a fifth of the time, with a clock around every node.
pub(super) fn profile(runner: &mut Runner, model: &str, options: &BenchOptions) -> Result<ModelProfile> {
    let engine = runner.card().engine.name().to_string();
    Ok(ModelProfile { model: model.into(), engine, profile: profiled(runner, options)? })
}

fn profiled(runner: &mut Runner, options: &BenchOptions) -> Result<Option<Profile>> {
    let pictures = runner.pictures(PICTURES);
    let size = pictures.len() / PICTURES;
    let picture = |index: usize| &pictures[index % PICTURES * size..][..size];
    for index in 0..options.effort.warm_up {
        runner.engine.run(picture(index))?;
    }
    if !runner.engine.start_profile() {
        return Ok(None);
    }
    let Span { samples, time, patience } = options.effort.single;
    let span = Span { samples: samples.min(1000), time: time / 5, patience: patience / 5 };
    let begun = Instant::now();
    let mut calls = 0;
    while !span.is_over(calls, begun.elapsed()) {
        runner.engine.run(picture(calls))?;
        calls += 1;
    }
    Ok(runner.engine.profile())
}
