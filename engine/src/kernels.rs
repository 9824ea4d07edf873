//! The arithmetic of the nodes, each kernel beside a plain reference that tests compare it with.
//!
//! Never here: which kernel runs when in a network; that is the plan's business.

pub(crate) mod activation;
pub mod conv;
pub mod int8;
pub(crate) mod mixing;
pub(crate) mod norm;
pub(crate) mod pooling;
#[cfg(test)]
pub(crate) mod reference;
pub(crate) mod spans;
