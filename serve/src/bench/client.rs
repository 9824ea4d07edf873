//! The smallest HTTP/1.1 client that measures: one connection that stays open, one request at a time.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::{Result, ServeError};

/// A connection.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let failed = || ServeError::io(format!("connect to {address}"));
        let stream = TcpStream::connect(address).map_err(failed())?;
        stream.set_nodelay(true).map_err(failed())?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Posts a body and reads the whole answer.
    ///
    /// # Errors
    /// If the connection breaks or the answer is not 200.
    pub fn post(&mut self, path: &str, content_type: &str, body: &[u8]) -> Result<Vec<u8>> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // One write: the request is one packet if it fits into one.
        let request = [head.as_bytes(), body].concat();
        self.stream.get_mut().write_all(&request).map_err(ServeError::io("send a request"))?;
        let answer = self.answer().map_err(ServeError::io("read an answer"))?;
        match answer {
            (200, body) => Ok(body),
            (status, body) => {
                let said = format!("status {status}: {}", String::from_utf8_lossy(&body));
                Err(ServeError::io("POST")(std::io::Error::other(said)))
            }
        }
    }

    fn answer(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().into())
    }
}
