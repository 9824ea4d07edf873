//! The life of a server: loading, several models and versions, reloads under load, draining; and that nobody's answer is
//! lost or another's.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Duration;

use engine::WeightFormat;
use fixture::wire::*;
use fixture::*;
use models::{Fit, Manifest, Task, formula};
use serve::{Ended, LoadOptions, Options, ServeError, Served, Setup, Source};

/// Answers one class, surely.
struct Constant {
    of_one: Vec<f32>,
    logits: Vec<f32>,
    /// Held while the engine lives.
    _alive: Arc<()>,
}

impl serve::Engine for Constant {
    fn run(&mut self, images: &[u8]) -> serve::Result<&[f32]> {
        let pictures = images.len() / BYTES;
        self.logits = self.of_one.repeat(pictures);
        Ok(&self.logits)
    }
}

/// A model whose every load answers the next class, and says which load it is by its digest.
#[derive(Clone, Default)]
struct Loads {
    count: Arc<AtomicUsize>,
    /// What the next loads shall be instead of good ones.
    broken: Arc<Mutex<Option<&'static str>>>,
    /// Engines of the loads so far.
    engines: Arc<Mutex<Vec<Weak<()>>>>,
    /// Waited for by every load but the first.
    gate: Option<Arc<Mutex<mpsc::Receiver<()>>>>,
}

impl Loads {
    fn source(&self) -> Source {
        let loads = self.clone();
        Source::made("means", move || loads.load())
    }

    fn load(&self) -> serve::Result<Served> {
        let load = self.count.fetch_add(1, Ordering::SeqCst);
        if let (Some(gate), true) = (&self.gate, load > 0) {
            gate.lock().unwrap().recv().unwrap();
        }
        let mut logits = vec![0.0; LABELS.len()];
        logits[load % LABELS.len()] = 20.0;
        let broken = *self.broken.lock().unwrap();
        match broken {
            Some("panic") => panic!("a panic that the test asks for"),
            Some("missing") => {
                return Err(ServeError::Source { path: "model".into(), reason: "it is gone".into() });
            }
            Some("nan") => logits[1] = f32::NAN,
            Some("classes") => drop(logits.pop()),
            _ => {}
        }
        let alive = Arc::new(());
        self.engines.lock().unwrap().push(Arc::downgrade(&alive));
        let engine = move || -> serve::Result<Box<dyn serve::Engine>> {
            Ok(Box::new(Constant { of_one: logits.clone(), logits: Vec::new(), _alive: alive.clone() }))
        };
        Ok(Served::with_engine(card(), engine).with_digest(format!("{load:012x}ffff")))
    }

    fn server(&self) -> Server {
        let options = Options { workers: 2, ..Options::default() };
        Server::start(Setup::new(&options).model(self.source()))
    }
}

fn classify(address: SocketAddr) -> RawAnswer {
    ask_once(address, "POST", "/v1/classify?top=1", &png(&pixels(1)))
}

/// The load that answered; its class has to be that load's.
fn checked_load(answer: &RawAnswer) -> usize {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    let load = usize::from_str_radix(json["digest"].as_str().unwrap(), 16).unwrap();
    assert_eq!(json["predictions"][0]["top"][0]["index"], load % LABELS.len(), "{json}");
    load
}

fn reload(address: SocketAddr) -> RawAnswer {
    ask_once(address, "POST", "/v1/models/means/reload", b"")
}

#[test]
fn reloads_under_load_lose_no_request_and_mix_no_answer_up() {
    let loads = Loads::default();
    let server = loads.server();
    let (address, stop) = (server.address, Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let (mut stream, body) = (connect(address), png(&pixels(1)));
                let (mut answers, mut latest) = (0, 0);
                while !stop.load(Ordering::Relaxed) {
                    let answer = ask(&mut stream, "POST", "/v1/classify?top=1", "", &body);
                    let load = checked_load(&answer);
                    assert!(load >= latest, "an answer of load {load} after one of load {latest}");
                    (answers, latest) = (answers + 1, load);
                }
                answers
            })
        })
        .collect();
    for load in 1..=20 {
        let reloaded = reload(address);
        assert_eq!(reloaded.status, 200, "{}", reloaded.body);
        // Whoever asks after a reload is answered by it.
        assert_eq!(checked_load(&classify(address)), load);
    }
    stop.store(true, Ordering::Relaxed);
    let answers: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answers > 0);
    let engines = loads.engines.lock().unwrap().clone();
    let (last, old) = engines.split_last().unwrap();
    eventually("freeing the old engines", || old.iter().all(|engine| engine.strong_count() == 0));
    assert!(last.strong_count() > 0);
}

