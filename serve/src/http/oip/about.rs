//! What the server and its models say of themselves by the protocol: health, metadata, statistics.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::contract::{Described, inputs, outputs};
use super::{OipError, Refusal};
use crate::http::{App, Shared};
use crate::metrics::Totals;
use crate::repository::{Missing, Model};
use crate::running::Running;

/// Of Triton's extensions those that are here.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "classification", "parameters", "statistics"];

type Answer = Result<Json<Value>, OipError>;

pub(in crate::http) async fn server() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "name": "distill", "version": version, "extensions": EXTENSIONS }))
}

pub(in crate::http) async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

pub(in crate::http) async fn ready(State(app): State<Shared>) -> Answer {
    app.check_ready()?;
    Ok(Json(json!({ "ready": true })))
}

pub(in crate::http) async fn model_ready(State(app): State<Shared>, Path(model): Path<String>) -> Answer {
    Ok(is_ready(&app, &model, None)?)
}

pub(in crate::http) async fn version_ready(
    State(app): State<Shared>,
    Path((model, version)): Path<(String, String)>,
) -> Answer {
    Ok(is_ready(&app, &model, Some(&version))?)
}

pub(in crate::http) async fn model(State(app): State<Shared>, Path(model): Path<String>) -> Answer {
    Ok(metadata(&app, &model, None)?)
}

pub(in crate::http) async fn version(
    State(app): State<Shared>,
    Path((model, version)): Path<(String, String)>,
) -> Answer {
    Ok(metadata(&app, &model, Some(&version))?)
}

pub(in crate::http) async fn all_statistics(State(app): State<Shared>) -> Json<Value> {
    let running = app.models.models().iter().flat_map(Model::ready);
    Json(statistics_of(&app, running.collect()))
}

pub(in crate::http) async fn model_statistics(
    State(app): State<Shared>,
    Path(model): Path<String>,
) -> Answer {
    let model = app.models.find(Some(&model))?;
    Ok(Json(statistics_of(&app, model.ready())))
}

pub(in crate::http) async fn version_statistics(
    State(app): State<Shared>,
    Path((model, version)): Path<(String, String)>,
) -> Answer {
    let running = app.models.running(Some(&model), Some(&version))?;
    Ok(Json(statistics_of(&app, vec![running])))
}

fn is_ready(app: &App, model: &str, version: Option<&str>) -> Refusal<Json<Value>> {
    app.models.find(Some(model))?;
    let running = app.model(Some(model), version)?;
    if running.is_alive() {
        Ok(Json(json!({ "name": model, "ready": true })))
    } else {
        Err(Missing::Loading { model: model.into() }.into())
    }
}

fn metadata(app: &App, model: &str, version: Option<&str>) -> Refusal<Json<Value>> {
    let running = app.models.running(Some(model), version)?;
    let card = running.card();
    let ready = app.models.find(Some(model))?.ready();
    let versions: Vec<String> = ready.iter().map(|running| running.answerer().version.to_string()).collect();
    Ok(Json(json!({
        "name": model,
        "versions": versions,
        "platform": platform(card.engine.name()),
        "inputs": inputs(card).each_ref().map(tensor),
        "outputs": outputs(card).each_ref().map(tensor),
    })))
}

/// `<project>_<format>`, as the protocol asks for.
fn platform(engine: &str) -> String {
    if engine == "ort" { "onnxruntime_onnx".into() } else { format!("distill_{engine}") }
}

fn tensor(described: &Described) -> Value {
    // -1 stands for any length.
    let axes = described.axes.iter().map(|&axis| Value::from(axis));
    let shape: Vec<Value> = std::iter::once(Value::from(-1)).chain(axes).collect();
    json!({ "name": described.name, "datatype": described.datatype, "shape": shape })
}

fn statistics_of(app: &App, running: Vec<Arc<Running>>) -> Value {
    let statistics = running.iter().map(|running| {
        let answerer = running.answerer();
        statistics(&answerer.model, answerer.version, app.metrics.totals(answerer))
    });
    json!({ "model_stats": statistics.collect::<Vec<_>>() })
}

fn statistics(model: &str, version: u64, totals: Totals) -> Value {
    let Totals { requests, pictures, batches, input, queue, inference, total } = totals;
    let of = |count: u64, ns: u64| json!({ "count": count, "ns": ns });
    json!({
        "name": model,
        "version": version.to_string(),
        "inference_count": pictures,
        "execution_count": batches,
        "inference_stats": {
            "success": of(requests, total),
            "queue": of(pictures, queue),
            "compute_input": of(pictures, input),
            "compute_infer": of(pictures, inference),
        },
    })
}
