//! `distill predict`: labels for picture files.

use std::path::Path;

use serde::Serialize;
use serde_json::json;
use serve::http::wire::{Candidate, Times};
use serve::{Classifier, LoadOptions, Served};

use crate::args::{EngineArgs, PredictArgs};
use crate::failure::{Failure, Result};
use crate::print;
use crate::profile::{Request, Section};

/// A picture's answer.
#[derive(Serialize)]
struct Row {
    path: String,
    top: Vec<Candidate>,
    times_us: Times,
}

/// Labels every picture; a broken one is named, the others are answered, and the exit code says that one was broken.
pub fn run(args: &PredictArgs) -> Result {
    let served = open(&args.model, &args.engine)?;
    let mut classifier = Classifier::new(served).map_err(Failure::mendable)?;
    let request = Request::of(&args.profile)?;
    if request.is_some() {
        classifier.start_profile().map_err(Failure::mendable)?;
    }
    let mut rows = Vec::new();
    let mut broken = 0;
    for path in &args.images {
        match answer(&mut classifier, path, args.top) {
            Ok(row) => rows.push(row),
            Err(failure) => {
                broken += 1;
                print::note(format!("error: {}: {}", path.display(), failure.message));
            }
        }
    }
    show_all(args, &rows, request, &classifier)?;
    match broken {
        0 => Ok(()),
        _ => Err(Failure::mendable(format!("{broken} of {} pictures could not be read", args.images.len()))),
    }
}

fn show_all(args: &PredictArgs, rows: &[Row], request: Option<Request>, classifier: &Classifier) -> Result {
    let Some(request) = request else {
        if args.json {
            print::json(&rows);
        } else {
            rows.iter().for_each(show);
        }
        return Ok(());
    };
    let served = classifier.served();
    let section = Section::of_answers(&served.card().name, served.threads(), classifier.profile());
    if args.json {
        print::json(&json!({ "pictures": rows, "profile": request.json([section])? }));
        return Ok(());
    }
    rows.iter().for_each(show);
    request.show([section])
}

/// Opens what `predict` and `serve` take.
pub fn open(model: &Path, engine: &EngineArgs) -> Result<Served> {
    Served::open(model, &load_options(engine)?).map_err(Failure::mendable)
}

/// The engine's flags as the serve room takes them.
pub fn load_options(args: &EngineArgs) -> Result<LoadOptions> {
    Ok(LoadOptions {
        engine: args.engine.as_deref().map(str::parse).transpose().map_err(Failure::mendable)?,
        weights: args.weights.parse().map_err(Failure::mendable)?,
        threads: args.threads,
        ort_lib: args.ort_lib.clone(),
    })
}

fn answer(classifier: &mut Classifier, path: &Path, top: usize) -> Result<Row> {
    let bytes = std::fs::read(path).map_err(Failure::mendable)?;
    let prediction = classifier.classify(&bytes, top).map_err(Failure::mendable)?;
    Ok(Row { path: path.display().to_string(), top: prediction.top, times_us: prediction.times_us })
}

fn show(row: &Row) {
    let top: Vec<String> =
        row.top.iter().map(|class| format!("{} {:.1} %", class.label, class.probability * 100.0)).collect();
    print::line(format!("{}: {}  ({} us)", row.path, top.join(", "), row.times_us.total));
}
