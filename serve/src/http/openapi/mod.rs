//! `GET /openapi.json`: every operation, what it takes and what it answers, errors included; put together from the
//! table in `operations` and the shapes in `schemas`. Models are listed as they are served at the moment.

mod operations;
mod schemas;

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use self::operations::{OPERATIONS, Operation};
use self::schemas::{bodies, reference, schemas};
use super::{App, Shared};

pub(super) async fn document(State(app): State<Shared>) -> Json<Value> {
    Json(build(&Served::of(&app)))
}

/// What the document says of this server rather than of any.
struct Served {
    models: Vec<String>,
    versions: Vec<String>,
    /// Pictures in a request at most.
    most_pictures: usize,
    guarded: bool,
}

impl Served {
    fn of(app: &App) -> Self {
        let models = app.models.models();
        let mut versions: Vec<u64> =
            models.iter().flat_map(|model| model.versions()).map(|(version, _)| version).collect();
        versions.sort_unstable();
        versions.dedup();
        Self {
            models: models.iter().map(|model| model.name().to_string()).collect(),
            versions: versions.iter().map(u64::to_string).collect(),
            most_pictures: app.options.max_pictures.min(app.options.queue),
            guarded: app.options.api_keys.is_some(),
        }
    }
}

fn build(served: &Served) -> Value {
    let mut components = json!({
        "schemas": schemas(served.most_pictures),
        "parameters": parameters(served),
        "requestBodies": bodies(),
    });
    if served.guarded {
        components["securitySchemes"] = json!({ "key": { "type": "http", "scheme": "bearer" } });
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "distill",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Answers of small image classifiers: pictures in, labels and stage times out. Below /v2 \
                the Open Inference Protocol.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "paths": paths(served),
        "components": components,
    })
}

fn paths(served: &Served) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.describe(served.guarded);
    }
    paths
}

fn parameters(served: &Served) -> Value {
    let query = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "description": description, "schema": schema });
    let path = |name: &str, description: &str, values: &[String]| {
        let schema = json!({ "type": "string", "enum": values });
        json!({ "name": name, "in": "path", "required": true, "description": description, "schema": schema })
    };
    let count = || json!({ "type": "integer", "minimum": 1, "maximum": u64::MAX });
    let name = |values: &[String]| json!({ "type": "string", "enum": values });
    json!({
        "model_in_path": path("model", "The model", &served.models),
        "version_in_path": path("version", "Its version", &served.versions),
        "model": query("model", "The model; the first if absent", name(&served.models)),
        "version": query("version", "Its version; the highest that is ready if absent", name(&served.versions)),
        "top": query("top", "How many classes to answer", count()),
        "timeout": {
            "name": "x-request-timeout-ms",
            "in": "header",
            "description": "Milliseconds for the answer, at most the server's own",
            "schema": count(),
        },
    })
}

impl Operation {
    fn describe(&self, guarded: bool) -> Value {
        let mut described = json!({
            "operationId": self.id,
            "summary": self.summary,
            "tags": [self.tag()],
            "responses": self.responses(guarded),
        });
        let parameters = self.parameter_names();
        if !parameters.is_empty() {
            let reference = |name: &String| json!({ "$ref": format!("#/components/parameters/{name}") });
            described["parameters"] = parameters.iter().map(reference).collect();
        }
        if let Some(body) = self.body {
            described["requestBody"] = json!({ "$ref": format!("#/components/requestBodies/{body}") });
        }
        if guarded && self.guarded {
            described["security"] = json!([{ "key": [] }]);
        }
        described
    }

