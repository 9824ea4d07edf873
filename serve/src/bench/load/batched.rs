//! Throughput with batching: several connections with several pictures in each request, against what one engine does
//! offline, by turns. The server has one worker, so that both sides have the same engine; what is missing to 100 % is
//! HTTP, decoding and the queue.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::closed::closed_loop;
use super::connection::{Connection, Request, Target};
use super::in_process::InProcess;
use crate::bench::options::{BenchOptions, HttpOptions, PictureFormat};
use crate::bench::picture_files::encoded;
use crate::bench::runner::Runner;
use crate::{Card, Options, Result, ServeError};

/// Turns of each side.
const ROUNDS: usize = 5;
/// Connections: one request in the engine, others being read and decoded meanwhile.
const CONNECTIONS: usize = 4;

/// A way to send pictures, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batched {
    /// `forms of png files` or `tensors of pixels (Open Inference Protocol, binary)`.
    pub how: String,
    /// Connections.
    pub connections: usize,
    /// Pictures in a request.
    pub pictures: usize,
    /// Pictures answered in a second over HTTP; the median of the rounds.
    pub pictures_per_second: f64,
    /// Pictures that one engine answers in a second offline, in batches as large as a request; the median of the rounds.
    pub offline_per_second: f64,
    /// Median of the rounds' ratios.
    pub ratio: f64,
    /// The lowest and the highest.
    pub ratio_range: [f64; 2],
    /// Rounds.
    pub rounds: usize,
    /// Requests that were not answered with 200.
    pub failed: usize,
}

/// Measures every way that the server takes.
pub(super) fn measure(
    runner: &mut Runner,
    options: &BenchOptions,
    http: &HttpOptions,
) -> Result<Vec<Batched>> {
    let limits = Options {
        workers: 1,
        max_batch: http.pictures,
        max_pictures: http.pictures.max(Options::default().max_pictures),
        ..Options::default()
    };
    let limits = Options { queue: limits.queue.max(2 * CONNECTIONS * http.pictures), ..limits };
    let server = InProcess::start(runner.served_again(), &limits)?;
    let target = server.target(&http.headers);
    let time = options.effort.load / ROUNDS as u32;
    let mut all = Vec::new();
    for (how, request) in ways(runner.card(), http)? {
        let taken = Connection::open(&target).and_then(|mut connection| connection.send(&request));
        if taken.map_err(ServeError::io("send several pictures"))? == 200 {
            all.push(by_turns(runner, how, &target, request, http.pictures, time)?);
        }
    }
    Ok(all)
}

fn by_turns(
    runner: &mut Runner,
    how: String,
    target: &Target,
    request: Request,
    pictures: usize,
    time: Duration,
) -> Result<Batched> {
    let batch = runner.pictures(pictures);
    let (mut served, mut alone, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        alone.push(offline(runner, &batch, pictures, time)?);
        let (load, _) = closed_loop(target, std::slice::from_ref(&request), CONNECTIONS, time)?;
        served.push(load.answers_per_second * pictures as f64);
        failed += load.codes.failed();
    }
    let mut ratios: Vec<f64> = served.iter().zip(&alone).map(|(served, alone)| served / alone).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    Ok(Batched {
        how,
        connections: CONNECTIONS,
        pictures,
        pictures_per_second: median(served),
        offline_per_second: median(alone),
        ratio: ratios[ratios.len() / 2],
        ratio_range: [ratios[0], ratios[ratios.len() - 1]],
        rounds: ROUNDS,
        failed,
    })
}

/// Pictures in a second of one engine that does nothing else.
fn offline(runner: &mut Runner, batch: &[u8], pictures: usize, time: Duration) -> Result<f64> {
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < time || done == 0 {
        runner.engine.run(batch)?;
        done += pictures;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Requests of several pictures, by the name of the way.
fn ways(card: &Card, http: &HttpOptions) -> Result<Vec<(String, Request)>> {
    let input = [card.channels, card.height, card.width];
    let files = encoded(http.picture, input, http.pictures)?;
    let form = form(http.picture, &files);
    Ok(vec![
        (format!("forms of {} files", http.picture.name()), form),
        ("tensors of pixels (Open Inference Protocol, binary)".into(), tensors(card, http.pictures)),
    ])
}

fn form(format: PictureFormat, files: &[Vec<u8>]) -> Request {
    let mut body = Vec::new();
    for file in files {
        body.extend_from_slice(
            b"--picture\r\ncontent-disposition: form-data; name=\"image\"; filename=\"p\"\r\n",
        );
        body.extend_from_slice(format!("content-type: {}\r\n\r\n", format.content_type()).as_bytes());
        body.extend_from_slice(file);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--picture--\r\n");
    Request::classify("multipart/form-data; boundary=picture", &body)
}

/// One tensor of several pictures: their pixels as they are.
fn tensors(card: &Card, pictures: usize) -> Request {
    let Card { channels, height, width, .. } = *card;
    let values: Vec<u8> =
        (0..pictures).flat_map(|index| models::formula::picture(index, channels, height, width)).collect();
    let head = serde_json::json!({
        "inputs": [{
            "name": "image", "shape": [pictures, height, width, channels], "datatype": "UINT8",
            "parameters": { "binary_data_size": values.len() },
        }],
        "outputs": [{ "name": "logits", "parameters": { "binary_data": true } }],
    })
    .to_string();
    let body = [head.as_bytes(), &values].concat();
    Request::post(&format!("/v2/models/{}/infer", card.name), "application/octet-stream", &body)
        .with_header("inference-header-content-length", &head.len().to_string())
}
