//! What a server counts and times, in Prometheus' text. It listens to events as any other sink; what can be read at the
//! moment (queues, memory) is read when somebody asks.
//!
//! Names, units and labels are part of the interface: dashboards are built on them.

mod process;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::events::{Answerer, BatchDone, Event, RequestDone, Sink, Stages};

/// The format that [`Metrics::text`] has.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds: from a small network on one picture to what a client gives up on.
const SECONDS: [f64; 20] = [
    1e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 3.5e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 3.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
    0.25, 1.0, 5.0, 30.0,
];
/// Upper bounds of pictures in a batch.
const PICTURES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

fn batch_sizes() -> Histogram {
    Histogram::new(PICTURES)
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabels {
    model: Arc<str>,
    version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
    model: Arc<str>,
    version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoadLabels {
    model: Arc<str>,
    outcome: &'static str,
}

/// Every stage, in order.
const STAGES: [&str; 5] = ["decode", "preprocess", "queue", "inference", "total"];

/// What is counted of one version; found once for each request.
struct OfVersion {
    answerer: Answerer,
    stages: [Histogram; 5],
    pictures: Counter,
    batches: Histogram,
    sums: Sums,
}

/// Sums since the server began.
#[derive(Default)]
struct Sums {
    requests: AtomicU64,
    pictures: AtomicU64,
    batches: AtomicU64,
    /// Nanoseconds of decode and preprocess, queue, inference; of all pictures.
    nanoseconds: [AtomicU64; 3],
    /// Nanoseconds of whole requests.
    total: AtomicU64,
}

/// The same, read at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Requests that were answered.
    pub requests: u64,
    /// Pictures that were answered.
    pub pictures: u64,
    /// Runs of the engine.
    pub batches: u64,
    /// Nanoseconds from bytes to pixels of the network's size, of all pictures.
    pub input: u64,
    /// Nanoseconds of waiting.
    pub queue: u64,
    /// Nanoseconds of the engine.
    pub inference: u64,
    /// Nanoseconds of whole requests.
    pub total: u64,
}

/// A version's state at the moment.
#[derive(Clone, Debug)]
pub(crate) struct VersionNow {
    /// Which.
    pub answerer: Answerer,
    /// Pictures that wait.
    pub waiting: usize,
    /// Threads that answer.
    pub workers: usize,
}

/// Counters and histograms of a server.
pub(crate) struct Metrics {
    registry: Registry,
    stages: Histograms<StageLabels>,
    pictures: Family<VersionLabels, Counter>,
    batches: Histograms<VersionLabels>,
    requests: Family<RequestLabels, Counter>,
    durations: Histograms<RouteLabels>,
    refusals: Family<ReasonLabels, Counter>,
    connections: Family<ReasonLabels, Counter>,
    loads: Family<LoadLabels, Counter>,
    versions: RwLock<Vec<Arc<OfVersion>>>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            stages: Family::new_with_constructor(seconds),
            pictures: Family::default(),
            batches: Family::new_with_constructor(batch_sizes),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds),
            refusals: Family::default(),
            connections: Family::default(),
            loads: Family::default(),
            versions: RwLock::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("distill_build", "The program", build);
        process::register_start(registry);
        let help = "Time of a picture in each stage; total is its request, from head to answer";
        registry.register_with_unit("distill_stage", help, Unit::Seconds, self.stages.clone());
        registry.register("distill_pictures", "Pictures answered", self.pictures.clone());
        registry.register("distill_batch_pictures", "Pictures run together", self.batches.clone());
        registry.register("distill_http_requests", "Requests by route and status", self.requests.clone());
        let help = "From a request's head to its answer";
        registry.register_with_unit("distill_http_request", help, Unit::Seconds, self.durations.clone());
        let help = "Requests without an answer, by the error's code";
        registry.register("distill_http_errors", help, self.refusals.clone());
        let help = "Connections ended by the server or not let in";
        registry.register("distill_connections_refused", help, self.connections.clone());
        registry.register("distill_model_loads", "Loads and reloads by outcome", self.loads.clone());
    }

    /// Everything as text, with what only the moment knows.
    pub fn text(&self, versions: &[VersionNow]) -> String {
        let mut text = String::new();
        let now = registry_of(versions);
        // Writing into a string does not fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &now);
        let _ = encode_eof(&mut text);
        text
    }

    /// What a version has done so far.
    pub fn totals(&self, answerer: &Answerer) -> Totals {
        self.find(answerer).map(|version| version.sums.read()).unwrap_or_default()
    }

    fn find(&self, answerer: &Answerer) -> Option<Arc<OfVersion>> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.iter().find(|version| version.answerer == *answerer).cloned()
    }

    fn of_version(&self, answerer: &Answerer) -> Arc<OfVersion> {
        self.find(answerer).unwrap_or_else(|| self.new_version(answerer))
    }

    fn new_version(&self, answerer: &Answerer) -> Arc<OfVersion> {
        let labels = labels(answerer);
        let stage = |stage| {
            self.stages.get_or_create_owned(&StageLabels {
                stage,
                model: answerer.model.clone(),
                version: answerer.version,
            })
        };
        let made = Arc::new(OfVersion {
            answerer: answerer.clone(),
            stages: STAGES.map(stage),
            pictures: self.pictures.get_or_create_owned(&labels),
            batches: self.batches.get_or_create_owned(&labels),
            sums: Sums::default(),
        });
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        // Somebody may have been quicker.
        if let Some(found) = versions.iter().find(|version| version.answerer == *answerer) {
            return found.clone();
        }
        versions.push(made.clone());
        made
    }

    fn note_request(&self, done: &RequestDone) {
        let route = done.route.as_deref().unwrap_or("none");
        let method = method(&done.method);
        let labels = RequestLabels { method, route: route.into(), code: done.status };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&RouteLabels { route: route.into() }).observe(done.total.as_secs_f64());
        if let Some(reason) = done.facts.code {
            self.refusals.get_or_create(&ReasonLabels { reason }).inc();
        }
        if let Some(answerer) = &done.facts.answerer {
            self.of_version(answerer).note_answer(&done.facts.pictures, done.total);
        }
    }

    fn note_batch(&self, done: &BatchDone) {
        let version = self.of_version(&done.answerer);
        version.batches.observe(done.pictures as f64);
        version.sums.batches.fetch_add(1, Ordering::Relaxed);
    }

    fn note_load(&self, answerer: &Answerer, outcome: &'static str) {
        self.loads.get_or_create(&LoadLabels { model: answerer.model.clone(), outcome }).inc();
    }

    /// A version that is gone is no longer told of.
    fn forget(&self, answerer: &Answerer) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        versions.retain(|version| version.answerer != *answerer);
        let labels = labels(answerer);
        self.pictures.remove(&labels);
        self.batches.remove(&labels);
        for stage in STAGES {
            let VersionLabels { model, version } = labels.clone();
            self.stages.remove(&StageLabels { stage, model, version });
        }
    }
}

