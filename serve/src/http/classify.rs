//! `POST /v1/classify` and its brothers that name a model: pictures in, labels and stage times out.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::body::{self, Asked, Sent};
use super::error::ApiError;
use super::wire::{self, ClassifyAnswer, ClassifyQuery, Prediction, Times};
use super::{App, Shared};
use crate::events::{Facts, Stages};
use crate::pipeline::ranked;
use crate::queue::{Answered, Input};
use crate::running::Running;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Digits of a file's hash in an answer: enough to tell files apart.
const DIGEST_DIGITS: usize = 12;

type Answer = Result<Response, ApiError>;
type Asking = Result<Query<ClassifyQuery>, QueryRejection>;

/// The default model.
pub(super) async fn default(State(app): State<Shared>, query: Asking, request: Request) -> Answer {
    classify(&app, ClassifyQuery::read(query)?, request).await
}

/// The model in the path.
pub(super) async fn of_model(
    State(app): State<Shared>,
    Path(model): Path<String>,
    query: Asking,
    request: Request,
) -> Answer {
    let query = ClassifyQuery::read(query)?;
    classify(&app, ClassifyQuery { model: Some(model), ..query }, request).await
}

/// The model and version in the path.
pub(super) async fn of_version(
    State(app): State<Shared>,
    Path((model, version)): Path<(String, String)>,
    query: Asking,
    request: Request,
) -> Answer {
    let query = ClassifyQuery::read(query)?;
    let query = ClassifyQuery { model: Some(model), version: Some(version), ..query };
    classify(&app, query, request).await
}

impl ClassifyQuery {
    fn read(query: Asking) -> Result<Self, ApiError> {
        let Query(query) = query.map_err(|error| ApiError::Query { reason: error.body_text() })?;
        if query.top == Some(0) { Err(ApiError::Top) } else { Ok(query) }
    }
}

async fn classify(app: &App, query: ClassifyQuery, request: Request) -> Answer {
    let (model, version) = (query.model.as_deref(), query.version.as_deref());
    let timeout = match precheck(app, &query, &request) {
        Ok(timeout) => timeout,
        Err(error) => return refuse(app, error, request).await,
    };
    let (Asked { pictures, top }, _room) = body::read(request, app).await?;
    let arrived = Instant::now();
    let top = top.or(query.top).unwrap_or(app.options.top);
    if top == 0 {
        return Err(ApiError::Top);
    }
    app.check_count(pictures.len())?;
    // Whoever was let in is answered, although the server may have been told to stop meanwhile.
    let running = app.models.running(model, version)?;
    let (names, inputs) = taken_apart(pictures);
    let answer = running.infer(inputs, arrived + timeout).await;
    let answers = answer.map_err(|refused| ApiError::of(refused, &names))?;
    Ok(response(&running, names, answers, top, arrived))
}

/// What can be said before the body is there: who asks for what is not there hears of it before sending much.
fn precheck(app: &App, query: &ClassifyQuery, request: &Request) -> Result<Duration, ApiError> {
    app.model(query.model.as_deref(), query.version.as_deref())?;
    app.timeout(request.headers())
}

/// Refuses a request whose body has not been read.
async fn refuse(app: &App, error: ApiError, request: Request) -> Answer {
    let discarded = body::discard(request.into_body());
    // The answer is the same, whether the rest arrived or not.
    let _ = tokio::time::timeout(app.options.body_timeout, discarded).await;
    Err(error)
}

fn taken_apart(pictures: Vec<Sent>) -> (Vec<Option<String>>, Vec<Input>) {
    pictures.into_iter().map(|Sent { name, bytes }| (name, Input::File(bytes))).unzip()
}

fn response(
    running: &Running,
    names: Vec<Option<String>>,
    answers: Vec<Answered>,
    top: usize,
    arrived: Instant,
) -> Response {
    let stages: Vec<Stages> = answers.iter().map(|answer| answer.stages).collect();
    let labels = &running.card().labels;
    let predicted = |(name, Answered { logits, stages }): (Option<String>, Answered)| {
        let top = ranked(&logits, labels, top);
        Prediction { name, top, times_us: Times::of(&stages, arrived.elapsed()) }
    };
    let predictions: Vec<Prediction> = names.into_iter().zip(answers).map(predicted).collect();
    let timing = HeaderValue::try_from(wire::server_timing(&predictions));
    let mut response = Json(answer(running, predictions)).into_response();
    if let Ok(timing) = timing {
        response.headers_mut().insert(SERVER_TIMING, timing);
    }
    let answerer = Some(running.answerer().clone());
    response.extensions_mut().insert(Facts { answerer, pictures: stages, code: None });
    response
}

fn answer(running: &Running, predictions: Vec<Prediction>) -> ClassifyAnswer {
    let digest = running.served().digest();
    ClassifyAnswer {
        model: running.answerer().model.to_string(),
        version: running.answerer().version.to_string(),
        digest: digest.map(|digest| digest.chars().take(DIGEST_DIGITS).collect()),
        predictions,
    }
}
