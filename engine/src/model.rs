//! Inference: the plan with batch norm folded into the convolutions and weights packed once.
//!
//! Never here: gradients, batch statistics. A run of a size seen before works in the memory it has and takes no lock.

#[cfg(feature = "candle")]
mod tensors;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use models::{Array, Graph, NodeId, Role, Shape, Weights};

use crate::buffer::Buffer;
use crate::home::{Call, Home, Structure};
use crate::kernels::conv::WeightFormat;
use crate::memory::{InferenceMemory, TrainingMemory};
use crate::plan::fold::{Forms, Share};
use crate::plan::{OutputRef, Plan, Purpose, lower};
use crate::profile::{Profile, Recorder};
use crate::random::Stream;
use crate::run::{Run, Statistics, Timings, copy_outputs, forward};
use crate::theta::MapOrder;
use crate::{EngineError, Result, Runtime};

/// Pictures as a contiguous batch, NHWC.
#[derive(Clone, Copy, Debug)]
pub enum Images<'a> {
    /// Pixels 0..=255, as they come from a decoder; the engine divides by 255.
    U8(&'a [u8]),
    /// Values 0..1.
    F32(&'a [f32]),
}

impl<'a> Images<'a> {
    /// `len` values from `start`.
    pub(crate) fn part(self, start: usize, len: usize) -> Images<'a> {
        match self {
            Images::U8(values) => Images::U8(&values[start..][..len]),
            Images::F32(values) => Images::F32(&values[start..][..len]),
        }
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        match self {
            Images::U8(values) => values.len(),
            Images::F32(values) => values.len(),
        }
    }

    /// How many pictures of `graph` these are.
    ///
    /// # Errors
    /// [`EngineError::Images`] if that is no whole number above zero.
    pub(crate) fn count(&self, graph: &Graph) -> Result<usize> {
        let picture = graph.input_shape().elements();
        if self.len() == 0 || !self.len().is_multiple_of(picture) {
            let [height, width] = graph.input_shape().spatial();
            let channels = graph.input_shape().channels();
            return Err(EngineError::Images {
                expected: format!("pictures of {height} x {width} x {channels} = {picture} values"),
                found: format!("{} values", self.len()),
            });
        }
        Ok(self.len() / picture)
    }
}

/// What clones of a model share: the folded, packed weights and where they lie.
struct Packed {
    structure: Structure,
    weights: Buffer,
    frozen: Vec<bool>,
    /// Where the network lives, if not in `weights`.
    device: Option<Mutex<Box<dyn Home>>>,
}

impl Packed {
    /// The network of a device; a thread that panicked while it held it left it as it was.
    fn device(&self) -> Option<MutexGuard<'_, Box<dyn Home>>> {
        self.device.as_ref().map(|home| home.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A plan for one batch size and output.
#[derive(Clone)]
struct Planned {
    batch: usize,
    node: NodeId,
    plan: Arc<Plan>,
}

/// A network ready to answer. Clones share the packed weights; each has its own working memory, so give every
/// worker a clone.
pub struct Model {
    packed: Arc<Packed>,
    plans: Vec<Planned>,
    arena: Buffer,
    result: Vec<f32>,
    reordered: Vec<f32>,
    recorder: Option<Recorder>,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.graph().nodes().len();
        f.debug_struct("Model").field("nodes", &nodes).field("weights", &self.packed.weights.len()).finish()
    }
}

impl Clone for Model {
    fn clone(&self) -> Self {
        Self::with(Arc::clone(&self.packed), self.plans.clone())
    }
}

impl Model {
    /// Folds, packs and plans `graph` with `weights` for evaluation.
    ///
    /// # Errors
    /// [`crate::EngineError::Weights`] listing what is missing, extra or of another shape.
    pub fn new(graph: &Graph, weights: &Weights, runtime: &Runtime) -> Result<Self> {
        Self::with_format(graph, weights, WeightFormat::F32, runtime)
    }

    /// The same with weights stored in `format`: those of convolutions and linear layers, with batch norm folded in,
    /// are rounded to it; all else is f32.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn with_format(
        graph: &Graph,
        weights: &Weights,
        format: WeightFormat,
        runtime: &Runtime,
    ) -> Result<Self> {
        Self::with_forms(graph, weights, Forms::Fastest(format), runtime)
    }

