//! The server on a socket: bound first, so that its address is known before it runs; bounded in connections and in the
//! time that each may take; stopped gracefully, so that whoever was let in gets an answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::observe::Peer;
use super::pulse::{Phase, Pulse, Pulsed};
use super::{Life, Setup, Shared, router};
use crate::events::Event;
use crate::watching::Watching;
use crate::{Options, Result, ServeError, Served, Source, watching};

/// Connections that are being told that there are too many, at most; more are closed without a word.
const REFUSALS: usize = 64;
/// Time for telling them.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// What they are told.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 87\r\n\r\n\
{\"error\":{\"code\":\"too_many_connections\",\"message\":\"the server has no connection left\"}}";
/// Pause after a connection that could not be accepted, for want of descriptors or the like.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server that is about to run says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct StartInfo {
    /// Where it listens; the port is the real one, also if 0 was asked for.
    pub address: SocketAddr,
    /// `http://address` or `https://address`.
    pub url: String,
    /// The default model's name.
    pub model: String,
    /// How many models there are.
    pub models: usize,
    /// The engine's name.
    pub engine: &'static str,
    /// Threads with an engine each.
    pub workers: usize,
    /// A command to try.
    pub curl: String,
    /// What whoever started it should think about.
    pub warnings: Vec<String>,
}

/// How a server came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was under way was finished.
    Drained,
    /// The time for it was over; so many connections were cut.
    CutShort(usize),
    /// It was told a second time, and stopped at once.
    AtOnce,
}

/// A server with its socket, not yet running.
pub struct Bound {
    listener: TcpListener,
    app: Shared,
    watching: Option<Watching>,
    info: StartInfo,
}

/// Starts the engines and listens on `address`; requests wait until [`Bound::run`].
///
/// # Errors
/// If the engines cannot start or the address cannot be had.
pub async fn bind(served: Served, options: &Options, address: SocketAddr) -> Result<Bound> {
    Setup::new(options).model(Source::loaded(served)).bind(address).await
}

impl Setup {
    /// Loads the models and listens on `address`; requests wait until [`Bound::run`].
    ///
    /// # Errors
    /// If a model does not load, an engine cannot start, an option makes no sense or the address cannot be had.
    pub async fn bind(self, address: SocketAddr) -> Result<Bound> {
        let app = self.app()?;
        let (listener, address) = listen(address).await?;
        let watching = watching::start(&app)?;
        app.load()?;
        let info = StartInfo::of(&app, address)?;
        Ok(Bound { listener, app, watching, info })
    }

    /// Serves until the process is told to stop (Ctrl-C, SIGTERM), and stops at once if it is told again. It listens
    /// first and says that it is not ready while models load. `started` is told once requests are answered.
    ///
    /// # Errors
    /// As [`Setup::bind`] and [`Bound::run`].
    pub fn run(self, address: SocketAddr, started: impl FnOnce(&StartInfo)) -> Result<Ended> {
        let runtime = runtime()?;
        let ended = runtime.block_on(async {
            let app = self.app()?;
            let (listener, address) = listen(address).await?;
            let (stop, stopped) = watch::channel(false);
            let _watching = watching::start(&app)?;
            let mut running = tokio::spawn(run_listener(listener, app.clone(), heard(stopped)));
            let broke = |error: tokio::task::JoinError| ServeError::io("serve")(error.into());
            tokio::select! {
                Err(error) = load_and_wait(app, address, started) => return Err(error),
                ended = &mut running => return ended.map_err(broke)?,
                () = stop_signal() => {}
            }
            let _ = stop.send(true);
            tokio::select! {
                ended = running => ended.map_err(broke)?,
                () = stop_signal() => Ok(Ended::AtOnce),
            }
        });
        runtime.shutdown_background();
        ended
    }
}

/// Loads, says so, and waits: an end there is only if loading failed.
async fn load_and_wait(app: Shared, address: SocketAddr, started: impl FnOnce(&StartInfo)) -> Result<()> {
    let loading = app.clone();
    let loaded = tokio::task::spawn_blocking(move || loading.load()).await;
    loaded.map_err(|error| ServeError::io("load the models")(error.into()))??;
    started(&StartInfo::of(&app, address)?);
    std::future::pending().await
}