impl Sink for Metrics {
    fn event(&self, event: &Event) {
        match event {
            Event::Request(done) => self.note_request(done),
            Event::Batch(done) => self.note_batch(done),
            Event::Loaded { answerer, .. } => self.note_load(answerer, "loaded"),
            Event::LoadFailed { answerer, .. } => self.note_load(answerer, "failed"),
            Event::Unloaded { answerer } => self.forget(answerer),
            Event::Connection { reason, .. } => {
                self.connections.get_or_create(&ReasonLabels { reason }).inc();
            }
            _ => {}
        }
    }
}

impl OfVersion {
    fn note_answer(&self, pictures: &[Stages], total: Duration) {
        for Stages { decode, preprocess, queue, inference } in pictures {
            let times = [*decode, *preprocess, *queue, *inference, total];
            for (histogram, time) in self.stages.iter().zip(times) {
                histogram.observe(time.as_secs_f64());
            }
            let sums = [*decode + *preprocess, *queue, *inference];
            for (sum, time) in self.sums.nanoseconds.iter().zip(sums) {
                sum.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
            }
        }
        self.pictures.inc_by(pictures.len() as u64);
        self.sums.pictures.fetch_add(pictures.len() as u64, Ordering::Relaxed);
        self.sums.requests.fetch_add(1, Ordering::Relaxed);
        self.sums.total.fetch_add(total.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Sums {
    fn read(&self) -> Totals {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let [input, queue, inference] = self.nanoseconds.each_ref().map(of);
        let (requests, pictures, batches) = (of(&self.requests), of(&self.pictures), of(&self.batches));
        Totals { requests, pictures, batches, input, queue, inference, total: of(&self.total) }
    }
}

fn labels(answerer: &Answerer) -> VersionLabels {
    VersionLabels { model: answerer.model.clone(), version: answerer.version }
}

/// A method by name: a client may make names up, and every one would be a series of its own.
fn method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

/// What is read at the moment of asking.
fn registry_of(versions: &[VersionNow]) -> Registry {
    let mut registry = Registry::default();
    let (waiting, workers) =
        (Family::<VersionLabels, Gauge>::default(), Family::<VersionLabels, Gauge>::default());
    for version in versions {
        let labels = labels(&version.answerer);
        waiting.get_or_create(&labels).set(version.waiting as i64);
        workers.get_or_create(&labels).set(version.workers as i64);
    }
    let loaded: Gauge = Gauge::default();
    loaded.set(versions.len() as i64);
    registry.register("distill_versions_ready", "Versions of models that answer", loaded);
    registry.register("distill_queue_pictures", "Pictures that wait for an engine", waiting);
    registry.register("distill_workers", "Threads with an engine each", workers);
    process::register_now(&mut registry);
    registry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Facts;

    fn answerer() -> Answerer {
        Answerer { model: "cats \"and\" dogs".into(), version: 2 }
    }

    fn request(status: u16, method: &str, pictures: usize) -> Event {
        let stages = Stages {
            queue: Duration::from_micros(1),
            inference: Duration::from_millis(3),
            ..Stages::default()
        };
        Event::Request(RequestDone {
            id: "a".into(),
            peer: None,
            method: method.into(),
            path: "/v1/classify".into(),
            route: Some("/v1/classify".into()),
            status,
            bytes: 0,
            total: Duration::from_millis(4),
            facts: Facts {
                answerer: (pictures > 0).then(answerer),
                pictures: vec![stages; pictures],
                code: (status != 200).then_some("overloaded"),
            },
        })
    }

    /// Metrics that have been told of everything once.
    fn of_everything() -> Metrics {
        let metrics = Metrics::new();
        for event in [request(200, "POST", 2), request(200, "POST", 1), request(429, "BREW", 0)] {
            metrics.event(&event);
        }
        let batch =
            BatchDone { answerer: answerer(), pictures: 3, waiting: 0, inference: Duration::ZERO, ok: true };
        metrics.event(&Event::Batch(batch));
        metrics.event(&Event::LoadFailed { answerer: answerer(), reason: "?".into() });
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        metrics.event(&Event::Connection { peer, reason: "too many" });
        metrics
    }

    #[test]
    fn what_happened_is_counted_once_for_every_label() {
        let metrics = of_everything();
        let text = metrics.text(&[VersionNow { answerer: answerer(), waiting: 5, workers: 1 }]);
        let version = "model=\"cats \\\"and\\\" dogs\",version=\"2\"";
        for line in [
            "distill_http_requests_total{method=\"POST\",route=\"/v1/classify\",code=\"200\"} 2".to_string(),
            "distill_http_requests_total{method=\"other\",route=\"/v1/classify\",code=\"429\"} 1".to_string(),
            "distill_http_errors_total{reason=\"overloaded\"} 1".to_string(),
            format!("distill_pictures_total{{{version}}} 3"),
            format!("distill_stage_seconds_count{{stage=\"inference\",{version}}} 3"),
            format!("distill_stage_seconds_bucket{{le=\"0.002\",stage=\"inference\",{version}}} 0"),
            format!("distill_stage_seconds_bucket{{le=\"0.0035\",stage=\"inference\",{version}}} 3"),
            format!("distill_batch_pictures_bucket{{le=\"4.0\",{version}}} 1"),
            format!("distill_queue_pictures{{{version}}} 5"),
            "distill_model_loads_total{model=\"cats \\\"and\\\" dogs\",outcome=\"failed\"} 1".to_string(),
            "distill_versions_ready 1".to_string(),
            format!("distill_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        ] {
            assert!(text.lines().any(|found| found == line), "{text}\nlacks {line}");
        }
        let totals = metrics.totals(&answerer());
        assert_eq!((totals.requests, totals.pictures, totals.batches), (2, 3, 1));
        assert_eq!((totals.queue, totals.inference), (3_000, 9_000_000));
        metrics.event(&Event::Unloaded { answerer: answerer() });
        assert!(!metrics.text(&[]).contains("distill_stage_seconds_count"));
    }

    #[test]
    fn nothing_is_lost_when_many_count_at_once() {
        let metrics = Metrics::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| metrics.event(&request(200, "POST", 2))));
            }
        });
        let totals = metrics.totals(&answerer());
        assert_eq!((totals.requests, totals.pictures, totals.inference), (8_000, 16_000, 48_000_000_000));
        assert!(metrics.text(&[]).contains("version=\"2\"} 16000\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_tells_its_memory_and_start() {
        let text = Metrics::new().text(&[]);
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 1e6);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_start_time_seconds ") > 1.6e9);
    }

    /// `docs/serving.md` tells of every metric by its name and of no other.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_documentation_has_these_names() {
        let documentation = include_str!("../../../docs/serving.md");
        let rows = documentation.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        let told = rows
            .map(|(name, _)| name)
            .filter(|name| name.starts_with("distill_") || name.starts_with("process_"));
        let text = of_everything().text(&[VersionNow { answerer: answerer(), waiting: 5, workers: 1 }]);
        let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let named = described.map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.into(),
        });
        assert_eq!(told.map(String::from).collect::<std::collections::BTreeSet<_>>(), named.collect());
    }
}
