//! What travels: the bodies of requests and answers, and nothing else. The server's inside never sees these types'
//! text, clients never see the inside's.
//!
//! `POST /v1/classify` takes one of
//!
//! ```text
//! curl --data-binary @cat.jpg -H 'content-type: image/jpeg' 'http://127.0.0.1:8080/v1/classify?top=3'
//! curl -F a=@cat.jpg -F b=@dog.png http://127.0.0.1:8080/v1/classify
//! curl -H 'content-type: application/json' -d '{"images": ["/9j/4AAQ..."], "top": 3}' http://127.0.0.1:8080/v1/classify
//! ```
//!
//! and answers
//!
//! ```text
//! HTTP/1.1 200 OK
//! server-timing: decode;dur=0.412, preprocess;dur=0.101, queue;dur=0.009, inference;dur=0.532, total;dur=1.101
//!
//! {"model": "synth.3", "predictions": [
//!   {"top": [{"index": 3, "label": "cat", "probability": 0.91}, ...],
//!    "times_us": {"decode": 412, "preprocess": 101, "queue": 9, "inference": 532, "total": 1101}}]}
//! ```
//!
//! or, with a 4xx or 5xx status,
//!
//! ```text
//! {"error": {"code": "broken_picture", "message": "picture 1 (dog.png): truncated: ...", "picture": 1}}
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::events::Stages;

/// Body of a JSON request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyRequest {
    /// Pictures in base64 (standard alphabet, padded), each bare or as a `data:` URL.
    pub images: Vec<String>,
    /// How many classes to answer; the query's `top` if absent.
    #[serde(default, deserialize_with = "super::whole::optional", skip_serializing_if = "Option::is_none")]
    pub top: Option<usize>,
}

/// Query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifyQuery {
    /// The model that answers, where the path does not say; the first if absent.
    pub model: Option<String>,
    /// Its version; the highest that is ready if absent.
    pub version: Option<String>,
    /// How many classes to answer.
    pub top: Option<usize>,
}

/// Answer to a request: one prediction per picture, in the request's order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyAnswer {
    /// The model's name.
    pub model: String,
    /// The version that answered.
    pub version: String,
    /// The first digits of the SHA-256 of the version's file, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// One per picture.
    pub predictions: Vec<Prediction>,
}

/// Answer to one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The file name that came with it, or its field's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Classes, most probable first.
    pub top: Vec<Candidate>,
    /// Where its time went.
    pub times_us: Times,
}

/// A class and how probable it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Index of the class.
    pub index: usize,
    /// Its name.
    pub label: String,
    /// 0..1.
    pub probability: f32,
}

/// Whole microseconds of every stage of one picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Bytes to pixels.
    pub decode: u64,
    /// Pixels to the network's size.
    pub preprocess: u64,
    /// Waiting for an engine.
    pub queue: u64,
    /// The engine, for the whole batch that the picture was in.
    pub inference: u64,
    /// From the request's last byte until the answer was ready.
    pub total: u64,
}

impl Times {
    /// The stages of a picture, and the whole.
    pub fn of(stages: &Stages, total: Duration) -> Self {
        Self {
            decode: Self::micros(stages.decode),
            preprocess: Self::micros(stages.preprocess),
            queue: Self::micros(stages.queue),
            inference: Self::micros(stages.inference),
            total: Self::micros(total),
        }
    }

    /// A duration in whole microseconds.
    pub fn micros(duration: Duration) -> u64 {
        u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
    }

    /// The stages by name, in order.
    pub fn stages(&self) -> [(&'static str, u64); 5] {
        [
            ("decode", self.decode),
            ("preprocess", self.preprocess),
            ("queue", self.queue),
            ("inference", self.inference),
            ("total", self.total),
        ]
    }
}

/// Value of the `Server-Timing` header, in milliseconds; with several pictures each entry says which.
pub fn server_timing(predictions: &[Prediction]) -> String {
    let several = predictions.len() > 1;
    let entry = |picture: usize, stage: &str, micros: u64| {
        let which = if several { format!(";desc=\"picture {picture}\"") } else { String::new() };
        format!("{stage}{which};dur={}.{:03}", micros / 1000, micros % 1000)
    };
    let entries = predictions.iter().enumerate().flat_map(|(picture, prediction)| {
        prediction.times_us.stages().map(|(stage, micros)| entry(picture, stage, micros))
    });
    entries.collect::<Vec<_>>().join(", ")
}

/// Answer of `GET /healthz` and `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` or `ready`.
    pub status: String,
}

/// Answer of `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Models {
    /// What is served.
    pub models: Vec<ModelInfo>,
}

/// A model, as clients see it: what the version says that answers if a request names none, and all versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name in answers.
    pub name: String,
    /// `ready`, `loading` or `failed`.
    pub state: String,
    /// What the version that answers says; absent where none does.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// Its versions, the highest last.
    pub versions: Vec<VersionInfo>,
}

/// What a version that answers says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its architecture, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// The engine that runs it.
    pub engine: String,
    /// Class names by index.
    pub labels: Vec<String>,
    /// What pictures become.
    pub input: InputInfo,
    /// SHA-256 of the weights, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
}

/// A version of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Its number.
    pub version: String,
    /// `ready`, `loading` or `failed`.
    pub state: String,
    /// Why it failed, or why its last reload did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The engine that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Threads with an engine each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// SHA-256 of its file, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Answer of `POST /v1/models/{model}/reload`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The model, as it is now.
    pub model: ModelInfo,
}

/// What pictures become before the network sees them; any size may be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputInfo {
    /// 3 for RGB, 1 for gray.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `stretch` or `crop`.
    pub fit: String,
}

/// Body of every answer that is no 200.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A word for programs, one per kind of error.
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// Which picture of the request, from 0, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_in_milliseconds_and_says_which_picture() {
        let times_us = Times { decode: 1412, preprocess: 7, queue: 0, inference: 20, total: 1500 };
        let one = Prediction { name: None, top: Vec::new(), times_us };
        let expected =
            "decode;dur=1.412, preprocess;dur=0.007, queue;dur=0.000, inference;dur=0.020, total;dur=1.500";
        assert_eq!(server_timing(std::slice::from_ref(&one)), expected);
        assert!(server_timing(&[one.clone(), one]).contains("total;desc=\"picture 1\";dur=1.500"));
    }
}
