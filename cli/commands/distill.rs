//! `distill` and `distill distill`: teacher, student, baseline, and the table that compares them.

use std::path::Path;

use distillation::{DistillConfig, JobOutcome, Report, Side};
use serde::Deserialize;

use crate::args::DistillArgs;
use crate::failure::{Failure, Result};
use crate::job;
use crate::print::{self, Table, duration, percent, thousands};
use crate::profile::{Request, Section};
use crate::progress::Progress;
use crate::settings::pairs;

/// Runs a new job, or goes on with one.
pub fn run(args: &DistillArgs) -> Result {
    let request = Request::of(&args.job.profile)?;
    let mut progress = Progress::new(request.is_some());
    let interrupt = job::interrupt();
    let (folder, outcome) = match &args.job.resume {
        Some(folder) => (folder.clone(), distillation::resume(folder, &mut progress, interrupt)?),
        None => {
            let config = config(args)?;
            (config.train.out.clone(), distillation::run(&config, &mut progress, interrupt, false)?)
        }
    };
    match outcome {
        JobOutcome::Finished(report) => show(&folder, &report),
        JobOutcome::Interrupted { stage } => {
            let folder = folder.display();
            print::line(format!(
                "stopped while training the {stage}, and saved; go on with\n  distill distill --resume {folder}"
            ));
        }
    }
    request.map_or(Ok(()), |request| request.show(progress.profiles().iter().map(Section::of_training)))
}

fn config(args: &DistillArgs) -> Result<DistillConfig> {
    if args.job.config.is_none() && (args.teacher.is_empty() || args.student.is_none()) {
        let missing = if args.teacher.is_empty() { "--teacher NAME|RUN" } else { "--student NAME" };
        return Err(Failure::mendable(format!(
            "distillation needs {missing}; for example\n  distill --teacher effnet --student mobilenet"
        )));
    }
    let file = job::read_config::<DistillConfig>(args.job.config.as_deref(), nested)?;
    let mut table = job::overlay(file, flags(args)?);
    let trainings = table.entry("train").or_insert_with(|| toml::Table::new().into());
    if let Some(trainings) = trainings.as_table_mut() {
        job::default_labels(trainings);
        trainings.remove("out"); // the file's run is another one
    }
    job::first_try(&mut table);
    let mut config = DistillConfig::deserialize(table).map_err(Failure::mendable)?;
    config.train.out = job::run_folder(args.job.out.as_ref(), &run_name(&config));
    Ok(config)
}

/// Keys of a distillation may stand beside those of its trainings, as the flags do: what is not distillation's own
/// goes below `[train]`.
fn nested(mut table: toml::Table) -> toml::Table {
    const OWN: &[&str] = &[
        "teacher",
        "student",
        "distillation",
        "baseline",
        "teacher-epochs",
        "teacher-lr",
        "teacher-batch-size",
        "distillation-options",
    ];
    let mut trainings = match table.remove("train") {
        Some(toml::Value::Table(trainings)) => trainings,
        _ => toml::Table::new(),
    };
    let flat: Vec<String> = table.keys().filter(|key| !OWN.contains(&key.as_str())).cloned().collect();
    for key in flat {
        if let Some(value) = table.remove(&key) {
            trainings.insert(key, value);
        }
    }
    if let Some(name) = table.get("teacher").and_then(|teacher| teacher.as_str()).map(String::from) {
        table.insert("teacher".into(), vec![name].into());
    }
    table.insert("train".into(), trainings.into());
    table
}

