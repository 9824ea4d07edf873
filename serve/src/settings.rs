//! The command line of a server: every setting, a line of [`SETTINGS`] each, so that `distill serve` and `distill-serve`
//! have the same ones; and what the words that are no settings say about models.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Ended, Setup, StartInfo};
use crate::logs::{Log, LogFormat};
use crate::served::name_of;
use crate::{LoadOptions, Options, Result, ServeError, Source, TlsFiles};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where to listen.
    pub address: SocketAddr,
    /// How models are loaded.
    pub load: LoadOptions,
    /// How the server behaves.
    pub options: Options,
    /// How its log looks.
    pub log: LogFormat,
    /// Models as they were named: `[NAME=]PATH`.
    pub models: Vec<String>,
    /// A folder of models.
    pub repository: Option<PathBuf>,
    /// Certificate chain, in PEM; needs the key.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            load: LoadOptions::default(),
            options: Options::default(),
            log: LogFormat::default(),
            models: Vec::new(),
            repository: None,
            certificate: None,
            key: None,
        }
    }
}

/// Takes a setting's value.
type Set = fn(&mut Settings, &str) -> std::result::Result<(), String>;

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name: `--name VALUE`.
    pub name: &'static str,
    /// What its value is called.
    pub value: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Its default, in words.
    pub default: &'static str,
    /// A value that it takes, for tests and examples.
    pub example: &'static str,
    set: Set,
}

