//! The ones a server is there for: whole requests in any order, one after the other over an open connection.

use std::time::Duration;

use super::{Dice, Field, Pace, bytes};
use crate::soak::client::Client;

/// Asks `rate` times a second.
pub fn run(field: &Field, seed: usize, rate: f64) {
    let asks = field.good_asks();
    let mut client = Client::new(field.address);
    let mut dice = Dice(seed as u64);
    let mut pace = Pace::of(Duration::from_secs_f64(1.0 / rate));
    while pace.wait(field) {
        let ask = asks[dice.below(asks.len())];
        let before = field.versions.now();
        let answer = client.ask(&bytes(ask));
        field.judge(ask, &ask.kind, before, &answer);
    }
}
