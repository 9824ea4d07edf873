//! The clock: calls by turns, all samples kept.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use engine::Profile;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use super::client::Client;
use super::contestant::Contestant;
use super::{BenchOptions, Latency, ModelProfile, Throughput};
use crate::http::{self, Options};
use crate::{Result, ServeError};

/// Calls of one model in a row before the next one's turn: few enough that all see the same weather, enough that
/// caches are the model's own for most of them.
const TURN: usize = 20;
/// Pictures that the calls go through.
const PICTURES: usize = 16;

/// Durations of all calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<Duration>);

impl Samples {
    /// The sample that `share` of all samples do not exceed, in microseconds.
    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e6)
    }

    pub fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    pub fn summary(&self) -> Latency {
        let [p50_us, p90_us, p99_us] = [0.5, 0.9, 0.99].map(|share| self.percentile(share));
        Latency { count: self.0.len(), p50_us, p90_us, p99_us }
    }
}

/// Calls every contestant by turns, until each has its samples or its time is over.
fn by_turns(
    contestants: usize,
    options: &BenchOptions,
    mut call: impl FnMut(usize, usize) -> Result<Duration>,
) -> Result<Vec<Samples>> {
    for contestant in 0..contestants {
        for index in 0..options.warm_up {
            call(contestant, index)?;
        }
    }
    let mut samples = vec![Samples::default(); contestants];
    let mut spent = vec![Duration::ZERO; contestants];
    loop {
        let mut called = false;
        for contestant in 0..contestants {
            for _ in 0..TURN {
                let Samples(taken) = &mut samples[contestant];
                if taken.len() >= options.samples
                    || (spent[contestant] >= options.budget && !taken.is_empty())
                {
                    break;
                }
                let took = call(contestant, taken.len())?;
                taken.push(took);
                spent[contestant] += took;
                called = true;
            }
        }
        if !called {
            return Ok(samples);
        }
    }
}

/// Single stream in this process.
pub(super) fn in_process(contestants: &mut [Contestant], options: &BenchOptions) -> Result<Vec<Samples>> {
    let pictures: Vec<Vec<u8>> = contestants.iter().map(|contestant| contestant.pictures(PICTURES)).collect();
    by_turns(contestants.len(), options, |contestant, index| {
        let size = pictures[contestant].len() / PICTURES;
        let picture = &pictures[contestant][index % PICTURES * size..][..size];
        let begun = Instant::now();
        contestants[contestant].engine.run(picture)?;
        Ok(begun.elapsed())
    })
}

/// Offline in this process: batches by turns, in a fifth of the time of the single stream.
pub(super) fn offline(contestants: &mut [Contestant], options: &BenchOptions) -> Result<Vec<Throughput>> {
    let batches: Vec<Vec<u8>> =
        contestants.iter().map(|contestant| contestant.pictures(options.batch)).collect();
    let options = BenchOptions {
        warm_up: 2,
        samples: options.samples.div_ceil(options.batch).max(5),
        budget: options.budget / 5,
        ..options.clone()
    };
    let samples = by_turns(contestants.len(), &options, |contestant, _| {
        let begun = Instant::now();
        contestants[contestant].engine.run(&batches[contestant])?;
        Ok(begun.elapsed())
    })?;
    let throughput = |Samples(taken): &Samples| Throughput {
        batch: options.batch,
        count: taken.len(),
        pictures_per_second: (taken.len() * options.batch) as f64
            / taken.iter().sum::<Duration>().as_secs_f64(),
    };
    Ok(samples.iter().map(throughput).collect())
}

/// Single stream once more, in a fifth of the time, with a clock around every node.
pub(super) fn profiles(contestants: &mut [Contestant], options: &BenchOptions) -> Result<Vec<ModelProfile>> {
    let mut profiles = Vec::new();
    for contestant in contestants {
        let profile = profile(contestant, options)?;
        let (model, engine) = (contestant.label.clone(), contestant.engine_name());
        profiles.push(ModelProfile { model, engine, profile });
    }
    Ok(profiles)
}

