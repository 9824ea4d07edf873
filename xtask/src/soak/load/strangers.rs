//! Those who send what nobody should: broken pictures, bombs, bodies that are too large, requests that are none.

use std::time::Duration;

use super::{Dice, Field, Pace, REFUSED, bytes, excerpt};
use crate::soak::case::Ask;
use crate::soak::client::{Answer, Client, Lost, head};
use crate::soak::server::MAX_BODY;

const PERIOD: Duration = Duration::from_millis(250);

/// Something bad, and the statuses that are right.
type Bad = fn(&mut Client) -> (Result<Answer, Lost>, &'static [u16]);

/// What is made here rather than listed in the case, because it is no whole request.
const MADE: [(&str, Bad); 4] = [
    ("announced too large", announced),
    ("too large in chunks", chunked),
    ("no HTTP", garbage),
    ("head too long", long_head),
];

pub fn run(field: &Field) {
    let listed: Vec<&Ask> = field.case.asks.iter().filter(|ask| ask.is_bad()).collect();
    let mut client = Client::new(field.address);
    let mut dice = Dice(99);
    let mut pace = Pace::of(PERIOD);
    while pace.wait(field) {
        let choice = dice.below(listed.len() + MADE.len());
        match listed.get(choice) {
            Some(ask) => judge(field, &ask.kind, &client.ask(&bytes(ask)), &ask.statuses),
            None => {
                let (kind, send) = MADE[choice - listed.len()];
                // A server may hang up on these, so nobody else's connection is used.
                let (answer, statuses) = send(&mut Client::new(field.address));
                judge(field, kind, &answer, statuses);
            }
        }
    }
}

/// 0 among the statuses: hanging up is an answer too.
fn judge(field: &Field, kind: &str, answer: &Result<Answer, Lost>, statuses: &[u16]) {
    let found = match answer {
        Ok(answer) => answer.status,
        Err(Lost::Closed) => 0,
        Err(lost) => {
            field.tally.broken(REFUSED, kind, lost.name());
            return field.tally.count(kind, lost.name());
        }
    };
    // Whoever comes when the queue is full hears that first.
    if !statuses.contains(&found) && found != 429 {
        let body = answer.as_ref().map(|answer| excerpt(&answer.body)).unwrap_or_default();
        field.tally.broken(REFUSED, kind, &format!("status {found}, expected {statuses:?}: {body}"));
    }
    field.tally.count(kind, if found == 0 { "hung up".into() } else { format!("status {found}") });
}

/// Whoever announces a gigabyte and sends nothing is refused for the one or sent away for the other.
fn announced(client: &mut Client) -> (Result<Answer, Lost>, &'static [u16]) {
    (client.ask(&head("POST", "/v1/classify", &[], 1 << 30)), &[413, 408])
}

/// A server that has heard enough may hang up while it is still being told.
fn chunked(client: &mut Client) -> (Result<Answer, Lost>, &'static [u16]) {
    let head = b"POST /v1/classify HTTP/1.1\r\nhost: soak\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = [b"10000\r\n".to_vec(), vec![0; 0x10000], b"\r\n".to_vec()].concat();
    let sent = client.send(head).and_then(|()| {
        (0..=MAX_BODY / 0x10000).try_for_each(|_| client.send(&chunk))?;
        client.send(b"0\r\n\r\n")
    });
    (sent.and_then(|()| client.answer()), &[413, 0])
}

fn garbage(client: &mut Client) -> (Result<Answer, Lost>, &'static [u16]) {
    (client.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n"), &[400, 0])
}

fn long_head(client: &mut Client) -> (Result<Answer, Lost>, &'static [u16]) {
    let headers = [("x-long".to_string(), "x".repeat(1 << 20))];
    (client.ask(&head("GET", "/healthz", &headers, 0)), &[431, 400, 0])
}
