//! Teacher to student: the distillation methods, and the whole job around them.
//!
//! [`run()`] takes a [`DistillConfig`] to a [`Report`]: the teacher (trained first, or finished runs), the student at the
//! job's own folder, and the same student trained on the labels alone. The trainings are `train`'s one loop; a
//! distillation is a method to it.
//!
//! Never here: a loop of its own, printing.
#![forbid(unsafe_code)]

pub mod error;
pub mod job;
pub mod methods;
mod page;
pub mod report;
pub mod teachers;

pub use error::{DistillError, Result};
pub use job::{DistillConfig, JobOutcome, is_job, read, resume, run, run_on};
pub use methods::{DISTILLATIONS, DistillationEntry};
pub use report::{Fidelity, Report, Side};
pub use teachers::Teachers;
