//! Whole runs on a small data set: what they learn, what they leave behind, and that a resumed one equals one that was
//! never stopped.
#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data::{Dataset, PictureShape, Split};
use engine::{Device, Runtime};
use train::{Config, Event, Ground, Outcome, Result, RunFolder, Session, Sink, Summary, TrainError, run_on};

/// Two classes of 12 x 12 gray pictures, bright on the left or on the right, with noise from a counter.
fn dataset() -> Dataset {
    let shape = PictureShape { channels: 1, height: 12, width: 12 };
    let split = |count: u32, salt: u32| {
        let labels: Vec<Option<u32>> = (0..count).map(|index| Some(index % 2)).collect();
        let pixel = |index: u32, place: u32| {
            let noise = (index * 144 + place + salt).wrapping_mul(2_654_435_761) >> 25;
            let bright = (place % 12 < 6) == index.is_multiple_of(2);
            noise as u8 + if bright { 60 } else { 0 }
        };
        let pixels = (0..count).flat_map(|index| (0..144).map(move |place| pixel(index, place))).collect();
        Split { pixels, labels }
    };
    Dataset {
        name: "sides".into(),
        classes: vec!["0".into(), "1".into()], // one letter each, so that no picture is mirrored
        shape,
        train: split(120, 1),
        val: split(20, 7_000_000),
        test: split(40, 9_000_000),
        notes: Vec::new(),
    }
}

fn config(out: &Path, method: &str) -> Config {
    Config {
        labels: "40".into(),
        arch: "small-cnn-2".into(),
        features: Some(16),
        method: method.into(),
        batch_size: Some(4),
        steps: Some(12),
        seed: 5,
        out: out.into(),
        ..Config::default()
    }
}

fn ground(config: &Config) -> Ground {
    Ground::on(Arc::new(dataset()), config, Runtime::new(Device::Cpu, 2).unwrap()).unwrap()
}

/// Remembers what it heard, and fails at a step: what a kill leaves behind.
#[derive(Default)]
struct Listener {
    events: Vec<Event>,
    fail_at: Option<u64>,
    interrupt_at: Option<(u64, Arc<AtomicBool>)>,
}

impl Sink for Listener {
    fn receive(&mut self, _: &str, event: &Event) -> Result<()> {
        self.events.push(event.clone());
        let Event::Step(report) = event else { return Ok(()) };
        if let Some((step, interrupt)) = &self.interrupt_at {
            interrupt.store(report.step >= *step, Ordering::Relaxed);
        }
        match self.fail_at {
            Some(step) if report.step == step => {
                Err(TrainError::Sink { sink: "test", reason: "killed".into() })
            }
            _ => Ok(()),
        }
    }
}

fn train(config: &Config, listener: &mut Listener, resume: bool) -> Result<Outcome> {
    let interrupt = listener.interrupt_at.as_ref().map(|(_, flag)| flag.clone()).unwrap_or_default();
    let mut session = Session { resume, ..Session::new(listener, interrupt) };
    run_on(&ground(config), config, &mut session)
}

fn finished(outcome: Outcome) -> Summary {
    match outcome {
        Outcome::Finished(summary) => *summary,
        other => panic!("expected a finished run, found {other:?}"),
    }
}

fn bytes(run: &Path) -> Vec<u8> {
    std::fs::read(RunFolder::new(run).model()).unwrap()
}

#[test]
fn supervised_training_learns_an_easy_task() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        Config { steps: Some(60), lr: Some(0.05), ..config(&folder.path().join("run"), "supervised") };
    let summary = finished(train(&config, &mut Listener::default(), false).unwrap());
    assert!(summary.test_accuracy.unwrap() > 0.9, "{summary:?}");
    assert!(summary.train_accuracy > 0.9 && summary.val_accuracy.unwrap() > 0.9, "{summary:?}");
}

