//! The HTTP side: routes, handlers, and the server that runs them. Bodies are read in `body`, errors become answers in
//! `error`, what travels is in [`wire`].
//!
//! Every protocol asks in the same way: `App::model` finds the version that answers, `Running::infer` has it
//! answered, and what the handler puts into the answer's extensions ([`crate::events::Facts`]) is told of the request.

mod body;
mod by_name;
mod classify;
mod error;
mod health;
#[doc(hidden)]
pub mod keys;
mod metrics;
mod models;
mod observe;
#[doc(hidden)]
pub mod oip;
mod openapi;
mod page;
mod pulse;
mod server;
mod tls;
mod whole;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderName, Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use tokio::sync::Semaphore;

pub use crate::Options;
use crate::events::{Event, Sink, Sinks};
use crate::metrics::Metrics;
use crate::repository::{Repository, Source};
use crate::running::Running;
use crate::{Result, Served};
use error::ApiError;
use keys::Keys;
use observe::Ids;
pub use server::{Bound, Ended, StartInfo, bind, run, stop_signal};
use tls::Tls;

const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// What is served, how, and who is told of it: a server that has yet to start.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    sources: Vec<Source>,
    options: Options,
    sinks: Sinks,
}

impl Setup {
    /// A server with these options and no model yet.
    pub fn new(options: &Options) -> Self {
        Self { options: options.clone(), ..Self::default() }
    }

    /// One more model; the first is the default.
    pub fn model(mut self, source: Source) -> Self {
        self.sources.push(source);
        self
    }

    /// One more that is told what happens.
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sinks.add(sink);
        self
    }

    /// The server as a service, without a socket, its models loaded.
    ///
    /// # Errors
    /// If a model does not load, an engine cannot start or an option makes no sense.
    pub fn router(self) -> Result<Router> {
        let app = self.app()?;
        app.load()?;
        Ok(router(app))
    }

    fn app(self) -> Result<Shared> {
        self.options.check()?;
        let metrics = Arc::new(Metrics::new());
        let setup = self.sink(metrics.clone());
        let Options { api_keys, tls, max_bodies_bytes, .. } = &setup.options;
        Ok(Arc::new(App {
            metrics,
            keys: api_keys.as_deref().map(Keys::open).transpose()?,
            tls: tls.as_ref().map(Tls::open).transpose()?,
            bodies: Arc::new(Semaphore::new(body::units(*max_bodies_bytes))),
            models: Repository::new(setup.sources)?,
            options: setup.options,
            sinks: setup.sinks,
            life: AtomicU8::new(Life::Loading as u8),
            ids: Ids::new(),
        }))
    }
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Life {
    /// Models load; nothing is answered.
    Loading,
    /// It answers.
    Ready,
    /// It answers and says that it will not for long.
    Leaving,
    /// What is under way is finished; nothing else is begun.
    Draining,
}

impl Life {
    const ALL: [Self; 4] = [Self::Loading, Self::Ready, Self::Leaving, Self::Draining];
}

/// What the handlers share.
pub(crate) struct App {
    pub options: Options,
    pub models: Repository,
    pub sinks: Sinks,
    pub metrics: Arc<Metrics>,
    keys: Option<Keys>,
    tls: Option<Tls>,
    /// Room for the bodies under way, in units of `body`.
    bodies: Arc<Semaphore>,
    life: AtomicU8,
    ids: Ids,
}

pub(crate) type Shared = Arc<App>;

/// One loaded model as a service, without a socket.
///
/// # Errors
/// If the engines cannot start or an option makes no sense.
pub fn app(served: Served, options: &Options) -> Result<Router> {
    Setup::new(options).model(Source::loaded(served)).router()
}

/// Every route. The OpenAPI document describes these and no others.
fn routes() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![
        ("/", get(page::page)),
        ("/page.css", get(page::style)),
        ("/page.js", get(page::script)),
        ("/openapi.json", get(openapi::document)),
        ("/metrics", get(metrics::metrics)),
        ("/v1/classify", post(classify::default)),
        ("/v1/models", get(models::all)),
        ("/v1/models/{model}", get(models::one)),
        ("/v1/models/{model}/classify", post(classify::of_model)),
        ("/v1/models/{model}/versions/{version}/classify", post(classify::of_version)),
        ("/v1/models/{model}/reload", post(models::reload)),
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
        ("/v2", get(oip::about::server)),
        ("/v2/health/live", get(oip::about::live)),
        ("/v2/health/ready", get(oip::about::ready)),
        ("/v2/models/stats", get(oip::about::all_statistics)),
        ("/v2/models/{model}", get(oip::about::model)),
        ("/v2/models/{model}/ready", get(oip::about::model_ready)),
        ("/v2/models/{model}/stats", get(oip::about::model_statistics)),
        ("/v2/models/{model}/infer", post(oip::infer::latest)),
        ("/v2/models/{model}/versions/{version}", get(oip::about::version)),
        ("/v2/models/{model}/versions/{version}/ready", get(oip::about::version_ready)),
        ("/v2/models/{model}/versions/{version}/stats", get(oip::about::version_statistics)),
        ("/v2/models/{model}/versions/{version}/infer", post(oip::infer::of_version)),
    ]
}

