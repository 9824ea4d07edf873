//! What can go wrong in the engine, each with its culprit.

/// An engine call that failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A device that this build or machine does not have.
    #[error("device `{device}` is not available: {reason}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why it is not there and how to get it.
        reason: String,
    },
    /// Weights that do not fit the graph.
    #[error(
        "weights do not fit the network: missing [{missing}], unexpected [{unexpected}], of another shape [{reshaped}]"
    )]
    Weights {
        /// Names that the graph has and the weights lack.
        missing: String,
        /// Names that the weights have and the graph lacks.
        unexpected: String,
        /// Names with both shapes.
        reshaped: String,
    },
    /// Images of the wrong size or kind.
    #[error("images: expected {expected}, found {found}")]
    Images {
        /// What the network takes.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// Numbers that have no quantized form.
    #[error("quantization: {reason}")]
    Quantization {
        /// What was found, and what its bound is.
        reason: String,
    },
    /// A gradient asked twice of one forward, or after the parameters moved.
    #[error("backward: {reason}")]
    Backward {
        /// What was done and what to do instead.
        reason: String,
    },
    /// A name that the network does not have.
    #[error("no {kind} `{name}`; known: {known}")]
    Unknown {
        /// Output, parameter, ...
        kind: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The graph's own error.
    #[error(transparent)]
    Graph(#[from] models::GraphError),
    /// candle's own error.
    #[cfg(feature = "candle")]
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