/// 40 labels make batches of 16; what was settled is in the run's configuration, and the run has a page.
#[test]
fn a_run_keeps_what_was_settled_and_leaves_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { batch_size: None, ..config(&folder.path().join("run"), "supervised") };
    finished(train(&config, &mut Listener::default(), false).unwrap());
    let run = RunFolder::new(&config.out);
    assert_eq!(Config::read(&run.config()).unwrap().batch_size, Some(16));
    let page = std::fs::read_to_string(run.page()).unwrap();
    assert!(page.contains("<polyline") && page.contains("test accuracy"), "{page}");
}

#[test]
fn every_method_is_resumed_to_the_same_bytes_after_a_kill() {
    for method in ["supervised", "fixmatch", "mean-teacher", "comatch"] {
        let folder = tempfile::tempdir().unwrap();
        let mut options = std::collections::BTreeMap::new();
        if method == "comatch" {
            options.insert("queue".into(), "2".into());
        }
        let at = |name: &str| Config {
            checkpoint_steps: Some(3),
            options: options.clone(),
            ..config(&folder.path().join(name), method)
        };
        let whole = at("whole");
        finished(train(&whole, &mut Listener::default(), false).unwrap());

        let killed = at("killed");
        let mut listener = Listener { fail_at: Some(7), ..Listener::default() };
        assert!(train(&killed, &mut listener, false).is_err(), "{method}: the listener kills the run");
        let mut listener = Listener::default();
        finished(train(&killed, &mut listener, true).unwrap());
        let from = listener.events.iter().find_map(|event| match event {
            Event::Started(started) => Some(started.from_step),
            _ => None,
        });
        assert_eq!(from, Some(6), "{method}: it goes on from the last checkpoint");
        assert!(bytes(&killed.out) == bytes(&whole.out), "{method}: the resumed run has other weights");
    }
}

#[test]
fn a_kill_before_the_first_checkpoint_starts_over() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) =
        (config(&folder.path().join("a"), "supervised"), config(&folder.path().join("b"), "supervised"));
    finished(train(&whole, &mut Listener::default(), false).unwrap());
    let mut listener = Listener { fail_at: Some(2), ..Listener::default() };
    assert!(train(&killed, &mut listener, false).is_err());
    finished(train(&killed, &mut Listener::default(), true).unwrap());
    assert!(bytes(&killed.out) == bytes(&whole.out));
}

#[test]
fn an_interrupt_saves_and_the_metrics_double_no_step() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        optimizer: Some(train::OptimizerKind::Adamw),
        accumulate: 2,
        ..config(&folder.path().join("run"), "supervised")
    };
    let mut listener = Listener { interrupt_at: Some((5, Arc::default())), ..Listener::default() };
    assert_eq!(train(&config, &mut listener, false).unwrap(), Outcome::Interrupted { step: 5, steps: 12 });
    let summary = finished(train(&config, &mut Listener::default(), true).unwrap());

    let text = std::fs::read_to_string(RunFolder::new(&config.out).metrics()).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines
        .iter()
        .filter(|line| line["event"] == "step")
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    let last = lines.last().unwrap();
    assert_eq!(last["event"], "finished");
    assert_eq!(last["test_accuracy"].as_f64(), summary.test_accuracy);
    for key in ["train_accuracy", "val_accuracy", "pictures_per_second", "seconds"] {
        assert!(last[key].is_number(), "{key} in {last}");
    }
    assert!(last["peak_memory_bytes"].is_number() || !cfg!(target_os = "linux"));

    let again = Config { out: folder.path().join("whole"), ..config.clone() };
    finished(train(&again, &mut Listener::default(), false).unwrap());
    assert!(bytes(&again.out) == bytes(&config.out), "an interrupted run has other weights");
    assert_eq!(
        finished(train(&config, &mut Listener::default(), true).unwrap()),
        summary,
        "a finished run is done"
    );
}

