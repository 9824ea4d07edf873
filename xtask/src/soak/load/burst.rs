//! More at once than the queue takes: whoever is let in is answered, whoever is not hears 429 and when to come again.

use std::time::Duration;

use super::{Field, KEPT, Pace, bytes};
use crate::soak::client::Client;

const PERIOD: Duration = Duration::from_secs(15);
const CLIENTS: usize = 12;

pub fn run(field: &Field) {
    let Some(ask) = field.case.asks.iter().find(|ask| ask.is_burst()) else {
        return field.tally.broken(KEPT, "burst", "the case has no such request");
    };
    let request = bytes(ask);
    let mut pace = Pace::of(PERIOD);
    while pace.wait(field) {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let before = field.versions.now();
                    let answer = Client::new(field.address).ask(&request);
                    field.judge(ask, &ask.kind, before, &answer);
                });
            }
        });
    }
}