#[test]
fn a_reload_that_fails_changes_nothing_and_says_why() {
    let loads = Loads::default();
    let server = loads.server();
    for (broken, expected) in [
        ("nan", "expected finite logits"),
        ("classes", "expected 4 logits, found 3"),
        ("missing", "it is gone"),
        ("panic", "loading it panicked"),
    ] {
        *loads.broken.lock().unwrap() = Some(broken);
        let refused = reload(server.address);
        assert_eq!((refused.status, refused.code().as_str()), (422, "not_reloaded"), "{}", refused.body);
        assert!(refused.body.contains(expected), "{}", refused.body);
        assert_eq!(checked_load(&classify(server.address)), 0);
        let version = &ask_once(server.address, "GET", "/v1/models/means", b"").json()["versions"][0];
        assert_eq!(version["state"], "ready");
        assert!(version["reason"].as_str().unwrap().contains(expected), "{version}");
    }
    *loads.broken.lock().unwrap() = None;
    assert_eq!(reload(server.address).status, 200);
    assert!(checked_load(&classify(server.address)) > 0);
    let version = &ask_once(server.address, "GET", "/v1/models/means", b"").json()["versions"][0];
    assert!(version.get("reason").is_none(), "{version}");
}

#[test]
fn a_second_reload_at_the_same_time_is_a_409() {
    let (open, gate) = mpsc::channel();
    let loads = Loads { gate: Some(Arc::new(Mutex::new(gate))), ..Loads::default() };
    let server = loads.server();
    let address = server.address;
    let first = std::thread::spawn(move || reload(address));
    eventually("the first reload", || loads.count.load(Ordering::SeqCst) == 2);
    let second = reload(address);
    assert_eq!((second.status, second.code().as_str()), (409, "reload_under_way"), "{}", second.body);
    assert_eq!(checked_load(&classify(address)), 0);
    open.send(()).unwrap();
    assert_eq!(first.join().unwrap().status, 200);
    assert_eq!(checked_load(&classify(address)), 1);
}

#[test]
fn it_says_that_it_is_not_ready_while_it_loads() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let source = Source::made("means", move || {
        gate.lock().unwrap().recv().unwrap();
        Ok(served())
    });
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup = Setup::new(&Options { workers: 1, ..Options::default() }).model(source);
    // It goes on until the process ends: only a signal stops `Setup::run`.
    std::thread::spawn(move || setup.run(address, |_| {}));
    eventually("listening", || std::net::TcpStream::connect(address).is_ok());
    let asked = |method, path| ask_once(address, method, path, b"");
    assert_eq!(asked("GET", "/healthz").status, 200);
    for refused in [asked("GET", "/readyz"), asked("POST", "/v1/classify")] {
        assert_eq!((refused.status, refused.code().as_str()), (503, "not_ready"), "{}", refused.body);
        assert!(refused.body.contains("loading") && refused.head.contains("retry-after"), "{}", refused.body);
    }
    open.send(()).unwrap();
    eventually("being ready", || asked("GET", "/readyz").status == 200);
    assert_eq!(classify(address).status, 200);
}

/// A small network of its own weights, as a run's file.
fn save(path: &Path, gain: f64) {
    let labels = ["ant", "bee", "cat"].map(String::from).to_vec();
    let task = Task { features: Some(8), ..Task::new(3, 1, 16) };
    let manifest = Manifest::new("small-cnn-3", &task, labels, Fit::Stretch).unwrap();
    std::fs::create_dir_all(path).unwrap();
    let weights = formula::weights(&manifest.graph().unwrap(), gain);
    models::save(&path.join("model.safetensors"), &manifest, &weights).unwrap();
}

fn from_folders(folder: &Path, options: Options) -> Server {
    let mut setup = Setup::new(&Options { workers: 1, ..options });
    for source in Source::repository(folder, &LoadOptions::default()).unwrap() {
        setup = setup.model(source);
    }
    Server::start(setup)
}

