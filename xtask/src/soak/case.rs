//! What a server is driven with: models, requests and the answers that are right, as `serve/examples/soak_case.rs` made
//! them. It decides nothing about the load.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Build;
use crate::{Result, cargo, root, run};

/// Everything that is sent, and what has to come back.
pub struct Case {
    /// Where the files lie.
    pub folder: PathBuf,
    /// How far a probability may be from the expected one.
    pub tolerance: f64,
    /// Names of the versions of the model, each a file.
    pub versions: Vec<String>,
    /// Names of the files that are no model.
    pub broken: Vec<String>,
    /// The requests.
    pub asks: Vec<Ask>,
}

/// A request.
#[derive(Clone)]
pub struct Ask {
    /// What it tries, for the report.
    pub kind: String,
    /// Where it goes.
    pub path: String,
    /// Its headers besides `host` and `content-length`.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// The statuses that are right.
    pub statuses: Vec<u16>,
    /// How the answer is written: `classify`, `oip`; none where it is an error.
    pub form: Option<String>,
    /// Probabilities: by version, picture and class.
    pub answers: Vec<Vec<Vec<f64>>>,
}

impl Ask {
    /// Whether it is refused whatever happens.
    pub fn is_bad(&self) -> bool {
        self.form.is_none()
    }

    /// Whether it is one of those that are too many when sent at once.
    pub fn is_burst(&self) -> bool {
        self.kind == "burst"
    }
}

impl Case {
    /// Has the case made in `folder` and reads it.
    pub fn make(folder: &Path, build: Build) -> Result<Self> {
        let mut make = Command::new(cargo());
        make.current_dir(root()).args(["run", "--quiet", "--package", "distill-serve"]).args(build.flags());
        run(make.args(["--example", "soak_case", "--"]).arg(folder))?;
        Self::read(folder)
    }

    fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("case.json");
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let json: Value =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let asks = json["asks"].as_array().into_iter().flatten().map(|ask| Ask::read(folder, ask));
        Ok(Self {
            folder: folder.into(),
            tolerance: json["tolerance"].as_f64().ok_or("the case names no tolerance")?,
            versions: texts(&json["versions"]),
            broken: texts(&json["broken"]),
            asks: asks.collect::<Result<_>>()?,
        })
    }

    /// The file of a version or of a broken one.
    pub fn model(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.safetensors"))
    }
}

impl Ask {
    fn read(folder: &Path, json: &Value) -> Result<Self> {
        let text = |key: &str| json[key].as_str().map(String::from).ok_or(format!("a request without {key}"));
        let body = folder.join(text("body")?);
        let headers = json["headers"].as_object().into_iter().flatten();
        let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_string()));
        Ok(Self {
            kind: text("kind")?,
            path: text("path")?,
            headers: headers.filter_map(pair).collect(),
            body: std::fs::read(&body).map_err(|error| format!("{}: {error}", body.display()))?,
            statuses: numbers(&json["statuses"]).into_iter().map(|status| status as u16).collect(),
            form: json["form"].as_str().map(String::from),
            answers: list(&json["answers"], |version| list(version, numbers)),
        })
    }
}

fn list<T>(json: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    json.as_array().into_iter().flatten().map(read).collect()
}

/// The numbers of a JSON array.
pub fn numbers(json: &Value) -> Vec<f64> {
    list(json, |number| number.as_f64().unwrap_or(f64::NAN))
}

fn texts(json: &Value) -> Vec<String> {
    list(json, |text| text.as_str().unwrap_or_default().to_string())
}