    /// The same with weights as theta has them, for what is made from them.
    pub(crate) fn plain(graph: &Graph, weights: &Weights, runtime: &Runtime) -> Result<Self> {
        Self::with_forms(graph, weights, Forms::Plain, runtime)
    }

    fn with_forms(graph: &Graph, weights: &Weights, forms: Forms, runtime: &Runtime) -> Result<Self> {
        let structure = Structure::new(graph.clone(), forms, runtime);
        let (theta, statistics) = structure.table.packed(weights)?;
        let frozen = vec![false; graph.nodes().len()];
        let packed = if runtime.folds() {
            let Structure { table, folding, .. } = &structure;
            let weights = folding.fold(runtime.pool(), graph, table, &theta, &statistics);
            Packed { structure, weights, frozen, device: None }
        } else {
            if !matches!(forms, Forms::Fastest(WeightFormat::F32)) {
                let reason =
                    "weights are stored otherwise, and observed, on the processor alone; use --device cpu";
                return Err(EngineError::Device { device: runtime.describe(), reason: reason.into() });
            }
            let mut home = runtime.home()?;
            home.load(theta, statistics)?;
            Packed { structure, weights: Buffer::default(), frozen, device: Some(Mutex::new(home)) }
        };
        Ok(Self::with(Arc::new(packed), Vec::new()))
    }

    fn with(packed: Arc<Packed>, plans: Vec<Planned>) -> Self {
        let (result, reordered) = (Vec::new(), Vec::new());
        Self { packed, plans, arena: Buffer::default(), result, reordered, recorder: None }
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.packed.structure.graph
    }

    /// Runs a batch and returns the `logits` output, `[n, classes]` row-major, valid until the next call.
    ///
    /// # Errors
    /// [`crate::EngineError::Images`] if the length is not a whole number of pictures.
    pub fn run(&mut self, images: Images<'_>) -> Result<&[f32]> {
        self.run_output(images, "logits")
    }

    /// Runs a batch and returns any named output; maps come as NCHW.
    ///
    /// # Errors
    /// As [`Model::run`], and if there is no such output.
    pub fn run_output(&mut self, images: Images<'_>, output: &str) -> Result<&[f32]> {
        let node = self.graph().output(output)?;
        let plan = self.plan(images.count(self.graph())?, node);
        self.run_plan(&plan, images)?;
        Ok(self.in_torch_order(node))
    }

    /// Leaves the values of a plan's output in `result`, as the engine has them.
    fn run_plan(&mut self, plan: &Arc<Plan>, images: Images<'_>) -> Result<()> {
        let mut result = std::mem::take(&mut self.result);
        result.resize(plan.output_len, 0.0);
        let packed = Arc::clone(&self.packed);
        let ran = match packed.device() {
            Some(mut home) => self
                .run_on(plan, |call, timings| home.forward(call, images, &mut result, timings).map(|_| ())),
            None => {
                self.run_here(plan, images, &mut result);
                Ok(())
            }
        };
        self.result = result;
        ran
    }

