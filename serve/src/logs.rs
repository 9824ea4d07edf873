//! Events as lines, for whoever runs the server: text or JSON, one line per request and per thing that happens. Lines hold
//! no picture, no key and no query.
//!
//! Lines are gathered in memory and written by a thread of their own, so that a slow disk or pipe never holds an answer
//! up; if it falls behind for long, lines are left out and their number is told.

use std::io::Write;
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::events::{Answerer, Event, RequestDone, Sink};
use crate::http::wire::Times;
use crate::{Result, ServeError};

/// Bytes of lines that wait to be written, at most.
const ROOM: usize = 4 << 20;
/// Lines of so long are written together: a thread woken for each would cost more than the lines.
const GATHERED: Duration = Duration::from_millis(20);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: an object per line.
    Json,
    /// None are written.
    Off,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "off" => Ok(Self::Off),
            other => Err(format!("expected json, text or off, found `{other}`")),
        }
    }
}

/// A sink that writes lines.
pub struct Log {
    format: LogFormat,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: String,
    left_out: u64,
    ended: bool,
}

impl Log {
    /// Writes to `out`, on a thread of its own.
    ///
    /// # Errors
    /// If the thread cannot start.
    pub fn new(format: LogFormat, out: impl Write + Send + 'static) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let writing = shared.clone();
        let thread = std::thread::Builder::new().name("log".into());
        thread.spawn(move || writing.write_all(out)).map_err(ServeError::io("start the log's thread"))?;
        Ok(Self { format, shared })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.wake.notify_one();
    }
}

impl Sink for Log {
    fn event(&self, event: &Event) {
        let Some((what, fields)) = described(event) else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = match self.format {
            LogFormat::Json => as_json(now, what, fields),
            LogFormat::Text => as_text(now, what, &fields),
            LogFormat::Off => return,
        };
        self.shared.push(&line);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) {
        let mut waiting = self.lock();
        if waiting.text.len() + line.len() > ROOM {
            waiting.left_out += 1;
            return;
        }
        let first = waiting.text.is_empty();
        waiting.text.push_str(line);
        waiting.text.push('\n');
        drop(waiting);
        if first {
            self.wake.notify_one();
        }
    }

    fn write_all(&self, mut out: impl Write) {
        loop {
            let mut waiting = self.lock();
            while waiting.text.is_empty() && !waiting.ended {
                waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            let ended = waiting.ended;
            drop(waiting);
            if !ended {
                std::thread::sleep(GATHERED);
            }
            let mut waiting = self.lock();
            let (text, left_out) = (std::mem::take(&mut waiting.text), std::mem::take(&mut waiting.left_out));
            drop(waiting);
            // Where the log itself cannot be written there is nobody to tell.
            let _ = out.write_all(text.as_bytes());
            if left_out > 0 {
                let _ = writeln!(out, "{left_out} lines left out: the log was not written fast enough");
            }
            let _ = out.flush();
            if ended {
                return;
            }
        }
    }
}

/// What an event is called and what it says; nothing of events that are only counted.
fn described(event: &Event) -> Option<(&'static str, Map<String, Value>)> {
    let (what, fields) = match event {
        Event::Request(done) => ("request", of_request(done)),
        Event::Batch(_) => return None,
        Event::Loaded { answerer, digest, took } => {
            ("loaded", with(answerer, json!({ "sha256": digest, "ms": millis(*took) })))
        }
        Event::LoadFailed { answerer, reason } => {
            ("load failed", with(answerer, json!({ "reason": reason })))
        }
        Event::Unloaded { answerer } => ("unloaded", with(answerer, json!({}))),
        Event::Connection { peer, reason } => {
            ("connection ended", object(json!({ "peer": peer.to_string(), "reason": reason })))
        }
        Event::Warning(text) => ("warning", object(json!({ "reason": text }))),
        Event::Life(step) => (*step, Map::new()),
    };
    Some((what, fields))
}

fn of_request(done: &RequestDone) -> Map<String, Value> {
    let facts = &done.facts;
    let mut fields = object(json!({
        "id": done.id,
        "peer": done.peer.map(|peer| peer.to_string()),
        "method": done.method,
        "path": done.path,
        "status": done.status,
        "code": facts.code,
        "model": facts.answerer.as_ref().map(|answerer| &*answerer.model),
        "version": facts.answerer.as_ref().map(|answerer| answerer.version),
        "bytes": done.bytes,
        "total_us": Times::micros(done.total),
    }));
    if !facts.pictures.is_empty() {
        fields.insert("pictures".into(), facts.pictures.len().into());
        // The slowest picture's: those of a request go side by side.
        let of = |stage: fn(&crate::events::Stages) -> Duration| {
            Times::micros(facts.pictures.iter().map(stage).max().unwrap_or_default())
        };
        let stages = [
            ("decode_us", of(|stages| stages.decode)),
            ("preprocess_us", of(|stages| stages.preprocess)),
            ("queue_us", of(|stages| stages.queue)),
            ("inference_us", of(|stages| stages.inference)),
        ];
        fields.extend(stages.map(|(name, micros)| (name.into(), micros.into())));
    }
    fields
}

fn with(answerer: &Answerer, more: Value) -> Map<String, Value> {
    let mut fields = object(json!({ "model": &*answerer.model, "version": answerer.version }));
    fields.extend(object(more));
    fields
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(fields) = value { fields } else { Map::new() }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn as_json(now: Duration, what: &str, fields: Map<String, Value>) -> String {
    let mut line = object(json!({ "time": timestamp(now), "event": what }));
    line.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    Value::Object(line).to_string()
}

fn as_text(now: Duration, what: &str, fields: &Map<String, Value>) -> String {
    let mut line = format!("{} {what}", timestamp(now));
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        // A word stands as it is; anything else is quoted as JSON quotes, so that a line stays one.
        let plain =
            value.as_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'));
        let shown = plain.map_or_else(|| value.to_string(), String::from);
        line.push_str(&format!(" {name}={shown}"));
    }
    line
}

/// Time since 1970 as RFC 3339 in UTC with milliseconds. Days become a date as in Howard Hinnant's `civil_from_days`.
fn timestamp(since: Duration) -> String {
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Facts, Stages};

