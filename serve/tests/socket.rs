//! The server on a real socket: it answers, keeps connections open, and finishes what it has begun when it is stopped.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use fixture::*;
use serve::{Options, Served, http};
use tokio::sync::oneshot;

/// Sends a picture over an open connection and reads status line and body.
fn exchange(stream: &mut BufReader<TcpStream>, body: &[u8]) -> (String, String) {
    let head =
        format!("POST /v1/classify?top=4 HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
    let (mut status, mut length) = (String::new(), 0);
    stream.read_line(&mut status).unwrap();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).unwrap();
    (status, String::from_utf8(answer).unwrap())
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    BufReader::new(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_answers_on_one_connection_and_stops_when_told() {
    let bound =
        http::bind(served(), &Options::default(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let info = bound.info().clone();
    assert_ne!(info.address.port(), 0);
    assert!(info.curl.contains(&format!("http://{}/v1/classify", info.address)), "{}", info.curl);
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(bound.run(async { drop(stopped.await) }));
    tokio::task::spawn_blocking(move || {
        let mut stream = connect(info.address);
        for body in [png(&pixels(1)), b"not a picture at all".to_vec(), png(&pixels(2))] {
            let (status, answer) = exchange(&mut stream, &body);
            let expected = if body.starts_with(b"not") { "HTTP/1.1 415" } else { "HTTP/1.1 200" };
            assert!(status.starts_with(expected), "{status} {answer}");
        }
    })
    .await
    .unwrap();
    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(10), running).await.expect("it did not stop").unwrap().unwrap();
    assert!(TcpStream::connect(info.address).is_err(), "it still listens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_in_is_answered_although_it_stops() {
    let (open, gate) = mpsc::channel();
    let (gate, calls) = (Arc::new(Mutex::new(gate)), Arc::new(Mutex::new(Vec::new())));
    let told = calls.clone();
    let served = Served::with_engine(card(), move || {
        Ok(Box::new(Means { calls: Some(told.clone()), gate: Some(gate.clone()), ..Means::default() }))
    });
    let bound = http::bind(served, &Options::default(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = bound.info().address;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(bound.run(async { drop(stopped.await) }));
    let client = tokio::task::spawn_blocking(move || exchange(&mut connect(address), &png(&pixels(5))));
    while calls.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    open.send(()).unwrap();
    let (status, answer) = client.await.unwrap();
    assert!(status.starts_with("HTTP/1.1 200"), "{status} {answer}");
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let Err(error) = http::bind(served(), &Options::default(), address).await else {
        panic!("it was not taken")
    };
    assert!(error.to_string().contains(&format!("listen on {address}")), "{error}");
}
