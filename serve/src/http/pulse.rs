//! What a connection is doing and since when, and the limit on each: slow heads, idle connections and clients that do not
//! take their answer are ended. Nothing is set per request but two numbers; one timer per connection looks at them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Options;

/// Most and least time between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has arrived yet.
    Fresh,
    /// The head of a request arrives.
    Head,
    /// A request is worked on; its body and its answer have deadlines of their own.
    Working,
    /// The answer is being written.
    Answering,
    /// Nothing, between two requests.
    Idle,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Fresh, Self::Head, Self::Working, Self::Answering, Self::Idle];
}

/// A connection's phase, and when it began.
#[derive(Debug)]
pub(super) struct Pulse {
    begun: Instant,
    phase: AtomicU8,
    since: AtomicU64,
}

impl Pulse {
    /// A connection that has just been made: its first head is awaited.
    pub fn new() -> Arc<Self> {
        let (phase, since) = (AtomicU8::new(Phase::Fresh as u8), AtomicU64::new(0));
        Arc::new(Self { begun: Instant::now(), phase, since })
    }

    /// A new phase begins now.
    pub fn enter(&self, phase: Phase) {
        self.since.store(self.millis(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Relaxed))]
    }

    /// Whether it may be closed without taking anything from anybody.
    pub fn is_unused(&self) -> bool {
        matches!(self.phase(), Phase::Fresh | Phase::Idle)
    }

    fn enter_from(&self, from: Phase, to: Phase) {
        if self.phase() == from {
            self.enter(to);
        }
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Ready once a phase has taken too long, with what it was. Within half as long again, or a second.
    pub async fn overdue(&self, options: &Options) -> &'static str {
        let Options { header_timeout, keep_alive, body_timeout, .. } = *options;
        let shortest = header_timeout.min(keep_alive).min(body_timeout);
        let pause = (shortest / 4).clamp(LOOKS.0, LOOKS.1);
        loop {
            tokio::time::sleep(pause).await;
            let lasted =
                Duration::from_millis(self.millis().saturating_sub(self.since.load(Ordering::Relaxed)));
            match self.phase() {
                Phase::Fresh | Phase::Head if lasted > header_timeout => {
                    return "the request's head took too long";
                }
                Phase::Idle if lasted > keep_alive => return "idle for too long",
                Phase::Answering if lasted > body_timeout => return "the client did not take its answer",
                _ => {}
            }
        }
    }
}

/// A stream that tells a pulse of its bytes.
pub(super) struct Pulsed<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

impl<S> Pulsed<S> {
    /// Tells `pulse`.
    pub fn new(stream: S, pulse: Arc<Pulse>) -> Self {
        Self { stream, pulse }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pulsed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.enter_from(Phase::Idle, Phase::Head);
            self.pulse.enter_from(Phase::Fresh, Phase::Head);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pulsed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.pulse.enter_from(Phase::Answering, Phase::Answering);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        if written.is_ready() {
            self.pulse.enter_from(Phase::Answering, Phase::Answering);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Everything is written: the next request may come.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.pulse.enter_from(Phase::Answering, Phase::Idle);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
