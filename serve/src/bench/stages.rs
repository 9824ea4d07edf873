//! Where the time of a picture file goes: decoding, preprocessing and inference apart, together, and over HTTP, all by
//! turns on the same files, so that what HTTP adds is a difference of figures taken in the same weather.

use std::time::{Duration, Instant};

use picture::{Limits, Picture, Size};

use super::latency::Samples;
use super::load::{Connection, InProcess, Request};
use super::options::{BenchOptions, PictureFormat};
use super::picture_files::encoded;
use super::report::Stages;
use super::runner::{PICTURES, Runner};
use super::turns::by_turns;
use crate::pipeline::{Target, prepare};
use crate::{Options, Result, ServeError};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Decode,
    Preprocess,
    Inference,
    Together,
    Http,
}

const STAGES: [Stage; 5] = [Stage::Decode, Stage::Preprocess, Stage::Inference, Stage::Together, Stage::Http];

/// The stages of a runner, with the samples by the stage's name.
pub(super) struct Measured {
    pub stages: Vec<Stages>,
    pub samples: Vec<(String, Samples)>,
}

/// A format's files and what becomes of them on the way.
struct Course {
    files: Vec<Vec<u8>>,
    decoded: Vec<Picture>,
    pixels: Vec<Vec<u8>>,
    requests: Vec<Request>,
}

impl Course {
    fn of(runner: &Runner, format: PictureFormat) -> Result<Self> {
        let card = runner.card();
        let target = runner.target();
        let files = encoded(format, [card.channels, card.height, card.width], PICTURES)?;
        let mut course = Self { files, decoded: Vec::new(), pixels: Vec::new(), requests: Vec::new() };
        for file in &course.files {
            course.decoded.push(picture::decode_with(file, Limits::default())?);
            course.pixels.push(prepare(file, target, Limits::default())?.pixels);
            course.requests.push(Request::classify(format.content_type(), file));
        }
        Ok(course)
    }
}

/// Measures all runners by turns; over HTTP too if that is asked for.
pub(super) fn measure(runners: &mut [&mut Runner], options: &BenchOptions) -> Result<Vec<Measured>> {
    let mut courses = Vec::new();
    let mut servers = Vec::new();
    for runner in runners.iter() {
        courses.push(PictureFormat::ALL.map(|format| Course::of(runner, format)));
        servers.push(Server::start(runner, options)?);
    }
    let courses: Vec<Vec<Course>> =
        courses.into_iter().map(|pair| pair.into_iter().collect::<Result<_>>()).collect::<Result<_>>()?;
    let stages = if options.http.is_some() { &STAGES[..] } else { &STAGES[..4] };
    let per_runner = stages.len() * PictureFormat::ALL.len();
    let warm_up = options.effort.warm_up.min(PICTURES);
    let samples = by_turns(runners.len() * per_runner, warm_up, options.effort.stage, 1, |index, call| {
        let (runner, rest) = (index / per_runner, index % per_runner);
        let (course, stage) = (&courses[runner][rest / stages.len()], stages[rest % stages.len()]);
        time(stage, runners[runner], course, &mut servers[runner], call % PICTURES)
    })?;
    Ok(samples.chunks(per_runner).map(|samples| summarized(samples, stages)).collect())
}

fn time(
    stage: Stage,
    runner: &mut Runner,
    course: &Course,
    server: &mut Option<Server>,
    index: usize,
) -> Result<Duration> {
    let Target { channels, height, width, fit } = runner.target();
    let begun = Instant::now();
    match stage {
        Stage::Decode => drop(picture::decode_with(&course.files[index], Limits::default())?),
        Stage::Preprocess => {
            drop(picture::fit(&course.decoded[index], Size { width, height }, fit, channels));
        }
        Stage::Inference => drop(runner.engine.run(&course.pixels[index]).map(<[f32]>::len)?),
        Stage::Together => {
            let prepared = prepare(&course.files[index], runner.target(), Limits::default())?;
            runner.engine.run(&prepared.pixels)?;
        }
        Stage::Http => {
            if let Some(server) = server {
                server.ask(&course.requests[index])?;
            }
        }
    }
    Ok(begun.elapsed())
}

/// A server for one runner, with a connection that stays open.
struct Server {
    connection: Connection,
    _server: InProcess,
}

impl Server {
    fn start(runner: &Runner, options: &BenchOptions) -> Result<Option<Self>> {
        let Some(http) = &options.http else { return Ok(None) };
        // A server elsewhere is another machine's weather: the overhead is that of a server in this process.
        let server = InProcess::start(runner.served_again(), &Options { workers: 1, ..Options::default() })?;
        let connection =
            Connection::open(&server.target(&http.headers)).map_err(ServeError::io("connect"))?;
        Ok(Some(Self { connection, _server: server }))
    }

    fn ask(&mut self, request: &Request) -> Result<()> {
        let status = self.connection.send(request).map_err(ServeError::io("POST /v1/classify"))?;
        if status == 200 {
            return Ok(());
        }
        let said = format!("status {status}: {}", String::from_utf8_lossy(self.connection.answer()));
        Err(ServeError::io("POST /v1/classify")(std::io::Error::other(said)))
    }
}

fn summarized(samples: &[Samples], stages: &[Stage]) -> Measured {
    let mut measured = Measured { stages: Vec::new(), samples: Vec::new() };
    for (format, samples) in PictureFormat::ALL.iter().zip(samples.chunks(stages.len())) {
        let of = |stage: Stage| stages.iter().position(|&known| known == stage).map(|index| &samples[index]);
        let latency = |stage| of(stage).map(Samples::summary);
        let median = |stage| of(stage).map(Samples::median);
        let alone = [Stage::Decode, Stage::Preprocess, Stage::Inference].map(median);
        let alone: Option<f64> = alone.into_iter().sum();
        let [Some(decode), Some(preprocess), Some(inference), Some(together)] =
            [Stage::Decode, Stage::Preprocess, Stage::Inference, Stage::Together].map(latency)
        else {
            continue;
        };
        measured.stages.push(Stages {
            format: format.name().into(),
            decode,
            preprocess,
            inference,
            together,
            http: latency(Stage::Http),
            http_overhead_us: median(Stage::Http).zip(alone).map(|(http, alone)| http - alone),
        });
        let named = |stage: &Stage| format!("{}-{stage:?}", format.name()).to_lowercase();
        measured.samples.extend(stages.iter().map(named).zip(samples.iter().cloned()));
    }
    measured
}
