//! Clients that leave: before they have asked, in the middle of asking, or before they are answered. They are owed
//! nothing; what they leave behind must not harm anybody else.

use std::time::Duration;

use super::{Dice, Field, Pace, bytes};
use crate::soak::client::Client;

const PERIOD: Duration = Duration::from_millis(300);

pub fn run(field: &Field) {
    let asks = field.good_asks();
    let mut dice = Dice(5);
    let mut pace = Pace::of(PERIOD);
    while pace.wait(field) {
        let ask = asks[dice.below(asks.len())];
        let request = bytes(ask);
        let head = request.len() - ask.body.len();
        let (kind, length) = match dice.below(4) {
            0 => ("left before asking", 0),
            1 => ("left in the head", head / 2),
            2 => ("left in the body", head + ask.body.len() / 2),
            _ => ("left before the answer", request.len()),
        };
        let mut client = Client::new(field.address);
        let sent = client.send(&request[..length]);
        client.hang_up();
        field.tally.count(kind, sent.map_or_else(|lost| lost.name(), |()| "gone"));
    }
}
