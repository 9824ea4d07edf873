//! Whole distillations on a small data set: stages, report, resuming, and what a wrong teacher is told.
#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data::{Dataset, PictureShape, Split};
use distillation::{DistillConfig, DistillError, JobOutcome, Report, run_on};
use engine::{Device, Runtime};
use train::{Config, Event, Ground, Result, RunFolder, Session, Silent, Sink, TrainError};

/// Three classes of square gray pictures: a bright third on the left, in the middle or on the right, and noise.
fn dataset(side: usize) -> Dataset {
    let split = |count: u32, salt: u32| {
        let pixel = |index: u32, place: u32| {
            let noise = (index * 400 + place + salt).wrapping_mul(2_654_435_761) >> 25;
            let third = place % side as u32 * 3 / side as u32;
            noise as u8 + if third == index % 3 { 40 } else { 0 }
        };
        let places = (side * side) as u32;
        let pixels = (0..count).flat_map(|index| (0..places).map(move |place| pixel(index, place))).collect();
        Split { pixels, labels: (0..count).map(|index| Some(index % 3)).collect() }
    };
    Dataset {
        name: "thirds".into(),
        classes: ["left", "middle", "right"].map(String::from).to_vec(),
        shape: PictureShape { channels: 1, height: side, width: side },
        train: split(150, 1),
        val: split(30, 7_000_000),
        test: split(60, 9_000_000),
        notes: Vec::new(),
    }
}

fn ground(config: &Config, side: usize) -> Ground {
    Ground::on(Arc::new(dataset(side)), config, Runtime::new(Device::Cpu, 2).unwrap()).unwrap()
}

/// A job on the small data set.
fn job(config: &DistillConfig, sink: &mut dyn Sink, resume: bool) -> distillation::Result<JobOutcome> {
    run_on(&ground(&config.train, 16), config, sink, Arc::default(), resume)
}

fn config(out: PathBuf) -> DistillConfig {
    DistillConfig {
        teacher: vec!["small-cnn-3".into()],
        student: "small-cnn-2".into(),
        baseline: Some(true),
        train: Config {
            features: Some(16),
            labels: "40".into(),
            batch_size: Some(8),
            steps: Some(6),
            checkpoint_steps: Some(2),
            seed: 3,
            threads: 2,
            out,
            ..Config::default()
        },
        ..DistillConfig::default()
    }
}

/// Stages heard of; fails at a step of one of them, as a kill would.
#[derive(Default)]
struct Listener {
    stages: Vec<String>,
    fail_at: Option<(&'static str, u64)>,
}

impl Sink for Listener {
    fn receive(&mut self, stage: &str, event: &Event) -> Result<()> {
        if let Event::Started(started) = event {
            self.stages.push(format!("{stage} from {}", started.from_step));
        }
        match (event, self.fail_at) {
            (Event::Step(report), Some((at, step))) if at == stage && report.step == step => {
                Err(TrainError::Sink { sink: "test", reason: "killed".into() })
            }
            _ => Ok(()),
        }
    }
}

fn finished(outcome: JobOutcome) -> Report {
    match outcome {
        JobOutcome::Finished(report) => *report,
        other => panic!("expected a finished job, found {other:?}"),
    }
}

fn whole(config: &DistillConfig) -> Report {
    finished(job(config, &mut Silent, false).unwrap())
}

fn weights(run: &Path) -> models::Weights {
    models::load(&RunFolder::new(run).model()).unwrap().1
}

#[test]
fn a_job_trains_teacher_student_and_baseline_and_reports_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path().join("job"));
    let mut listener = Listener::default();
    let report = finished(job(&config, &mut listener, false).unwrap());
    assert_eq!(listener.stages, ["teacher from 0", "student from 0", "baseline from 0"]);

    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(config.train.out.join("summary.json")).unwrap())
            .unwrap();
    for side in ["teacher", "student", "baseline"] {
        assert!(json[side]["arch"].is_string(), "{side}");
        for key in ["params", "macs", "train_accuracy", "val_accuracy", "test_accuracy", "latency_us"] {
            assert!(json[side][key].is_number(), "{side}.{key} in {json}");
        }
    }
    assert_eq!((report.teacher.arch.as_str(), report.student.arch.as_str()), ("small-cnn-3", "small-cnn-2"));
    assert_eq!(report.baseline.as_ref().unwrap().steps, report.student.steps, "equal steps");
    assert!(report.student.latency_us > 0.0 && report.fidelity.unwrap().kl > 0.0);
    assert!(config.train.out.join("teacher/model.safetensors").exists());
    assert!(config.train.out.join("baseline/summary.json").exists());

    let error = job(&config, &mut Silent, false).unwrap_err().to_string();
    assert!(error.contains("already exists"), "{error}");
    let again = finished(job(&config, &mut Silent, true).unwrap());
    assert_eq!(again, report, "a finished job is done");
}

