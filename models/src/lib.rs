//! What a network is: a [`Graph`] of named nodes, the zoo of architectures that build one, the weights that fill it,
//! by torchvision's names, and the manifest that travels with them.
//!
//! Nothing here does arithmetic on tensors, reads a picture or knows a training method: a graph is data, which the
//! engine runs, the ONNX writer writes and the cost counter counts.
//!
//! ```
//! use models::{Task, cost, zoo};
//!
//! let graph = zoo::build("resnet", &Task::new(1000, 3, 224))?;
//! assert_eq!(cost::total(&graph).parameters, 11_689_512);
//! assert!(zoo::build("resnet19", &Task::new(10, 3, 32)).unwrap_err().to_string().contains("did you mean"));
//! # Ok::<(), models::ZooError>(())
//! ```
#![forbid(unsafe_code)]

pub mod bundle;
pub mod cost;
pub mod file;
pub mod fit;
pub mod formula;
pub mod graph;
pub mod half;
pub mod init;
pub mod machine;
pub mod manifest;
pub mod nearest;
pub mod quantized;
pub mod task;
pub mod weights;
pub mod zoo;

pub use bundle::{Bundle, BundleError, BundleManifest};
pub use cost::Cost;
pub use file::{FileError, FormatError, load, save};
pub use fit::{Misfit, check};
pub use graph::{
    Activation, BatchNorm, Conv2d, Distribution, Graph, GraphError, Init, Linear, Node, NodeId, Op,
    Parameter, Pool2d, Role, Shape,
};
pub use machine::Machine;
pub use manifest::{Fit, Manifest, ManifestError};
pub use quantized::{Granularity, Quantization, QuantizedLayer, QuantizedNetwork};
pub use task::{Stem, Task};
pub use weights::{Array, Weights};
pub use zoo::{Architecture, ZooError};
