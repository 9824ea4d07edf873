//! A network in training: theta, gradient, moments and statistics, and the candle op that runs it.

#[cfg(feature = "cuda")]
pub(crate) mod on_device;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Tensor, Var};
use models::{Array, Graph, NodeId, Parameter, Weights};

use crate::buffer::Buffer;
use crate::home::{Call, Home, Structure, Ticket, Vector};
use crate::memory::TrainingMemory;
use crate::model::output_shape;
use crate::optimizer::{Moments, Optimizer, Update};
use crate::plan::fold::Forms;
use crate::plan::{OutputRef, Plan, Purpose, lower};
use crate::profile::{Profile, Recorder};
use crate::random::Stream;
use crate::run::Timings;
use crate::theta::{Segment, Table, initial_weights};
use crate::{EngineError, Images, Result, Runtime};

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
pub struct Net {
    shared: Arc<Shared>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Structure { graph, table, .. } = &self.shared.structure;
        f.debug_struct("Net")
            .field("nodes", &graph.nodes().len())
            .field("theta", &table.theta_length)
            .finish()
    }
}

/// What a network and the ops of its forward passes share.
struct Shared {
    structure: Structure,
    draws: Stream,
    /// Stand for theta in candle's records, one for each place that images may lie in: an op without a variable among its
    /// arguments would not be recorded.
    tokens: Vec<Var>,
    /// Where images are best put.
    tensors: Device,
    state: Mutex<State>,
}

/// The vectors of a network, and what follows from them.
struct State {
    home: Box<dyn Home>,
    /// By segment: whether the gradient holds anything.
    written: Vec<bool>,
    /// Counts changes of theta.
    version: u64,
    /// By node.
    frozen: Vec<bool>,
    plans: HashMap<Key, Arc<Plan>>,
    recorder: Option<Recorder>,
}

/// What a plan depends on beside the graph.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    batch: usize,
    train: bool,
    parameters: bool,
    images: bool,
    want: Vec<NodeId>,
}

impl Key {
    /// Without gradients or batch statistics the folded weights serve, where the device has them.
    fn folds(&self, structure: &Structure) -> bool {
        structure.runtime.folds() && !(self.train || self.parameters || self.images)
    }
}

impl Shared {
    /// The vectors; a thread that panicked while it held them left them as they were.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self, state: &mut State, key: &Key) -> Arc<Plan> {
        if let Some(plan) = state.plans.get(key) {
            return Arc::clone(plan);
        }
        let Structure { graph, table, orders, folding, runtime, .. } = &self.structure;
        let purpose = Purpose {
            batch: key.batch,
            train: key.train,
            folding: key.folds(&self.structure).then_some(folding),
            parameters: key.parameters,
            images: key.images,
            frozen: &state.frozen,
            want: &key.want,
            maps: runtime.maps(),
        };
        let plan = Arc::new(lower(graph, table, orders, &purpose));
        state.plans.insert(key.clone(), Arc::clone(&plan));
        plan
    }

    /// By segment: whether the optimizer moves it.
    fn active(&self, state: &State) -> Vec<bool> {
        let segments = self.structure.table.segments.iter().zip(&state.written);
        segments.map(|(segment, &written)| written && !state.frozen[segment.parameter.node.index()]).collect()
    }
}

impl State {
    fn forget_gradient(&mut self) {
        self.written.fill(false);
        self.home.settle();
    }
}

impl Net {
    /// A network of `graph` with weights drawn from `seed` as the graph's nodes say.
    ///
    /// # Errors
    /// [`crate::EngineError`] if the graph cannot be planned.
    pub fn new(graph: Graph, runtime: &Runtime, seed: u64) -> Result<Self> {
        let structure = Structure::new(graph, Forms::Plain, runtime);
        let state = State {
            home: runtime.home()?,
            written: vec![false; structure.table.segments.len()],
            version: 0,
            frozen: vec![false; structure.graph.nodes().len()],
            plans: HashMap::new(),
            recorder: None,
        };
        let tensors = runtime.tensors();
        let places = [Device::Cpu].into_iter().chain((!tensors.is_cpu()).then(|| tensors.clone()));
        let tokens = places.map(|place| Var::zeros(1, DType::F32, &place)).collect::<Result<_, _>>()?;
        let shared = Shared {
            tokens,
            tensors,
            structure,
            draws: Stream::new(seed).named("draws"),
            state: Mutex::new(state),
        };
        let net = Self { shared: Arc::new(shared) };
        net.load(&initial_weights(net.graph(), seed))?;
        Ok(net)
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.shared.structure.graph
    }

