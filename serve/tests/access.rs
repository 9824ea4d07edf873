//! Who may ask and what others may see: API keys, TLS, logs without secrets.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::wire::*;
use fixture::*;
use serde_json::Value;
use serve::{Log, LogFormat, Options, ServeError, Setup, Source, TlsFiles};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

const KEY: &str = "correct-horse-battery";

fn setup(options: Options) -> Setup {
    Setup::new(&Options { workers: 1, ..options }).model(Source::loaded(served()))
}

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn whoever_shows_no_key_learns_no_more_than_that_the_server_lives() {
    let folder = tempfile::tempdir().unwrap();
    let keys = file(folder.path(), "keys", &format!("# ours\n{KEY}\n"));
    let server = Server::start(setup(Options { api_keys: Some(keys.clone()), ..Options::default() }));
    let asked = |method: &str, path: &str, more: &str| {
        let body = if method == "POST" { png(&pixels(1)) } else { Vec::new() };
        ask(&mut connect(server.address), method, path, more, &body)
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(asked("GET", path, "").status, 200);
    }
    let shown = [format!("x-api-key: {KEY}\r\n"), format!("authorization: Bearer {KEY}\r\n")];
    let lower = format!("authorization: bearer {KEY}\r\n");
    for more in shown.iter().chain([&lower]) {
        assert_eq!(asked("POST", "/v1/classify", more).status, 200, "{more}");
    }
    let near = format!("x-api-key: {}\r\n", &KEY[..KEY.len() - 1]);
    for more in ["", "x-api-key: \r\n", &near, "authorization: Basic abc\r\n", "authorization: Bearer\r\n"] {
        for (method, path) in [
            ("POST", "/v1/classify"),
            ("GET", "/v1/models"),
            ("POST", "/v1/models/means/reload"),
            ("GET", "/no"),
        ] {
            let refused = asked(method, path, more);
            assert_eq!((refused.status, refused.code().as_str()), (401, "unauthorized"), "{more} {path}");
            assert!(refused.head.contains("www-authenticate: Bearer"), "{}", refused.head);
        }
    }
}

#[test]
fn keys_that_change_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let keys = file(folder.path(), "keys", KEY);
    let watch = Some(Duration::from_millis(20));
    let server = Server::start(setup(Options { api_keys: Some(keys), watch, ..Options::default() }));
    let status = |key: &str| {
        let more = format!("x-api-key: {key}\r\n");
        ask(&mut connect(server.address), "GET", "/v1/models", &more, b"").status
    };
    assert_eq!(status(KEY), 200);
    file(folder.path(), "keys", "another-key-that-is-longer");
    eventually("reading the new keys", || status("another-key-that-is-longer") == 200);
    assert_eq!(status(KEY), 401);
}

/// Takes what a log writes.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[test]
fn a_line_is_written_for_each_request_and_no_secret_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let keys = file(folder.path(), "keys", KEY);
    let memory = Memory::default();
    let log = Arc::new(Log::new(LogFormat::Json, memory.clone()).unwrap());
    let server = Server::start(setup(Options { api_keys: Some(keys), ..Options::default() }).sink(log));
    let body = png(&pixels(1));
    let asked =
        |path: &str, more: &str, body: &[u8]| ask(&mut connect(server.address), "POST", path, more, body);
    let key = format!("x-api-key: {KEY}\r\n");
    let first = asked("/v1/classify?top=1", &format!("{key}x-request-id: mine.1\r\n"), &body);
    assert!(first.head.contains("x-request-id: mine.1"), "{}", first.head);
    let made =
        asked("/v1/classify?token=hidden", &format!("{key}x-request-id: not one word\r\n"), b"no picture");
    assert!(!made.head.contains("not one word"), "{}", made.head);
    asked("/v1/classify", "x-api-key: a-wrong-one\r\n", &body);
    eventually("writing the lines", || memory.text().matches("\"event\":\"request\"").count() == 3);
    let text = memory.text();
    for secret in [KEY, "a-wrong-one", "hidden", "token", "no picture", "not one word"] {
        assert!(!text.contains(secret), "`{secret}` is in the log: {text}");
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<&Value> = lines.iter().filter(|line| line["event"] == "request").collect();
    let [first, second, third] = requests[..] else { panic!("{text}") };
    assert_eq!(
        (&first["id"], &first["status"], &first["model"]),
        (&"mine.1".into(), &200.into(), &"means".into())
    );
    assert_eq!((&first["pictures"], &first["bytes"]), (&1.into(), &body.len().into()));
    for field in ["time", "peer", "decode_us", "queue_us", "inference_us", "total_us"] {
        assert!(!first[field].is_null(), "no {field} in {first}");
    }
    assert_eq!((&second["code"], &third["code"]), (&"bad_query".into(), &"unauthorized".into()));
}

