//! What a network needs to train and to answer, known from its plan before anything is allocated.
//!
//! ```
//! use engine::{Optimizer, WeightFormat, memory};
//! use models::{Task, zoo};
//!
//! let graph = zoo::build("resnet18", &Task::new(10, 3, 32))?;
//! let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true };
//! let memory = memory::training(&graph, 64, sgd, false)?;
//! assert_eq!(memory.gradient, memory.parameters);
//! assert!(memory::inference(&graph, 1, WeightFormat::F32)?.total() < memory.total() / 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Not counted: the pictures, the loss and what it keeps, a method's queues and second networks, and the kernels' own
//! working memory, which each thread keeps from call to call (a few megabytes at most). Large buffers lie on huge
//! pages where the system has them, which rounds each up to two megabytes.
//!
//! Never here: an allocation, a measurement.

use models::Graph;

use crate::Result;
use crate::kernels::conv::{WeightFormat, WeightOrder};
use crate::optimizer::Optimizer;
use crate::plan::fold::{Folding, Forms};
use crate::plan::{Format, Plan, Purpose, lower};
use crate::theta::{FlatOrders, Table};

/// Memory of a network in training, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrainingMemory {
    /// The parameters.
    pub parameters: u64,
    /// Running statistics of batch norm, twice: a step that is given up takes them back.
    pub statistics: u64,
    /// The gradient of the parameters.
    pub gradient: u64,
    /// What the optimizer remembers.
    pub moments: u64,
    /// The moving average's parameters and statistics; 0 without one.
    pub average: u64,
    /// Activations, their gradients and the steps' working memory, which share one arena by lifetime.
    pub arena: u64,
}

impl TrainingMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.parameters + self.statistics + self.gradient + self.moments + self.average + self.arena
    }
}

/// Memory of a network that answers, in bytes. Clones of a model share the weights; each has its own arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InferenceMemory {
    /// The weights, batch norm folded in, those of Winograd's convolutions as coefficients.
    pub weights: u64,
    /// Activations and working memory.
    pub arena: u64,
}

impl InferenceMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.arena
    }
}

/// Memory of training `graph`, its logits, in steps of `batch` pictures (views count), with or without a moving
/// average of the weights.
///
/// # Errors
/// If the graph has no `logits`.
pub fn training(graph: &Graph, batch: usize, optimizer: Optimizer, average: bool) -> Result<TrainingMemory> {
    let orders = FlatOrders::of(graph);
    let table = Table::new(graph, &orders, WeightOrder::Blocked);
    let plan = plan(graph, &table, &orders, batch, None)?;
    let (theta, statistics) = (bytes(table.theta_length), bytes(table.statistics_length));
    Ok(TrainingMemory {
        parameters: theta,
        statistics: 2 * statistics,
        gradient: theta,
        moments: optimizer.moments() as u64 * theta,
        average: if average { theta + statistics } else { 0 },
        arena: bytes(plan.arena_len),
    })
}

/// Memory of answering `batch` pictures at once with `graph`'s logits, the weights stored in `format`.
///
/// # Errors
/// If the graph has no `logits`.
pub fn inference(graph: &Graph, batch: usize, format: WeightFormat) -> Result<InferenceMemory> {
    let orders = FlatOrders::of(graph);
    let table = Table::new(graph, &orders, WeightOrder::Blocked);
    let folding = Folding::new(graph, &table, Forms::Fastest(format));
    let plan = plan(graph, &table, &orders, batch, Some(&folding))?;
    Ok(InferenceMemory { weights: bytes(folding.len), arena: bytes(plan.arena_len) })
}

/// The plan of a training step, or with folded weights that of an answer.
fn plan(
    graph: &Graph,
    table: &Table,
    orders: &FlatOrders,
    batch: usize,
    folding: Option<&Folding>,
) -> Result<Plan> {
    let trains = folding.is_none();
    let purpose = Purpose {
        batch,
        train: trains,
        folding,
        parameters: trains,
        images: false,
        frozen: &vec![false; graph.nodes().len()],
        want: &[graph.output("logits")?],
        maps: Format::F32,
    };
    Ok(lower(graph, table, orders, &purpose))
}

fn bytes(floats: usize) -> u64 {
    (floats * size_of::<f32>()) as u64
}
