//! The server on a socket: bound first, so that its address is known before it runs; stopped gracefully, so that
//! whoever was let in gets an answer.

use std::net::SocketAddr;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use super::{Life, Setup, Shared, router};
use crate::{Options, Result, ServeError, Served, Source};

/// What a server that is about to run says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct StartInfo {
    /// Where it listens; the port is the real one, also if 0 was asked for.
    pub address: SocketAddr,
    /// The model's name.
    pub model: String,
    /// The engine's name.
    pub engine: &'static str,
    /// Threads with an engine each.
    pub workers: usize,
    /// A command to try.
    pub curl: String,
}

/// A server with its socket, not yet running.
pub struct Bound {
    listener: TcpListener,
    app: Shared,
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
        let listener =
            TcpListener::bind(address).await.map_err(ServeError::io(format!("listen on {address}")))?;
        let address = listener.local_addr().map_err(ServeError::io("listen"))?;
        app.load()?;
        let info = StartInfo::of(&app, address)?;
        Ok(Bound { listener, app, info })
    }

    /// Serves until the process is told to stop (Ctrl-C, SIGTERM). `started` is told once requests are answered.
    ///
    /// # Errors
    /// As [`Setup::bind`] and [`Bound::run`].
    pub fn run(self, address: SocketAddr, started: impl FnOnce(&StartInfo)) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(ServeError::io("start the server's threads"))?;
        runtime.block_on(async {
            let bound = self.bind(address).await?;
            started(bound.info());
            bound.run(stop_signal()).await
        })
    }
}

impl StartInfo {
    fn of(app: &Shared, address: SocketAddr) -> Result<Self> {
        let missing = |_| ServeError::Load { model: "default".into(), reason: "no version is ready".into() };
        let running = app.models.running(None, None).map_err(missing)?;
        Ok(Self {
            address,
            model: running.answerer().model.to_string(),
            engine: running.card().engine.name(),
            workers: running.workers(),
            curl: format!("curl --data-binary @picture.jpg 'http://{address}/v1/classify?top=3'"),
        })
    }
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
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let app = self.app.clone();
        let stop = async move {
            stop.await;
            app.enter(Life::Draining);
        };
        // Answers are small: waiting to fill a packet would cost more than it saves.
        let listener = self.listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        });
        let served = axum::serve(listener, router(self.app)).with_graceful_shutdown(stop);
        served.await.map_err(ServeError::io("serve"))
    }
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
) -> Result<()> {
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
