//! Every operation of the server, a line or two each: what it is for, what it takes, which errors it may answer.

use super::schemas::Answer;

/// An operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    /// For programs that make clients of the document.
    pub id: &'static str,
    pub summary: &'static str,
    /// Names of parameters, besides those in the path.
    pub parameters: &'static [&'static str],
    /// Name of the request's body.
    pub body: Option<&'static str>,
    pub answer: Answer,
    /// Statuses of errors.
    pub errors: &'static [u16],
    /// Whether it asks for a key where the server has keys.
    pub guarded: bool,
}

/// Errors of whatever gives pictures to a model.
const OF_PICTURES: &[u16] = &[400, 404, 408, 413, 415, 422, 429, 500, 503, 504];
/// Errors of whatever gives tensors to a model.
const OF_TENSORS: &[u16] = OF_PICTURES;
/// Errors of whatever asks for a model.
const OF_LOOKUP: &[u16] = &[404];
/// Errors of whatever asks for a version that answers.
const OF_VERSION: &[u16] = &[404, 503];

const fn get(path: &'static str, id: &'static str, summary: &'static str, answer: Answer) -> Operation {
    let (method, parameters, body) = ("get", &[] as &[&str], None);
    Operation { method, path, id, summary, parameters, body, answer, errors: &[], guarded: true }
}

impl Operation {
    const fn errors(self, errors: &'static [u16]) -> Self {
        Self { errors, ..self }
    }

    const fn open(self) -> Self {
        Self { guarded: false, ..self }
    }
}

const fn post(path: &'static str, id: &'static str, summary: &'static str, answer: Answer) -> Operation {
    Operation { method: "post", ..get(path, id, summary, answer) }
}

const fn classify(path: &'static str, id: &'static str, parameters: &'static [&'static str]) -> Operation {
    let summary = "Classify pictures: labels with probabilities, and the time of every stage";
    let body = Some("Pictures");
    let operation = post(path, id, summary, Answer::Json("ClassifyAnswer"));
    Operation { parameters, body, errors: OF_PICTURES, ..operation }
}

const fn infer(path: &'static str, id: &'static str) -> Operation {
    let parameters = &["timeout"];
    let operation = post(path, id, "Run a model on tensors", Answer::Inference);
    Operation { parameters, body: Some("Inference"), errors: OF_TENSORS, ..operation }
}

/// All of them, as the document lists them.
#[rustfmt::skip] // a line each
pub(super) const OPERATIONS: &[Operation] = &[
    classify("/v1/classify", "classify", &["top", "model", "version", "timeout"]),
    classify("/v1/models/{model}/classify", "classifyByModel", &["top", "version", "timeout"]),
    classify("/v1/models/{model}/versions/{version}/classify", "classifyByVersion", &["top", "timeout"]),
    get("/v1/models", "listModels", "Models, their versions and what became of each", Answer::Json("Models")),
    get("/v1/models/{model}", "getModel", "A model and its versions", Answer::Json("Model")).errors(OF_LOOKUP),
    post("/v1/models/{model}/reload", "reloadModel", "Load a model's files anew, beside the version that answers; it is replaced once they have proved themselves", Answer::Json("Reloaded")).errors(&[404, 409, 422, 500]),
    get("/v2", "serverMetadata", "Name, version and extensions", Answer::Json("ServerMetadata")),
    get("/v2/health/live", "serverLive", "Whether the process answers", Answer::Json("Live")).open(),
    get("/v2/health/ready", "serverReady", "Whether every model would answer now", Answer::Json("Ready")).errors(&[503]).open(),
    get("/v2/models/stats", "allStatistics", "Counts and times of all versions", Answer::Json("Statistics")),
    get("/v2/models/{model}", "modelMetadata", "A model's inputs and outputs", Answer::Json("ModelMetadata")).errors(OF_VERSION),
    get("/v2/models/{model}/ready", "modelReady", "Whether a model would answer now", Answer::Json("ModelReady")).errors(OF_VERSION),
    get("/v2/models/{model}/stats", "modelStatistics", "Counts and times of a model's versions", Answer::Json("Statistics")).errors(OF_LOOKUP),
    infer("/v2/models/{model}/infer", "infer"),
    get("/v2/models/{model}/versions/{version}", "versionMetadata", "A version's inputs and outputs", Answer::Json("ModelMetadata")).errors(OF_VERSION),
    get("/v2/models/{model}/versions/{version}/ready", "versionReady", "Whether a version would answer now", Answer::Json("ModelReady")).errors(OF_VERSION),
    get("/v2/models/{model}/versions/{version}/stats", "versionStatistics", "Counts and times of a version", Answer::Json("Statistics")).errors(OF_VERSION),
    infer("/v2/models/{model}/versions/{version}/infer", "inferByVersion"),
    get("/healthz", "health", "Whether the process answers", Answer::Json("Health")).open(),
    get("/readyz", "readiness", "Whether every model would answer now", Answer::Json("Health")).errors(&[503]).open(),
    get("/metrics", "metrics", "Counters and histograms, for Prometheus", Answer::Text("application/openmetrics-text")),
    get("/openapi.json", "openapi", "This document", Answer::Json("Document")),
    get("/", "page", "A page to try it", Answer::Text("text/html")).open(),
    get("/page.css", "pageStyle", "The page's looks", Answer::Text("text/css")).open(),
    get("/page.js", "pageScript", "The page's program", Answer::Text("text/javascript")).open(),
];
