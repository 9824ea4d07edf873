//! `POST /v2/models/{model}[/versions/{version}]/infer`: tensors in, tensors out.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::answer::{Inferred, Written, write};
use super::contract::{self, Picture};
use super::request::{HEADER_LENGTH, InferRequest, RequestError, contradiction, parse, shortened};
use super::{OipError, Refusal};
use crate::events::Facts;
use crate::http::error::ApiError;
use crate::http::{App, Shared, body};
use crate::queue::{Answered, Input};

/// Bodies up to so many bytes are read where they arrive; larger ones on a thread that may take its time.
const READ_AT_ONCE: usize = 256 << 10;

type Answer = Result<Response, OipError>;

pub(in crate::http) async fn latest(
    State(app): State<Shared>,
    Path(model): Path<String>,
    request: Request,
) -> Answer {
    Ok(infer(&app, &model, None, request).await?)
}

pub(in crate::http) async fn of_version(
    State(app): State<Shared>,
    Path((model, version)): Path<(String, String)>,
    request: Request,
) -> Answer {
    Ok(infer(&app, &model, Some(&version), request).await?)
}

async fn infer(app: &App, model: &str, version: Option<&str>, request: Request) -> Refusal<Response> {
    // Who asks for what is not there hears of it before sending much.
    app.model(Some(model), version)?;
    let (parts, body) = request.into_parts();
    let timeout = app.timeout(&parts.headers)?;
    let header = header_length(&parts.headers)?;
    refuse_encoded(&parts.headers)?;
    let (bytes, _room) = body::bytes(&parts.headers, body, app).await?;
    let arrived = Instant::now();
    let request = read(header, bytes).await?;
    // Whoever was let in is answered, although the server may have been told to stop meanwhile.
    let running = app.models.running(Some(model), version).map_err(ApiError::from)?;
    let wanted = contract::wanted(running.card(), &request.outputs)?;
    let (id, binary) = (request.id.clone(), request.binary_outputs);
    let pictures = contract::pictures(running.card(), request)?;
    app.check_count(pictures.len())?;
    let inputs = pictures.into_iter().map(|picture| input(running.card().channels, picture)).collect();
    let answer = running.infer(inputs, arrived + timeout).await;
    let answers = answer.map_err(|refused| ApiError::of(refused, &[]))?;
    let (logits, stages) = taken_apart(answers);
    let version = running.answerer().version.to_string();
    let inferred = Inferred {
        model: &running.answerer().model,
        version: &version,
        id: id.as_deref(),
        labels: &running.card().labels,
        logits: &logits,
    };
    let mut response = response(write(&inferred, &wanted, binary));
    let answerer = Some(running.answerer().clone());
    response.extensions_mut().insert(Facts { answerer, pictures: stages, code: None });
    Ok(response)
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, RequestError> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let found = String::from_utf8_lossy(value.as_bytes());
    let length = found
        .parse()
        .map_err(|_| contradiction(HEADER_LENGTH, "a number of bytes", format!("`{}`", shortened(&found))))?;
    Ok(Some(length))
}

/// Pictures are compressed already.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), RequestError> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            let found = format!("`{}`", shortened(&String::from_utf8_lossy(encoding.as_bytes())));
            Err(contradiction("content-encoding", "none", found))
        }
        _ => Ok(()),
    }
}

async fn read(header: Option<usize>, bytes: Bytes) -> Refusal<InferRequest> {
    if bytes.len() <= READ_AT_ONCE {
        return Ok(parse(header, &bytes)?);
    }
    let parsed = tokio::task::spawn_blocking(move || parse(header, &bytes)).await;
    Ok(parsed.map_err(|error| ApiError::Engine { reason: error.to_string() })??)
}

fn input(channels: usize, picture: Picture) -> Input {
    match picture {
        Picture::Encoded(file) => Input::File(file),
        Picture::Pixels(pixels) => Input::Pixels(pixels.into()),
        Picture::Planes(planes) => Input::Values(interleaved(channels, &planes)),
    }
}

/// `[channels, height, width]` as `[height, width, channels]`.
fn interleaved(channels: usize, planes: &[f32]) -> Vec<f32> {
    let pixels = planes.len() / channels.max(1);
    (0..pixels).flat_map(|pixel| (0..channels).map(move |channel| planes[channel * pixels + pixel])).collect()
}

fn taken_apart(answers: Vec<Answered>) -> (Vec<Vec<f32>>, Vec<crate::events::Stages>) {
    answers.into_iter().map(|Answered { logits, stages }| (logits, stages)).unzip()
}

fn response(written: Written) -> Response {
    let Written { header_length, body } = written;
    let content_type = if header_length.is_some() { "application/octet-stream" } else { "application/json" };
    let mut response = ([(CONTENT_TYPE, content_type)], body).into_response();
    if let Some(length) = header_length {
        let name = HeaderName::from_static(HEADER_LENGTH);
        response.headers_mut().insert(name, HeaderValue::from(length));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() {
        assert_eq!(interleaved(3, &[1., 2., 3., 4., 5., 6.]), [1., 3., 5., 2., 4., 6.]);
        assert_eq!(interleaved(1, &[1., 2.]), [1., 2.]);
    }
}
