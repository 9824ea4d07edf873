//! One file per subcommand.

pub mod bench;
pub mod completions;
pub mod data;
pub mod distill;
pub mod doctor;
pub mod eval;
pub mod export;
mod export_int8;
pub mod methods;
pub mod models;
pub mod package;
pub mod predict;
pub mod serve;
pub mod train;
pub mod verify;
