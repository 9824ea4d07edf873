//! The HTTP interface without a socket: what is answered, what is refused and how, and that the server goes on.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fixture::*;
use serde_json::json;
use serve::{Options, Served, app};

fn server() -> Router {
    server_with(Options::default())
}

fn server_with(options: Options) -> Router {
    app(served(), &Options { workers: 2, ..options }).unwrap()
}

#[tokio::test]
async fn a_raw_picture_is_answered_whatever_its_format() {
    use image::ImageFormat::{Png, WebP};
    let (server, pixels) = (server(), pixels(3));
    for (content_type, format) in
        [("image/png", Png), ("image/webp", WebP), ("application/octet-stream", Png)]
    {
        let answer = send(&server, post(content_type, encoded(&pixels, format))).await;
        assert_answers(&answer, 0, &pixels);
        assert_eq!(answer.json["model"], "means");
    }
    let undeclared = Request::post("/v1/classify").body(Body::from(png(&pixels))).unwrap();
    assert_answers(&send(&server, undeclared).await, 0, &pixels);
}

#[tokio::test]
async fn a_jpeg_is_answered() {
    let flat: Vec<u8> = [200, 40, 90].repeat(SIDE * SIDE);
    let answer = send(&server(), post("image/jpeg", encoded(&flat, image::ImageFormat::Jpeg))).await;
    assert_eq!(answer.status, StatusCode::OK);
    let (found, expected) = (answer.probabilities(0), softmax(&expected_logits(&flat)));
    // The codec moves a flat color by a level or two.
    assert!(
        found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 0.05),
        "{found:?}"
    );
}

