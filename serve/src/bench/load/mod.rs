//! Servers under load: a closed loop at some numbers of connections, an open loop at stated rates, and throughput with
//! batching. Against a server in this process, or one that runs already. Never here: a verdict on the figures.

mod batched;
mod closed;
mod connection;
mod generator;
mod in_process;
mod open;
mod outcomes;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use batched::Batched;
pub use closed::ClosedLoad;
pub(super) use connection::{Connection, Request, Target};
pub(super) use in_process::InProcess;
pub use open::OpenLoad;
pub use outcomes::Codes;

use self::closed::closed_loop;
use self::generator::Responder;
use self::open::Plan;
use super::latency::{Samples, Series};
use super::options::{BenchOptions, HttpOptions, Url};
use super::picture_files::encoded;
use super::runner::{PICTURES, Runner};
use crate::http::wire::Models;
use crate::{Options, Result, ServeError};

/// Shares of the closed loop's best pace that the open loop is asked for, if no rates are.
const SHARES: [f64; 2] = [0.5, 0.8];

/// A server under load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The model that answered.
    pub model: String,
    /// Its engine, and the format of its weights.
    pub engine: String,
    /// Where: `in this process`, or a URL.
    pub server: String,
    /// Threads with an engine each, where they are known.
    pub workers: Option<usize>,
    /// What requests held.
    pub picture: String,
    /// Requests per second that the load generator reaches against a responder that does nothing, by connections. A
    /// server's figure close to it is the generator's.
    pub generator_limit: Vec<GeneratorLimit>,
    /// The closed loop, by connections.
    pub closed: Vec<ClosedLoad>,
    /// The open loop, by rate.
    pub open: Vec<OpenLoad>,
    /// Several pictures in a request, beside the engine's offline pace; of servers in this process alone.
    pub batched: Vec<Batched>,
}

/// What the generator itself can do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratorLimit {
    /// Connections.
    pub connections: usize,
    /// Requests per second.
    pub requests_per_second: f64,
}

/// Puts a server of this model, in this process, under load.
pub(super) fn of_model(
    runner: &mut Runner,
    title: &str,
    options: &BenchOptions,
    http: &HttpOptions,
) -> Result<(LoadReport, Vec<Series>)> {
    let server = InProcess::start(runner.served_again(), &Options::default())?;
    let card = runner.card();
    let input = [card.channels, card.height, card.width];
    let name = card.name.clone();
    let (report, samples) = under_load(&server.target(&http.headers), input, options, http)?;
    let workers = Some(server.workers);
    drop(server);
    let batched = batched::measure(runner, options, http)?;
    let server = "in this process".into();
    Ok((LoadReport { model: name, engine: title.into(), server, workers, batched, ..report }, samples))
}

/// Puts a server that runs already under load; it says itself what pictures it takes.
pub(super) fn of_url(
    url: &Url,
    options: &BenchOptions,
    http: &HttpOptions,
) -> Result<(LoadReport, Vec<Series>)> {
    let target = Target::new(url.address, &url.host, &http.headers);
    let failed =
        |reason: String| ServeError::io(format!("http://{}", url.host))(std::io::Error::other(reason));
    let mut connection = Connection::open(&target).map_err(|error| failed(error.to_string()))?;
    let status = connection.send(&Request::get("/v1/models")).map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(connection.answer()).into_owned();
    let models: Models = match status {
        200 => serde_json::from_str(&said),
        _ => return Err(failed(format!("GET /v1/models: expected 200, found {status}: {said}"))),
    }
    .map_err(|error| failed(format!("GET /v1/models: expected a distill server's models: {error}")))?;
    let model = models.models.first().ok_or_else(|| failed("it has no models".into()))?;
    let about = model.about.as_ref().ok_or_else(|| failed(format!("{} is {}", model.name, model.state)))?;
    drop(connection);
    let input = [about.input.channels, about.input.height, about.input.width];
    let (report, samples) = under_load(&target, input, options, http)?;
    let server = format!("http://{}", url.host);
    Ok((LoadReport { model: model.name.clone(), engine: about.engine.clone(), server, ..report }, samples))
}

fn under_load(
    target: &Target,
    input: [usize; 3],
    options: &BenchOptions,
    http: &HttpOptions,
) -> Result<(LoadReport, Vec<Series>)> {
    let files = encoded(http.picture, input, PICTURES)?;
    let content_type = http.picture.content_type();
    let requests: Vec<Request> = files.iter().map(|file| Request::classify(content_type, file)).collect();
    let time = options.effort.load;
    let mut series = Vec::new();
    let mut keep = |name: String, samples: Samples| series.push(Series { name, samples });
    let mut closed = Vec::new();
    for &connections in &http.connections {
        let (load, samples) = closed_loop(target, &requests, connections, time)?;
        keep(format!("closed-{connections}"), samples);
        closed.push(load);
    }
    let mut open = Vec::new();
    for rate in rates(http, &closed) {
        let connections = http.open_connections;
        let plan = Plan { target, requests: &requests, rate, time, connections, seed: http.seed };
        let (load, samples) = plan.run()?;
        keep(format!("open-{rate:.0}"), samples);
        open.push(load);
    }
    let report = LoadReport {
        model: String::new(),
        engine: String::new(),
        server: String::new(),
        workers: None,
        picture: http.picture.name().into(),
        generator_limit: generator_limit(&requests, &http.connections, time.min(Duration::from_secs(2)))?,
        closed,
        open,
        batched: Vec::new(),
    };
    Ok((report, series))
}

/// The rates asked for, or shares of what the closed loop reached.
fn rates(http: &HttpOptions, closed: &[ClosedLoad]) -> Vec<f64> {
    let best = closed.iter().map(|load| load.answers_per_second).fold(0.0, f64::max);
    if !http.rates.is_empty() || best < 1.0 {
        return http.rates.clone();
    }
    SHARES.map(|share| (best * share).round().max(1.0)).to_vec()
}

fn generator_limit(
    requests: &[Request],
    connections: &[usize],
    time: Duration,
) -> Result<Vec<GeneratorLimit>> {
    let responder = Responder::start()?;
    let target = Target::new(responder.address, "127.0.0.1", &[]);
    let mut limits = Vec::new();
    for &connections in connections {
        let (load, _) = closed_loop(&target, requests, connections, time)?;
        limits.push(GeneratorLimit { connections, requests_per_second: load.answers_per_second });
    }
    Ok(limits)
}
