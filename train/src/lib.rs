//! Training: one loop, the methods it runs without knowing them, and everything a run leaves behind.
//!
//! [`run()`] takes a [`Config`] to a [`Summary`], tells a [`Sink`] what happens on the way, and fills a [`RunFolder`];
//! [`resume`] goes on with one that was stopped, to the same bits. A [`Method`] says which pictures a step draws and what
//! their loss is; a new one is a file in `methods` and a line in [`METHODS`].
//!
//! Never here: printing, layers of networks, image files, and any look at the test pictures before the end.
#![forbid(unsafe_code)]

mod artefact;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod evaluate;
pub mod event;
pub mod folder;
pub mod ground;
pub mod init;
pub mod loss;
pub mod methods;
mod pace;
pub mod page;
pub mod profile;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod session;
pub mod sink;
pub mod state_dict;
pub mod summary;
mod trainer;

pub use config::Config;
pub use error::{Result, TrainError};
pub use evaluate::{Evaluation, evaluate, evaluate_with, logits};
pub use event::{Event, Silent, Sink, Started, StepReport};
pub use folder::{RunFolder, RunState};
pub use ground::Ground;
pub use methods::{Loss, METHODS, Method, MethodEntry, Nets, OptionSpec, Options, Progress};
pub use profile::TrainingProfile;
pub use recipe::OptimizerKind;
pub use run::{resume, run, run_method, run_on};
pub use schedule::Schedule;
pub use session::{Outcome, Session};
pub use summary::Summary;
