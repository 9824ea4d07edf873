//! Limits against clients that are slow, large or many, each on a real socket; and that the next client is answered.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod fixture;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use fixture::wire::*;
use fixture::*;
use serve::{Options, Setup, Source};

const SHORT: Duration = Duration::from_millis(100);

fn server(options: Options) -> Server {
    let options = Options { workers: 1, ..options };
    Server::start(Setup::new(&options).model(Source::loaded(served())))
}

/// Whether the other side closes without a word.
fn is_closed(stream: &mut impl Read) -> bool {
    matches!(stream.read(&mut [0; 64]), Ok(0)) || stream.read(&mut [0; 64]).is_err()
}

fn assert_goes_on(address: SocketAddr) {
    let next = ask_once(address, "POST", "/v1/classify", &png(&pixels(1)));
    assert_eq!(next.status, 200, "{}", next.body);
}

#[test]
fn a_head_that_does_not_come_to_its_end_is_not_waited_for() {
    let server = server(Options { header_timeout: SHORT, ..Options::default() });
    for begun in ["", "POST /v1/classify HT", "GET /healthz HTTP/1.1\r\nhost: test\r\nx-slow: "] {
        let mut slow = connect(server.address);
        slow.get_mut().write_all(begun.as_bytes()).unwrap();
        assert!(is_closed(&mut slow), "`{begun}` was waited for");
    }
    assert_goes_on(server.address);
}

#[test]
fn a_head_in_drops_is_not_waited_for_either() {
    let server = server(Options { header_timeout: SHORT, ..Options::default() });
    let mut slow = connect(server.address);
    // A byte now and then, each well within the limit: the head as a whole is what is timed.
    let dripped = (0..400).take_while(|_| {
        std::thread::sleep(Duration::from_millis(10));
        slow.get_mut().write_all(b"x").is_ok()
    });
    assert!(dripped.count() < 400, "it was waited for");
}

#[test]
fn an_idle_connection_is_closed_after_its_answer() {
    let server = server(Options { keep_alive: SHORT, ..Options::default() });
    let mut idle = connect(server.address);
    assert_eq!(ask(&mut idle, "GET", "/healthz", "", b"").status, 200);
    assert!(is_closed(&mut idle));
    assert_goes_on(server.address);
}

#[test]
fn a_body_that_does_not_arrive_is_a_408() {
    let server = server(Options { body_timeout: SHORT, ..Options::default() });
    let mut slow = connect(server.address);
    slow.get_mut().write_all(head("POST", "/v1/classify", 100, "").as_bytes()).unwrap();
    slow.get_mut().write_all(b"ten bytes.").unwrap();
    let answer = answer(&mut slow).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"), "{}", answer.body);
    assert_goes_on(server.address);
}

#[test]
fn a_head_that_is_too_large_is_a_431() {
    let server = server(Options { max_header_bytes: 8192, ..Options::default() });
    let mut large = connect(server.address);
    let filler = format!("x-filler: {}\r\n", "a".repeat(9000));
    large.get_mut().write_all(head("GET", "/healthz", 0, &filler).as_bytes()).unwrap();
    assert_eq!(answer(&mut large).unwrap().status, 431);
    assert_goes_on(server.address);
}

#[test]
fn who_sends_too_much_to_its_end_hears_so() {
    let server = server(Options { max_body_bytes: 1000, ..Options::default() });
    let body = vec![7; 3_000_000];
    let announced = ask_once(server.address, "POST", "/v1/classify", &body);
    assert_eq!((announced.status, announced.code().as_str()), (413, "body_too_large"));
    let mut chunked = connect(server.address);
    let head = "POST /v1/classify HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
    chunked.get_mut().write_all(&[head.as_bytes(), &chunk].concat()).unwrap();
    assert_eq!(answer(&mut chunked).unwrap().code(), "body_too_large");
    let elsewhere = ask_once(server.address, "POST", "/v1/models/dogs/classify", &body);
    assert_eq!((elsewhere.status, elsewhere.code().as_str()), (404, "unknown_model"));
    assert_goes_on(server.address);
}

#[test]
fn one_connection_too_many_hears_so_and_finds_room_later() {
    let server = server(Options { max_connections: 1, ..Options::default() });
    let mut first = connect(server.address);
    assert_eq!(ask(&mut first, "GET", "/healthz", "", b"").status, 200);
    let refused = answer(&mut connect(server.address)).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "too_many_connections"));
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    drop(first);
    eventually("room", || {
        let mut next = connect(server.address);
        let _ = next.get_mut().write_all(head("GET", "/healthz", 0, "").as_bytes());
        answer(&mut next).is_some_and(|answer| answer.status == 200)
    });
}

#[test]
fn bodies_under_way_have_room_together_and_no_more() {
    let options = Options { max_body_bytes: 65_536, max_bodies_bytes: 65_536, ..Options::default() };
    let server = server(options);
    let mut first = connect(server.address);
    first.get_mut().write_all(head("POST", "/v1/classify", 65_536, "").as_bytes()).unwrap();
    first.get_mut().write_all(&[0; 100]).unwrap();
    eventually("a refusal", || {
        let second = ask_once(server.address, "POST", "/v1/classify", &png(&pixels(1)));
        second.status == 429 && second.code() == "overloaded"
    });
    drop(first);
    eventually("room", || ask_once(server.address, "POST", "/v1/classify", &png(&pixels(1))).status == 200);
}

#[test]
fn what_is_no_http_is_refused() {
    let server = server(Options::default());
    let mut odd = connect(server.address);
    odd.get_mut().write_all(b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n").unwrap();
    assert_eq!(answer(&mut odd).map(|answer| answer.status), Some(400));
    assert_goes_on(server.address);
}

#[test]
fn a_picture_that_unpacks_to_more_than_it_may_is_refused_by_its_head() {
    let server = server(Options { max_pixels: 1_000_000, ..Options::default() });
    let bomb = encoded_picture(image::GrayImage::new(4000, 4000));
    assert!(bomb.len() < 100_000, "a bomb is small: {} bytes", bomb.len());
    let refused = ask_once(server.address, "POST", "/v1/classify", &bomb);
    assert_eq!((refused.status, refused.code().as_str()), (413, "picture_too_large"));
    assert_goes_on(server.address);
}
