//! `GET /metrics`: what is counted, for Prometheus.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::{App, Shared};
use crate::metrics::{self, VersionNow};
use crate::repository::Model;

pub(super) async fn metrics(State(app): State<Shared>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.text(&now(&app)))
}

fn now(app: &App) -> Vec<VersionNow> {
    let ready = app.models.models().iter().flat_map(Model::ready);
    ready
        .map(|running| VersionNow {
            answerer: running.answerer().clone(),
            waiting: running.queue().waiting(),
            workers: running.queue().alive(),
        })
        .collect()
}
