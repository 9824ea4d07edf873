//! ONNX Runtime's library, without which these tests say nothing.

use onnx::runtime::{Found, find};

/// The library; a test without one fails and says what brings it.
pub fn library() -> Found {
    find(None).unwrap_or_else(|missing| {
        panic!("this test needs ONNX Runtime; `cargo xtask test` brings it. {missing}")
    })
}
