//! Everything that can be wrong with a request, and the one place that knows status codes.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use picture::PictureError;

use super::wire::{ErrorBody, ErrorDetail};
use crate::events::Facts;
use crate::queue::Refused;
use crate::repository::{Missing, NotReloaded};

/// Seconds after which a client may ask again that was refused for a reason that passes by itself.
const SOON: u64 = 1;
/// Seconds that a refused client is sent away for at most.
const LONGEST: u64 = 60;

/// A request that gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(
        "the body is empty; send a JPEG, PNG or WebP picture, multipart/form-data with several, or JSON {{\"images\": [base64, ...]}}"
    )]
    EmptyBody,
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive within {seconds} s")]
    BodyTimeout { seconds: f32 },
    #[error(
        "expected an API key (`Authorization: Bearer KEY` or `X-Api-Key: KEY`), found none that is known"
    )]
    Unauthorized,
    #[error("the body did not arrive: {reason}")]
    BodyUnread { reason: String },
    #[error(
        "content type `{found}`: expected image/*, application/octet-stream, multipart/form-data or application/json"
    )]
    ContentType { found: String },
    #[error("malformed JSON: {reason}; expected {{\"images\": [base64, ...], \"top\": 5}}")]
    Json { reason: String },
    #[error("malformed multipart/form-data: {reason}")]
    Multipart { reason: String },
    #[error("query: {reason}; known: top=N, model=NAME, version=N")]
    Query { reason: String },
    #[error("top: expected at least 1, found 0")]
    Top,
    #[error("expected at least one picture, found none")]
    NoPictures,
    #[error("expected at most {limit} pictures in a request, found {found}")]
    TooManyPictures { limit: usize, found: usize },
    #[error("picture {picture}: not base64: {reason}")]
    Base64 { picture: usize, reason: String },
    #[error("picture {picture}{name}: {source}", name = name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default())]
    Picture { picture: usize, name: Option<String>, source: PictureError },
    #[error(
        "no route {path}; known: POST /v1/classify, GET /v1/models, POST /v1/models/{{model}}/classify, POST /v1/models/{{model}}/reload, GET /healthz, GET /readyz"
    )]
    NoRoute { path: String },
    #[error("{path} does not take {method}")]
    Method { method: String, path: String },
    #[error("the server is busy; try again in {seconds} s")]
    Overloaded { seconds: u64 },
    #[error("the server is not ready: {why}")]
    NotReady { why: &'static str },
    #[error("x-request-timeout-ms: expected whole milliseconds, at least 1, found `{found}`")]
    Timeout { found: String },
    #[error("no answer by the request's deadline; what had not begun was dropped")]
    Deadline,
    #[error("no model `{name}`; known: {known}", known = known.join(", "))]
    UnknownModel { name: String, known: Vec<String> },
    #[error("no version `{version}` of model `{model}`; known: {known}", known = joined(known))]
    UnknownVersion { model: String, version: String, known: Vec<u64> },
    #[error("model `{model}` is loading")]
    ModelLoading { model: String },
    #[error("version {version} of model `{model}` did not load: {reason}")]
    ModelFailed { model: String, version: u64, reason: String },
    #[error("model `{model}` was not reloaded: {error}; what answered before goes on")]
    NotReloaded { model: String, error: NotReloaded },
    #[error(transparent)]
    Inference(#[from] super::oip::RequestError),
    #[error("the engine failed: {reason}")]
    Engine { reason: String },
}

fn joined(versions: &[u64]) -> String {
    versions.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

impl From<Missing> for ApiError {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Model { name, known } => Self::UnknownModel { name, known },
            Missing::Version { model, version, known } => Self::UnknownVersion { model, version, known },
            Missing::Loading { model } => Self::ModelLoading { model },
            Missing::Failed { model, version, reason } => Self::ModelFailed { model, version, reason },
        }
    }
}

