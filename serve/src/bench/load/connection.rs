//! The smallest HTTP/1.1 client that measures: one connection that stays open, one request at a time, its bytes made
//! beforehand. Never here: reading what an answer says.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for an answer; one that takes longer is an error of the connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where requests go, and what goes with each.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// Header lines of each request, `Host` among them, each with its end of line.
    pub headers: String,
}

impl Target {
    /// A server at an address, and further headers.
    pub fn new(address: SocketAddr, host: &str, headers: &[(String, String)]) -> Self {
        let line = |(name, value): &(String, String)| format!("{name}: {value}\r\n");
        let headers: String = headers.iter().map(line).collect();
        Self { address, headers: format!("host: {host}\r\n{headers}") }
    }
}

/// A request but for what its target adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `POST /v1/classify HTTP/1.1`
    line: String,
    /// Header lines of its own.
    headers: String,
    body: Vec<u8>,
}

impl Request {
    /// Asks for the classes of one picture, or of several in a form.
    pub fn classify(content_type: &str, body: &[u8]) -> Self {
        Self::post("/v1/classify?top=1", content_type, body)
    }

    /// Posts a body.
    pub fn post(path: &str, content_type: &str, body: &[u8]) -> Self {
        Self {
            line: format!("POST {path} HTTP/1.1\r\n"),
            headers: format!("content-type: {content_type}\r\ncontent-length: {}\r\n", body.len()),
            body: body.to_vec(),
        }
    }

    /// The same with a header more.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers += &format!("{name}: {value}\r\n");
        self
    }

    /// Asks for a page.
    pub fn get(path: &str) -> Self {
        Self { line: format!("GET {path} HTTP/1.1\r\n"), headers: String::new(), body: Vec::new() }
    }

    fn bytes(&self, target: &Target, into: &mut Vec<u8>) {
        into.clear();
        for part in [&self.line, &target.headers, &self.headers] {
            into.extend_from_slice(part.as_bytes());
        }
        into.extend_from_slice(b"\r\n");
        into.extend_from_slice(&self.body);
    }
}

/// A connection.
pub struct Connection {
    target: Target,
    stream: BufReader<TcpStream>,
    sent: Vec<u8>,
    line: String,
    answer: Vec<u8>,
    closing: bool,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The system's.
    pub fn open(target: &Target) -> Result<Self> {
        Ok(Self {
            target: target.clone(),
            stream: connect(target)?,
            sent: Vec::new(),
            line: String::new(),
            answer: Vec::new(),
            closing: false,
        })
    }

    /// Sends a request and reads the whole answer; returns its status. A connection that the server closed after the
    /// answer before is opened anew first.
    ///
    /// # Errors
    /// If the connection breaks or the answer is not HTTP/1.1 with a length.
    pub fn send(&mut self, request: &Request) -> Result<u16> {
        if self.closing {
            self.stream = connect(&self.target)?;
            self.closing = false;
        }
        // Whatever goes wrong from here leaves a connection that nobody can use.
        self.closing = true;
        request.bytes(&self.target, &mut self.sent);
        // One write: the request is one packet if it fits into one.
        self.stream.get_mut().write_all(&self.sent)?;
        let (status, closing) = self.read()?;
        self.closing = closing;
        Ok(status)
    }

    /// The body of the last answer.
    pub fn answer(&self) -> &[u8] {
        &self.answer
    }

    fn read(&mut self) -> Result<(u16, bool)> {
        self.next_line()?;
        let status = self.line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| malformed(format!("status line `{}`", self.line)))?;
        let (mut length, mut closing) = (None, false);
        loop {
            self.next_line()?;
            if self.line.is_empty() {
                break;
            }
            let Some((name, value)) = self.line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                closing = value.trim().eq_ignore_ascii_case("close");
            }
        }
        self.answer.resize(length.ok_or_else(|| malformed("an answer without content-length".into()))?, 0);
        self.stream.read_exact(&mut self.answer)?;
        Ok((status, closing))
    }

    fn next_line(&mut self) -> Result<()> {
        self.line.clear();
        if self.stream.read_line(&mut self.line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.line.truncate(self.line.trim_end().len());
        Ok(())
    }
}

fn connect(target: &Target) -> Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(target.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

fn malformed(what: String) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
