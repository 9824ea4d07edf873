//! What is measured, and for how long. Never here: measuring.

use std::net::SocketAddr;
use std::time::Duration;

use models::Stem;

use super::variant::Variant;
use crate::{LoadOptions, Result, ServeError};

/// What is measured, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// Runs, bundles, `.onnx` files, `model.safetensors` files or names of architectures at random weights.
    pub models: Vec<String>,
    /// Rows of each model: engine and format of the weights.
    pub rows: Vec<Variant>,
    /// Architecture to compare with, at random weights, on the native engine, with the `imagenet` stem and the input of
    /// the model that it is compared with.
    pub against: Option<String>,
    /// Input and layout of architectures given by name.
    pub task: BenchTask,
    /// Threads of the engines and ONNX Runtime's library; engine and weights follow from the rows.
    pub load: LoadOptions,
    /// How long.
    pub effort: Effort,
    /// Pictures in a batch of the offline measurement.
    pub batch: usize,
    /// What is measured over HTTP, if anything.
    pub http: Option<HttpOptions>,
    /// Whether to take the time of every node too, one picture at a time, after everything else.
    pub profile: bool,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            rows: Variant::usual(),
            against: None,
            task: BenchTask::default(),
            load: LoadOptions { threads: 1, ..LoadOptions::default() },
            effort: Effort::default(),
            batch: 32,
            http: Some(HttpOptions::default()),
            profile: false,
        }
    }
}

/// What architectures given by name are built for.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchTask {
    /// Classes.
    pub classes: usize,
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Side of the square picture; the architecture's own if `None`.
    pub size: Option<usize>,
    /// Layout of the first layers.
    pub stem: Stem,
    /// Length of the small CNNs' features layer; their own if `None`.
    pub features: Option<usize>,
}

impl Default for BenchTask {
    fn default() -> Self {
        Self { classes: 10, channels: 3, size: None, stem: Stem::Imagenet, features: None }
    }
}

/// A stretch of measuring: it ends once it has both its samples and its time, or its patience is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Calls at least.
    pub samples: usize,
    /// Time at least, of the calls themselves.
    pub time: Duration,
    /// Time at most; fewer samples are reported as such.
    pub patience: Duration,
}

impl Span {
    /// As long as `seconds`, however many calls that are.
    pub fn seconds(seconds: f64) -> Self {
        let time = Duration::from_secs_f64(seconds);
        Self { samples: 1, time, patience: time }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self, samples: usize, spent: Duration) -> bool {
        samples > 0 && (spent >= self.patience || (samples >= self.samples && spent >= self.time))
    }
}

/// How long everything is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Effort {
    /// Its name in the report.
    pub name: &'static str,
    /// Calls of each engine before the first that counts.
    pub warm_up: usize,
    /// Single stream, each row; samples are calls.
    pub single: Span,
    /// Offline, each row; samples are pictures.
    pub offline: Span,
    /// Each of decoding, preprocessing, inference, all together, and over HTTP; each row and picture format.
    pub stage: Span,
    /// Each number of connections, and each rate.
    pub load: Duration,
}

impl Default for Effort {
    /// Minutes: enough calls for a bound on p99.9, as far as a minute goes.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            name: "default",
            warm_up: 50,
            single: Span { samples: 6636, time: seconds(10), patience: seconds(60) },
            offline: Span { samples: 1000, time: seconds(5), patience: seconds(20) },
            stage: Span { samples: 662, time: seconds(1), patience: seconds(4) },
            load: seconds(5),
        }
    }
}

impl Effort {
    /// Seconds: a first look.
    pub fn quick() -> Self {
        let milliseconds = Duration::from_millis;
        Self {
            name: "quick",
            warm_up: 10,
            single: Span { samples: 662, time: milliseconds(300), patience: milliseconds(2000) },
            offline: Span { samples: 100, time: milliseconds(300), patience: milliseconds(1500) },
            stage: Span { samples: 64, time: milliseconds(50), patience: milliseconds(300) },
            load: milliseconds(500),
        }
    }

    /// MLPerf's least times and counts: 600 seconds a row and scenario, 24,576 pictures offline.
    pub fn mlperf() -> Self {
        let seconds = Duration::from_secs;
        Self {
            name: "mlperf",
            warm_up: 100,
            single: Span { samples: 6636, time: seconds(600), patience: seconds(7200) },
            offline: Span { samples: 24_576, time: seconds(600), patience: seconds(7200) },
            stage: Span { samples: 6636, time: seconds(10), patience: seconds(120) },
            load: seconds(60),
        }
    }
}

/// A format of picture files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// Lossless.
    Png,
    /// Quality 90.
    Jpeg,
}

impl PictureFormat {
    /// Every format, in the report's order.
    pub const ALL: [PictureFormat; 2] = [PictureFormat::Png, PictureFormat::Jpeg];

    /// Its name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            PictureFormat::Png => "png",
            PictureFormat::Jpeg => "jpeg",
        }
    }

    /// As a content type has it.
    pub fn content_type(self) -> &'static str {
        match self {
            PictureFormat::Png => "image/png",
            PictureFormat::Jpeg => "image/jpeg",
        }
    }
}

