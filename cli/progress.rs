//! How a job looks while it runs: bars on a terminal, plain lines elsewhere. Both go to standard error, results to
//! standard output.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use train::TrainingProfile;
use train::event::{Event, Sink, Started, StepReport};

use crate::print::{duration, note, percent, thousands};

/// Time between two plain lines of the same stage.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the events of a job.
pub struct Progress {
    bar: Option<ProgressBar>,
    terminal: bool,
    last_line: Instant,
    wants_profile: bool,
    profiles: Vec<(String, TrainingProfile)>,
}

impl Progress {
    /// Bars if standard error is a terminal. With `wants_profile` the trainings tell where their time goes.
    pub fn new(wants_profile: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { bar: None, terminal, last_line: Instant::now(), wants_profile, profiles: Vec::new() }
    }

    /// Where the time of the trainings went, with their stages.
    pub fn profiles(&self) -> &[(String, TrainingProfile)] {
        &self.profiles
    }

    /// A line above the bar, or a plain one.
    fn say(&self, text: String) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => note(text),
        }
    }

    fn start(&mut self, stage: &str, started: &Started) {
        self.say(opening(stage, started));
        if self.terminal {
            let bar = ProgressBar::new(started.steps);
            let template = "{prefix:>9} [{bar:30}] {pos}/{len} {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(stage.to_string());
            bar.set_position(started.from_step);
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, stage: &str, report: &StepReport) {
        let text = progress_text(report);
        if let Some(bar) = &self.bar {
            bar.set_length(report.steps);
            bar.set_position(report.step);
            bar.set_message(text);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            note(format!("{stage}: step {}/{}, {text}", report.step, report.steps));
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Sink for Progress {
    fn receive(&mut self, stage: &str, event: &Event) -> train::Result<()> {
        match event {
            Event::Started(started) => self.start(stage, started),
            Event::Estimated { seconds, steps } => {
                let time = duration(Duration::from_secs_f64(seconds.max(0.0)));
                self.say(format!("{stage}: about {time} for {} steps", thousands(*steps)));
            }
            Event::Step(report) => self.step(stage, report),
            Event::Evaluated { step, split, pictures, accuracy, best, .. } => {
                let kept = if *best { ", the best so far" } else { "" };
                let accuracy = percent(Some(*accuracy));
                self.say(format!(
                    "{stage}: step {step}, {split} accuracy {accuracy} % of {}{kept}",
                    thousands(*pictures as u64)
                ));
            }
            Event::Checkpointed { .. } => {}
            Event::Skipped { step, culprit, .. } => {
                self.say(format!("{stage}: step {step} skipped: {culprit} is not finite"));
            }
            Event::Profiled(profile) => self.profiles.push((stage.to_string(), (**profile).clone())),
            Event::Note { text } => self.say(format!("{stage}: {text}")),
            Event::Interrupted { .. } => self.finish(),
            Event::Finished(summary) => {
                self.finish();
                let time = duration(Duration::from_secs_f64(summary.seconds));
                let (speed, waiting) = (summary.pictures_per_second, summary.wait_share * 100.0);
                let run = summary.run.display();
                note(format!(
                    "{stage}: done in {time}, {speed:.0} pictures/s ({waiting:.1} % waiting for data), in {run}"
                ));
            }
        }
        Ok(())
    }

    fn wants_profile(&self) -> bool {
        self.wants_profile
    }
}

fn opening(stage: &str, started: &Started) -> String {
    let from =
        if started.from_step > 0 { format!(", from step {}", started.from_step) } else { String::new() };
    format!(
        "{stage}: {} by {} on {}: {} labels, {} unlabeled, {} to validate, {} to test; {} steps{from}",
        started.arch,
        started.method,
        started.data,
        thousands(started.labeled as u64),
        thousands(started.unlabeled as u64),
        thousands(started.val as u64),
        thousands(started.test as u64),
        thousands(started.steps),
    )
}

fn progress_text(report: &StepReport) -> String {
    let left = duration(Duration::from_secs_f64(report.eta_seconds.max(0.0)));
    let waiting = report.wait_share * 100.0;
    let (loss, speed) = (report.loss, report.pictures_per_second);
    format!("loss {loss:.3}, {speed:.0} pictures/s ({waiting:.0} % waiting for data), {left} left")
}
