//! `distill train`: one network, by any method.

use std::path::Path;

use serde::Deserialize;
use train::{Config, Outcome, Session, Summary};

use crate::args::TrainArgs;
use crate::failure::{Failure, Result};
use crate::job;
use crate::print::{self, percent};
use crate::profile::{Request, Section};
use crate::progress::Progress;

/// Trains a new run, or goes on with one.
pub fn run(args: &TrainArgs) -> Result {
    let request = Request::of(&args.job.profile)?;
    let mut progress = Progress::new(request.is_some());
    let mut session = Session::new(&mut progress, job::interrupt());
    let (folder, outcome) = match &args.job.resume {
        Some(folder) => (folder.clone(), train::resume(folder, &mut session)?),
        None => {
            let config = config(args)?;
            (config.out.clone(), train::run(&config, &mut session)?)
        }
    };
    match outcome {
        Outcome::Finished(summary) => report(&folder, &summary),
        Outcome::Interrupted { step, steps } => job::say_stopped("train", &folder, step, steps),
    }
    request.map_or(Ok(()), |request| request.show(progress.profiles().iter().map(Section::of_training)))
}

fn config(args: &TrainArgs) -> Result<Config> {
    let mut flags = args.settings.table()?;
    if let Some(arch) = &args.arch {
        flags.insert("arch".into(), arch.clone().into());
    }
    let mut table =
        job::overlay(job::read_config::<Config>(args.job.config.as_deref(), |table| table)?, flags);
    job::default_labels(&mut table);
    table.remove("out"); // the file's run is another one
    let mut config = Config::deserialize(table).map_err(Failure::mendable)?;
    config.out = job::run_folder(args.job.out.as_ref(), &config.run_name());
    Ok(config)
}

fn report(folder: &Path, summary: &Summary) {
    let folder = folder.display();
    print::line(format!("test accuracy        {} %", percent(summary.test_accuracy)));
    print::line(format!("validation accuracy  {} %", percent(summary.val_accuracy)));
    print::line(format!("training accuracy    {} %", percent(Some(summary.train_accuracy))));
    print::line(format!("run                  {folder}\n\nNext:"));
    print::line(format!("  distill export {folder}          # ONNX, with proof that it answers the same"));
    print::line(format!("  distill serve {folder}           # answers over HTTP"));
    print::line(format!("  distill bench {folder}           # latency against ResNet-18"));
    print::line(format!(
        "  distill --teacher {folder} --student mobilenet   # a smaller network from its answers"
    ));
}
