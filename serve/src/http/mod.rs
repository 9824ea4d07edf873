//! The HTTP side: routes, handlers, and the server that runs them. Bodies are read in `body`, errors become answers in
//! `error`, what travels is in [`wire`].

mod body;
mod error;
mod server;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use picture::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::pipeline::{prepare, ranked};
use crate::workers::{Answered, Workers};
use crate::{Result, ServeError, Served};
use body::Sent;
use error::ApiError;
pub use server::{Bound, StartInfo, bind, run, stop_signal};
use wire::{ClassifyAnswer, ClassifyQuery, Health, InputInfo, ModelInfo, Models, Prediction, Times};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How a server behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Threads with an engine each; 0 means as many as the cores have room for engines of the model's threads.
    pub workers: usize,
    /// Pictures under way at most, those in the engines included; more are refused.
    pub queue: usize,
    /// Pictures that an engine runs together at most, where they wait already.
    pub max_batch: usize,
    /// Pictures in one request at most.
    pub max_pictures: usize,
    /// Bytes of a body at most.
    pub max_body_bytes: usize,
    /// Pixels of a picture at most.
    pub max_pixels: u64,
    /// Classes answered if the request does not say.
    pub top: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 0,
            queue: 256,
            max_batch: 16,
            max_pictures: 64,
            max_body_bytes: 32 << 20,
            max_pixels: Limits::default().max_pixels,
            top: 5,
        }
    }
}

impl Options {
    fn worker_count(&self, served: &Served) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        if self.workers == 0 { (cores() / served.threads()).max(1) } else { self.workers }
    }

    fn check(&self) -> Result<()> {
        let positive = [
            ("queue", self.queue),
            ("max-batch", self.max_batch),
            ("max-pictures", self.max_pictures),
            ("max-body-bytes", self.max_body_bytes),
            ("top", self.top),
        ];
        for (name, value) in positive {
            if value == 0 {
                return Err(ServeError::Setting { name, expected: "at least 1".into(), found: "0".into() });
            }
        }
        Ok(())
    }
}

/// What the handlers share.
struct App {
    served: Arc<Served>,
    options: Options,
    workers: Workers,
    /// One permit per picture under way.
    places: Arc<Semaphore>,
    stopping: AtomicBool,
}

type Shared = Arc<App>;

/// The server as a service, without a socket.
///
/// # Errors
/// If the engines cannot start or an option makes no sense.
pub fn app(served: Served, options: &Options) -> Result<Router> {
    Ok(router(shared(served, options)?))
}

fn shared(served: Served, options: &Options) -> Result<Shared> {
    options.check()?;
    let served = Arc::new(served);
    Ok(Arc::new(App {
        workers: Workers::start(&served, options.worker_count(&served), options.max_batch)?,
        places: Arc::new(Semaphore::new(options.queue)),
        served,
        options: options.clone(),
        stopping: AtomicBool::new(false),
    }))
}

fn router(app: Shared) -> Router {
    Router::new()
        .route("/v1/classify", post(classify))
        .route("/v1/models", get(models))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        // `body` has its own limit, with an answer of its own.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn classify(
    State(app): State<Shared>,
    query: std::result::Result<Query<ClassifyQuery>, QueryRejection>,
    request: Request,
) -> std::result::Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::Query { reason: error.body_text() })?;
    let asked = body::read(request, app.options.max_body_bytes).await?;
    let arrived = Instant::now();
    let top = asked.top.or(query.top).unwrap_or(app.options.top);
    if top == 0 {
        return Err(ApiError::Top);
    }
    let _places = app.admit(asked.pictures.len())?;
    let predictions = predict_all(&app, asked.pictures, top, arrived).await?;
    let timing = HeaderValue::try_from(wire::server_timing(&predictions));
    let answer = ClassifyAnswer { model: app.served.card().name.clone(), predictions };
    let mut response = Json(answer).into_response();
    if let Ok(timing) = timing {
        response.headers_mut().insert(SERVER_TIMING, timing);
    }
    Ok(response)
}

/// All pictures of a request at once; the first that is wrong is the answer.
async fn predict_all(
    app: &Shared,
    pictures: Vec<Sent>,
    top: usize,
    arrived: Instant,
) -> std::result::Result<Vec<Prediction>, ApiError> {
    let begin = |(index, sent)| tokio::spawn(app.clone().predict(index, sent, top, arrived));
    let tasks: Vec<_> = pictures.into_iter().enumerate().map(begin).collect();
    let mut predictions = Vec::with_capacity(tasks.len());
    for task in tasks {
        predictions.push(task.await.map_err(|error| ApiError::Engine { reason: error.to_string() })??);
    }
    Ok(predictions)
}

impl App {
    /// Takes places for a request's pictures, or refuses it.
    fn admit(&self, pictures: usize) -> std::result::Result<OwnedSemaphorePermit, ApiError> {
        let limit = self.options.max_pictures.min(self.options.queue);
        match pictures {
            0 => return Err(ApiError::NoPictures),
            found if found > limit => return Err(ApiError::TooManyPictures { limit, found }),
            _ => {}
        }
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::NotReady);
        }
        let places = self.places.clone().try_acquire_many_owned(pictures as u32);
        places.map_err(|_| ApiError::Overloaded)
    }

    async fn predict(
        self: Arc<Self>,
        picture: usize,
        sent: Sent,
        top: usize,
        arrived: Instant,
    ) -> std::result::Result<Prediction, ApiError> {
        let engine_failed = |reason: String| ApiError::Engine { reason };
        let (target, limits) = (self.served.target(), Limits { max_pixels: self.options.max_pixels });
        let Sent { name, bytes } = sent;
        let prepared = tokio::task::spawn_blocking(move || prepare(&bytes, target, limits)).await;
        let prepared = prepared.map_err(|error| engine_failed(error.to_string()))?;
        let prepared =
            prepared.map_err(|source| ApiError::Picture { picture, name: name.clone(), source })?;
        let answered = self.workers.submit(prepared.pixels).await;
        let answered = answered.map_err(|_| engine_failed("its worker is gone".into()))?;
        let Answered { logits, queue, inference } = answered.map_err(|failed| engine_failed(failed.0))?;
        let top = ranked(&logits, &self.served.card().labels, top);
        let times_us = Times {
            decode: Times::micros(prepared.decode),
            preprocess: Times::micros(prepared.preprocess),
            queue: Times::micros(queue),
            inference: Times::micros(inference),
            total: Times::micros(arrived.elapsed()),
        };
        Ok(Prediction { name, top, times_us })
    }

    fn model_info(&self) -> ModelInfo {
        let card = self.served.card();
        ModelInfo {
            name: card.name.clone(),
            arch: card.arch.clone(),
            engine: card.engine.name().into(),
            labels: card.labels.clone(),
            input: InputInfo {
                channels: card.channels,
                height: card.height,
                width: card.width,
                fit: card.fit.name().into(),
            },
            weights_sha256: card.weights_sha256.clone(),
        }
    }

    fn ready(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && self.workers.alive() > 0
    }
}

async fn models(State(app): State<Shared>) -> Json<Models> {
    Json(Models { models: vec![app.model_info()] })
}

async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".into() })
}

async fn readyz(State(app): State<Shared>) -> std::result::Result<Json<Health>, ApiError> {
    if app.ready() { Ok(Json(Health { status: "ready".into() })) } else { Err(ApiError::NotReady) }
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::NoRoute { path: uri.path().into() }
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::Method { method: method.to_string(), path: uri.path().into() }
}
