//! `/healthz`: the process answers. `/readyz`: it would answer pictures now, by every model.

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::error::ApiError;
use super::wire::Health;

pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".into() })
}

pub(super) async fn readyz(State(app): State<Shared>) -> Result<Json<Health>, ApiError> {
    app.check_ready()?;
    Ok(Json(Health { status: "ready".into() }))
}
