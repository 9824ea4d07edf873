//! A request's body as pictures: the one place that knows the three ways to send them.

use std::sync::Arc;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::App;
use super::by_name::ByName;
use super::error::ApiError;
use super::wire::ClassifyRequest;
use crate::Options;

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

/// Room for a body among those under way; given back when dropped.
pub(crate) struct Room {
    all: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    fn new(app: &App) -> Self {
        Self { all: app.bodies.clone(), taken: None }
    }

    /// Makes it room for so many bytes.
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = units(bytes).saturating_sub(taken);
        if missing == 0 {
            return Ok(());
        }
        let more = self.all.clone().try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX));
        let more = more.map_err(|_| ApiError::Overloaded { seconds: 1 })?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

/// Room is counted in so many bytes.
const UNIT: usize = 1 << 10;
/// Bytes of a body that is refused anyway and yet read, so that the client is ready to hear why.
const DISCARDED: usize = 64 << 20;
/// Larger bodies in JSON or forms are taken apart on a thread of their own.
const QUICK: usize = 256 << 10;

/// Units of so many bytes.
pub(crate) fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT).min(Semaphore::MAX_PERMITS)
}

pub(crate) async fn read(request: Request, app: &App) -> Result<(Asked, Room), ApiError> {
    let kind = kind_of(&request)?;
    let (parts, body) = request.into_parts();
    let (bytes, room) = bytes(&parts.headers, body, app).await?;
    if bytes.is_empty() {
        return Err(ApiError::EmptyBody);
    }
    let asked = match kind {
        Kind::Picture => Ok(Asked { pictures: vec![Sent { name: None, bytes }], top: None }),
        Kind::Multipart => from_multipart(Request::from_parts(parts, Body::from(bytes))).await,
        Kind::Json if bytes.len() <= QUICK => from_json(&bytes),
        Kind::Json => {
            let read = tokio::task::spawn_blocking(move || from_json(&bytes)).await;
            read.map_err(|error| ApiError::Engine { reason: error.to_string() })?
        }
    };
    Ok((asked?, room))
}

/// A whole body within the server's limits, for every protocol; its room is held until it has been answered.
///
/// # Errors
/// 413 for one that is too large, 408 for one that is too slow, 429 if there is no room for it now.
pub(crate) async fn bytes(headers: &HeaderMap, body: Body, app: &App) -> Result<(Bytes, Room), ApiError> {
    let Options { max_body_bytes: limit, body_timeout, .. } = app.options;
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let announced = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    let late = |_| ApiError::BodyTimeout { seconds: body_timeout.as_secs_f32() };
    tokio::time::timeout(body_timeout, gathered(body, announced, limit, Room::new(app)))
        .await
        .map_err(late)?
}

/// A body's frames as one; a body of one frame is not copied. The room for what is announced is taken at once, for more
/// as it comes.
async fn gathered(
    mut body: Body,
    announced: Option<usize>,
    limit: usize,
    mut room: Room,
) -> Result<(Bytes, Room), ApiError> {
    let expected = announced.unwrap_or_default();
    if expected > limit {
        discard(body).await;
        return Err(ApiError::BodyTooLarge { limit });
    }
    room.grow(expected)?;
    let Some(first) = frame(&mut body).await? else { return Ok((Bytes::new(), room)) };
    if body.is_end_stream() && first.len() <= limit {
        room.grow(first.len())?;
        return Ok((first, room));
    }
    let mut whole = Vec::with_capacity(expected.max(first.len()));
    whole.extend_from_slice(&first);
    while whole.len() <= limit {
        room.grow(whole.len())?;
        match frame(&mut body).await? {
            Some(bytes) => whole.extend_from_slice(&bytes),
            None => return Ok((whole.into(), room)),
        }
    }
    discard(body).await;
    Err(ApiError::BodyTooLarge { limit })
}

/// The next bytes; trailers are none.
async fn frame(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyUnread { reason: error.to_string() })?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Reads a body that nobody wants, within bounds: a connection that is closed while the client still sends is reset, and
/// the client never hears why.
pub(crate) async fn discard(mut body: Body) {
    let mut read = 0;
    while let Ok(Some(bytes)) = frame(&mut body).await {
        read += bytes.len();
        if read > DISCARDED {
            return;
        }
    }
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
