//! A network in training: theta, gradient, moments and statistics, and the candle op that runs it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use models::{Array, Graph, Weights};

use crate::buffer::Buffer;
use crate::theta::{FlatOrders, Table, initial_weights};
use crate::{Result, Runtime};

/// What a backward pass is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grad {
    /// Nothing: no activation is saved.
    #[default]
    None,
    /// The parameters.
    Params,
    /// The images.
    Input,
    /// Parameters and images.
    Both,
}

/// How batch norm behaves in a forward pass. Dropout and stochastic depth are active in `Train`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BatchNormMode {
    /// Running statistics; dropout off.
    #[default]
    Eval,
    /// The batch's statistics.
    Train {
        /// Whether the running statistics move.
        update: bool,
    },
}

/// A forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Fwd<'a> {
    /// What backward will be asked for.
    pub grad: Grad,
    /// Batch norm's mode.
    pub bn: BatchNormMode,
    /// Outputs wanted, by name.
    pub want: &'a [&'a str],
    /// Step of the run: dropout and stochastic depth draw from (seed, step, pass, node, position in the batch).
    pub step: u64,
    /// Which forward of the step this is.
    pub pass: u32,
}

/// Outputs of a forward pass, by name.
#[derive(Clone, Debug)]
pub struct Outputs {
    tensors: Vec<(String, Tensor)>,
}

impl Outputs {
    /// The output of this name: `[n, length]` for a vector, `[n, h, w, c]` for a map.
    ///
    /// # Errors
    /// [`crate::EngineError::Unknown`] if the forward was not asked for it.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor).ok_or_else(|| {
            crate::EngineError::Unknown {
                kind: "output",
                name: name.into(),
                known: self.tensors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
            }
        })
    }
}

/// An optimizer over theta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent as torch has it: decay is added to the gradient, then momentum.
    Sgd {
        /// Momentum.
        momentum: f32,
        /// Nesterov's form.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
}

/// One update of a network from its gradient buffer.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub lr: f32,
    /// Weight decay, on weights alone.
    pub weight_decay: f32,
    /// Factor on the gradient before anything else: `1 / accumulated batches`.
    pub grad_scale: f32,
    /// Largest allowed norm of the scaled gradient.
    pub clip_norm: Option<f32>,
    /// A network that follows this one as an exponential moving average with this decay: parameters averaged,
    /// running statistics copied.
    pub ema: Option<(&'a Net, f32)>,
}

/// A network in training. All methods take `&self`: the buffers live behind a lock, since candle's op shares them.
#[derive(Debug)]
pub struct Net {
    graph: Arc<Graph>,
    table: Table,
    state: Mutex<State>,
}

/// The vectors of a network, all in the table's layout.
#[derive(Debug)]
struct State {
    theta: Buffer,
    statistics: Buffer,
}

impl Net {
    /// A network of `graph` with weights drawn from `seed` as the graph's nodes say.
    ///
    /// # Errors
    /// [`crate::EngineError`] if the graph cannot be planned.
    pub fn new(graph: Graph, runtime: &Runtime, seed: u64) -> Result<Self> {
        let _ = runtime;
        let table = Table::new(&graph, &FlatOrders::of(&graph));
        let (theta, statistics) = (Buffer::zeros(table.theta_length), Buffer::zeros(table.statistics_length));
        let net = Self { graph: Arc::new(graph), table, state: Mutex::new(State { theta, statistics }) };
        net.load(&initial_weights(&net.graph, seed))?;
        Ok(net)
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Replaces all parameters and running statistics.
    ///
    /// # Errors
    /// [`crate::EngineError::Weights`] listing what is missing, extra or of another shape; nothing has changed then.
    pub fn load(&self, weights: &Weights) -> Result<()> {
        self.table.check(weights)?;
        let state = &mut *self.state();
        self.table.pack(weights, &mut state.theta, &mut state.statistics);
        Ok(())
    }

    /// Parameters and running statistics by name, in torch's layout.
    pub fn weights(&self) -> Weights {
        let state = self.state();
        self.table.unpack(&state.theta, &state.statistics)
    }

    /// The vectors; a thread that panicked while it held them left them as they were.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies parameters and statistics of a network of the same graph.
    ///
    /// # Errors
    /// If the graphs differ.
    pub fn copy_from(&self, other: &Net) -> Result<()> {
        let _ = other;
        unimplemented!()
    }

    /// Freezes the parameters of every node whose name `frozen` accepts: no gradient, no update, and their batch norm
    /// runs in Eval. Backward stops at the first trainable node.
    pub fn freeze(&self, frozen: &dyn Fn(&str) -> bool) {
        let _ = frozen;
        unimplemented!()
    }

    /// Runs `images`, `[n, h, w, c]`, `u8` (0..=255) or `f32` (0..1).
    ///
    /// # Errors
    /// [`crate::EngineError::Images`] for another shape or type; an unknown output.
    pub fn forward(&self, images: &Tensor, fwd: Fwd<'_>) -> Result<Outputs> {
        let _ = (images, fwd);
        unimplemented!()
    }

    /// Forgets the accumulated gradient: the next backward overwrites.
    pub fn zero_grad(&self) {
        unimplemented!()
    }

    /// Gradient of a parameter in torch's layout; zeros if no backward has reached it since `zero_grad`.
    ///
    /// # Errors
    /// An unknown name.
    pub fn grad(&self, parameter: &str) -> Result<Array> {
        let _ = parameter;
        unimplemented!()
    }

    /// Euclidean norm of the whole gradient.
    pub fn grad_norm(&self) -> f64 {
        unimplemented!()
    }

    /// The first parameter whose gradient is not finite.
    pub fn non_finite_grad(&self) -> Option<String> {
        unimplemented!()
    }

    /// Updates theta from the gradient and clears it.
    ///
    /// # Errors
    /// If the average has another graph.
    pub fn update(&self, step: &Step<'_>) -> Result<()> {
        let _ = step;
        unimplemented!()
    }

    /// The optimizer's state by name (`momentum.features.0.0.weight`, ...), in torch's layout; empty before the first
    /// update.
    pub fn optimizer_state(&self) -> Weights {
        unimplemented!()
    }

    /// Restores what [`Net::optimizer_state`] returned.
    ///
    /// # Errors
    /// If names or shapes do not fit.
    pub fn load_optimizer_state(&self, state: &Weights) -> Result<()> {
        let _ = state;
        unimplemented!()
    }
}