/// Every setting.
pub const SETTINGS: &[Setting] = &[
    Setting {
        name: "addr",
        value: "HOST:PORT",
        help: "where to listen",
        default: "127.0.0.1:8080",
        example: "127.0.0.1:9000",
        set: |settings, value| put(&mut settings.address, address(value)),
    },
    Setting {
        name: "model-repository",
        value: "DIR",
        help: "serve the models in DIR: NAME/VERSION/ folders, versions being numbers",
        default: "none",
        example: "models",
        set: |settings, value| put(&mut settings.repository, Ok(Some(value.into()))),
    },
    Setting {
        name: "engine",
        value: "NAME",
        help: "native, ort (ONNX Runtime) or, where it is built in, candle-onnx",
        default: "native; ort for .onnx",
        example: "ort",
        set: |settings, value| put(&mut settings.load.engine, parsed(value).map(Some)),
    },
    Setting {
        name: "weights",
        value: "FORMAT",
        help: "how the native engine stores weights: f32 or bf16",
        default: "f32",
        example: "bf16",
        set: |settings, value| put(&mut settings.load.weights, parsed(value)),
    },
    Setting {
        name: "threads",
        value: "N",
        help: "threads of each worker's engine",
        default: "1",
        example: "2",
        set: |settings, value| put(&mut settings.load.threads, number(value)),
    },
    Setting {
        name: "ort-lib",
        value: "PATH",
        help: "ONNX Runtime's library or its folder",
        default: "sought",
        example: "/opt/onnxruntime",
        set: |settings, value| put(&mut settings.load.ort_lib, Ok(Some(value.into()))),
    },
    Setting {
        name: "workers",
        value: "N",
        help: "threads with an engine each, for every version of a model",
        default: "one per core",
        example: "2",
        set: |settings, value| put(&mut settings.options.workers, number(value)),
    },
    Setting {
        name: "queue",
        value: "N",
        help: "pictures of a version under way at most; more are refused with 429",
        default: "256",
        example: "64",
        set: |settings, value| put(&mut settings.options.queue, number(value)),
    },
    Setting {
        name: "max-batch",
        value: "N",
        help: "pictures run together at most",
        default: "16",
        example: "8",
        set: |settings, value| put(&mut settings.options.max_batch, number(value)),
    },
    Setting {
        name: "max-delay-us",
        value: "N",
        help: "longest wait for company in a batch, where company is likely; a lone request never waits",
        default: "0",
        example: "500",
        set: |settings, value| {
            put(&mut settings.options.max_delay, Ok(Duration::from_micros(number(value)?)))
        },
    },
    Setting {
        name: "timeout-ms",
        value: "N",
        help: "time for an answer, then 504; the header x-request-timeout-ms lowers it",
        default: "30000",
        example: "1000",
        set: |settings, value| put(&mut settings.options.timeout, millis(value)),
    },
    Setting {
        name: "max-pictures",
        value: "N",
        help: "pictures in one request at most",
        default: "64",
        example: "8",
        set: |settings, value| put(&mut settings.options.max_pictures, number(value)),
    },
    Setting {
        name: "max-body-bytes",
        value: "N",
        help: "bytes of a request's body at most",
        default: "33554432",
        example: "1048576",
        set: |settings, value| put(&mut settings.options.max_body_bytes, number(value)),
    },
    Setting {
        name: "max-bodies-bytes",
        value: "N",
        help: "bytes of all bodies under way at most; more are refused with 429",
        default: "268435456",
        example: "67108864",
        set: |settings, value| put(&mut settings.options.max_bodies_bytes, number(value)),
    },
    Setting {
        name: "max-pixels",
        value: "N",
        help: "pixels of a picture at most",
        default: "64000000",
        example: "1000000",
        set: |settings, value| put(&mut settings.options.max_pixels, number(value)),
    },
    Setting {
        name: "max-connections",
        value: "N",
        help: "connections at most; more are refused with 503",
        default: "1024",
        example: "100",
        set: |settings, value| put(&mut settings.options.max_connections, number(value)),
    },
    Setting {
        name: "max-header-bytes",
        value: "N",
        help: "bytes of a request's head at most",
        default: "65536",
        example: "16384",
        set: |settings, value| put(&mut settings.options.max_header_bytes, number(value)),
    },
    Setting {
        name: "header-timeout-ms",
        value: "N",
        help: "time for a request's head, then the connection ends",
        default: "10000",
        example: "5000",
        set: |settings, value| put(&mut settings.options.header_timeout, millis(value)),
    },
    Setting {
        name: "body-timeout-ms",
        value: "N",
        help: "time for a request's body, then 408; and for a client to take its answer",
        default: "30000",
        example: "5000",
        set: |settings, value| put(&mut settings.options.body_timeout, millis(value)),
    },
    Setting {
        name: "keep-alive-ms",
        value: "N",
        help: "time that a connection may be idle",
        default: "75000",
        example: "5000",
        set: |settings, value| put(&mut settings.options.keep_alive, millis(value)),
    },
    Setting {
        name: "drain-delay-ms",
        value: "N",
        help: "once told to stop, go on answering so long while /readyz says 503",
        default: "0",
        example: "5000",
        set: |settings, value| put(&mut settings.options.drain_delay, millis(value)),
    },
    Setting {
        name: "drain-timeout-ms",
        value: "N",
        help: "then finish what is under way for so long",
        default: "30000",
        example: "5000",
        set: |settings, value| put(&mut settings.options.drain_timeout, millis(value)),
    },
    Setting {
        name: "watch",
        value: "SECONDS",
        help: "look for changed files so often, and load them",
        default: "never",
        example: "2.5",
        set: |settings, value| put(&mut settings.options.watch, seconds(value).map(Some)),
    },
    Setting {
        name: "api-keys",
        value: "FILE",
        help: "ask for one of the keys in FILE: a key or name:SHA-256 per line",
        default: "none",
        example: "keys.txt",
        set: |settings, value| put(&mut settings.options.api_keys, Ok(Some(value.into()))),
    },
    Setting {
        name: "tls-cert",
        value: "FILE",
        help: "speak TLS with this certificate chain (PEM); needs --tls-key",
        default: "none",
        example: "cert.pem",
        set: |settings, value| put(&mut settings.certificate, Ok(Some(value.into()))),
    },
    Setting {
        name: "tls-key",
        value: "FILE",
        help: "the certificate's private key (PEM); needs --tls-cert",
        default: "none",
        example: "key.pem",
        set: |settings, value| put(&mut settings.key, Ok(Some(value.into()))),
    },
    Setting {
        name: "log",
        value: "FORMAT",
        help: "lines on standard error: text, json or off",
        default: "text",
        example: "json",
        set: |settings, value| put(&mut settings.log, parsed(value)),
    },
    Setting {
        name: "top",
        value: "N",
        help: "classes answered if a request does not say",
        default: "5",
        example: "3",
        set: |settings, value| put(&mut settings.options.top, number(value)),
    },
];