fn router(app: Shared) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |router, (path, route)| router.route(path, route));
    routes
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        // `body` has its own limit, with an answer of its own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), keys::check))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}

impl App {
    /// Where the server is in its life.
    pub fn life(&self) -> Life {
        Life::ALL[usize::from(self.life.load(Ordering::Acquire))]
    }

    fn enter(&self, life: Life) {
        self.life.store(life as u8, Ordering::Release);
    }

    /// Loads every model; the server is ready then. It takes as long as it takes: never on an async thread.
    fn load(&self) -> Result<()> {
        self.models.load(&self.options, &self.sinks)?;
        self.enter(Life::Ready);
        self.sinks.tell(&Event::Life("ready"));
        Ok(())
    }

    /// The version that answers: of this name or the first model, of this number or the latest that is ready.
    pub fn model(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> std::result::Result<Arc<Running>, ApiError> {
        match self.life() {
            Life::Loading => Err(ApiError::NotReady { why: "models are loading" }),
            Life::Draining => Err(ApiError::NotReady { why: "the server is stopping" }),
            Life::Ready | Life::Leaving => Ok(self.models.running(name, version)?),
        }
    }

    /// Time for an answer: the server's, or less if the request says so.
    pub fn timeout(&self, headers: &HeaderMap) -> std::result::Result<Duration, ApiError> {
        let Some(asked) = headers.get(REQUEST_TIMEOUT) else { return Ok(self.options.timeout) };
        let millis = asked.to_str().ok().and_then(|asked| asked.parse().ok()).filter(|millis| *millis > 0);
        let wrong = || ApiError::Timeout { found: String::from_utf8_lossy(asked.as_bytes()).into() };
        Ok(Duration::from_millis(millis.ok_or_else(wrong)?).min(self.options.timeout))
    }

    /// Files of keys and certificate.
    pub fn access_files(&self) -> Vec<PathBuf> {
        let keys = self.keys.as_ref().map(|keys| keys.path().to_path_buf());
        let tls = self.tls.as_ref().map(Tls::files);
        let tls = tls.map(|files| [files.certificate.clone(), files.key.clone()]);
        keys.into_iter().chain(tls.into_iter().flatten()).collect()
    }

    /// Whether a request may have so many pictures.
    pub fn check_count(&self, pictures: usize) -> std::result::Result<(), ApiError> {
        let limit = self.options.max_pictures.min(self.options.queue);
        match pictures {
            0 => Err(ApiError::NoPictures),
            found if found > limit => Err(ApiError::TooManyPictures { limit, found }),
            _ => Ok(()),
        }
    }

    /// Whether pictures would be answered now, by every model.
    pub fn check_ready(&self) -> std::result::Result<(), ApiError> {
        let why = match self.life() {
            Life::Loading => "models are loading",
            Life::Leaving | Life::Draining => "the server is stopping",
            Life::Ready if self.models.is_ready() => return Ok(()),
            Life::Ready => "a model has no worker that answers",
        };
        Err(ApiError::NotReady { why })
    }
}

/// Reads keys and certificate again.
pub(crate) fn reload_access(app: &App) -> Result<()> {
    app.keys.as_ref().map_or(Ok(()), Keys::reload)?;
    app.tls.as_ref().map_or(Ok(()), Tls::reload)
}

async fn no_route(uri: Uri) -> Response {
    refused(&uri, ApiError::NoRoute { path: uri.path().into() })
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    refused(&uri, ApiError::Method { method: method.to_string(), path: uri.path().into() })
}

/// An error as the protocol below that path writes it.
fn refused(uri: &Uri, error: ApiError) -> Response {
    if uri.path() == "/v2" || uri.path().starts_with("/v2/") {
        oip::OipError::from(error).into_response()
    } else {
        error.into_response()
    }
}