impl ApiError {
    /// Why a version refused pictures of these names.
    pub fn of(refused: Refused, names: &[Option<String>]) -> Self {
        match refused {
            Refused::Full { retry_after } => {
                let seconds = retry_after.as_secs_f64().ceil() as u64;
                Self::Overloaded { seconds: seconds.clamp(SOON, LONGEST) }
            }
            Refused::Expired => Self::Deadline,
            Refused::Values => Self::Inference(super::oip::no_values()),
            Refused::Engine { reason } => Self::Engine { reason },
            Refused::Picture { index, source } => {
                Self::Picture { picture: index, name: names.get(index).cloned().flatten(), source }
            }
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::EmptyBody
            | Self::BodyUnread { .. }
            | Self::Json { .. }
            | Self::Multipart { .. }
            | Self::Query { .. }
            | Self::Top
            | Self::NoPictures
            | Self::Timeout { .. }
            | Self::Inference(_)
            | Self::Base64 { .. } => StatusCode::BAD_REQUEST,
            Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge { .. } | Self::TooManyPictures { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Picture { source, .. } => picture_status(source),
            Self::NoRoute { .. } | Self::UnknownModel { .. } | Self::UnknownVersion { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Overloaded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady { .. } | Self::ModelLoading { .. } | Self::ModelFailed { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            // Not 408, which says that the client was slow, and which clients and proxies repeat by themselves.
            Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::NotReloaded { error: NotReloaded::Busy, .. } => StatusCode::CONFLICT,
            Self::NotReloaded { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Engine { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// A word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::EmptyBody => "empty_body",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyUnread { .. } => "body_unread",
            Self::BodyTimeout { .. } => "body_timeout",
            Self::Unauthorized => "unauthorized",
            Self::ContentType { .. } => "unsupported_content_type",
            Self::Json { .. } => "malformed_json",
            Self::Multipart { .. } => "malformed_multipart",
            Self::Query { .. } => "bad_query",
            Self::Top => "bad_top",
            Self::NoPictures => "no_pictures",
            Self::TooManyPictures { .. } => "too_many_pictures",
            Self::Base64 { .. } => "bad_base64",
            Self::Picture { source, .. } => picture_code(source),
            Self::NoRoute { .. } => "unknown_route",
            Self::Method { .. } => "method_not_allowed",
            Self::Overloaded { .. } => "overloaded",
            Self::NotReady { .. } => "not_ready",
            Self::Timeout { .. } => "bad_timeout",
            Self::Deadline => "deadline_exceeded",
            Self::UnknownModel { .. } => "unknown_model",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::ModelLoading { .. } => "model_loading",
            Self::ModelFailed { .. } => "model_failed",
            Self::NotReloaded { error: NotReloaded::Busy, .. } => "reload_under_way",
            Self::NotReloaded { .. } => "not_reloaded",
            Self::Inference(_) => "bad_inference_request",
            Self::Engine { .. } => "engine_failed",
        }
    }

    /// Seconds after which to ask again, where that may help.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Overloaded { seconds } => Some(*seconds),
            Self::NotReady { .. }
            | Self::ModelLoading { .. }
            | Self::NotReloaded { error: NotReloaded::Busy, .. } => Some(SOON),
            _ => None,
        }
    }

    fn picture(&self) -> Option<usize> {
        match self {
            Self::Base64 { picture, .. } | Self::Picture { picture, .. } => Some(*picture),
            _ => None,
        }
    }
}

fn picture_status(error: &PictureError) -> StatusCode {
    match error {
        PictureError::NotAPicture { .. } | PictureError::Unsupported { .. } => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        PictureError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        PictureError::Empty | PictureError::Truncated { .. } | PictureError::Broken { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
    }
}

fn picture_code(error: &PictureError) -> &'static str {
    match error {
        PictureError::NotAPicture { .. } => "not_a_picture",
        PictureError::Unsupported { .. } => "unsupported_picture",
        PictureError::TooLarge { .. } => "picture_too_large",
        PictureError::Empty | PictureError::Truncated { .. } | PictureError::Broken { .. } => {
            "broken_picture"
        }
    }
}

impl ApiError {
    /// Adds to an answer what every protocol's has: when to ask again, how to show a key, and what is told of the request.
    pub fn mark(&self, mut response: Response) -> Response {
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Unauthorized) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let facts = Facts { code: Some(self.code()), ..Facts::default() };
        response.extensions_mut().insert(facts);
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error =
            ErrorDetail { code: self.code().into(), message: self.to_string(), picture: self.picture() };
        self.mark((self.status(), Json(ErrorBody { error })).into_response())
    }
}
