//! The Open Inference Protocol without a socket: what the real client (`clients.rs`) cannot provoke or cannot send.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::sync::{Arc, Mutex, mpsc};

use axum::body::Body;
use axum::http::Request;
use fixture::*;
use serde_json::{Value, json};
use serve::{Options, Served, app};

fn server() -> axum::Router {
    app(served(), &Options { workers: 1, ..Options::default() }).unwrap()
}

fn infer(body: impl Into<Body>, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::post("/v2/models/means/infer");
    headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value))
        .body(body.into())
        .unwrap()
}

fn image(shape: Value, data: Value) -> String {
    json!({"inputs": [{"name": "image", "shape": shape, "datatype": "UINT8", "data": data}]}).to_string()
}

#[tokio::test]
async fn errors_are_the_protocols_and_name_what_was_expected() {
    let flat = json!(pixels(1));
    let values = json!({"inputs": [{"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": vec![0.5; 192]}]});
    let two = json!({"inputs": [
        {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": pixels(1)},
        {"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [""]},
    ]});
    let label = json!({
        "inputs": [{"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": pixels(1)}],
        "outputs": [{"name": "label", "parameters": {"classification": 2}}],
    });
    let server = server();
    for (request, status, expected) in [
        (infer("", &[]), 400, "malformed JSON"),
        (infer("{", &[]), 400, "malformed JSON"),
        (infer("{}", &[("inference-header-content-length", "many")]), 400, "found `many`"),
        (infer("{}", &[("inference-header-content-length", "9")]), 400, "at most 2"),
        (infer("{}", &[("content-encoding", "gzip")]), 400, "found `gzip`"),
        (infer("{\"inputs\": []}", &[]), 400, "found none"),
        (infer(two.to_string(), &[]), 400, "found `image`, `encoded`"),
        (infer(label.to_string(), &[]), 400, "classification"),
        (infer(image(json!([8, 8, 3]), flat.clone()), &[]), 400, "shape [n, 8, 8, 3], found [8, 8, 3]"),
        (infer(image(json!([]), json!([1])), &[]), 400, "shape [n, 8, 8, 3], found []"),
        (infer(image(json!([0, 8, 8, 3]), json!([])), &[]), 400, "at least one picture"),
        (infer(values.to_string(), &[]), 400, "takes bytes alone"),
        (get("/v2/models/means/config"), 404, "no route"),
        (get("/v2/models/means/infer"), 405, "does not take GET"),
        (get("/v2/models/nobody"), 404, "`nobody`; known: means"),
        (get("/v2/models/means/versions/7/ready"), 404, "`7`"),
    ] {
        let what = request.uri().to_string();
        let answer = send(&server, request).await;
        let message = answer.json["error"].as_str().unwrap_or_else(|| panic!("{what}: {}", answer.json));
        assert_eq!(answer.status, status, "{what}: {message}");
        assert!(message.contains(expected), "{what}: {message} lacks {expected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_sends_the_client_away_for_a_while() {
    let (open, gate) = mpsc::channel();
    let (gate, calls) = (Arc::new(Mutex::new(gate)), Arc::new(Mutex::new(Vec::new())));
    let told = calls.clone();
    let held = Served::with_engine(card(), move || {
        Ok(Box::new(Means { calls: Some(told.clone()), gate: Some(gate.clone()), ..Means::default() }))
    });
    let server = app(held, &Options { workers: 1, queue: 2, ..Options::default() }).unwrap();
    let body = || image(json!([2, 8, 8, 3]), json!([pixels(1), pixels(2)].concat()));
    let first = tokio::spawn({
        let (server, request) = (server.clone(), infer(body(), &[]));
        async move { send(&server, request).await }
    });
    while calls.lock().unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let refused = send(&server, infer(body(), &[])).await;
    assert_eq!(refused.status, 429, "{}", refused.json);
    assert!(refused.headers.contains_key("retry-after"));
    assert!(refused.json["error"].as_str().unwrap().contains("busy"), "{}", refused.json);
    (0..2).for_each(|_| open.send(()).unwrap());
    assert_eq!(first.await.unwrap().json["outputs"][0]["shape"], json!([2, 4]));
}

#[tokio::test]
async fn large_bodies_are_read_aside_and_answered_the_same() {
    let server =
        app(served(), &Options { workers: 1, queue: 2048, max_pictures: 2048, ..Options::default() })
            .unwrap();
    let body: Vec<u8> = (0..1500).flat_map(|seed| pixels(seed as u8)).collect();
    let answer = send(&server, infer(image(json!([1500, 8, 8, 3]), json!(body)), &[])).await;
    let logits = answer.json["outputs"][0]["data"].as_array().unwrap();
    for seed in [0, 255, 1499] {
        let expected = expected_logits(&pixels(seed as u8));
        let found: Vec<f32> =
            logits[seed * 4..][..4].iter().map(|logit| logit.as_f64().unwrap() as f32).collect();
        assert_eq!(found, expected);
    }
}
