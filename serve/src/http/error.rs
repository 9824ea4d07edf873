//! Everything that can be wrong with a request, and the one place that knows status codes.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use picture::PictureError;

use super::wire::{ErrorBody, ErrorDetail};

/// Seconds after which a refused client may try again.
const RETRY_AFTER: u64 = 1;

/// A request that gets no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(
        "the body is empty; send a JPEG, PNG or WebP picture, multipart/form-data with several, or JSON {{\"images\": [base64, ...]}}"
    )]
    EmptyBody,
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
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
    #[error("query: {reason}; known: top=N")]
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
    #[error("no route {path}; known: POST /v1/classify, GET /v1/models, GET /healthz, GET /readyz")]
    NoRoute { path: String },
    #[error("{path} does not take {method}")]
    Method { method: String, path: String },
    #[error("the server is busy; try again in {RETRY_AFTER} s")]
    Overloaded,
    #[error("the server is not ready")]
    NotReady,
    #[error("the engine failed: {reason}")]
    Engine { reason: String },
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::EmptyBody
            | Self::BodyUnread { .. }
            | Self::Json { .. }
            | Self::Multipart { .. }
            | Self::Query { .. }
            | Self::Top
            | Self::NoPictures
            | Self::Base64 { .. } => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge { .. } | Self::TooManyPictures { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Picture { source, .. } => picture_status(source),
            Self::NoRoute { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::Engine { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::EmptyBody => "empty_body",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyUnread { .. } => "body_unread",
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
            Self::Overloaded => "overloaded",
            Self::NotReady => "not_ready",
            Self::Engine { .. } => "engine_failed",
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

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let error =
            ErrorDetail { code: self.code().into(), message: self.to_string(), picture: self.picture() };
        let mut response = (status, Json(ErrorBody { error })).into_response();
        if matches!(self, Self::Overloaded | Self::NotReady) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        response
    }
}