    fn tag(&self) -> &'static str {
        match self.path {
            path if path.starts_with("/v1") => "pictures",
            path if path.starts_with("/v2") => "open inference protocol",
            _ => "server",
        }
    }

    /// Those in the path, then its own.
    fn parameter_names(&self) -> Vec<String> {
        let in_path =
            ["model", "version"].into_iter().filter(|name| self.path.contains(&format!("{{{name}}}")));
        in_path
            .map(|name| format!("{name}_in_path"))
            .chain(self.parameters.iter().map(ToString::to_string))
            .collect()
    }

    fn responses(&self, guarded: bool) -> Value {
        let mut responses = Map::new();
        responses.insert("200".into(), json!({ "description": "OK", "content": self.answer.content() }));
        let key = (guarded && self.guarded).then_some(401);
        for status in self.errors.iter().copied().chain(key) {
            responses.insert(status.to_string(), self.error(status));
        }
        responses.into()
    }

    fn error(&self, status: u16) -> Value {
        let schema = if self.path.starts_with("/v2") { "ProtocolError" } else { "Error" };
        let mut error = json!({
            "description": reason(status),
            "content": { "application/json": { "schema": reference(schema) } },
        });
        if matches!(status, 429 | 503) {
            let schema = json!({ "type": "integer", "minimum": 1 });
            error["headers"] = json!({ "retry-after": { "description": "Seconds until it may help to ask again", "schema": schema } });
        }
        error
    }
}

fn reason(status: u16) -> &'static str {
    let known = axum::http::StatusCode::from_u16(status).ok();
    known.and_then(|status| status.canonical_reason()).unwrap_or("error")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::routes;

    fn served() -> Served {
        Served { models: vec!["a".into()], versions: vec!["1".into()], most_pictures: 8, guarded: true }
    }

    /// What a route takes, as the router itself says it: methods that it refuses are named by the others.
    fn methods_of(path: &str) -> Vec<String> {
        let of_path = |operation: &&Operation| operation.path == path;
        OPERATIONS.iter().filter(of_path).map(|operation| operation.method.to_uppercase()).collect()
    }

    #[test]
    fn the_document_has_the_routers_routes_and_no_others() {
        let mut described: Vec<&str> = OPERATIONS.iter().map(|operation| operation.path).collect();
        let mut taken: Vec<&str> = routes().iter().map(|(path, _)| *path).collect();
        described.sort_unstable();
        described.dedup();
        taken.sort_unstable();
        assert_eq!(described, taken);
    }

    #[tokio::test]
    async fn the_document_has_the_methods_that_each_route_takes() {
        use axum::body::Body;
        use axum::http::{Request, StatusCode};
        use tower::ServiceExt;
        let setup = crate::Setup::new(&crate::Options::default());
        let card = crate::Card::of("a".into(), &manifest());
        let served = crate::Served::with_engine(card, || Err(crate::ServeError::Values));
        let app = setup.model(crate::Source::loaded(served)).app().unwrap();
        for (path, route) in routes() {
            let router = axum::Router::new().route("/", route).with_state(app.clone());
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
                let status = router.clone().oneshot(request).await.unwrap().status();
                let takes = status != StatusCode::METHOD_NOT_ALLOWED;
                assert_eq!(
                    takes,
                    methods_of(path).contains(&method.to_string()),
                    "{method} {path}: {status}"
                );
            }
        }
    }

    fn manifest() -> models::Manifest {
        let task = models::Task { features: Some(16), ..models::Task::new(2, 1, 24) };
        let labels = ["x", "y"].map(String::from).to_vec();
        models::Manifest::new("small-cnn-3", &task, labels, models::Fit::Stretch).unwrap()
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = build(&served());
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 50);
        for reference in references {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                references.extend(map.get("$ref").and_then(Value::as_str).map(String::from));
                map.values().for_each(|value| collect(value, references));
            }
            Value::Array(list) => list.iter().for_each(|value| collect(value, references)),
            _ => {}
        }
    }

    #[test]
    fn what_needs_no_key_is_what_the_server_lets_pass() {
        let open = OPERATIONS.iter().filter(|operation| !operation.guarded).map(|operation| operation.path);
        let let_pass = crate::http::keys::OPEN.iter().copied();
        assert_eq!(open.collect::<BTreeSet<_>>(), let_pass.collect());
    }

    #[test]
    fn ids_are_unlike_each_other() {
        let mut ids: Vec<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
        ids.sort_unstable();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    }
}
