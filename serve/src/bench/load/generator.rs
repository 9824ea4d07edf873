//! What the load generator itself can do at most on this machine: its closed loop against a responder that reads a
//! request and answers at once from memory. A figure near this limit says more of the generator than of the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Result, ServeError};

/// About as long as an answer to a picture.
const BODY: &str = r#"{"model":"none","predictions":[{"top":[{"index":0,"label":"zero","probability":1.0}],"times_us":{}}]}"#;

fn answer() -> Vec<u8> {
    let length = BODY.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{BODY}")
        .into()
}

/// A responder, gone when dropped.
pub struct Responder {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Responder {
    /// Listens, with a thread for each connection.
    ///
    /// # Errors
    /// If no port is free.
    pub fn start() -> Result<Self> {
        Self::with(|| {})
    }

    /// The same, doing something before each answer.
    ///
    /// # Errors
    /// If no port is free.
    pub fn with(before: impl Fn() + Clone + Send + 'static) -> Result<Self> {
        let failed = || ServeError::io("listen on the loopback");
        let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let before = before.clone();
                // A connection that ends, ends its thread.
                std::thread::spawn(move || respond(stream, before));
            }
        });
        Ok(Self { address, stop })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

fn respond(stream: TcpStream, before: impl Fn()) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let (mut line, mut body, answer) = (String::new(), Vec::new(), answer());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        body.resize(length, 0);
        stream.read_exact(&mut body)?;
        before();
        stream.get_mut().write_all(&answer)?;
    }
}