    /// Where candle's tensors best lie: the outputs come where the images are, and on the GPU, where losses are computed
    /// there, nothing is copied. Images on the processor are always taken.
    pub fn tensors(&self) -> &Device {
        &self.shared.tensors
    }

    /// Replaces all parameters and running statistics.
    ///
    /// # Errors
    /// [`crate::EngineError::Weights`] listing what is missing, extra or of another shape; nothing has changed then.
    pub fn load(&self, weights: &Weights) -> Result<()> {
        let (theta, statistics) = self.table().packed(weights)?;
        let state = &mut *self.shared.state();
        state.home.load(theta, statistics)?;
        state.version += 1;
        Ok(())
    }

    /// Parameters and running statistics by name, in torch's layout.
    ///
    /// # Errors
    /// The device's own.
    pub fn weights(&self) -> Result<Weights> {
        let state = self.shared.state();
        Ok(self.table().unpack(&state.home.read(Vector::Theta)?, &state.home.read(Vector::Statistics)?))
    }

    fn table(&self) -> &Table {
        &self.shared.structure.table
    }

    /// Copies parameters and statistics of a network of the same graph.
    ///
    /// # Errors
    /// If the graphs differ.
    pub fn copy_from(&self, other: &Net) -> Result<()> {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return Ok(());
        }
        self.check_same_graph(other)?;
        let state = &mut *self.shared.state();
        let other = other.shared.state();
        state.home.copy_from(&*other.home)?;
        state.version += 1;
        Ok(())
    }

    fn check_same_graph(&self, other: &Net) -> Result<()> {
        if self.graph() == other.graph() {
            return Ok(());
        }
        let names = |net: &Net| -> Vec<String> {
            net.table().segments.iter().map(|segment| segment.parameter.name.clone()).collect()
        };
        let (own, others) = (names(self), names(other));
        let without = |some: &[String], rest: &[String]| -> String {
            some.iter().filter(|name| !rest.contains(name)).cloned().collect::<Vec<_>>().join(", ")
        };
        Err(EngineError::Weights {
            missing: without(&own, &others),
            unexpected: without(&others, &own),
            reshaped: "the two networks have different graphs".into(),
        })
    }

    /// Freezes the parameters of every node whose name `frozen` accepts: no gradient, no update, and their batch norm
    /// runs in Eval. Backward stops at the first trainable node.
    pub fn freeze(&self, frozen: &dyn Fn(&str) -> bool) {
        let state = &mut *self.shared.state();
        state.frozen = self.graph().nodes().iter().map(|node| frozen(&node.name)).collect();
        state.plans.clear();
    }

    /// Runs `images`, `[n, h, w, c]`, `u8` (0..=255) or `f32` (0..1).
    ///
    /// Backward reaches the images whenever candle tracks them, whatever `fwd.grad` says, unless that is `None`.
    ///
    /// # Errors
    /// [`crate::EngineError::Images`] for another shape or type; an unknown output.
    pub fn forward(&self, images: &Tensor, fwd: Fwd<'_>) -> Result<Outputs> {
        let graph = self.graph();
        let batch = check_images(graph, images)?;
        let want = fwd.want.iter().map(|name| graph.output(name)).collect::<Result<Vec<_>, _>>()?;
        let train = matches!(fwd.bn, BatchNormMode::Train { .. });
        let tracks = fwd.grad != Grad::None;
        let key = Key {
            batch,
            train,
            parameters: matches!(fwd.grad, Grad::Params | Grad::Both),
            images: tracks && images.track_op() && images.dtype() == DType::F32,
            want,
        };
        let (plan, version) = {
            let state = &mut *self.shared.state();
            (self.shared.plan(state, &key), state.version)
        };
        let pass = Pass {
            draws: self.shared.draws.with(fwd.step).with(u64::from(fwd.pass)),
            update: fwd.bn == BatchNormMode::Train { update: true },
            keep: tracks,
            folded: key.folds(&self.shared.structure),
            version,
        };
        let op = NetOp { shared: Arc::clone(&self.shared), plan, pass, kept: Mutex::new(Kept::Nothing) };
        self.outputs(op, &images.contiguous()?, fwd.want)
    }

    fn outputs(&self, op: NetOp, images: &Tensor, names: &[&str]) -> Result<Outputs> {
        let plan = Arc::clone(&op.plan);
        let token = self.token(images.device())?;
        let joint =
            if op.pass.keep { images.apply_op2(token, op)? } else { images.apply_op2_no_bwd(token, &op)? };
        let segment = |(output, name): (&OutputRef, &&str)| {
            let shape = output_shape(self.graph(), plan.batch, output);
            Ok((name.to_string(), joint.narrow(0, output.start, output.len)?.reshape(shape)?))
        };
        Ok(Outputs { tensors: plan.outputs.iter().zip(names).map(segment).collect::<Result<_>>()? })
    }

    /// Pictures, `[n, h, w, c]`, as a tensor where the network takes them best; see [`Net::tensors`].
    ///
    /// # Errors
    /// If `pixels` are no whole number of pictures, and the device's own.
    pub fn images(&self, pixels: Vec<u8>) -> Result<Tensor> {
        let graph = self.graph();
        let ([height, width], channels) = (graph.input_shape().spatial(), graph.input_shape().channels());
        let count = Images::U8(&pixels).count(graph)?;
        let shape = (count, height, width, channels);
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.shared.structure.runtime.executor() {
            return Ok(on_device::upload(gpu, &self.shared.tensors, &pixels, shape.into())?);
        }
        Ok(Tensor::from_vec(pixels, shape, &Device::Cpu)?)
    }

    fn token(&self, place: &Device) -> Result<&Tensor> {
        let found = self.shared.tokens.iter().find(|token| token.device().same_device(place));
        found.map(Var::as_tensor).ok_or_else(|| images_elsewhere(&self.shared.tensors, place))
    }

    /// The first node whose value is not finite when `images` run in training mode; for naming the culprit after a loss
    /// that is not finite. Changes nothing.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn non_finite_node(&self, images: &Tensor, fwd: Fwd<'_>) -> Result<Option<String>> {
        let batch = check_images(self.graph(), images)?;
        let want = fwd.want.iter().map(|name| self.graph().output(name)).collect::<Result<Vec<_>, _>>()?;
        let train = matches!(fwd.bn, BatchNormMode::Train { .. });
        let state = &mut *self.shared.state();
        let plan = self.shared.plan(state, &Key { batch, train, parameters: true, images: false, want });
        let images = images.contiguous()?.to_device(&Device::Cpu)?;
        let (storage, layout) = images.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { return Ok(None) };
        let call = Call {
            structure: &self.shared.structure,
            plan: &plan,
            draws: self.shared.draws.with(fwd.step).with(u64::from(fwd.pass)),
            update: false,
            folded: false,
            keep: false,
        };
        let found = state.home.first_non_finite(&call, pixels(storage, layout)?)?;
        Ok(found.map(|step| self.graph().node(plan.steps[step].last()).name.clone()))
    }

    /// Forgets the accumulated gradient: the next backward overwrites.
    pub fn zero_grad(&self) {
        self.shared.state().forget_gradient();
    }

    /// Gives a step up: forgets the gradient, and takes the running statistics back to where they were after the last
    /// update.
    ///
    /// # Errors
    /// The device's own.
    pub fn discard_step(&self) -> Result<()> {
        let state = &mut *self.shared.state();
        state.home.discard_statistics()?;
        state.forget_gradient();
        Ok(())
    }

    /// Gradient of a parameter in torch's layout; zeros if no backward has reached it since `zero_grad`.
    ///
    /// # Errors
    /// An unknown name.
    pub fn grad(&self, parameter: &str) -> Result<Array> {
        let index = self.table().find(parameter)?;
        let segment = &self.table().segments[index];
        let state = self.shared.state();
        if !state.written[index] {
            return Ok(Array::full(segment.parameter.shape.clone(), 0.0));
        }
        Ok(segment.unpack(&state.home.read(Vector::Gradient)?))
    }

    /// Euclidean norm of the whole gradient.
    ///
    /// # Errors
    /// The device's own.
    pub fn grad_norm(&self) -> Result<f64> {
        let state = &mut *self.shared.state();
        let active = self.shared.active(state);
        Ok(state.home.square_sum(&self.shared.structure, &active)?.sqrt())
    }

    /// The first parameter whose gradient is not finite.
    ///
    /// # Errors
    /// The device's own.
    pub fn non_finite_grad(&self) -> Result<Option<String>> {
        if self.grad_norm()?.is_finite() {
            return Ok(None);
        }
        let state = self.shared.state();
        let gradient = state.home.read(Vector::Gradient)?;
        let finite = |segment: &Segment| {
            let values = &gradient[segment.offset..segment.offset + segment.length];
            values.iter().all(|value| value.is_finite())
        };
        let mut written = self.table().segments.iter().zip(&state.written).filter(|(_, written)| **written);
        Ok(written.find(|(segment, _)| !finite(segment)).map(|(segment, _)| segment.parameter.name.clone()))
    }

    /// Updates theta from the gradient and clears it. Parameters that no backward has reached stay as they are, as
    /// torch leaves those whose gradient is None.
    ///
    /// # Errors
    /// If the average has another graph, or is this network.
    pub fn update(&self, step: &Step<'_>) -> Result<()> {
        let mut average = match step.ema {
            Some((average, decay)) => Some((self.average_state(average)?, decay)),
            None => None,
        };
        let state = &mut *self.shared.state();
        let active = self.shared.active(state);
        let structure = &self.shared.structure;
        let rule = Update {
            optimizer: step.optimizer,
            lr: step.lr,
            weight_decay: step.weight_decay,
            scale: step.grad_scale,
            clip_norm: step.clip_norm,
            pieces: &structure.pieces,
            active: &active,
        };
        let followed = average.as_mut().map(|(average, decay)| (&mut *average.home as &mut dyn Home, *decay));
        state.home.update(structure, &rule, followed)?;
        if let Some((average, _)) = &mut average {
            average.version += 1;
        }
        state.version += 1;
        state.forget_gradient();
        Ok(())
    }

    /// The state of the network that follows this one; locked before this one's own.
    fn average_state<'a>(&self, average: &'a Net) -> Result<MutexGuard<'a, State>> {
        if Arc::ptr_eq(&self.shared, &average.shared) {
            let reason = "a network cannot be its own average; make the average a network of its own";
            return Err(EngineError::Backward { reason: reason.into() });
        }
        self.check_same_graph(average)?;
        Ok(average.shared.state())
    }

    /// The optimizer's state by name (`momentum.features.0.0.weight`, ...), in torch's layout; empty before the first
    /// update. AdamW's are `exp_avg.` and `exp_avg_sq.`; `steps` counts the updates, as two numbers below 2^24.
    ///
    /// # Errors
    /// The device's own.
    pub fn optimizer_state(&self) -> Result<Weights> {
        let state = self.shared.state();
        let [first, second] = [state.home.read(Vector::First)?, state.home.read(Vector::Second)?];
        let mut weights = Weights::new();
        let first_name = if second.is_empty() { "momentum" } else { "exp_avg" };
        for (prefix, vector) in [(first_name, &first), ("exp_avg_sq", &second)] {
            for segment in self.trainable_segments().filter(|_| !vector.is_empty()) {
                weights.insert(format!("{prefix}.{}", segment.parameter.name), segment.unpack(vector));
            }
        }
        if !first.is_empty() {
            let steps = state.home.steps();
            let parts = [(steps >> 24) as f32, (steps & 0xff_ffff) as f32];
            weights.insert("steps".into(), Array::new([2], parts.to_vec()));
        }
        Ok(weights)
    }

    fn trainable_segments(&self) -> impl Iterator<Item = &Segment> {
        self.table().segments.iter().filter(|segment| segment.parameter.role.trainable())
    }

    /// Restores what [`Net::optimizer_state`] returned.
    ///
    /// # Errors
    /// If names or shapes do not fit; nothing has changed then.
    pub fn load_optimizer_state(&self, weights: &Weights) -> Result<()> {
        let moments = self.moments_from(weights)?;
        self.shared.state().home.load_moments(moments)
    }

    fn moments_from(&self, weights: &Weights) -> Result<Moments> {
        if weights.is_empty() {
            return Ok(Moments::default());
        }
        let adam = weights.keys().any(|name| name.starts_with("exp_avg_sq."));
        let prefixes: &[&str] = if adam { &["exp_avg", "exp_avg_sq"] } else { &["momentum"] };
        self.check_moments(weights, prefixes)?;
        let buffer = |prefix: &&str| {
            let mut buffer = Buffer::zeros(self.table().theta_length);
            for segment in self.trainable_segments() {
                if let Some(array) = weights.get(&format!("{prefix}.{}", segment.parameter.name)) {
                    segment.pack(&array.data, &mut buffer);
                }
            }
            buffer
        };
        let mut buffers = prefixes.iter().map(buffer);
        let steps =
            weights.get("steps").map_or(0, |parts| ((parts.data[0] as u64) << 24) + parts.data[1] as u64);
        Ok(Moments { first: buffers.next(), second: buffers.next(), steps })
    }

    fn check_moments(&self, weights: &Weights, prefixes: &[&str]) -> Result<()> {
        let mut expected: BTreeMap<String, Vec<usize>> = BTreeMap::from([("steps".into(), vec![2])]);
        for segment in self.trainable_segments() {
            let Parameter { name, shape, .. } = &segment.parameter;
            expected.extend(prefixes.iter().map(|prefix| (format!("{prefix}.{name}"), shape.clone())));
        }
        let missing: Vec<&str> =
            expected.keys().filter(|name| !weights.contains_key(*name)).map(String::as_str).collect();
        let unexpected: Vec<&str> =
            weights.keys().filter(|name| !expected.contains_key(*name)).map(String::as_str).collect();
        let reshaped: Vec<String> = expected
            .iter()
            .filter_map(|(name, shape)| {
                let found = &weights.get(name)?.shape;
                (found != shape).then(|| format!("{name}: expected {shape:?}, found {found:?}"))
            })
            .collect();
        if missing.is_empty() && unexpected.is_empty() && reshaped.is_empty() {
            return Ok(());
        }
        Err(EngineError::Weights {
            missing: missing.join(", "),
            unexpected: unexpected.join(", "),
            reshaped: reshaped.join(", "),
        })
    }

    /// What this network holds at the moment. After a step that is what [`crate::memory::training`] foretells, but for
    /// the second copy of the statistics, which goes with the update, and for a moving average, which is a network of
    /// its own.
    pub fn memory(&self) -> TrainingMemory {
        self.shared.state().home.memory()
    }

    /// Takes the time of every step from here on; [`Net::profile`] returns it. What was taken before is forgotten.
    pub fn start_profile(&self) {
        self.shared.state().recorder = Some(Recorder::default());
    }

    /// What the steps have taken since [`Net::start_profile`]; empty without it.
    pub fn profile(&self) -> Profile {
        self.shared.state().recorder.as_ref().map(Recorder::profile).unwrap_or_default()
    }
}