/// Threads of the server. HTTP takes little next to the engines, which have threads of their own; with one thread there
/// is nobody to hand a request over to.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 4).clamp(1, 8))
        .enable_all()
        .build()
        .map_err(ServeError::io("start the server's threads"))
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let failed = || ServeError::io(format!("listen on {address}"));
    let listener = TcpListener::bind(address).await.map_err(failed())?;
    let address = listener.local_addr().map_err(failed())?;
    Ok((listener, address))
}

async fn heard(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone stops as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

impl StartInfo {
    fn of(app: &Shared, address: SocketAddr) -> Result<Self> {
        let missing = |_| ServeError::Load { model: "default".into(), reason: "no version is ready".into() };
        let running = app.models.running(None, None).map_err(missing)?;
        let scheme = if app.tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{address}");
        Ok(Self {
            address,
            model: running.answerer().model.to_string(),
            models: app.models.models().len(),
            engine: running.card().engine.name(),
            workers: running.workers(),
            curl: curl(app, &url),
            warnings: warnings(app, address),
            url,
        })
    }
}

fn curl(app: &Shared, url: &str) -> String {
    let insecure = if app.tls.is_some() { " -k" } else { "" };
    let key = if app.keys.is_some() { " -H \"x-api-key: $KEY\"" } else { "" };
    format!("curl{insecure}{key} --data-binary @picture.jpg '{url}/v1/classify?top=3'")
}

fn warnings(app: &Shared, address: SocketAddr) -> Vec<String> {
    if address.ip().is_loopback() {
        return Vec::new();
    }
    let open = [
        (app.keys.is_none(), "anybody who reaches it may ask: --api-keys FILE asks for keys"),
        (app.tls.is_none(), "pictures and keys travel in the clear: --tls-cert and --tls-key encrypt them"),
    ];
    let wrong = open.iter().filter(|(wrong, _)| *wrong);
    wrong.map(|(_, why)| format!("{address} is no loopback address, and {why}")).collect()
}

impl Bound {
    /// What to tell whoever started it.
    pub fn info(&self) -> &StartInfo {
        &self.info
    }

    /// Answers until `stop` is ready; then lets in no more and finishes what is under way.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<Ended> {
        let _watching = self.watching;
        run_listener(self.listener, self.app, stop).await
    }
}

async fn run_listener(
    listener: TcpListener,
    app: Shared,
    stop: impl Future<Output = ()> + Send,
) -> Result<Ended> {
    let (drain, draining) = watch::channel(false);
    let door = Arc::new(Door {
        router: router(app.clone()),
        places: Arc::new(Semaphore::new(app.options.max_connections)),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
        draining,
        app: app.clone(),
    });
    tell_warnings(&app, &listener);
    app.sinks.tell(&Event::Life("listening"));
    tokio::select! {
        () = door.let_in(&listener) => {}
        () = leave(&app, stop) => {}
    }
    app.enter(Life::Draining);
    drop(listener);
    let _ = drain.send(true);
    let ended = door.emptied().await;
    app.sinks.tell(&Event::Life("stopped"));
    Ok(ended)
}

fn tell_warnings(app: &Shared, listener: &TcpListener) {
    let address = listener.local_addr().ok();
    for warning in address.map(|address| warnings(app, address)).unwrap_or_default() {
        app.sinks.tell(&Event::Warning(warning));
    }
}

/// Waits to be told, then for as long as others may take to notice that the server is not ready any more.
async fn leave(app: &Shared, stop: impl Future<Output = ()>) {
    stop.await;
    app.enter(Life::Leaving);
    app.sinks.tell(&Event::Life("draining"));
    tokio::time::sleep(app.options.drain_delay).await;
}

/// Where connections come in.
struct Door {
    app: Shared,
    router: Router,
    places: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
}