#[test]
fn models_and_versions_are_found_by_name_and_number() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for (path, gain) in [("cats/1", 1.0), ("cats/3", 1.5), ("dogs", 2.0)] {
        save(&at(path), gain);
    }
    let server = from_folders(folder.path(), Options::default());
    let models = ask_once(server.address, "GET", "/v1/models", b"").json();
    let names: Vec<_> = models["models"].as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["cats", "dogs"]);
    let of = |path: &str| ask_once(server.address, "POST", path, &png(&pixels(1)));
    for (path, model, version) in [
        ("/v1/classify", "cats", "3"),
        ("/v1/classify?model=dogs", "dogs", "1"),
        ("/v1/classify?version=1", "cats", "1"),
        ("/v1/models/cats/classify", "cats", "3"),
        ("/v1/models/cats/versions/1/classify?top=1", "cats", "1"),
    ] {
        let answer = of(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let json = answer.json();
        assert_eq!((&json["model"], &json["version"]), (&model.into(), &version.into()), "{path}");
    }
    let digest = |path| of(path).json()["digest"].clone();
    assert_ne!(digest("/v1/classify?version=1"), digest("/v1/classify?version=3"));
    for (path, code, expected) in [
        ("/v1/classify?model=mice", "unknown_model", "known: cats, dogs"),
        ("/v1/models/cats/versions/2/classify", "unknown_version", "known: 1, 3"),
        ("/v1/models/cats/versions/one/classify", "unknown_version", "`one`"),
    ] {
        let answer = of(path);
        assert_eq!((answer.status, answer.code().as_str()), (404, code));
        assert!(answer.body.contains(expected), "{}", answer.body);
    }
    // A new version's folder is found by the next reload, and a folder that is gone is let go.
    save(&at("cats/4"), 2.5);
    std::fs::remove_dir_all(at("cats/1")).unwrap();
    assert_eq!(ask_once(server.address, "POST", "/v1/models/cats/reload", b"").status, 200);
    assert_eq!(of("/v1/classify").json()["version"], "4");
    assert_eq!(of("/v1/classify?version=1").status, 404);
}

#[test]
fn a_file_that_changes_is_loaded_and_one_that_broke_is_not() {
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("cats"), 1.0);
    let watch = Some(Duration::from_millis(20));
    let server = from_folders(folder.path(), Options { watch, ..Options::default() });
    let info = || ask_once(server.address, "GET", "/v1/models/cats", b"").json();
    let digest = || info()["versions"][0]["sha256"].clone();
    let first = digest();
    save(&folder.path().join("cats"), 2.0);
    eventually("loading the new file", || digest() != first);
    let second = digest();
    std::fs::write(folder.path().join("cats/model.safetensors"), b"broken").unwrap();
    eventually("telling that it is broken", || info()["versions"][0]["reason"].is_string());
    assert_eq!((digest(), info()["state"].clone()), (second, "ready".into()));
    assert_eq!(ask_once(server.address, "POST", "/v1/classify", &png(&pixels(1))).status, 200);
    save(&folder.path().join("cats"), 3.0);
    eventually("forgetting that it was broken", || info()["versions"][0]["reason"].is_null());
}

#[test]
fn a_bundle_that_does_not_answer_as_it_says_is_refused() {
    use models::bundle::{Answer, BundleFile, FileRole, Kind, Probe, RawBundle};
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), 1.0);
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let (manifest, _) = models::file::from_bytes(&bytes).unwrap();
    let mut engine = Served::open(folder.path(), &LoadOptions::default()).unwrap().engine().unwrap();
    let picture = formula::picture(0, 1, 16, 16);
    let logits = engine.run(&picture).unwrap().to_vec();
    let write = |logits: &[f32]| {
        let answers = vec![Answer::new("model.safetensors", 1e-4, logits, 3)];
        let bundle = RawBundle {
            bundle: models::bundle::FORMAT,
            name: "cats".into(),
            version: "1".into(),
            producer: "a test".into(),
            model: manifest.clone(),
            files: vec![BundleFile::of("model.safetensors", FileRole::Weights, &bytes)],
            accuracy: Vec::new(),
            latency: Vec::new(),
            refused: Vec::new(),
            probe: Probe { kind: Kind::Formula, count: 1, answers },
        };
        std::fs::write(folder.path().join("manifest.json"), serde_json::to_vec(&bundle).unwrap()).unwrap();
    };
    write(&logits);
    for weights in [WeightFormat::F32, WeightFormat::Bf16] {
        let open =
            || Served::open(folder.path(), &LoadOptions { weights, ..LoadOptions::default() }).unwrap();
        write(&logits);
        assert_eq!(open().card().name, "cats");
        let proved = open().prove();
        assert!(proved.is_ok(), "{weights:?}: {proved:?}");
        write(&[logits[0], logits[1], logits[2] + 1.0]);
        let error = open().prove().unwrap_err();
        assert!(error.to_string().contains("expected the bundle's answers to its probe"), "{error}");
    }
}