#[tokio::test]
async fn several_pictures_are_answered_in_their_order() {
    let pictures: Vec<Vec<u8>> = (0..5).map(pixels).collect();
    let files: Vec<Vec<u8>> = pictures.iter().map(|pixels| png(pixels)).collect();
    let named: Vec<(String, &[u8])> =
        files.iter().enumerate().map(|(index, file)| (format!("{index}.png"), file.as_slice())).collect();
    let borrowed: Vec<(&str, &[u8])> = named.iter().map(|(name, file)| (name.as_str(), *file)).collect();
    let in_form = send(&server(), multipart(&borrowed)).await;
    let images: Vec<String> = files.iter().map(|file| STANDARD.encode(file)).collect();
    let in_json = send(&server(), post("application/json", json!({ "images": images }).to_string())).await;
    for (index, pixels) in pictures.iter().enumerate() {
        assert_answers(&in_form, index, pixels);
        assert_answers(&in_json, index, pixels);
        assert_eq!(in_form.json["predictions"][index]["name"], format!("{index}.png"));
    }
    assert_eq!(in_form.json["predictions"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn top_comes_from_the_query_or_the_body() {
    let (server, file) = (server_with(Options { top: 1, ..Options::default() }), png(&pixels(1)));
    let count = |answer: &Answer| answer.json["predictions"][0]["top"].as_array().unwrap().len();
    assert_eq!(count(&send(&server, post("image/png", file.clone())).await), 1);
    assert_eq!(count(&send(&server, post_to("/v1/classify?top=2", "image/png", file.clone())).await), 2);
    assert_eq!(count(&send(&server, post_to("/v1/classify?top=99", "image/png", file.clone())).await), 4);
    let body = json!({ "images": [format!("data:image/png;base64,{}", STANDARD.encode(&file))], "top": 3 });
    let answer = send(&server, post_to("/v1/classify?top=2", "application/json", body.to_string())).await;
    assert_eq!(count(&answer), 3);
    let probabilities: Vec<f64> = answer.json["predictions"][0]["top"]
        .as_array()
        .unwrap()
        .iter()
        .map(|candidate| candidate["probability"].as_f64().unwrap())
        .collect();
    assert!(probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
}

#[tokio::test]
async fn the_time_of_every_stage_is_told_in_body_and_header() {
    let answer = send(&server(), post("image/png", png(&pixels(9)))).await;
    let times = &answer.json["predictions"][0]["times_us"];
    let stage = |name: &str| times[name].as_u64().unwrap_or_else(|| panic!("no {name} in {times}"));
    let sum: u64 = ["decode", "preprocess", "queue", "inference"].map(stage).iter().sum();
    assert!(sum <= stage("total"), "{times}");
    assert!(stage("decode") > 0, "{times}");
    let header = answer.headers["server-timing"].to_str().unwrap();
    for name in ["decode", "preprocess", "queue", "inference", "total"] {
        let entry = format!("{name};dur={}.{:03}", stage(name) / 1000, stage(name) % 1000);
        assert!(header.split(", ").any(|found| found == entry), "{header} lacks {entry}");
    }
}

#[tokio::test]
async fn every_wrong_request_is_told_what_is_wrong() {
    let file = png(&pixels(2));
    let broken = [&file[..40], &[0; 40], &file[80..]].concat();
    let server =
        server_with(Options { max_body_bytes: 4096, max_pictures: 2, max_pixels: 100, ..Options::default() });
    let large = {
        let mut cursor = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(11, 10).write_to(&mut cursor, image::ImageFormat::Png).unwrap();
        cursor.into_inner()
    };
    let json_of = |images: &[&str]| post("application/json", json!({ "images": images }).to_string());
    let text = STANDARD.encode(&file);
    let three = [("a", file.as_slice()), ("b", file.as_slice()), ("c", file.as_slice())];
    let cases: Vec<(Request<Body>, u16, &str, &str)> = vec![
        (post("image/png", ""), 400, "empty_body", "body is empty"),
        (post("image/png", "hello there, not a picture"), 415, "not_a_picture", "expected JPEG, PNG, WebP"),
        (post("image/png", file[..60].to_vec()), 422, "broken_picture", "picture 0"),
        (post("image/png", broken), 422, "broken_picture", "picture 0"),
        (post("image/png", vec![0; 4097]), 413, "body_too_large", "4096 bytes"),
        (post("image/png", large), 413, "picture_too_large", "11x10"),
        (post("text/plain", file.clone()), 415, "unsupported_content_type", "text/plain"),
        (post("application/json", "{"), 400, "malformed_json", "images"),
        (post("application/json", "{\"pictures\": []}"), 400, "malformed_json", "pictures"),
        (json_of(&[]), 400, "no_pictures", "at least one"),
        (json_of(&["not base64!"]), 400, "bad_base64", "picture 0"),
        (json_of(&[&text, "AAAA"]), 415, "not_a_picture", "picture 1"),
        (json_of(&[&text, &text, &text]), 413, "too_many_pictures", "at most 2"),
        (multipart(&three), 413, "too_many_pictures", "found 3"),
        (multipart(&[]), 400, "no_pictures", "at least one"),
        (
            multipart(&[("cat.png", &file), ("dog.png", b"woof woof woof")]),
            415,
            "not_a_picture",
            "picture 1 (dog.png)",
        ),
        (multipart(&[("empty.png", b"")]), 422, "broken_picture", "no bytes"),
        (post("multipart/form-data", file.clone()), 400, "malformed_multipart", "boundary"),
        (post("multipart/form-data; boundary=B", "--B\r\nnonsense"), 400, "malformed_multipart", "multipart"),
        (post_to("/v1/classify?top=0", "image/png", file.clone()), 400, "bad_top", "at least 1"),
        (post_to("/v1/classify?top=many", "image/png", file.clone()), 400, "bad_query", "top"),
        (post_to("/v1/classify?topk=3", "image/png", file.clone()), 400, "bad_query", "topk"),
        (post_to("/v1/clasify", "image/png", file.clone()), 404, "unknown_route", "POST /v1/classify"),
        (get("/v1/classify"), 405, "method_not_allowed", "GET"),
        (post_to("/healthz", "image/png", ""), 405, "method_not_allowed", "POST"),
    ];
    for (request, status, code, message) in cases {
        let what = format!("{} {:?}", request.uri(), request.headers().get(header::CONTENT_TYPE));
        let answer = send(&server, request).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (status, code), "{what}: {}", answer.json);
        assert!(answer.message().contains(message), "{what}: {}", answer.message());
        // The server goes on.
        let next = send(&server, post("image/png", file.clone())).await;
        assert_answers(&next, 0, &pixels(2));
    }
}

#[tokio::test]
async fn the_picture_at_fault_is_told_by_its_number() {
    let file = png(&pixels(2));
    let answer = send(&server(), multipart(&[("a.png", &file), ("b.png", b"what is this?")])).await;
    assert_eq!(answer.json["error"]["picture"], 1);
}

#[tokio::test]
async fn a_body_without_a_length_is_limited_too() {
    let server = server_with(Options { max_body_bytes: 100, ..Options::default() });
    let request = post("image/png", vec![0; 101]);
    assert!(request.headers().get(header::CONTENT_LENGTH).is_none());
    let answer = send(&server, request).await;
    assert_eq!((answer.status, answer.code()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let answer = send(&server(), get("/v1/classify")).await;
    assert_eq!(answer.headers[header::ALLOW], "POST");
}

#[tokio::test]
async fn the_model_tells_what_it_is() {
    let server = server();
    let answer = send(&server, get("/v1/models")).await;
    let model = &answer.json["models"][0];
    assert_eq!((&model["name"], &model["engine"]), (&json!("means"), &json!("native")));
    assert_eq!(model["labels"], json!(LABELS));
    assert_eq!(model["input"], json!({ "channels": 3, "height": 8, "width": 8, "fit": "stretch" }));
    assert_eq!(send(&server, get("/healthz")).await.json["status"], "ok");
    assert_eq!(send(&server, get("/readyz")).await.json["status"], "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_requests_are_not_mixed_up() {
    let server = server();
    let requests = (0..120_u8).map(|seed| {
        let server = server.clone();
        tokio::spawn(async move {
            let (one, other) = (pixels(seed), pixels(seed.wrapping_add(128)));
            if seed % 3 == 0 {
                let answer = send(&server, multipart(&[("one", &png(&one)), ("other", &png(&other))])).await;
                assert_answers(&answer, 0, &one);
                assert_answers(&answer, 1, &other);
            } else {
                assert_answers(&send(&server, post("image/png", png(&one))).await, 0, &one);
            }
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
}

/// A server of one worker that waits for a word before each call and writes down how many pictures it had.
fn gated(options: Options) -> (Router, mpsc::Sender<()>, Arc<Mutex<Vec<usize>>>) {
    let (open, gate) = mpsc::channel();
    let (gate, calls) = (Arc::new(Mutex::new(gate)), Arc::new(Mutex::new(Vec::new())));
    let told = calls.clone();
    let served = Served::with_engine(card(), move || {
        let (calls, gate) = (Some(told.clone()), Some(gate.clone()));
        Ok(Box::new(Means { calls, gate, ..Means::default() }))
    });
    (app(served, &Options { workers: 1, ..options }).unwrap(), open, calls)
}

async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen within 5 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let (server, open, calls) = gated(Options { queue: 2, ..Options::default() });
    let file = png(&pixels(1));
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (server, file) = (server.clone(), file.clone());
            tokio::spawn(async move { send(&server, post("image/png", file)).await })
        })
        .collect();
    until("the first call", || !calls.lock().unwrap().is_empty()).await;
    // One picture is in the engine, one waits or is on its way: there are two places.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let refused = send(&server, post("image/png", file.clone())).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::TOO_MANY_REQUESTS, "overloaded"));
    assert_eq!(refused.headers[header::RETRY_AFTER], "1");
    for _ in 0..3 {
        open.send(()).unwrap();
    }
    for request in waiting {
        assert_answers(&request.await.unwrap(), 0, &pixels(1));
    }
    assert_answers(&send(&server, post("image/png", file)).await, 0, &pixels(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_that_wait_run_together_and_a_lone_one_does_not_wait() {
    let (server, open, calls) = gated(Options { max_batch: 3, ..Options::default() });
    let lone = tokio::spawn({
        let server = server.clone();
        async move { send(&server, post("image/png", png(&pixels(0)))).await }
    });
    until("the lone picture's call", || *calls.lock().unwrap() == [1]).await;
    let pictures: Vec<Vec<u8>> = (1..6).map(pixels).collect();
    let files: Vec<Vec<u8>> = pictures.iter().map(|pixels| png(pixels)).collect();
    let several = tokio::spawn({
        let server = server.clone();
        let form: Vec<(&'static str, Vec<u8>)> = files.into_iter().map(|file| ("x.png", file)).collect();
        async move {
            let form: Vec<(&str, &[u8])> = form.iter().map(|(name, file)| (*name, file.as_slice())).collect();
            send(&server, multipart(&form)).await
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..6 {
        open.send(()).unwrap();
    }
    assert_answers(&lone.await.unwrap(), 0, &pixels(0));
    let answer = several.await.unwrap();
    for (index, pixels) in pictures.iter().enumerate() {
        assert_answers(&answer, index, pixels);
    }
    assert_eq!(*calls.lock().unwrap(), [1, 3, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_past_its_deadline_is_a_504_and_never_run() {
    let (server, open, calls) = gated(Options::default());
    let file = png(&pixels(1));
    let ask = |timeout: Option<&str>| {
        let mut request = post("image/png", file.clone());
        if let Some(timeout) = timeout {
            request.headers_mut().insert("x-request-timeout-ms", timeout.parse().unwrap());
        }
        let server = server.clone();
        tokio::spawn(async move { send(&server, request).await })
    };
    let first = ask(None);
    until("the first call", || calls.lock().unwrap().len() == 1).await;
    let late = ask(Some("30")).await.unwrap();
    assert_eq!((late.status, late.code()), (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"));
    let hung_up = ask(None);
    tokio::time::sleep(Duration::from_millis(50)).await;
    hung_up.abort();
    // It is gone once it says so.
    assert!(hung_up.await.is_err_and(|error| error.is_cancelled()));
    let last = ask(None);
    for _ in 0..2 {
        open.send(()).unwrap();
    }
    assert_answers(&first.await.unwrap(), 0, &pixels(1));
    assert_answers(&last.await.unwrap(), 0, &pixels(1));
    assert_eq!(*calls.lock().unwrap(), [1, 1], "whoever was late or hung up was run");
    for wrong in ["0", "soon", "-1", "1.5"] {
        let refused = ask(Some(wrong)).await.unwrap();
        assert_eq!((refused.status.as_u16(), refused.code()), (400, "bad_timeout"), "{wrong}");
    }
    open.send(()).unwrap();
    assert_eq!(ask(Some("99999999")).await.unwrap().status, StatusCode::OK, "the server's own limit holds");
}

#[tokio::test]
async fn an_engine_that_fails_or_panics_is_an_answer_and_not_the_end() {
    struct Moody;
    impl serve::Engine for Moody {
        fn run(&mut self, images: &[u8]) -> serve::Result<&[f32]> {
            match images[0] {
                0 => panic!("a panic that the test asks for"),
                1 => Err(serve::ServeError::Source { path: "moody".into(), reason: "not today".into() }),
                _ => Ok(&[0.0, 1.0, 2.0, 3.0]),
            }
        }
    }
    let server = app(
        Served::with_engine(card(), || Ok(Box::new(Moody))),
        &Options { workers: 1, ..Options::default() },
    );
    let server = server.unwrap();
    let with_first = |first: u8| {
        let mut pixels = pixels(4);
        pixels[0] = first;
        post("image/png", png(&pixels))
    };
    for (first, message) in [(0, "panicked"), (1, "not today"), (0, "panicked")] {
        let answer = send(&server, with_first(first)).await;
        assert_eq!((answer.status.as_u16(), answer.code()), (500, "engine_failed"));
        assert!(answer.message().contains(message), "{}", answer.message());
    }
    assert_eq!(send(&server, with_first(9)).await.status, StatusCode::OK);
    assert_eq!(send(&server, get("/readyz")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn options_that_make_no_sense_are_named() {
    let error = app(served(), &Options { queue: 0, ..Options::default() }).unwrap_err();
    assert_eq!(error.to_string(), "queue: expected at least 1, found 0");
}