/// Images that are neither on the processor nor where the network's tensors lie.
pub(crate) fn images_elsewhere(own: &Device, place: &Device) -> EngineError {
    EngineError::Images {
        expected: format!("images on the processor or on {:?}", own.location()),
        found: format!("images on {:?}", place.location()),
    }
}

/// Number of pictures.
pub(crate) fn check_images(graph: &Graph, images: &Tensor) -> Result<usize> {
    let [height, width] = graph.input_shape().spatial();
    let channels = graph.input_shape().channels();
    let fits = matches!(images.dims(), &[n, h, w, c] if n > 0 && (h, w, c) == (height, width, channels));
    if !fits || !matches!(images.dtype(), DType::U8 | DType::F32) {
        return Err(EngineError::Images {
            expected: format!("u8 or f32 of [n, {height}, {width}, {channels}]"),
            found: format!("{} of {:?}", images.dtype().as_str(), images.dims()),
        });
    }
    Ok(images.dims()[0])
}

/// The pictures in candle's storage.
pub(crate) fn pixels<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Images<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("images are not contiguous")
    };
    match storage {
        CpuStorage::U8(values) => Ok(Images::U8(&values[start..end])),
        CpuStorage::F32(values) => Ok(Images::F32(&values[start..end])),
        _ => candle_core::bail!("images are neither u8 nor f32"),
    }
}

