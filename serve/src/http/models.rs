//! `/v1/models`: what is served, what became of each version, and reloading.

use axum::Json;
use axum::extract::{Path, State};

use super::Shared;
use super::error::ApiError;
use super::wire::{About, InputInfo, ModelInfo, Models, Reloaded, VersionInfo};
use crate::repository::{Model, VersionState};
use crate::running::Running;

pub(super) async fn all(State(app): State<Shared>) -> Json<Models> {
    Json(Models { models: app.models.models().iter().map(info).collect() })
}

pub(super) async fn one(
    State(app): State<Shared>,
    Path(model): Path<String>,
) -> Result<Json<ModelInfo>, ApiError> {
    Ok(Json(info(app.models.find(Some(&model))?)))
}

pub(super) async fn reload(
    State(app): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Reloaded>, ApiError> {
    app.models.find(Some(&name))?;
    let (shared, wanted) = (app.clone(), name.clone());
    // It goes on although the client hangs up: half a reload would be none.
    let reloaded = tokio::task::spawn_blocking(move || {
        let model = shared.models.find(Some(&wanted))?;
        let reloaded = model.reload(&shared.options, &shared.sinks);
        reloaded.map(drop).map_err(|error| ApiError::NotReloaded { model: wanted.clone(), error })
    });
    reloaded.await.map_err(|error| ApiError::Engine { reason: error.to_string() })??;
    Ok(Json(Reloaded { model: info(app.models.find(Some(&name))?) }))
}

fn info(model: &Model) -> ModelInfo {
    let versions = model.versions();
    let latest = versions.iter().rev().find_map(|(_, state)| match state {
        VersionState::Ready(running, _) => Some(running),
        _ => None,
    });
    let state = match (latest, versions.last()) {
        (Some(_), _) => "ready",
        (None, Some((_, VersionState::Failed(_)))) => "failed",
        _ => "loading",
    };
    ModelInfo {
        name: model.name().to_string(),
        state: state.into(),
        about: latest.map(|running| about(running)),
        versions: versions.iter().map(|(version, state)| version_info(*version, state)).collect(),
    }
}

fn about(running: &Running) -> About {
    let card = running.card();
    About {
        arch: card.arch.clone(),
        engine: card.engine.name().into(),
        labels: card.labels.clone(),
        input: InputInfo {
            channels: card.channels,
            height: card.height,
            width: card.width,
            fit: card.fit.name().into(),
        },
        weights_sha256: card.weights_sha256.clone(),
    }
}

fn version_info(version: u64, state: &VersionState) -> VersionInfo {
    let (name, reason, running) = match state {
        VersionState::Loading => ("loading", None, None),
        VersionState::Ready(running, reason) => ("ready", reason.clone(), Some(running)),
        VersionState::Failed(reason) => ("failed", Some(reason.clone()), None),
    };
    VersionInfo {
        version: version.to_string(),
        state: name.into(),
        reason,
        engine: running.map(|running| running.card().engine.name().into()),
        workers: running.map(|running| running.workers()),
        sha256: running.and_then(|running| running.served().digest().map(String::from)),
    }
}