    #[test]
    fn timestamps_are_those_of_date_u() {
        // date -u -d @SECONDS +%FT%TZ
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (1_709_251_199, "2024-02-29T23:59:59.007Z"),
            (1_795_244_645, "2026-11-21T07:04:05.007Z"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, 7_000_000)), expected);
        }
    }

    fn done(path: &str) -> Event {
        let answerer = Some(Answerer { model: "a".into(), version: 2 });
        let picture = |micros| Stages { decode: Duration::from_micros(micros), ..Stages::default() };
        Event::Request(RequestDone {
            id: "abc".into(),
            peer: None,
            method: "POST".into(),
            path: path.into(),
            route: None,
            status: 200,
            bytes: 12,
            total: Duration::from_micros(1500),
            facts: Facts { answerer, pictures: vec![picture(3), picture(9)], code: None },
        })
    }

    #[test]
    fn a_request_is_one_line_that_a_program_reads() {
        let (what, fields) = described(&done("/v1/classify")).unwrap();
        let line: Value = serde_json::from_str(&as_json(Duration::ZERO, what, fields)).unwrap();
        assert_eq!(
            (&line["event"], &line["status"], &line["version"]),
            (&json!("request"), &json!(200), &json!(2))
        );
        assert_eq!(
            (&line["decode_us"], &line["pictures"], &line["total_us"]),
            (&json!(9), &json!(2), &json!(1500))
        );
        assert!(line.get("code").is_none() && line.get("peer").is_none(), "{line}");
    }

    #[test]
    fn nothing_breaks_a_line_of_text() {
        let failed = Event::Warning("a reason\nof two lines with \"quotes\"".into());
        let (what, fields) = described(&failed).unwrap();
        let line = as_text(Duration::ZERO, what, &fields);
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z warning reason=\"a reason\\nof two lines with \\\"quotes\\\"\""
        );
    }

    #[test]
    fn lines_are_written_in_order_and_all_of_them_before_the_end() {
        #[derive(Clone, Default)]
        struct Memory(Arc<Mutex<Vec<u8>>>);
        impl Write for Memory {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let memory = Memory::default();
        let log = Log::new(LogFormat::Text, memory.clone()).unwrap();
        (0..50).for_each(|index| log.event(&done(&format!("/{index}"))));
        drop(log);
        let written = || String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        for _ in 0..500 {
            if written().lines().count() == 50 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let paths: Vec<String> = (0..50).map(|index| format!("path=/{index} ")).collect();
        let lines = written();
        assert_eq!(lines.lines().count(), 50);
        assert!(lines.lines().zip(&paths).all(|(line, path)| line.contains(path.as_str())), "{lines}");
    }
}
