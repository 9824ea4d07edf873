//! HTTP/1.1 over a plain socket, so that a request can be slow, cut or half sent. It knows no server and no promise.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An answer as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nobody listens.
    NotConnected,
    /// The server hung up before or within the answer.
    Closed,
    /// It said nothing for [`PATIENCE`].
    TimedOut,
    /// It said something else than HTTP.
    Malformed,
}

impl Lost {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConnected => "not connected",
            Self::Closed => "hung up",
            Self::TimedOut => "no answer in time",
            Self::Malformed => "no HTTP",
        }
    }
}

impl Answer {
    /// A header's value; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The head of a request, blank line included.
pub fn head(method: &str, path: &str, headers: &[(String, String)], length: usize) -> Vec<u8> {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nhost: soak\r\ncontent-length: {length}\r\n{lines}\r\n").into_bytes()
}

/// Somebody who asks, over one connection as long as it lasts.
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// Sends a whole request and reads its answer.
    pub fn ask(&mut self, request: &[u8]) -> Result<Answer, Lost> {
        self.send(request)?;
        self.answer()
    }

    /// Asks without a body.
    pub fn get(&mut self, path: &str) -> Result<Answer, Lost> {
        self.ask(&head("GET", path, &[], 0))
    }

    /// Sends some bytes of a request. A server that has heard enough may have hung up: its answer says why.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let stream = self.stream()?.get_mut();
        match stream.write_all(bytes) {
            Err(error) if is_timeout(&error) => Err(self.lose(Lost::TimedOut)),
            _ => Ok(()),
        }
    }

    /// Reads an answer.
    pub fn answer(&mut self) -> Result<Answer, Lost> {
        let read = read_answer(self.stream()?);
        match read {
            Ok(answer) => {
                if answer.closes() {
                    self.connection = None;
                }
                Ok(answer)
            }
            Err(lost) => Err(self.lose(lost)),
        }
    }

    /// Leaves without a word.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// Whether the server ends this connection within `time`, with or without an answer; its status, if it gave one.
    pub fn is_cut_within(&mut self, time: Duration) -> Result<Option<u16>, Lost> {
        let stream = self.stream()?;
        let set = stream.get_ref().set_read_timeout(Some(time));
        set.map_err(|_| Lost::Closed)?;
        let read = read_answer(stream);
        self.connection = None;
        match read {
            Ok(answer) => Ok(Some(answer.status)),
            Err(Lost::Closed) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn lose(&mut self, lost: Lost) -> Lost {
        self.connection = None;
        lost
    }

    fn stream(&mut self) -> Result<&mut BufReader<TcpStream>, Lost> {
        let connected = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.address)?,
        };
        Ok(self.connection.insert(connected))
    }
}

fn connect(address: SocketAddr) -> Result<BufReader<TcpStream>, Lost> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|_| Lost::NotConnected)?;
    let set = [
        stream.set_read_timeout(Some(PATIENCE)),
        stream.set_write_timeout(Some(PATIENCE)),
        stream.set_nodelay(true),
    ];
    set.into_iter().collect::<std::io::Result<()>>().map_err(|_| Lost::NotConnected)?;
    Ok(BufReader::new(stream))
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn lost(error: &std::io::Error) -> Lost {
    if is_timeout(error) { Lost::TimedOut } else { Lost::Closed }
}

fn read_answer(stream: &mut impl BufRead) -> Result<Answer, Lost> {
    let first = line(stream)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or(Lost::Malformed)?;
    let mut headers = Vec::new();
    loop {
        let text = line(stream)?;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or(Lost::Malformed)?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_string()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    answer.body = body(stream, &answer)?;
    Ok(answer)
}

fn line(stream: &mut impl BufRead) -> Result<String, Lost> {
    let mut text = String::new();
    match stream.read_line(&mut text) {
        Ok(0) => Err(Lost::Closed),
        Ok(_) => Ok(text.trim_end().to_string()),
        Err(error) => Err(lost(&error)),
    }
}

fn body(stream: &mut impl BufRead, answer: &Answer) -> Result<Vec<u8>, Lost> {
    if answer.header("transfer-encoding").is_some() {
        return chunks(stream);
    }
    let length = answer.header("content-length").map_or(Ok(0), str::parse).map_err(|_| Lost::Malformed)?;
    exactly(stream, length)
}

fn chunks(stream: &mut impl BufRead) -> Result<Vec<u8>, Lost> {
    let mut whole = Vec::new();
    loop {
        let length = usize::from_str_radix(&line(stream)?, 16).map_err(|_| Lost::Malformed)?;
        whole.extend(exactly(stream, length)?);
        line(stream)?;
        if length == 0 {
            return Ok(whole);
        }
    }
}

fn exactly(stream: &mut impl BufRead, length: usize) -> Result<Vec<u8>, Lost> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(|error| lost(&error))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Answer, Lost> {
        read_answer(&mut text.as_bytes())
    }

    #[test]
    fn answers_are_read_whole_or_called_lost() {
        let plain = read("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: a b\r\n\r\nhi").unwrap();
        assert_eq!((plain.status, &plain.body[..], plain.header("x")), (200, &b"hi"[..], Some("a b")));
        let parts = "HTTP/1.1 429 no\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n";
        assert_eq!(read(parts).unwrap().body, b"hi!");
        assert_eq!(read("").unwrap_err(), Lost::Closed);
        assert_eq!(read("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi").unwrap_err(), Lost::Closed);
        assert_eq!(read("SSH-2.0\r\n\r\n").unwrap_err(), Lost::Malformed);
    }

    #[test]
    fn a_head_ends_with_a_blank_line() {
        let head = head("POST", "/a", &[("content-type".into(), "image/png".into())], 3);
        let text = String::from_utf8(head).unwrap();
        assert!(
            text.starts_with("POST /a HTTP/1.1\r\n") && text.ends_with("content-type: image/png\r\n\r\n")
        );
        assert!(text.contains("content-length: 3\r\n"));
    }
}
