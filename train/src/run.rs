//! Starting, resuming and finishing a run: the way from a configuration to a summary.

use std::path::Path;
use std::time::Duration;

use crate::config::Config;
use crate::error::{Result, TrainError};
use crate::event::Event;
use crate::folder::{RunFolder, RunState};
use crate::ground::Ground;
use crate::methods::{self, Method, Options};
use crate::recipe::{MOST_PER_BATCH, batch_size};
use crate::session::{Outcome, Session};
use crate::summary::Summary;
use crate::trainer::{self, Job};

/// Trains by a registered method, opening data and device.
///
/// # Errors
/// Whatever the user can mend, first of all: see [`TrainError::mendable`].
pub fn run(config: &Config, session: &mut Session<'_>) -> Result<Outcome> {
    let registered = methods::find(&config.method)?; // before the data is read: a slip shows at once
    models::zoo::Architecture::find(&config.arch)?;
    let options = Options::parse(registered.name, registered.options, &config.options)?;
    (registered.build)(&options)?;
    check_folder(&RunFolder::new(&config.out), session.resume)?;
    run_on(&Ground::open(config)?, config, session)
}

/// Trains by a registered method on data and device that are open.
///
/// # Errors
/// As [`run`].
pub fn run_on(ground: &Ground, config: &Config, session: &mut Session<'_>) -> Result<Outcome> {
    let registered = methods::find(&config.method)?;
    let options = Options::parse(registered.name, registered.options, &config.options)?;
    let build = || (registered.build)(&options);
    let config =
        Config { options: options.resolved(), ..config.clone() }.resolve(f64::from(registered.ema))?;
    run_method(ground, &config, &build, session)
}

/// Trains by any method. `config` is resolved; `build` makes the method anew: where a budget is to be met, once more to
/// measure with.
///
/// # Errors
/// As [`run`].
pub fn run_method(
    ground: &Ground,
    config: &Config,
    build: &dyn Fn() -> Result<Box<dyn Method>>,
    session: &mut Session<'_>,
) -> Result<Outcome> {
    let folder = RunFolder::new(&config.out);
    check_folder(&folder, session.resume)?;
    if folder.state() == RunState::Finished {
        return Ok(Outcome::Finished(Box::new(Summary::read(&folder.summary())?)));
    }
    folder.create()?;
    let config = match folder.state() {
        RunState::Fresh => settle(ground, config, build, session)?,
        _ => Config { threads: config.threads, out: config.out.clone(), ..Config::read(&folder.config())? },
    };
    config.write(&folder.config())?;
    trainer::train(Job { ground, config: &config, method: build()?, folder }, session)
}

/// Goes on with a run as its folder says; a finished one returns its summary.
///
/// # Errors
/// [`TrainError::NotARun`]; otherwise as [`run`].
pub fn resume(folder: &Path, session: &mut Session<'_>) -> Result<Outcome> {
    let path = RunFolder::new(folder).config();
    if !path.exists() {
        let reason = "expected a config.toml in it, found none".into();
        return Err(TrainError::NotARun { path: folder.into(), reason });
    }
    session.resume = true;
    run(&Config { out: folder.into(), ..Config::read(&path)? }, session)
}

fn check_folder(folder: &RunFolder, resume: bool) -> Result<()> {
    if folder.path().as_os_str().is_empty() {
        return Err(TrainError::setting("out", "the run's folder", ""));
    }
    if !resume && folder.state() != RunState::Fresh {
        return Err(TrainError::Exists { path: folder.path().into() });
    }
    Ok(())
}

/// Settles what follows from the data and the machine: the batch, and the steps that fit into a budget.
fn settle(
    ground: &Ground,
    config: &Config,
    build: &dyn Fn() -> Result<Box<dyn Method>>,
    session: &mut Session<'_>,
) -> Result<Config> {
    let mut config = config.clone();
    if config.batch_size.is_none() {
        let method = build()?;
        let draw = &method.draws(MOST_PER_BATCH)[method.main_draw()];
        config.batch_size = Some(batch_size(ground.partition.pictures(draw.part).len()));
    }
    if let (None, Some(budget)) = (config.steps, config.budget()?) {
        let steps = trainer::fit(ground, &config, build()?, budget)?;
        config.steps = Some(steps);
        config.epochs = None;
        let text = format!("{steps} steps fit into {}", words(budget));
        session.tell(&Event::Note { text })?;
    }
    Ok(config)
}

fn words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 120.0 { format!("{seconds:.0} s") } else { format!("{:.1} min", seconds / 60.0) }
}
