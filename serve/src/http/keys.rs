//! API keys: a file of them, and whether a request shows one. Only their hashes are kept, and they are compared in
//! constant time. Health is open to everybody.
//!
//! A line is a key, or `name:sha256` with the SHA-256 of a key as 64 hexadecimal digits, so that the file need not hold
//! what it protects; lines that are empty or begin with `#` are none. A key is shown as `Authorization: Bearer KEY` or
//! `X-Api-Key: KEY`.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::Response;
use models::file::sha256;
use subtle::{Choice, ConstantTimeEq};

use super::error::ApiError;
use super::{Shared, refused};
use crate::{Result, ServeError};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Hexadecimal digits of a SHA-256.
const DIGITS: usize = 64;
/// Characters of a key at least: shorter ones are guessed.
const SHORTEST: usize = 16;
/// Where nobody needs a key: what is there says no more than that the server lives, or is the page that asks for one.
pub(super) const OPEN: &[&str] =
    &["/", "/page.css", "/page.js", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"];

/// The keys that are known.
pub(crate) struct Keys {
    path: PathBuf,
    hashes: RwLock<Vec<String>>,
}

impl Keys {
    /// Reads a file of keys.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), hashes: RwLock::new(read(path)?) })
    }

    /// Reads it again.
    pub fn reload(&self) -> Result<()> {
        let fresh = read(&self.path)?;
        *self.hashes.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a key is known. Every hash is compared, each to its end.
    fn knows(&self, key: &[u8]) -> bool {
        let shown = sha256(key);
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        let same = |known: &String| known.as_bytes().ct_eq(shown.as_bytes());
        hashes.iter().map(same).fold(Choice::from(0), |any, same| any | same).into()
    }
}

fn read(path: &Path) -> Result<Vec<String>> {
    let refused = |reason: String| ServeError::Source { path: path.into(), reason };
    let bytes = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    hashes(&bytes).map_err(refused)
}

/// The keys' hashes in the bytes of a file, in lower case.
///
/// # Errors
/// What is wrong, with its line, without what is written there.
pub fn hashes(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| format!("expected text in UTF-8, found {error}"))?;
    let lines = (1..).zip(text.lines().map(str::trim));
    let keys = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    // The line is named by its number: what it holds is nobody's business.
    let hash =
        |(number, line): (u32, &str)| hash_of(line).map_err(|reason| format!("line {number}: {reason}"));
    let hashes = keys.map(hash).collect::<std::result::Result<Vec<_>, String>>()?;
    if hashes.is_empty() { Err("expected at least one key, found none".into()) } else { Ok(hashes) }
}

fn hash_of(line: &str) -> std::result::Result<String, String> {
    if let Some((_, hash)) = line.rsplit_once(':')
        && hash.len() == DIGITS
        && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(hash.to_ascii_lowercase());
    }
    match line.len() {
        length if length < SHORTEST => {
            Err(format!("expected a key of at least {SHORTEST} characters, found {length}"))
        }
        _ => Ok(sha256(line.as_bytes())),
    }
}

/// Lets a request pass that shows a key, or needs none.
pub(super) async fn check(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let Some(keys) = &app.keys else { return next.run(request).await };
    if OPEN.contains(&request.uri().path()) || shown(request.headers()).is_some_and(|key| keys.knows(key)) {
        return next.run(request).await;
    }
    refused(request.uri(), ApiError::Unauthorized)
}

fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = || {
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, key) = value.split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    };
    headers.get(API_KEY).map(|key| key.as_bytes()).or_else(bearer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(text: &str) -> Result<Keys> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Keys::open(file.path())
    }

    #[test]
    fn a_key_is_known_by_itself_or_by_its_hash() {
        // The hash is coreutils': printf correct-horse-battery | sha256sum
        let hash = "62249369389075490555A758353AEC61500C6218FA597252D52DC4BD0148F12D";
        let keys = opened(&format!("# staff\n\nann:{hash}\nplain-and-long-enough\n")).unwrap();
        assert!(keys.knows(b"correct-horse-battery") && keys.knows(b"plain-and-long-enough"));
        for wrong in [&b"correct-horse-batterz"[..], b"", b"ann", b"# staff"] {
            assert!(!keys.knows(wrong));
        }
    }

    #[test]
    fn a_file_of_no_keys_or_short_ones_is_refused_without_showing_them() {
        for (text, expected) in [("# nothing\n", "found none"), ("long-enough-to-be-one\nshort\n", "line 2")]
        {
            let message = opened(text).err().unwrap().to_string();
            assert!(message.contains(expected) && !message.contains("short\n"), "{message}");
        }
    }
}