impl std::str::FromStr for PictureFormat {
    type Err = ServeError;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| ServeError::Setting {
            name: "picture",
            expected: "png or jpeg".into(),
            found: name.into(),
        })
    }
}

/// What is measured over HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpOptions {
    /// A server that runs already; by default one is started in this process for each model.
    pub url: Option<Url>,
    /// Headers of each request, such as an API key.
    pub headers: Vec<(String, String)>,
    /// Connections of the closed loop: each sends a request once the one before is answered.
    pub connections: Vec<usize>,
    /// Requests per second of the open loop; by default half and 80 % of what the closed loop reached.
    pub rates: Vec<f64>,
    /// Connections that the open loop may use.
    pub open_connections: usize,
    /// What requests hold.
    pub picture: PictureFormat,
    /// Pictures in a request where throughput with batching is measured.
    pub pictures: usize,
    /// Seed of the open loop's arrivals.
    pub seed: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            url: None,
            headers: Vec::new(),
            connections: vec![1, 16],
            rates: Vec::new(),
            open_connections: 64,
            picture: PictureFormat::Png,
            pictures: 32,
            seed: 0,
        }
    }
}

/// A server's address, as `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Where to connect.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
}

impl std::str::FromStr for Url {
    type Err = ServeError;

    fn from_str(text: &str) -> Result<Self> {
        use std::net::ToSocketAddrs;
        let wrong = |found: String| ServeError::Setting {
            name: "url",
            expected: "http://HOST:PORT (for a server behind TLS measure its plain port, or a proxy's)"
                .into(),
            found,
        };
        let host = text.strip_prefix("http://").ok_or_else(|| wrong(format!("`{text}`")))?;
        let host = host.trim_end_matches('/');
        let named = if host.contains(':') { host.to_string() } else { format!("{host}:80") };
        let mut addresses = named.to_socket_addrs().map_err(|error| wrong(format!("`{text}` ({error})")))?;
        let address = addresses.next().ok_or_else(|| wrong(format!("`{text}` (no such host)")))?;
        Ok(Self { address, host: host.into() })
    }
}

impl BenchOptions {
    /// Whether there is anything that cannot be measured.
    pub(super) fn check(&self) -> Result<()> {
        let watching = self.http.as_ref().is_some_and(|http| http.url.is_some());
        let at_least_one = [
            ("models", if watching { 1 } else { self.models.len() }),
            ("rows", self.rows.len()),
            ("threads", self.load.threads),
            ("samples", self.effort.single.samples),
            ("batch", self.batch),
        ];
        for (name, value) in at_least_one {
            if value == 0 {
                return Err(refused(name, "at least 1", "0"));
            }
        }
        self.http.as_ref().map_or(Ok(()), HttpOptions::check)
    }
}

/// Connections that a load generator of threads can reasonably hold.
const MOST_CONNECTIONS: usize = 1024;

impl HttpOptions {
    fn check(&self) -> Result<()> {
        for &connections in self.connections.iter().chain([&self.open_connections]) {
            if !(1..=MOST_CONNECTIONS).contains(&connections) {
                return Err(refused(
                    "connections",
                    &format!("1 to {MOST_CONNECTIONS}"),
                    &connections.to_string(),
                ));
            }
        }
        for &rate in &self.rates {
            if !(rate.is_finite() && (0.1..=1e6).contains(&rate)) {
                return Err(refused("rates", "0.1 to 1000000 requests per second", &rate.to_string()));
            }
        }
        if self.pictures == 0 {
            return Err(refused("pictures", "at least 1", "0"));
        }
        Ok(())
    }
}

fn refused(name: &'static str, expected: &str, found: &str) -> ServeError {
    ServeError::Setting { name, expected: expected.into(), found: found.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_wants_both_its_samples_and_its_time_within_its_patience() {
        let second = Duration::from_secs;
        let span = Span { samples: 10, time: second(2), patience: second(5) };
        assert!(!span.is_over(10, second(1)) && !span.is_over(9, second(3)));
        assert!(span.is_over(10, second(2)) && span.is_over(3, second(5)));
        assert!(!span.is_over(0, second(9)), "one call is made in any case");
    }

    #[test]
    fn urls_are_plain_http() {
        let url: Url = "http://127.0.0.1:8080/".parse().unwrap();
        assert_eq!((url.address.port(), url.host.as_str()), (8080, "127.0.0.1:8080"));
        let message = "https://127.0.0.1".parse::<Url>().unwrap_err().to_string();
        assert!(message.contains("url: expected http://HOST:PORT") && message.contains("https"), "{message}");
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let options = |http: HttpOptions| BenchOptions {
            models: vec!["a".into()],
            http: Some(http),
            ..BenchOptions::default()
        };
        let message = |http| options(http).check().unwrap_err().to_string();
        let zero = HttpOptions { connections: vec![0], ..HttpOptions::default() };
        assert_eq!(message(zero), "connections: expected 1 to 1024, found 0");
        let rate = HttpOptions { rates: vec![f64::NAN], ..HttpOptions::default() };
        assert!(message(rate).starts_with("rates: expected"));
        assert!(options(HttpOptions::default()).check().is_ok());
    }
}