fn flags(args: &DistillArgs) -> Result<toml::Table> {
    let mut table = toml::Table::new();
    let mut put = |key: &str, value: Option<toml::Value>| {
        value.map(|value| table.insert(key.into(), value));
    };
    put("teacher", (!args.teacher.is_empty()).then(|| args.teacher.clone().into()));
    put("student", args.student.clone().map(Into::into));
    put("distillation", args.distillation.clone().map(Into::into));
    put("teacher-epochs", args.teacher_epochs.map(Into::into));
    put("teacher-lr", args.teacher_lr.map(Into::into));
    put("teacher-batch-size", args.teacher_batch_size.map(Into::into));
    put("baseline", (args.baseline || args.no_baseline).then(|| args.baseline.into()));
    let mut options = pairs("--distillation-set", &args.distillation_set)?;
    options.extend(args.temperature.map(|value| ("temperature".into(), value.to_string())));
    options.extend(args.ce.map(|value| ("ce".into(), value.to_string())));
    if !options.is_empty() {
        put("distillation-options", Some(toml::Table::try_from(options).map_err(Failure::broken)?.into()));
    }
    put("train", Some(args.settings.table()?.into()));
    Ok(table)
}

/// `cifar10.0@250-effnet-to-mobilenet`: data, seed, labels, networks.
fn run_name(config: &DistillConfig) -> String {
    let plain = |name: &String| {
        Path::new(name).file_stem().map_or_else(|| name.clone(), |name| name.to_string_lossy().into())
    };
    let teachers: Vec<String> = config.teacher.iter().map(plain).collect();
    let labels = config.train.labels.replace('%', "pct").replace('/', "-per-");
    let data = plain(&config.train.data);
    format!("{data}.{}@{labels}-{}-to-{}", config.train.seed, teachers.join("+"), config.student)
}

fn show(folder: &Path, report: &Report) {
    let mut table = Table::new(&[
        "",
        "network",
        "parameters",
        "MACs",
        "latency us",
        "train %",
        "val %",
        "test %",
        "train - held out",
    ]);
    let sides = [
        ("teacher", Some(&report.teacher)),
        ("student", Some(&report.student)),
        ("baseline", report.baseline.as_ref()),
    ];
    for (name, side) in sides {
        if let Some(side) = side {
            table.row(cells(name, side));
        }
    }
    print::line("");
    table.print();
    print::line(
        "\nlatency: median of one picture, native engine, one thread. baseline: the student on the labels alone.",
    );
    if let Some(fidelity) = &report.fidelity {
        print::line(format!(
            "fidelity: the student answers as the teacher on {} % of the test pictures, mean KL {:.3}",
            percent(Some(fidelity.agreement)),
            fidelity.kl
        ));
    }
    let seconds = std::time::Duration::from_secs_f64(report.seconds);
    print::line(format!(
        "{} labels of {}, {} in all\n\nNext:",
        thousands(report.labels as u64),
        report.data,
        duration(seconds)
    ));
    let folder = folder.display();
    print::line(format!("  distill export {folder}          # ONNX, with proof that it answers the same"));
    print::line(format!("  distill serve {folder}           # answers over HTTP"));
    print::line(format!("  distill bench {folder}           # latency against ResNet-18"));
}

fn cells(name: &str, side: &Side) -> [String; 9] {
    [
        name.into(),
        side.arch.clone(),
        thousands(side.params),
        thousands(side.macs),
        format!("{:.0}", side.latency_us),
        percent(Some(side.train_accuracy)),
        percent(side.val_accuracy),
        percent(side.test_accuracy),
        side.gap.map_or_else(|| "-".into(), |gap| format!("{:+.2}", gap * 100.0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_flat_as_the_flags_are_or_nested_as_the_job_writes_it() {
        let flat: toml::Table =
            toml::from_str("teacher = \"effnet\"\nstudent = \"mobilenet\"\nlabels = \"5%\"").unwrap();
        let deep: toml::Table =
            toml::from_str("teacher = [\"effnet\"]\nstudent = \"mobilenet\"\n[train]\nlabels = \"5%\"")
                .unwrap();
        let config = |table| DistillConfig::deserialize(nested(table)).unwrap();
        assert_eq!(config(flat.clone()), config(deep));
        assert_eq!(config(flat).train.labels, "5%");
    }
}