/// One forward pass of a network, as candle records it.
struct NetOp {
    shared: Arc<Shared>,
    plan: Arc<Plan>,
    pass: Pass,
    kept: Mutex<Kept>,
}

#[derive(Clone, Copy)]
struct Pass {
    draws: Stream,
    /// Whether running statistics move.
    update: bool,
    /// Whether backward will come.
    keep: bool,
    folded: bool,
    /// Of theta when the pass was asked for.
    version: u64,
}

/// What a pass has kept for its backward.
enum Kept {
    Nothing,
    Activations(Ticket),
    Spent,
}

impl Drop for NetOp {
    fn drop(&mut self) {
        let kept =
            std::mem::replace(self.kept.get_mut().unwrap_or_else(PoisonError::into_inner), Kept::Spent);
        if let Kept::Activations(ticket) = kept {
            self.shared.state().home.release(ticket);
        }
    }
}

impl NetOp {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self) -> Call<'_> {
        let Pass { draws, update, keep, folded, .. } = self.pass;
        Call { structure: &self.shared.structure, plan: &self.plan, draws, update, folded, keep }
    }

    fn run_forward(&self, images: Images<'_>) -> Result<Vec<f32>> {
        let mut joint = vec![0.0; self.plan.output_len];
        self.forward_by(|home, call, timings| home.forward(call, images, &mut joint, timings))?;
        Ok(joint)
    }

    /// A forward pass by `run`, with what is to be kept and recorded of it.
    fn forward_by(
        &self,
        run: impl FnOnce(&mut dyn Home, &Call<'_>, Option<&mut Timings>) -> Result<Option<Ticket>>,
    ) -> Result<()> {
        let state = &mut *self.shared.state();
        let mut timings = state.recorder.is_some().then(|| Timings::new(self.plan.steps.len()));
        let ticket = run(&mut *state.home, &self.call(), timings.as_mut())?;
        if let (Some(recorder), Some(timings)) = (&mut state.recorder, &timings) {
            recorder.forward(&self.shared.structure.graph, &self.plan, timings);
        }
        *self.kept() = ticket.map_or(Kept::Nothing, Kept::Activations);
        Ok(())
    }

    /// Takes what forward kept.
    fn activations(&self, version: u64) -> Result<Ticket> {
        let refuse = |reason: &str| Err(EngineError::Backward { reason: reason.into() });
        if version != self.pass.version {
            return refuse("the parameters have changed since the forward pass; run it again");
        }
        match std::mem::replace(&mut *self.kept(), Kept::Spent) {
            Kept::Activations(ticket) => Ok(ticket),
            Kept::Nothing => refuse("the forward pass kept nothing; ask it for a gradient"),
            Kept::Spent => {
                refuse("a forward pass can be run back once; add losses up before, or run it again")
            }
        }
    }

    /// Accumulates into the gradient; returns that of the images if they need one.
    fn run_backward(&self, joint: &[f32]) -> Result<Option<Vec<f32>>> {
        let mut images = self.plan.image_gradient.then(|| vec![0.0; self.pictures_len()]);
        self.backward_by(|home, call, ticket, written, timings| {
            home.backward(call, ticket, joint, written, images.as_deref_mut(), timings)
        })?;
        Ok(images)
    }

    /// A backward pass by `run`, with what is recorded of it.
    fn backward_by(
        &self,
        run: impl FnOnce(&mut dyn Home, &Call<'_>, Ticket, &mut [bool], Option<&mut Timings>) -> Result<()>,
    ) -> Result<()> {
        let state = &mut *self.shared.state();
        let ticket = self.activations(state.version)?;
        let mut timings = state.recorder.is_some().then(|| Timings::new(self.plan.steps.len()));
        let State { home, written, .. } = state;
        run(&mut **home, &self.call(), ticket, written, timings.as_mut())?;
        if let (Some(recorder), Some(timings)) = (&mut state.recorder, &timings) {
            recorder.backward(&self.shared.structure.graph, &self.plan, timings);
        }
        Ok(())
    }

    /// Values of all pictures.
    fn pictures_len(&self) -> usize {
        self.plan.batch * self.shared.structure.graph.input_shape().elements()
    }
}

impl CustomOp2 for NetOp {
    fn name(&self) -> &'static str {
        "network"
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, candle_core::Shape)> {
        let joint = self.run_forward(pixels(images, layout)?).map_err(candle_core::Error::wrap)?;
        let shape = candle_core::Shape::from(joint.len());
        Ok((CpuStorage::F32(joint), shape))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        images: &candle_core::CudaStorage,
        layout: &Layout,
        _: &candle_core::CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(candle_core::CudaStorage, candle_core::Shape)> {
        on_device::forward(self, images, layout)
    }

    fn bwd(
        &self,
        images: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        #[cfg(feature = "cuda")]
        if gradient.device().is_cuda() {
            return Ok((on_device::backward(self, images, &gradient)?, None));
        }
        let (storage, layout) = gradient.storage_and_layout();
        let (candle_core::Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("the outputs' gradient is not f32 on the CPU")
        };
        let of_images = self.run_backward(&values[start..end]).map_err(candle_core::Error::wrap)?;
        let of_images = of_images.map(|values| Tensor::from_vec(values, images.shape(), images.device()));
        // theta's gradient stays in the engine's own buffer.
        Ok((of_images.transpose()?, None))
    }
}