#[test]
fn a_job_killed_in_any_stage_is_resumed_to_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let reference = config(folder.path().join("whole"));
    whole(&reference);
    for (stage, from) in [("teacher", 0), ("student", 1), ("baseline", 2)] {
        let killed = config(folder.path().join(stage));
        let mut listener = Listener { fail_at: Some((stage, 5)), ..Listener::default() };
        assert!(job(&killed, &mut listener, false).is_err());
        let mut listener = Listener::default();
        finished(job(&killed, &mut listener, true).unwrap());
        assert_eq!(
            listener.stages.len(),
            3 - from,
            "finished stages are not trained again: {:?}",
            listener.stages
        );
        assert_eq!(listener.stages[0], format!("{stage} from 4"));
        for part in ["", "teacher", "baseline"] {
            let same = weights(&killed.train.out.join(part)) == weights(&reference.train.out.join(part));
            assert!(same, "killed in {stage}: `{part}` has other weights");
        }
    }
}

#[test]
fn finished_runs_teach_as_they_are_alone_and_together() {
    let folder = tempfile::tempdir().unwrap();
    let first = whole(&config(folder.path().join("first")));
    let teacher = |out: &str, teachers: &[&Path]| DistillConfig {
        teacher: teachers.iter().map(|path| path.display().to_string()).collect(),
        baseline: Some(false),
        ..config(folder.path().join(out))
    };
    let runs = [folder.path().join("first/teacher"), folder.path().join("first")];
    let mut listener = Listener::default();
    let one = finished(job(&teacher("one", &[&runs[0]]), &mut listener, false).unwrap());
    assert_eq!(listener.stages, ["student from 0"]);
    assert_eq!((one.teacher.test_accuracy, one.baseline), (first.teacher.test_accuracy, None));
    assert!(weights(&one.student.run) == weights(&first.student.run), "the same teacher teaches the same");
    let two = whole(&teacher("two", &[&runs[0], &runs[1]]));
    assert_eq!(two.teacher.arch, "small-cnn-3 + small-cnn-2");
    assert_eq!(two.teacher.params, first.teacher.params + first.student.params);
}

#[test]
fn a_teacher_that_cannot_teach_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refuse = |config: &DistillConfig| job(config, &mut Silent, false).unwrap_err();
    let with = |teachers: &[&str]| DistillConfig {
        teacher: teachers.iter().map(|name| name.to_string()).collect(),
        ..config(folder.path().join("job"))
    };
    assert!(matches!(refuse(&with(&[])), DistillError::NoTeacher));
    assert!(refuse(&with(&["resnet19"])).to_string().contains("did you mean `resnet18`?"));
    assert!(refuse(&with(&["resnet18", "resnet34"])).to_string().contains("finished run"));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(matches!(refuse(&with(&[empty.to_str().unwrap()])), DistillError::Unfinished { .. }));

    let other = folder.path().join("larger");
    let larger = Config { arch: "small-cnn-2".into(), out: other.clone(), ..with(&[]).train };
    train::run_on(&ground(&larger, 20), &larger, &mut Session::new(&mut Silent, Arc::default())).unwrap();
    let error = refuse(&with(&[other.to_str().unwrap()])).to_string();
    assert!(error.contains("--image-size") && error.contains("20 x 20"), "{error}");
}