    /// A forward pass of the device by `run`, with what is recorded of it.
    fn run_on<R>(
        &mut self,
        plan: &Arc<Plan>,
        run: impl FnOnce(&Call<'_>, Option<&mut Timings>) -> Result<R>,
    ) -> Result<R> {
        let structure = &self.packed.structure;
        let draws = Stream::new(0);
        let call = Call { structure, plan, draws, update: false, folded: false, keep: false };
        let mut timings = self.recorder.is_some().then(|| Timings::new(plan.steps.len()));
        let result = run(&call, timings.as_mut())?;
        if let (Some(recorder), Some(timings)) = (&mut self.recorder, &timings) {
            recorder.forward(&structure.graph, plan, timings);
        }
        Ok(result)
    }

    fn run_here(&mut self, plan: &Arc<Plan>, images: Images<'_>, result: &mut [f32]) {
        if self.arena.len() < plan.arena_len {
            self.arena = Buffer::zeros(plan.arena_len);
        }
        let Packed { structure, weights, .. } = &*self.packed;
        let pool = structure.runtime.pool();
        let run = Run { pool, plan, parameters: weights, draws: Stream::new(0) };
        let mut timings = self.recorder.is_some().then(|| Timings::new(plan.steps.len()));
        forward(&run, &mut self.arena, images, Statistics::Keep(&[]), timings.as_mut());
        if let (Some(recorder), Some(timings)) = (&mut self.recorder, &timings) {
            recorder.forward(&structure.graph, plan, timings);
        }
        copy_outputs(&run, &mut self.arena, result);
    }

    /// What this model holds at the moment: after an answer, what [`crate::memory::inference`] foretells for its batch.
    pub fn memory(&self) -> InferenceMemory {
        let bytes = |buffer: &Buffer| (buffer.len() * size_of::<f32>()) as u64;
        match self.packed.device() {
            None => InferenceMemory { weights: bytes(&self.packed.weights), arena: bytes(&self.arena) },
            Some(home) => {
                let TrainingMemory { parameters, statistics, arena, .. } = home.memory();
                InferenceMemory { weights: parameters + statistics, arena }
            }
        }
    }

    /// Takes the time of every step from here on; [`Model::profile`] returns it. What was taken before is forgotten.
    pub fn start_profile(&mut self) {
        self.recorder = Some(Recorder::default());
    }

    /// What the steps have taken since [`Model::start_profile`]; empty without it.
    pub fn profile(&self) -> Profile {
        self.recorder.as_ref().map(Recorder::profile).unwrap_or_default()
    }

    /// The plan that answers one picture with `output`, and the folded weights that it reads.
    pub(crate) fn folded(&mut self, output: &str) -> Result<(Arc<Plan>, &[f32])> {
        let node = self.graph().output(output)?;
        let plan = self.plan(1, node);
        Ok((plan, &self.packed.weights))
    }

    /// The weight and bias of a convolution or linear layer with batch norm folded in, in torch's layout; of a model
    /// whose weights lie as in theta.
    pub(crate) fn folded_layer(&self, node: NodeId) -> Option<(Array, Option<&[f32]>)> {
        let Packed { structure: Structure { table, folding, .. }, weights, .. } = &*self.packed;
        let Some(Share::Conv { weight, bias, .. }) = folding.share(node) else { return None };
        let segment = &table.segments[table.index_of(node, Role::Weight)?];
        let mut torch = vec![0.0; segment.parameter.elements()];
        segment.layout.unpack(weight.of(weights), &mut torch);
        Some((Array::new(segment.parameter.shape.clone(), torch), bias.map(|bias| bias.of(weights))))
    }

    /// The result; a map's positions outermost become innermost.
    fn in_torch_order(&mut self, node: NodeId) -> &[f32] {
        match self.graph().node(node).shape {
            Shape::Map { channels, height, width } if height * width > 1 => {
                self.reordered.resize(self.result.len(), 0.0);
                let order = MapOrder { channels, positions: height * width };
                order.to_torch(&self.result, &mut self.reordered);
                &self.reordered
            }
            _ => &self.result,
        }
    }

    fn plan(&mut self, batch: usize, node: NodeId) -> Arc<Plan> {
        if let Some(found) = self.plans.iter().find(|planned| planned.batch == batch && planned.node == node)
        {
            return Arc::clone(&found.plan);
        }
        let Packed { structure, frozen, .. } = &*self.packed;
        let Structure { graph, table, orders, folding, runtime, .. } = structure;
        let purpose = Purpose {
            folding: runtime.folds().then_some(folding),
            maps: runtime.maps(),
            ..Purpose::answering(batch, folding, frozen, std::slice::from_ref(&node))
        };
        let plan = Arc::new(lower(graph, table, orders, &purpose));
        self.plans.push(Planned { batch, node, plan: Arc::clone(&plan) });
        plan
    }
}

/// Shape of an output for a batch: `[n, length]`, or `[n, h, w, c]`.
#[cfg_attr(not(feature = "candle"), allow(dead_code))]
pub(crate) fn output_shape(graph: &Graph, batch: usize, output: &OutputRef) -> Vec<usize> {
    match graph.node(output.node).shape {
        Shape::Flat(length) => vec![batch, length],
        Shape::Map { channels, height, width } => vec![batch, height, width, channels],
    }
}
