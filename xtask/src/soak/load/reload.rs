//! Whoever puts another file in place and has it loaded: the other version, and now and then one that is broken.

use std::path::Path;

use serde_json::json;

use super::{Field, Pace, RELOADED, excerpt};
use crate::soak::client::{Answer, Client, Lost, head};

/// Every so many reloads the file is a broken one.
const BROKEN_EVERY: usize = 3;

pub fn run(field: &Field) {
    let mut pace = Pace::of(field.reload_every);
    let (mut version, mut turn) = (0, 0);
    while pace.wait(field) {
        turn += 1;
        if turn % BROKEN_EVERY == 0 {
            let broken = &field.case.broken[turn / BROKEN_EVERY % field.case.broken.len()];
            refused(field, broken, &field.case.versions[version]);
        } else {
            let next = (version + 1) % field.case.versions.len();
            if taken(field, next) {
                version = next;
            }
        }
    }
}

/// Puts a version in place: from its first answer on either may speak, from the reload's answer on it alone.
fn taken(field: &Field, next: usize) -> bool {
    let name = &field.case.versions[next];
    let before = field.versions.now();
    field.versions.change(None);
    let answer = place_and_reload(field, name);
    let worked = matches!(&answer, Ok(Answer { status: 200, .. }));
    if worked {
        field.versions.change(Some(next));
        field.tally.count("reload", format!("version {name}"));
    } else {
        field.versions.restore(before);
        field.tally.broken(RELOADED, "reload", &told(&answer));
        field.tally.count("reload", "failed");
    }
    field.tally.log("reload", &json!({"version": name, "worked": worked}));
    worked
}

/// Puts a broken file in place: it must be refused, and the version before must go on without a gap.
fn refused(field: &Field, broken: &str, standing: &str) {
    let answer = place_and_reload(field, broken);
    let rolled_back = matches!(&answer, Ok(Answer { status: 400..600, .. }));
    if !rolled_back {
        field.tally.broken(RELOADED, "reload of a broken file", &told(&answer));
    }
    let outcome = if rolled_back { "refused" } else { "not refused" };
    field.tally.count("reload of a broken file", outcome);
    field.tally.log("reload", &json!({"broken": broken, "refused": rolled_back}));
    // The file that stands for what answers is put back, as whoever runs a server would.
    if let Err(words) = place(field, standing) {
        field.tally.broken(RELOADED, "reload", &words);
    }
}

fn place_and_reload(field: &Field, name: &str) -> Result<Answer, String> {
    place(field, name)?;
    let path = format!("/v1/models/{}/reload", field.model);
    let asked = Client::new(field.address).ask(&head("POST", &path, &[], 0));
    asked.map_err(|lost: Lost| lost.name().into())
}

/// Copies a file beside the server's and renames it, so that the server never reads half of one.
fn place(field: &Field, name: &str) -> Result<(), String> {
    let from = field.case.model(name);
    let beside = field.file.with_extension("part");
    let moved = std::fs::copy(&from, &beside).and_then(|_| std::fs::rename(&beside, &field.file));
    moved.map_err(|error| format!("{}: {error}", show(&field.file)))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

fn told(answer: &Result<Answer, String>) -> String {
    match answer {
        Ok(answer) => format!("status {}: {}", answer.status, excerpt(&answer.body)),
        Err(words) => words.clone(),
    }
}