#[test]
fn an_existing_run_is_an_error_without_resume() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(&folder.path().join("run"), "supervised");
    finished(train(&config, &mut Listener::default(), false).unwrap());
    let error = train(&config, &mut Listener::default(), false).unwrap_err().to_string();
    assert!(error.contains("already exists") && error.contains("--resume"), "{error}");
}

#[test]
fn a_runaway_learning_rate_skips_steps_and_then_gives_up_with_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        steps: Some(200),
        lr: Some(1e3),
        momentum: 0.99,
        ..config(&folder.path().join("run"), "supervised")
    };
    let mut listener = Listener::default();
    let error = train(&config, &mut listener, false).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
    assert!(error.to_string().contains('`') && error.to_string().contains("--lr"), "{error}");
    let skipped = listener.events.iter().rev().find_map(|event| match event {
        Event::Skipped { in_a_row, .. } => Some(*in_a_row),
        _ => None,
    });
    assert_eq!(skipped, Some(19), "the twentieth in a row ends the run");
}

#[test]
fn without_validation_the_last_step_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { val: "none".into(), ..config(&folder.path().join("run"), "supervised") };
    let mut listener = Listener::default();
    let summary = finished(train(&config, &mut listener, false).unwrap());
    assert_eq!((summary.val_accuracy, summary.kept_step), (None, 12));
    let evaluated: Vec<&str> = listener
        .events
        .iter()
        .filter_map(|event| if let Event::Evaluated { split, .. } = event { Some(*split) } else { None })
        .collect();
    assert_eq!(evaluated, ["test"], "the test pictures are looked at once, at the end");
}

#[test]
fn the_test_pictures_select_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = dataset();
    other.test.pixels.iter_mut().for_each(|pixel| *pixel = 255 - *pixel);
    let run = |name: &str, dataset: Dataset| {
        let config = config(&folder.path().join(name), "supervised");
        let ground = Ground::on(Arc::new(dataset), &config, Runtime::new(Device::Cpu, 1).unwrap()).unwrap();
        let mut listener = Listener::default();
        let mut session = Session::new(&mut listener, Arc::default());
        finished(run_on(&ground, &config, &mut session).unwrap());
        models::load(&RunFolder::new(&config.out).model()).unwrap().1
    };
    assert!(run("as-is", dataset()) == run("inverted", other));
}

#[test]
fn a_budget_becomes_a_number_of_steps_that_the_run_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        steps: None,
        budget: Some("2s".into()),
        // How many steps depends on the machine: a thousand of a batch of four may diverge at the usual rate.
        lr: Some(1e-4),
        ..config(&folder.path().join("run"), "supervised")
    };
    let mut listener = Listener::default();
    let summary = finished(train(&config, &mut listener, false).unwrap());
    let kept = Config::read(&RunFolder::new(&config.out).config()).unwrap();
    assert_eq!(kept.steps, Some(summary.steps));
    assert!(summary.steps > 1 && summary.seconds < 6.0, "{} steps in {} s", summary.steps, summary.seconds);
    assert!(listener.events.iter().any(|event| matches!(event, Event::Estimated { .. })));
}

#[test]
fn a_run_starts_from_another_runs_weights_and_frozen_nodes_stay() {
    let folder = tempfile::tempdir().unwrap();
    let first = config(&folder.path().join("first"), "supervised");
    finished(train(&first, &mut Listener::default(), false).unwrap());
    let second = Config {
        init: Some(first.out.clone()),
        freeze: vec!["conv1".into()],
        steps: Some(3),
        val: "none".into(),
        ema: Some(0.0), // an average of equal numbers may differ in the last bit
        ..config(&folder.path().join("second"), "fixmatch")
    };
    finished(train(&second, &mut Listener::default(), false).unwrap());
    let weights = |config: &Config| models::load(&RunFolder::new(&config.out).model()).unwrap().1;
    let (before, after) = (weights(&first), weights(&second));
    assert_eq!(before["conv1.weight"], after["conv1.weight"]);
    assert_ne!(before["conv2.weight"], after["conv2.weight"]);
}
