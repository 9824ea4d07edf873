//! The Open Inference Protocol, version 2, over HTTP: the routes below `/v2` that Triton and KServe have too, with
//! their binary tensor extension. `request` reads bodies, `contract` holds them against a model, `answer` writes.

pub(super) mod about;
mod answer;
mod contract;
pub(super) mod infer;
mod request;
mod values;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error::ApiError;
use crate::repository::Missing;
pub(super) use contract::no_values;
pub use request::{Data, InferRequest, RequestError, Tensor, Wanted, parse};

/// An error as the protocol writes it: `{"error": "..."}`.
#[derive(Debug)]
pub(super) struct OipError(ApiError);

/// Result of what has yet to be written in the protocol's way.
type Refusal<T> = Result<T, ApiError>;

impl From<ApiError> for OipError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<Missing> for OipError {
    fn from(missing: Missing) -> Self {
        Self(missing.into())
    }
}

impl IntoResponse for OipError {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.0.to_string() }));
        self.0.mark((self.0.status(), body).into_response())
    }
}
