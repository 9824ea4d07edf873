//! Other people's clients, with which the server is tested: NVIDIA's, schemathesis, Prometheus' parser, a browser. The
//! Python ones go into an environment of their own below `.tools/`; the browser is sought, never installed.

use std::path::PathBuf;

use crate::{Result, answers, python};

/// Releases that the tests were written with.
const PACKAGES: &[&str] = &[
    "tritonclient[http]==2.73.0",
    "schemathesis==4.32.5",
    "selenium==4.51.0",
    "prometheus-client==0.26.0",
    "numpy==2.4.6",
];

/// Interpreter of an environment that holds the clients; made on the first call.
pub fn python() -> Result<PathBuf> {
    match std::env::var_os("DISTILL_TEST_PYTHON") {
        Some(given) => Ok(given.into()),
        None => python::environment("clients", PACKAGES),
    }
}

/// A browser and the program that drives it.
pub struct Browser {
    /// Chromium or Chrome.
    pub chromium: String,
    /// Its driver.
    pub driver: String,
}

/// The browser that `DISTILL_CHROMIUM` and `DISTILL_CHROMEDRIVER` name, or the first one on the path.
pub fn browser() -> Result<Browser> {
    let chromium =
        named_or_found("DISTILL_CHROMIUM", &["chromium", "chromium-browser", "google-chrome", "chrome"])?;
    let driver = named_or_found("DISTILL_CHROMEDRIVER", &["chromedriver", "chromium.chromedriver"])?;
    Ok(Browser { chromium, driver })
}

fn named_or_found(variable: &str, names: &[&str]) -> Result<String> {
    if let Ok(given) = std::env::var(variable) {
        return if answers(&given) {
            Ok(given)
        } else {
            Err(format!("{variable} names {given}, which does not answer --version; mend or unset it"))
        };
    }
    names.iter().find(|name| answers(name)).map(ToString::to_string).ok_or_else(|| {
        format!(
            "the web page's test needs {}, found none on the path: install it (Debian: apt-get install chromium \
             chromium-driver), set {variable}, or leave that one test out with `cargo xtask test --without browser`",
            names[0]
        )
    })
}
