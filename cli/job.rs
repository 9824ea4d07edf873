//! What training and distillation share on the command line: the configuration from file and flags, the run's folder,
//! Ctrl-C, and what is said when a run was stopped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;

use crate::failure::{Failure, Result};
use crate::print::{self, note};

/// A first try: labels of the built-in data where nothing is said of labels.
const SYNTH_LABELS: &str = "250";
/// Time of a whole distillation on the built-in data where nothing is said of its length, set-up and reports apart.
const SYNTH_BUDGET: &str = "140s";

/// Keys of `file` with those of `flags` laid over them; tables are merged, everything else replaced. Another method
/// leaves the options of the file's method behind.
pub fn overlay(mut file: toml::Table, flags: toml::Table) -> toml::Table {
    if flags.get("method").is_some_and(|method| file.get("method") != Some(method)) {
        file.remove("options");
    }
    for (key, value) in flags {
        match (file.remove(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => {
                file.insert(key, overlay(below, above).into());
            }
            (_, value) => {
                file.insert(key, value);
            }
        }
    }
    file
}

/// Reads the file that `--config` names, its keys arranged by `arrange`; an empty table without one. The file alone has
/// to be a configuration, so that a slip in it is not blamed on the flags.
pub fn read_config<T: DeserializeOwned>(
    path: Option<&Path>,
    arrange: fn(toml::Table) -> toml::Table,
) -> Result<toml::Table> {
    let Some(path) = path else { return Ok(toml::Table::new()) };
    let wrong = |reason: String| Failure::mendable(format!("--config {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let table = toml::from_str(&text).map(arrange).map_err(|error| wrong(error.to_string()))?;
    T::deserialize(table.clone()).map_err(|error| wrong(error.to_string()))?;
    Ok(table)
}

/// Whether a configuration's data is the built-in one.
fn is_synth(table: &toml::Table) -> bool {
    let name = |data: &str| data.split(':').next() == Some(data::sources::synth::NAME);
    table.get("data").is_none_or(|data| data.as_str().is_some_and(name))
}

/// All labels, but few of the built-in data: it is there to show what few labels can do.
pub fn default_labels(table: &mut toml::Table) {
    let labels = if is_synth(table) { SYNTH_LABELS } else { "all" };
    table.entry("labels").or_insert_with(|| labels.into());
}

/// On the built-in data, where nothing is said about length, a distillation takes the time of a first try on any
/// machine. A method that uses the pictures without labels then makes small steps, so that there are enough of them:
/// at its paper's 960 views a step there would be fifty. Says so.
pub fn first_try(job: &mut toml::Table) {
    let Some(toml::Value::Table(trainings)) = job.get_mut("train") else { return };
    if !is_synth(trainings) || ["epochs", "steps", "budget"].iter().any(|key| trainings.contains_key(*key)) {
        return;
    }
    trainings.insert("budget".into(), SYNTH_BUDGET.into());
    let method = trainings.get("method").and_then(toml::Value::as_str);
    let method = method.and_then(|name| train::methods::find(name).ok());
    let Some(method) = method.filter(|method| method.uses_unlabeled) else {
        return;
    };
    if trainings.contains_key("batch-size") || trainings.contains_key("options") {
        return;
    }
    let mut said = "16 labeled pictures a step".to_string();
    if method.options.iter().any(|option| option.key == "mu") {
        let options: toml::Table = [("mu".to_string(), "1".into())].into_iter().collect();
        trainings.insert("options".into(), options.into());
        said += " and as many without label (mu 1)";
    }
    job.entry("teacher-batch-size").or_insert_with(|| 16.into());
    note(format!(
        "a first try: the teacher takes {said}; --teacher-batch-size, --set and --budget change that"
    ));
}

/// The folder asked for, or a new one below `runs/`.
pub fn run_folder(asked: Option<&PathBuf>, name: &str) -> PathBuf {
    asked.cloned().unwrap_or_else(|| train::RunFolder::unique(Path::new("runs"), name))
}

/// Raised by Ctrl-C or SIGTERM; a second one ends the program at once.
pub fn interrupt() -> Arc<AtomicBool> {
    let raised = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&raised);
    let handler = move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        note("stopping after this step; once more to stop at once");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        note(format!("Ctrl-C will not save the run: {error}"));
    }
    raised
}

/// Says how to go on with a run that was stopped.
pub fn say_stopped(command: &str, run: &Path, step: u64, steps: u64) {
    print::line(format!(
        "stopped at step {step} of {steps} and saved; go on with\n  distill {command} --resume {}",
        run.display()
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str) -> toml::Table {
        let mut job: toml::Table = toml::from_str(text).unwrap();
        first_try(&mut job);
        job
    }

    #[test]
    fn a_first_try_has_a_budget_and_steps_that_fit_it() {
        let supervised = after("[train]");
        assert_eq!(supervised["train"]["budget"].as_str(), Some(SYNTH_BUDGET));
        assert!(!supervised.contains_key("teacher-batch-size"));
        let fixmatch = after("[train]\ndata = \"synth:100/50\"\nmethod = \"fixmatch\"");
        assert_eq!(fixmatch["teacher-batch-size"].as_integer(), Some(16));
        assert_eq!(fixmatch["train"]["options"]["mu"].as_str(), Some("1"));
    }

    #[test]
    fn what_the_user_says_stands() {
        for said in ["steps = 5", "data = \"photos\"", "budget = \"1h\"", "epochs = 2"] {
            let text = format!("[train]\n{said}");
            assert_eq!(after(&text), toml::from_str::<toml::Table>(&text).unwrap());
        }
        let own = after("[train]\nmethod = \"fixmatch\"\noptions = { mu = 3 }");
        assert!(
            !own.contains_key("teacher-batch-size") && own["train"]["options"]["mu"].as_integer() == Some(3)
        );
    }
}
