//! Around every request: its id, and what is told of it when it is over, also if its client did not stay for the end.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONNECTION, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

use super::{Life, Shared};
use crate::events::{Event, Facts, RequestDone, Sinks};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a client's id at most.
const LONGEST_ID: usize = 128;
/// What nginx calls a client that closed its connection before the answer.
const HUNG_UP: u16 = 499;

/// The other end of a connection, as an extension of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

/// Makes ids: unlike each other, and unlike those of another process.
pub(super) struct Ids {
    seed: u64,
    next: AtomicU64,
}

impl Ids {
    pub fn new() -> Self {
        Self { seed: RandomState::new().hash_one(0), next: AtomicU64::new(0) }
    }

    fn make(&self) -> String {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        // The odd constant of the golden ratio spreads neighbors over all digits.
        format!("{:016x}", self.seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }
}

pub(super) async fn observe(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let id = sane_id(request.headers()).unwrap_or_else(|| app.ids.make());
    let value = HeaderValue::try_from(id.as_str());
    let mut telling = Telling::of(id, &request, &app.sinks);
    let mut response = next.run(request).await;
    if let Ok(value) = value {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if app.life() > Life::Ready {
        // Whoever keeps the connection open would lose a later request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    telling.finish(&mut response);
    response
}

/// The client's own id, if it is one word of plain characters.
fn sane_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ((1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(plain)).then(|| id.into())
}

/// Tells of a request when it is over; if it is dropped before, of a client that hung up.
struct Telling {
    begun: Instant,
    sinks: Sinks,
    done: Option<RequestDone>,
}

impl Telling {
    fn of(id: String, request: &Request, sinks: &Sinks) -> Self {
        let done = (!sinks.is_empty()).then(|| started(id, request));
        Self { begun: Instant::now(), sinks: sinks.clone(), done }
    }

    fn finish(&mut self, response: &mut Response) {
        if let Some(done) = &mut self.done {
            done.status = response.status().as_u16();
            done.facts = response.extensions_mut().remove::<Facts>().unwrap_or_default();
        }
        self.tell();
    }

    fn tell(&mut self) {
        if let Some(mut done) = self.done.take() {
            done.total = self.begun.elapsed();
            self.sinks.tell(&Event::Request(done));
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.tell();
    }
}

fn started(id: String, request: &Request) -> RequestDone {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    RequestDone {
        id,
        peer: request.extensions().get::<Peer>().map(|peer| peer.0),
        method: request.method().to_string(),
        path: request.uri().path().into(),
        route: request.extensions().get::<MatchedPath>().map(|path| path.as_str().into()),
        status: HUNG_UP,
        bytes: length.and_then(|length| length.parse().ok()).unwrap_or_default(),
        total: std::time::Duration::ZERO,
        facts: Facts::default(),
    }
}
