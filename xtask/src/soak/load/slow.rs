//! Slow clients: patient ones that get there in the end and are owed an answer, and stalled ones that are not.

use std::time::Duration;

use super::{CUT, Dice, Field, Pace, bytes};
use crate::soak::client::{Answer, Client, Lost};
use crate::soak::server::SLOWEST;

const PERIOD: Duration = Duration::from_secs(2);
/// A patient client's request takes this long, in so many pieces: below the server's limit.
const TAKES: Duration = Duration::from_millis(800);
const PIECES: usize = 8;
/// Beyond the limit, a server may take this long to notice.
const GRACE: Duration = Duration::from_secs(4);

/// Requests that arrive piece by piece.
pub fn run_patient(field: &Field) {
    let asks = field.good_asks();
    let mut dice = Dice(7);
    let mut pace = Pace::of(PERIOD);
    while pace.wait(field) {
        let ask = asks[dice.below(asks.len())];
        let before = field.versions.now();
        let answer = in_pieces(&mut Client::new(field.address), &bytes(ask));
        field.judge(ask, "sent slowly", before, &answer);
    }
}

fn in_pieces(client: &mut Client, request: &[u8]) -> Result<Answer, Lost> {
    // The head is the first few hundred bytes: pieces of it, then pieces of the rest.
    let (head, rest) = request.split_at(request.len().min(60));
    for bytes in [head, rest] {
        for piece in bytes.chunks(bytes.len().div_ceil(PIECES / 2).max(1)) {
            client.send(piece)?;
            std::thread::sleep(TAKES / PIECES as u32);
        }
    }
    client.answer()
}

/// Requests that stop in the middle and are never finished.
pub fn run_stalled(field: &Field) {
    if !field.limits_slowness {
        return field.tally.count("stalled", "not tried: this server has no limit for it");
    }
    let ask = field.good_asks()[0];
    let request = bytes(ask);
    let head = request.len() - ask.body.len();
    let mut pace = Pace::of(PERIOD);
    for (kind, length) in [("stalled head", 30), ("stalled body", head + ask.body.len() / 2)].iter().cycle() {
        if !pace.wait(field) {
            return;
        }
        let mut client = Client::new(field.address);
        let cut = client.send(&request[..*length]).and_then(|()| client.is_cut_within(SLOWEST + GRACE));
        match cut {
            Ok(None) => field.tally.count(kind, "hung up"),
            Ok(Some(status @ (400 | 408))) => field.tally.count(kind, format!("status {status}")),
            Ok(Some(status)) => {
                field.tally.broken(CUT, kind, &format!("status {status}"));
                field.tally.count(kind, format!("status {status}"));
            }
            Err(lost) => {
                field.tally.broken(CUT, kind, lost.name());
                field.tally.count(kind, lost.name());
            }
        }
    }
}