#[test]
fn a_client_that_hangs_up_is_a_line_too() {
    let (memory, (_open, gate)) = (Memory::default(), std::sync::mpsc::channel::<()>());
    let gate = Arc::new(Mutex::new(gate));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let told = calls.clone();
    let served = serve::Served::with_engine(card(), move || {
        Ok(Box::new(Means { gate: Some(gate.clone()), calls: Some(told.clone()), ..Means::default() }))
    });
    let log = Arc::new(Log::new(LogFormat::Json, memory.clone()).unwrap());
    let options = Options { workers: 1, drain_timeout: Duration::from_millis(10), ..Options::default() };
    let server = Server::start(Setup::new(&options).model(Source::loaded(served)).sink(log));
    let mut stream = connect(server.address);
    let body = png(&pixels(1));
    let head = head("POST", "/v1/classify", body.len(), "");
    stream.get_mut().write_all(&[head.as_bytes(), &body].concat()).unwrap();
    eventually("the engine's call", || !calls.lock().unwrap().is_empty());
    drop(stream);
    eventually("the line", || memory.text().contains("\"status\":499"));
}

/// A certificate of its own for localhost, and its key; PEM of both.
fn certificate(folder: &Path, name: &str) -> (TlsFiles, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let pem = made.cert.pem();
    let files = TlsFiles {
        certificate: file(folder, &format!("{name}.crt"), &pem),
        key: file(folder, &format!("{name}.key"), &made.signing_key.serialize_pem()),
    };
    (files, pem)
}

/// A connection to a server whose certificate has to be this one.
fn connect_tls(address: SocketAddr, pem: &str) -> BufReader<StreamOwned<ClientConnection, TcpStream>> {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(StreamOwned::new(connection, stream))
}

#[test]
fn pictures_travel_through_tls_and_a_new_certificate_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (files, pem) = certificate(folder.path(), "server");
    let watch = Some(Duration::from_millis(20));
    let server = Server::start(setup(Options { tls: Some(files), watch, ..Options::default() }));
    let mut stream = connect_tls(server.address, &pem);
    for seed in 0..3 {
        let answer = ask(&mut stream, "POST", "/v1/classify?top=4", "", &png(&pixels(seed)));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    // Plain HTTP is no TLS handshake: the connection ends.
    let mut plain = connect(server.address);
    plain.get_mut().write_all(head("GET", "/healthz", 0, "").as_bytes()).unwrap();
    assert!(answer(&mut plain).is_none_or(|answer| answer.status != 200));
    let (_, fresh) = certificate(folder.path(), "server");
    eventually("the new certificate", || {
        let mut stream = connect_tls(server.address, &fresh);
        let asked = stream.get_mut().write_all(head("GET", "/healthz", 0, "").as_bytes());
        asked.is_ok() && answer(&mut stream).is_some_and(|answer| answer.status == 200)
    });
}

#[test]
fn a_bad_certificate_or_key_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (good, _) = certificate(folder.path(), "good");
    let (other, _) = certificate(folder.path(), "other");
    let text = file(folder.path(), "text.pem", "hello\n");
    let missing = folder.path().join("missing.pem");
    for (certificate, key, culprit, expected) in [
        (&text, &good.key, "text.pem", "expected at least one certificate"),
        (&good.certificate, &text, "text.pem", "expected a private key in PEM"),
        (&missing, &good.key, "missing.pem", "No such file"),
        (&good.certificate, &other.key, "good.crt", "does not go with"),
    ] {
        let tls = Some(TlsFiles { certificate: certificate.clone(), key: key.clone() });
        let error = setup(Options { tls, ..Options::default() }).router().unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, ServeError::Source { .. }), "{message}");
        assert!(message.contains(culprit) && message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn a_public_address_without_keys_or_tls_is_a_warning() {
    let bound = setup(Options::default()).bind(SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();
    let warnings = &bound.info().warnings;
    assert!(warnings.len() == 2 && warnings[0].contains("--api-keys") && warnings[1].contains("--tls-cert"));
    let bound = setup(Options::default()).bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    assert!(bound.info().warnings.is_empty());
}