fn put<T>(place: &mut T, value: std::result::Result<T, String>) -> std::result::Result<(), String> {
    *place = value?;
    Ok(())
}

fn parsed<T: FromStr>(value: &str) -> std::result::Result<T, String>
where
    T::Err: std::fmt::Display,
{
    value.parse().map_err(|error: T::Err| error.to_string())
}

fn number<T: FromStr>(value: &str) -> std::result::Result<T, String> {
    value.parse().map_err(|_| format!("expected a whole number, found `{value}`"))
}

fn millis(value: &str) -> std::result::Result<Duration, String> {
    number(value).map(Duration::from_millis)
}

fn seconds(value: &str) -> std::result::Result<Duration, String> {
    let seconds = value.parse().ok().filter(|seconds: &f64| (0.01..=1e6).contains(seconds));
    let wrong = || format!("expected seconds from 0.01 to 1000000, found `{value}`");
    seconds.map(Duration::from_secs_f64).ok_or_else(wrong)
}

fn address(value: &str) -> std::result::Result<SocketAddr, String> {
    use std::net::ToSocketAddrs;
    let wrong =
        |reason: String| format!("expected HOST:PORT such as 127.0.0.1:8080, found `{value}`: {reason}");
    let mut addresses = value.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    addresses.next().ok_or_else(|| wrong("no such host".into()))
}

impl Settings {
    /// Takes the value of a setting; the name is without its dashes.
    ///
    /// # Errors
    /// A sentence that names the setting, what it takes and what was found.
    pub fn set(&mut self, name: &str, value: &str) -> std::result::Result<(), String> {
        let known = || SETTINGS.iter().map(|setting| setting.name);
        let setting = SETTINGS.iter().find(|setting| setting.name == name).ok_or_else(|| {
            format!("unknown option `--{name}`{}", models::nearest::suggestion(name, known()))
        })?;
        (setting.set)(self, value).map_err(|reason| format!("--{name}: {reason}"))
    }

    /// The server that was asked for. Its log goes to `log`.
    ///
    /// # Errors
    /// [`ServeError`] for models that are not named clearly or not there, and settings that contradict each other.
    pub fn setup(mut self, log: impl std::io::Write + Send + 'static) -> Result<Setup> {
        self.options.tls = tls(self.certificate.take(), self.key.take())?;
        let mut setup = Setup::new(&self.options);
        for source in self.sources()? {
            setup = setup.model(source);
        }
        if self.log != LogFormat::Off {
            setup = setup.sink(Arc::new(Log::new(self.log, log)?));
        }
        Ok(setup)
    }

    /// Serves until the process is told to stop.
    ///
    /// # Errors
    /// As [`Settings::setup`] and [`Setup::run`].
    pub fn run(
        self,
        log: impl std::io::Write + Send + 'static,
        started: impl FnOnce(&StartInfo),
    ) -> Result<Ended> {
        let address = self.address;
        self.setup(log)?.run(address, started)
    }

    fn sources(&self) -> Result<Vec<Source>> {
        // Before anything listens: a slip in a path is the commonest of all.
        self.models.iter().try_for_each(|model| exists(&named(model).1))?;
        let mut sources = listed(&self.models, &self.load)?;
        if let Some(folder) = &self.repository {
            sources.extend(Source::repository(folder, &self.load)?);
        }
        if sources.is_empty() {
            let (expected, found) = ("a model, or --model-repository DIR".into(), "none".into());
            return Err(ServeError::Setting { name: "models", expected, found });
        }
        Ok(sources)
    }
}

