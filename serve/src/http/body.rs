//! A request's body as pictures: the one place that knows the three ways to send them.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::App;
use super::by_name::ByName;
use super::error::ApiError;
use super::wire::ClassifyRequest;

/// A picture as it was sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Sent {
    pub name: Option<String>,
    pub bytes: Bytes,
}

/// What a body asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub pictures: Vec<Sent>,
    pub top: Option<usize>,
}

/// How a body is to be read.
enum Kind {
    Picture,
    Multipart,
    Json,
}

pub(crate) async fn read(request: Request, app: &App) -> Result<Asked, ApiError> {
    let kind = kind_of(&request)?;
    let (parts, body) = request.into_parts();
    let bytes = bytes(&parts.headers, body, app).await?;
    if bytes.is_empty() {
        return Err(ApiError::EmptyBody);
    }
    match kind {
        Kind::Picture => Ok(Asked { pictures: vec![Sent { name: None, bytes }], top: None }),
        Kind::Multipart => from_multipart(Request::from_parts(parts, Body::from(bytes))).await,
        Kind::Json => from_json(&bytes),
    }
}

/// A whole body within the server's limits, for every protocol.
pub(crate) async fn bytes(headers: &HeaderMap, body: Body, app: &App) -> Result<Bytes, ApiError> {
    let limit = app.options.max_body_bytes;
    refuse_announced(headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()), limit)?;
    whole(body, limit).await
}

/// What the content type says; a picture's own bytes say which format it is, so anything that may hold one is taken,
/// also what curl says when it is not told (`application/x-www-form-urlencoded`).
fn kind_of(request: &Request) -> Result<Kind, ApiError> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else { return Ok(Kind::Picture) };
    let found = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    match found.split(';').next().unwrap_or_default().trim() {
        "multipart/form-data" => Ok(Kind::Multipart),
        "application/json" => Ok(Kind::Json),
        "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(Kind::Picture),
        image if image.starts_with("image/") => Ok(Kind::Picture),
        _ => Err(ApiError::ContentType { found }),
    }
}

/// A body that says beforehand that it is too large need not be read.
fn refuse_announced(length: Option<&str>, limit: usize) -> Result<(), ApiError> {
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > limit as u64 => Err(ApiError::BodyTooLarge { limit }),
        _ => Ok(()),
    }
}

async fn whole(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    to_bytes(body, limit).await.map_err(|error| {
        // axum has no public type for it; its own message names the cause.
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        if reason.contains("length limit") {
            ApiError::BodyTooLarge { limit }
        } else {
            ApiError::BodyUnread { reason }
        }
    })
}

async fn from_multipart(request: Request) -> Result<Asked, ApiError> {
    let malformed = |reason: String| ApiError::Multipart { reason };
    let mut form =
        Multipart::from_request(request, &()).await.map_err(|error| malformed(error.body_text()))?;
    let mut pictures = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| malformed(error.body_text()))? {
        let name = field.file_name().or(field.name()).map(String::from);
        let bytes = field.bytes().await.map_err(|error| malformed(error.body_text()))?;
        pictures.push(Sent { name, bytes });
    }
    Ok(Asked { pictures, top: None })
}

fn from_json(bytes: &[u8]) -> Result<Asked, ApiError> {
    let ByName(request): ByName<ClassifyRequest> =
        serde_json::from_slice(bytes).map_err(|error| ApiError::Json { reason: error.to_string() })?;
    let decoded = request.images.iter().enumerate().map(|(picture, text)| from_base64(picture, text));
    Ok(Asked { pictures: decoded.collect::<Result<_, _>>()?, top: request.top })
}

fn from_base64(picture: usize, text: &str) -> Result<Sent, ApiError> {
    // A data URL says the same with a prefix: data:image/png;base64,iVBOR...
    let payload =
        text.strip_prefix("data:").and_then(|url| url.split_once(",")).map_or(text, |(_, payload)| payload);
    let bytes =
        STANDARD.decode(payload).map_err(|error| ApiError::Base64 { picture, reason: error.to_string() })?;
    Ok(Sent { name: None, bytes: bytes.into() })
}