fn profile(contestant: &mut Contestant, options: &BenchOptions) -> Result<Option<Profile>> {
    let pictures = contestant.pictures(PICTURES);
    let size = pictures.len() / PICTURES;
    let picture = |index: usize| &pictures[index % PICTURES * size..][..size];
    for index in 0..options.warm_up {
        contestant.engine.run(picture(index))?;
    }
    if !contestant.engine.start_profile() {
        return Ok(None);
    }
    let begun = Instant::now();
    for index in 0..options.samples {
        contestant.engine.run(picture(index))?;
        if begun.elapsed() >= options.budget / 5 {
            break;
        }
    }
    Ok(contestant.engine.profile())
}

/// Single stream over HTTP: a server and a connection that stays open for each.
pub(super) fn over_http(contestants: &[Contestant], options: &BenchOptions) -> Result<Vec<Samples>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(ServeError::io("start the server's threads"))?;
    let mut streams = Vec::new();
    for contestant in contestants {
        let server = Options { workers: 1, ..Options::default() };
        let bound = http::bind(contestant.served_again(), &server, SocketAddr::from(([127, 0, 0, 1], 0)));
        let bound = runtime.block_on(bound)?;
        let address = bound.info().address;
        runtime.spawn(bound.run(std::future::pending()));
        streams.push((Client::connect(address)?, jpegs(contestant)?));
    }
    let samples = by_turns(contestants.len(), options, |contestant, index| {
        let (client, files) = &mut streams[contestant];
        let begun = Instant::now();
        client.post("/v1/classify?top=1", "image/jpeg", &files[index % PICTURES])?;
        Ok(begun.elapsed())
    });
    drop(streams);
    runtime.shutdown_timeout(Duration::from_secs(1));
    samples
}

fn jpegs(contestant: &Contestant) -> Result<Vec<Vec<u8>>> {
    let [channels, height, width] = contestant.input;
    let color = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let pictures = contestant.pictures(PICTURES);
    let encode = |pixels: &[u8]| {
        let mut file = Vec::new();
        let encoded =
            JpegEncoder::new_with_quality(&mut file, 90).encode(pixels, width as u32, height as u32, color);
        encoded.map(|()| file).map_err(|error| ServeError::io("write a JPEG")(std::io::Error::other(error)))
    };
    pictures.chunks(channels * height * width).map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_the_nearest_rank() {
        let samples = Samples((1..=10).rev().map(Duration::from_micros).collect());
        let Latency { count, p50_us, p90_us, p99_us } = samples.summary();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(count == 10 && near(p50_us, 5.0) && near(p90_us, 9.0) && near(p99_us, 10.0), "{samples:?}");
    }

    #[test]
    fn contestants_take_turns_and_warm_up_does_not_count() {
        let options = BenchOptions { warm_up: 2, samples: 30, ..BenchOptions::default() };
        let mut order = Vec::new();
        let samples = by_turns(2, &options, |contestant, _| {
            order.push(contestant);
            Ok(Duration::from_micros(1))
        });
        assert!(samples.unwrap().iter().all(|samples| samples.0.len() == 30));
        let turns = [(0, 2), (1, 2), (0, 20), (1, 20), (0, 10), (1, 10)];
        assert_eq!(order, turns.map(|(contestant, calls)| vec![contestant; calls]).concat());
    }

    #[test]
    fn the_budget_ends_a_slow_one_after_at_least_one_sample() {
        let options =
            BenchOptions { warm_up: 0, budget: Duration::from_millis(3), ..BenchOptions::default() };
        let samples =
            by_turns(2, &options, |contestant, _| Ok(Duration::from_millis([1, 50][contestant]))).unwrap();
        assert_eq!(samples.iter().map(|samples| samples.0.len()).collect::<Vec<_>>(), [3, 1]);
    }
}