fn exists(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(ServeError::Source { path: path.into(), reason: error.to_string() }),
    }
}

fn tls(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsFiles>> {
    let alone = |name: &'static str, other: &str| {
        let (expected, found) = (format!("--{other} as well"), "none".into());
        Err(ServeError::Setting { name, expected, found })
    };
    match (certificate, key) {
        (Some(certificate), Some(key)) => Ok(Some(TlsFiles { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => alone("tls-cert", "tls-key"),
        (None, Some(_)) => alone("tls-key", "tls-cert"),
    }
}

/// The models of a command line. Paths of one NAME are its versions 1, 2, ... in their order.
fn listed(models: &[String], load: &LoadOptions) -> Result<Vec<Source>> {
    let mut grouped: Vec<(String, bool, Vec<PathBuf>)> = Vec::new();
    for model in models {
        let (name, path) = named(model);
        let said = name.is_some();
        let name = name.map_or_else(|| name_of(&path), String::from);
        match grouped.iter_mut().find(|(known, ..)| *known == name) {
            None => grouped.push((name, said, vec![path])),
            Some((_, true, paths)) if said => paths.push(path),
            Some(_) => {
                let expected =
                    format!("a name for each (NAME={model}), or one NAME= for versions of one model");
                return Err(ServeError::Setting {
                    name: "models",
                    expected,
                    found: format!("`{name}` twice"),
                });
            }
        }
    }
    Ok(grouped.into_iter().map(|(name, _, paths)| Source::paths(name, paths, load)).collect())
}

/// `NAME=PATH`, or a path; what exists as it stands is a path.
fn named(model: &str) -> (Option<&str>, PathBuf) {
    let word = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    match model.split_once('=') {
        Some((name, path)) if word(name) && !Path::new(model).exists() => (Some(name), path.into()),
        _ => (None, model.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_its_example_and_changes_something() {
        for setting in SETTINGS {
            let mut settings = Settings::default();
            settings.set(setting.name, setting.example).unwrap();
            assert_ne!(settings, Settings::default(), "--{} changes nothing", setting.name);
        }
    }

    #[test]
    fn defaults_in_words_are_the_defaults() {
        let in_words = ["none", "never", "sought", "one per core", "native; ort for .onnx", "1"];
        for setting in SETTINGS.iter().filter(|setting| !in_words.contains(&setting.default)) {
            let mut settings = Settings::default();
            settings.set(setting.name, setting.default).unwrap();
            assert_eq!(settings, Settings::default(), "--{}", setting.name);
        }
    }

    #[test]
    fn names_are_unlike_each_other() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value, expected) in [
            ("queue", "many", "--queue: expected a whole number, found `many`"),
            ("engine", "nativ", "did you mean `native`"),
            ("log", "xml", "expected json, text or off"),
            ("watch", "0", "expected seconds"),
            ("addr", "nowhere", "expected HOST:PORT"),
            ("max-batsh", "1", "did you mean `max-batch`"),
        ] {
            let message = Settings::default().set(name, value).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        let alone =
            Settings { certificate: Some("c".into()), models: vec!["a".into()], ..Settings::default() };
        let message = alone.setup(std::io::sink()).unwrap_err().to_string();
        assert!(message.contains("tls-cert: expected --tls-key as well"), "{message}");
    }

    #[test]
    fn models_are_told_apart_by_their_names() {
        let names = |models: &[&str]| {
            let models: Vec<String> = models.iter().map(|model| model.to_string()).collect();
            listed(&models, &LoadOptions::default()).map(|sources| format!("{sources:?}"))
        };
        assert_eq!(names(&["runs/a", "b=runs/c"]).unwrap(), "[Source(\"a\"), Source(\"b\")]");
        assert_eq!(names(&["m=runs/a", "m=runs/b"]).unwrap(), "[Source(\"m\")]");
        let message = names(&["runs/a", "other/a"]).unwrap_err().to_string();
        assert!(message.contains("`a` twice") && message.contains("NAME=other/a"), "{message}");
    }
}