impl Door {
    async fn let_in(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    self.app.sinks.tell(&Event::Warning(format!("accept a connection: {error}")));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Answers are small: waiting to fill a packet would cost more than it saves.
        let _ = stream.set_nodelay(true);
        match self.places.clone().try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(self.clone().greet(stream, peer, place));
            }
            Err(_) => self.refuse(stream, peer),
        }
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr) {
        self.app.sinks.tell(&Event::Connection { peer, reason: "too many connections" });
        let plain = self.app.tls.is_none();
        if let (true, Ok(place)) = (plain, self.refusals.clone().try_acquire_owned()) {
            tokio::spawn(async move {
                let _ = tokio::time::timeout(REFUSAL_TIME, tell_refused(stream)).await;
                drop(place);
            });
        }
    }

    async fn greet(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let ended = match &self.app.tls {
            None => self.talk(stream, peer).await,
            Some(tls) => {
                let greeted = tls.acceptor().accept(stream);
                match tokio::time::timeout(self.app.options.header_timeout, greeted).await {
                    Ok(Ok(stream)) => self.talk(stream, peer).await,
                    Ok(Err(_)) => Some("no TLS handshake"),
                    Err(_) => Some("the TLS handshake took too long"),
                }
            }
        };
        if let Some(reason) = ended {
            self.app.sinks.tell(&Event::Connection { peer, reason });
        }
        drop(place);
    }

    /// Answers requests until the connection ends; the reason if it was ended from this side.
    async fn talk<S>(&self, stream: S, peer: SocketAddr) -> Option<&'static str>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let pulse = Pulse::new();
        let stream = TokioIo::new(Pulsed::new(stream, pulse.clone()));
        let service = answering(self.router.clone(), peer, pulse.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The pulse minds the time, of heads and of idle connections alike.
            .header_read_timeout(None)
            .max_buf_size(self.app.options.max_header_bytes)
            .serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection);
        let mut overdue = std::pin::pin!(pulse.overdue(&self.app.options));
        let mut draining = self.draining.clone();
        loop {
            tokio::select! {
                ended = connection.as_mut() => return ended.err().and_then(|error| why(&error)),
                reason = overdue.as_mut() => return Some(reason),
                // The library would wait for the first request of a connection that has had none.
                _ = draining.changed() => match pulse.is_unused() {
                    true => return None,
                    false => connection.as_mut().graceful_shutdown(),
                },
            }
        }
    }

    /// Waits until all connections are gone, or the time for it is.
    async fn emptied(&self) -> Ended {
        let all = self.app.options.max_connections;
        let gone = self.places.acquire_many(u32::try_from(all).unwrap_or(u32::MAX));
        match tokio::time::timeout(self.app.options.drain_timeout, gone).await {
            Ok(_) => Ended::Drained,
            Err(_) => Ended::CutShort(all - self.places.available_permits()),
        }
    }
}

/// The service of one connection: tells the pulse, and the requests whose they are.
fn answering(
    router: Router,
    peer: SocketAddr,
    pulse: Arc<Pulse>,
) -> impl Service<
    Request<Incoming>,
    Response = axum::http::Response<Body>,
    Error = std::convert::Infallible,
    Future = impl Future<Output = std::result::Result<axum::http::Response<Body>, std::convert::Infallible>>
             + Send,
> {
    let router = TowerToHyperService::new(router);
    service_fn(move |mut request: Request<Incoming>| {
        pulse.enter(Phase::Working);
        request.extensions_mut().insert(Peer(peer));
        let (answer, pulse) = (router.call(request), pulse.clone());
        async move {
            let answer = answer.await;
            pulse.enter(Phase::Answering);
            answer
        }
    })
}

/// What a client did wrong that no handler saw.
fn why(error: &hyper::Error) -> Option<&'static str> {
    if error.is_parse_too_large() {
        Some("the request's head is too large")
    } else if error.is_parse() {
        Some("not HTTP")
    } else if error.is_incomplete_message() {
        Some("the client hung up in the middle of a request")
    } else {
        None
    }
}

/// Says that there are too many, and waits for the client to read it: closing at once may take the words back.
async fn tell_refused(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Serves one loaded model until the process is told to stop.
///
/// # Errors
/// As [`Setup::run`].
pub fn run(
    served: Served,
    options: &Options,
    address: SocketAddr,
    started: impl FnOnce(&StartInfo),
) -> Result<Ended> {
    Setup::new(options).model(Source::loaded(served)).run(address, started)
}

/// Ready once the process is told to stop: Ctrl-C, and SIGTERM where there is one.
pub async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    // Without a handler the signal ends the process by itself.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
