//! What happens in a server, told to whoever counts it or writes it down: the seam between answering and watching.
//!
//! Never here: files, formats, counters. No event holds a picture, a key or a query.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Time of each stage of one picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Bytes to pixels.
    pub decode: Duration,
    /// Pixels to the network's size.
    pub preprocess: Duration,
    /// Waiting: for a worker, and for the rest of its batch.
    pub queue: Duration,
    /// The engine, for the whole batch that the picture was in.
    pub inference: Duration,
}

/// The model and version that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answerer {
    /// The model's name.
    pub model: Arc<str>,
    /// Its version.
    pub version: u64,
}

/// What a handler knows of a request; it travels in the answer's extensions to whoever tells of it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Who answered.
    pub answerer: Option<Answerer>,
    /// One per picture that was answered.
    pub pictures: Vec<Stages>,
    /// The word for programs of an error.
    pub code: Option<&'static str>,
}

/// A request that is over.
#[derive(Clone, Debug)]
pub struct RequestDone {
    /// The client's `x-request-id`, or one made here; it is in the answer too.
    pub id: String,
    /// Who asked, where there is a socket.
    pub peer: Option<SocketAddr>,
    /// `GET`, `POST`.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The route that took it, `/v1/models/{model}` and the like; `None` for one that is not known.
    pub route: Option<String>,
    /// The status; 499 for a client that hung up before its answer.
    pub status: u16,
    /// Bytes of the body, as its head announced them.
    pub bytes: u64,
    /// From head to answer.
    pub total: Duration,
    /// What the handler knew.
    pub facts: Facts,
}

/// A batch that an engine has run.
#[derive(Clone, Debug)]
pub struct BatchDone {
    /// Who ran it.
    pub answerer: Answerer,
    /// Pictures in it.
    pub pictures: usize,
    /// Pictures that still wait.
    pub waiting: usize,
    /// The engine's time.
    pub inference: Duration,
    /// Whether the engine answered.
    pub ok: bool,
}

/// Something that happens in a server.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A request is over.
    Request(RequestDone),
    /// An engine has run a batch.
    Batch(BatchDone),
    /// A version is there and answers.
    Loaded {
        /// Which.
        answerer: Answerer,
        /// SHA-256 of its file, where there is one.
        digest: Option<String>,
        /// How long loading took.
        took: Duration,
    },
    /// A version could not be loaded; what answered before goes on.
    LoadFailed {
        /// Which.
        answerer: Answerer,
        /// Why.
        reason: String,
    },
    /// A version is gone: replaced, or its folder is.
    Unloaded {
        /// Which.
        answerer: Answerer,
    },
    /// A connection that was ended or not let in, and why.
    Connection {
        /// Whose.
        peer: SocketAddr,
        /// Why.
        reason: &'static str,
    },
    /// Something that whoever runs the server should know.
    Warning(String),
    /// A step of the server's life: `listening`, `ready`, `draining`, `stopped`.
    Life(&'static str),
}

/// Takes events. It is called on the threads that answer: it must be quick and must not block.
pub trait Sink: Send + Sync {
    /// Takes an event.
    fn event(&self, event: &Event);
}

/// All that listen.
#[derive(Clone, Default)]
pub struct Sinks(Vec<Arc<dyn Sink>>);

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sinks({})", self.0.len())
    }
}

impl Sinks {
    /// One more that listens.
    pub fn add(&mut self, sink: Arc<dyn Sink>) {
        self.0.push(sink);
    }

    /// Whether nobody listens, so that an event need not be put together.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all.
    pub fn tell(&self, event: &Event) {
        for sink in &self.0 {
            sink.event(event);
        }
    }
}
