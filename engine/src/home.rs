//! What a network needs of the device it lives on: a place for its vectors, and passes over them.
//!
//! Vectors cross this border as floats of the host, in the layout of the network's table. Never here: names of
//! parameters, plans being made, candle.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use models::Graph;

use crate::buffer::Buffer;
use crate::memory::TrainingMemory;
use crate::optimizer::{Moments, Piece, Update, pieces};
use crate::plan::Plan;
use crate::plan::fold::{Folding, Forms};
use crate::random::Stream;
use crate::run::Timings;
use crate::theta::{FlatOrders, Table};
use crate::{Images, Result, Runtime};

/// A graph with where its parameters lie, which does not change while a network lives.
pub(crate) struct Structure {
    pub graph: Graph,
    pub table: Table,
    pub orders: FlatOrders,
    pub folding: Folding,
    pub pieces: Vec<Piece>,
    pub runtime: Runtime,
}

impl Structure {
    /// Of `graph` as a network on `runtime`'s device has it.
    pub(crate) fn new(graph: Graph, forms: Forms, runtime: &Runtime) -> Self {
        let orders = FlatOrders::of(&graph);
        let table = Table::new(&graph, &orders, runtime.weight_order());
        let (folding, pieces) = (Folding::new(&graph, &table, forms), pieces(&table));
        Self { graph, table, orders, folding, pieces, runtime: runtime.clone() }
    }
}

/// One pass of a network over its plan.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub structure: &'a Structure,
    pub plan: &'a Arc<Plan>,
    /// Of (seed, step, pass).
    pub draws: Stream,
    /// Whether running statistics move.
    pub update: bool,
    /// Whether the plan reads weights with batch norm folded in.
    pub folded: bool,
    /// Whether backward will come.
    pub keep: bool,
}

/// A vector of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vector {
    Theta,
    Statistics,
    Gradient,
    /// Momentum, or Adam's first moment.
    First,
    /// Adam's second moment.
    Second,
}

/// What a forward pass has kept for its backward: held by the home until it is run back or released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub u64);

/// See the module.
pub(crate) trait Home: Send {
    /// For what one home asks of another, which is of the same kind.
    fn as_any(&self) -> &dyn Any;

    /// See [`Home::as_any`].
    fn as_any_mut(&mut self) -> &mut dyn Any;

    /// Replaces theta and statistics.
    fn load(&mut self, theta: Buffer, statistics: Buffer) -> Result<()>;

    /// The values of a vector; empty if there is none yet.
    fn read(&self, vector: Vector) -> Result<Cow<'_, [f32]>>;

    /// Updates so far.
    fn steps(&self) -> u64;

    /// Replaces what the optimizer remembers.
    fn load_moments(&mut self, moments: Moments) -> Result<()>;

    /// Takes theta and statistics over from a network of the same graph.
    fn copy_from(&mut self, other: &dyn Home) -> Result<()>;

    /// Runs `images` and writes all outputs to `joint`; a ticket if the call keeps activations.
    fn forward(
        &mut self,
        call: &Call<'_>,
        images: Images<'_>,
        joint: &mut [f32],
        timings: Option<&mut Timings>,
    ) -> Result<Option<Ticket>>;

    /// Runs a kept forward back from the gradient of all outputs. Adds to the gradient of parameters that are `written`,
    /// overwrites that of others and notes it; overwrites `images`.
    fn backward(
        &mut self,
        call: &Call<'_>,
        ticket: Ticket,
        joint: &[f32],
        written: &mut [bool],
        images: Option<&mut [f32]>,
        timings: Option<&mut Timings>,
    ) -> Result<()>;

    /// Gives up what a forward pass has kept.
    fn release(&mut self, ticket: Ticket);

    /// Index of the first step whose result is not finite.
    fn first_non_finite(&mut self, call: &Call<'_>, images: Images<'_>) -> Result<Option<usize>>;

    /// Takes the statistics back to where they were before the first forward that moved them since [`Home::settle`].
    fn discard_statistics(&mut self) -> Result<()>;

    /// The statistics are to stay as they are.
    fn settle(&mut self);

    /// Sum of squares of the gradient's active segments.
    fn square_sum(&mut self, structure: &Structure, active: &[bool]) -> Result<f64>;

    /// Moves theta, and lets `average` follow with its decay: parameters averaged, statistics copied.
    fn update(
        &mut self,
        structure: &Structure,
        update: &Update<'_>,
        average: Option<(&mut dyn Home, f32)>,
    ) -> Result<()>;

    /// What is held at the moment.
    fn memory(&self) -> TrainingMemory;
}