#[test]
fn who_was_let_in_is_answered_and_nobody_else_is() {
    let (open, gate) = mpsc::channel();
    let (gate, calls) = (Arc::new(Mutex::new(gate)), Arc::new(Mutex::new(Vec::new())));
    let told = calls.clone();
    let served = Served::with_engine(card(), move || {
        Ok(Box::new(Means { calls: Some(told.clone()), gate: Some(gate.clone()), ..Means::default() }))
    });
    let options = Options { workers: 1, drain_delay: Duration::from_millis(300), ..Options::default() };
    let mut server = Server::start(Setup::new(&options).model(Source::loaded(served)));
    let address = server.address;
    let waiting =
        std::thread::spawn(move || ask_once(address, "POST", "/v1/classify?top=4", &png(&pixels(5))));
    eventually("the engine's call", || !calls.lock().unwrap().is_empty());
    let mut open_one = connect(address);
    assert_eq!(ask(&mut open_one, "GET", "/readyz", "", b"").status, 200);
    server.tell_to_stop();
    eventually("saying that it stops", || ask_once(address, "GET", "/readyz", b"").status == 503);
    let alive = ask(&mut open_one, "GET", "/healthz", "", b"");
    assert_eq!(alive.status, 200);
    assert!(alive.head.contains("connection: close"), "{}", alive.head);
    eventually("listening no more", || std::net::TcpStream::connect(address).is_err());
    open.send(()).unwrap();
    let answer = waiting.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(server.ended(), Ended::Drained);
}

#[test]
fn draining_comes_to_an_end_although_a_client_does_not() {
    let options = Options { workers: 1, drain_timeout: Duration::from_millis(100), ..Options::default() };
    let server = Server::start(Setup::new(&options).model(Source::loaded(served())));
    let mut stuck = connect(server.address);
    stuck.get_mut().write_all(head("POST", "/v1/classify", 100, "").as_bytes()).unwrap();
    // Only once the head was read is the request under way.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.ended(), Ended::CutShort(1));
}

#[test]
fn connections_that_ask_nothing_do_not_hold_the_end_up() {
    // Less than a head or an idle connection is given: either would be cut.
    let options = Options { workers: 1, drain_timeout: Duration::from_secs(5), ..Options::default() };
    let server = Server::start(Setup::new(&options).model(Source::loaded(served())));
    let (_fresh, mut idle) = (connect(server.address), connect(server.address));
    assert_eq!(ask(&mut idle, "GET", "/healthz", "", b"").status, 200);
    assert_eq!(server.ended(), Ended::Drained);
}

/// The slim binary, killed when dropped.
struct Binary(Child);

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Binary {
    fn start(model: &Path, arguments: &[&str]) -> (Self, SocketAddr) {
        let mut process = Command::new(env!("CARGO_BIN_EXE_distill-serve"))
            .arg(model)
            .args(["--addr", "127.0.0.1:0", "--workers", "1", "--log", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let line = BufReader::new(process.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let address = line.rsplit_once("http://").unwrap().1.parse().unwrap();
        (Self(process), address)
    }

    fn signal(&self) {
        let told = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(told.success());
    }
}

fn run_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cats");
    save(&path, 1.0);
    (folder, path)
}

#[test]
fn told_by_a_signal_it_finishes_what_is_under_way_and_ends_well() {
    let (_folder, model) = run_folder();
    let (mut binary, address) = Binary::start(&model, &["--drain-delay-ms", "300"]);
    let (mut stream, body) = (connect(address), png(&pixels(1)));
    let (begin, rest) = body.split_at(body.len() / 2);
    let head =
        head("POST", "/v1/classify?top=1", body.len(), "x-request-id: mine-1\r\nx-api-key: secret\r\n");
    stream.get_mut().write_all(&[head.as_bytes(), begin].concat()).unwrap();
    binary.signal();
    eventually("saying that it stops", || ask_once(address, "GET", "/readyz", b"").status == 503);
    eventually("listening no more", || std::net::TcpStream::connect(address).is_err());
    stream.get_mut().write_all(rest).unwrap();
    let answer = answer(&mut stream).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.head.contains("x-request-id: mine-1"), "{}", answer.head);
    assert_eq!(binary.0.wait().unwrap().code(), Some(0));
}

#[test]
fn told_twice_it_ends_at_once() {
    let (_folder, model) = run_folder();
    let (mut binary, address) = Binary::start(&model, &[]);
    let mut stuck = connect(address);
    stuck.get_mut().write_all(head("POST", "/v1/classify", 100, "").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    binary.signal();
    eventually("listening no more", || std::net::TcpStream::connect(address).is_err());
    binary.signal();
    assert_eq!(binary.0.wait().unwrap().code(), Some(130));
}
