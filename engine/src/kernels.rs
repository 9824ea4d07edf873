//! The arithmetic of the nodes, each kernel beside a plain reference that tests compare it with.
//!
//! Never here: which kernel runs when in a network; that is the plan's business.

pub mod conv;
