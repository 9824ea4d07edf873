//! `distill eval`: accuracy of a finished run on a data set.

use std::path::Path;

use ::data::{Dataset, Selection};
use engine::{Images, Model, Runtime};
use models::Manifest;
use serde_json::json;
use serve::{LoadOptions, Served};
use train::{Evaluation, evaluate_with};

use crate::args::{EvalArgs, EvalPart};
use crate::dataset;
use crate::failure::{Failure, Result};
use crate::print::{self, Table, percent, thousands};

/// Measures and prints.
pub fn run(args: &EvalArgs) -> Result {
    let (manifest, mut answer) = answerer(args)?;
    let (source, dataset) =
        dataset::open(args.data.as_deref(), &args.data_dir, args.threads, &args.model, &manifest)?;
    let (part, pictures) = selection(args.part, &dataset);
    if pictures.is_empty() {
        return Err(Failure::mendable(format!("{source} has no {part} part; choose another with --part")));
    }
    let evaluation = evaluate_with(&pictures, manifest.labels.len(), &mut answer)?;
    if args.json {
        print::json(&json!({
            "model": args.model, "data": source, "part": part, "pictures": pictures.len(),
            "accuracy": evaluation.accuracy, "top5": evaluation.top5, "loss": evaluation.loss,
            "labels": manifest.labels, "confusion": evaluation.confusion,
        }));
    } else {
        print::line(format!("{} {part} pictures of {source}", thousands(pictures.len() as u64)));
        show(&manifest.labels, &evaluation);
    }
    Ok(())
}

/// Answers a batch of pixels with its logits.
type Answer = Box<dyn FnMut(&[u8]) -> Result<Vec<f32>>>;

/// What is measured, and what it says of itself.
fn answerer(args: &EvalArgs) -> Result<(Manifest, Answer)> {
    if args.model.extension().is_some_and(|extension| extension == "onnx") {
        if args.device != "cpu" || args.precision.is_some() {
            let reason = "--device, --precision: a file is answered on the CPU as it is; give the run's folder instead";
            return Err(Failure::mendable(reason));
        }
        return of_file(args);
    }
    if args.engine.as_deref().is_some_and(|engine| engine != "native") {
        let reason =
            "--engine: expected native for a run or a model.safetensors; `distill export` writes .onnx files";
        return Err(Failure::mendable(reason));
    }
    let (manifest, weights) = load(&args.model)?;
    let graph = manifest.graph().map_err(Failure::mendable)?;
    let runtime = Runtime::named(&args.device, args.precision.as_deref(), args.threads);
    let runtime = runtime.map_err(Failure::mendable)?;
    let mut model = Model::new(&graph, &weights, &runtime).map_err(Failure::mendable)?;
    let answer = move |batch: &[u8]| Ok(model.run(Images::U8(batch)).map_err(Failure::broken)?.to_vec());
    Ok((manifest, Box::new(answer)))
}

/// An exported file on the engine that serves it, or on the one asked for.
fn of_file(args: &EvalArgs) -> Result<(Manifest, Answer)> {
    let options = LoadOptions {
        engine: args.engine.as_deref().map(str::parse).transpose().map_err(Failure::mendable)?,
        threads: args.threads,
        ort_lib: args.ort_lib.clone(),
        ..LoadOptions::default()
    };
    let served = Served::open(&args.model, &options).map_err(Failure::mendable)?;
    let manifest = ::export::manifest_of(&args.model).map_err(Failure::mendable)?;
    let mut engine = served.engine().map_err(Failure::mendable)?;
    let answer = move |batch: &[u8]| Ok(engine.run(batch).map_err(Failure::broken)?.to_vec());
    Ok((manifest, Box::new(answer)))
}

/// Manifest and weights of a run's folder or a file.
pub fn load(path: &Path) -> Result<(Manifest, models::Weights)> {
    let file = if path.is_dir() { path.join("model.safetensors") } else { path.to_path_buf() };
    models::load(&file).map_err(Failure::mendable)
}

fn selection(part: EvalPart, dataset: &Dataset) -> (&'static str, Selection<'_>) {
    let (name, split) = match part {
        EvalPart::Train => ("train", &dataset.train),
        EvalPart::Val => ("val", &dataset.val),
        EvalPart::Test => ("test", &dataset.test),
    };
    (name, Selection::labeled(split, dataset.shape))
}

fn show(labels: &[String], evaluation: &Evaluation) {
    print::line(format!("accuracy  {} %", percent(Some(evaluation.accuracy))));
    print::line(format!("top-5     {} %", percent(Some(evaluation.top5))));
    print::line(format!("loss      {:.4} nats\n", evaluation.loss));
    let mut table = Table::new(&["class", "pictures", "recall %", "precision %"]);
    for (class, label) in labels.iter().enumerate().filter(|(class, _)| *class < evaluation.confusion.len()) {
        let row = &evaluation.confusion[class];
        let of_class: u32 = row.iter().sum();
        let answered: u32 = evaluation.confusion.iter().map(|row| row[class]).sum();
        let share = |whole: u32| percent((whole > 0).then(|| f64::from(row[class]) / f64::from(whole)));
        table.row([label.clone(), of_class.to_string(), share(of_class), share(answered)]);
    }
    table.print();
}
