//! A network's vectors in a GPU's memory, run by its kernels.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::CudaStream;

use super::constants::Constants;
use super::executor::Executor;
use super::kernels::{Kernels, Piece, Scalars, SquareSum, Vectors};
use super::memory::{Memory, bind, failed};
use super::recording::Recordings;
use super::slot::{Cotangent, Floats, Given, PlanId, Recorded, Slot};
use super::steps::{Gradients, Steps, scratch};
use super::{Format, Ptr};
use crate::buffer::Buffer;
use crate::home::{Call, Home, Structure, Ticket, Vector};
use crate::host::another_device;
use crate::memory::TrainingMemory;
use crate::optimizer::{Moments, Optimizer, Update};
use crate::plan::Plan;
use crate::run::Timings;
use crate::{Images, Result};

/// See the module.
pub(crate) struct OnGpu {
    executor: Arc<Executor>,
    vectors: Option<Parameters>,
    gradient: Option<Memory>,
    first: Option<Memory>,
    second: Option<Memory>,
    steps: u64,
    updating: Updating,
    plans: HashMap<PlanId, Planned>,
    kept: HashMap<Ticket, Slot>,
    tickets: u64,
}

/// Theta and the running statistics.
struct Parameters {
    theta: Memory,
    /// Theta in bf16, where maps are that.
    shadow: Option<Memory>,
    /// Whether theta has changed since the shadow was made.
    stale: bool,
    statistics: Memory,
    /// The statistics as they were before the first forward that moved them since the last update.
    before: Memory,
    moved: bool,
}

impl Parameters {
    /// Theta, theta in the format of the maps, and the statistics.
    fn addresses(&self) -> [Ptr; 3] {
        [&self.theta, self.shadow.as_ref().unwrap_or(&self.theta), &self.statistics].map(Memory::at)
    }
}

/// What an update reads beside the vectors.
#[derive(Default)]
struct Updating {
    /// The pieces with their flags, for segments that are active as said here.
    pieces: Option<(Vec<bool>, Memory, usize)>,
    scalars: Option<Memory>,
    squares: Option<Memory>,
}

/// A plan with what its runs work in.
struct Planned {
    /// Keeps the address its own.
    _plan: Arc<Plan>,
    constants: Arc<Constants>,
    idle: Vec<Slot>,
}

impl OnGpu {
    pub(crate) fn new(executor: &Arc<Executor>) -> Result<Self> {
        Ok(Self {
            executor: Arc::clone(executor),
            vectors: None,
            gradient: None,
            first: None,
            second: None,
            steps: 0,
            updating: Updating::default(),
            plans: HashMap::new(),
            kept: HashMap::new(),
            tickets: 0,
        })
    }

    /// Another network on the same stream: on two, nothing would order what both touch.
    fn of<'a>(&self, other: &'a dyn Any) -> Result<&'a Self> {
        let other = other.downcast_ref::<Self>().ok_or_else(another_device)?;
        if Arc::ptr_eq(&self.executor, &other.executor) { Ok(other) } else { Err(another_device()) }
    }

    /// See [`OnGpu::of`].
    fn of_mut<'a>(&self, other: &'a mut dyn Any) -> Result<&'a mut Self> {
        let other = other.downcast_mut::<Self>().ok_or_else(another_device)?;
        if Arc::ptr_eq(&self.executor, &other.executor) { Ok(other) } else { Err(another_device()) }
    }

    fn memory(&self, floats: usize) -> Result<Memory> {
        Memory::zeros(self.executor.stream(), 4 * floats)
    }

    fn parameters(&mut self) -> Result<&mut Parameters> {
        let stream = self.executor.stream();
        self.vectors.as_mut().ok_or_else(|| failed(stream, "the network has no weights yet"))
    }

    /// Makes the shadow what theta is.
    fn refresh(&mut self) -> Result<()> {
        let executor = Arc::clone(&self.executor);
        let parameters = self.parameters()?;
        if let (true, Some(shadow)) = (parameters.stale, &parameters.shadow) {
            let (theta, len) = (parameters.theta.at(), parameters.theta.floats());
            // SAFETY: both vectors have that length.
            unsafe { executor.kernels.convert(Format::Bf16, theta, shadow.at(), len)? };
        }
        parameters.stale = false;
        Ok(())
    }

    /// A plan, ready to run.
    fn planned(&mut self, call: &Call<'_>) -> Result<&mut Planned> {
        match self.plans.entry(Arc::as_ptr(call.plan) as PlanId) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                self.executor.prepare(call.plan)?;
                let constants = Arc::new(Constants::new(self.executor.stream(), call.plan)?);
                Ok(place.insert(Planned { _plan: Arc::clone(call.plan), constants, idle: Vec::new() }))
            }
        }
    }

    /// An idle slot of a plan, or a new one.
    fn take_slot(&mut self, call: &Call<'_>) -> Result<Slot> {
        let planned = self.planned(call)?;
        if let Some(slot) = planned.idle.pop() {
            return Ok(slot);
        }
        let constants = Arc::clone(&planned.constants);
        let (plan, stream) = (call.plan, self.executor.stream());
        let pictures = plan.batch * call.structure.graph.input_shape().elements();
        let picture_gradient = plan.image_gradient.then(|| self.memory(pictures)).transpose()?;
        Ok(Slot {
            plan: Arc::as_ptr(plan) as PlanId,
            arena: self.memory(plan.arena_len)?,
            pictures: self.memory(pictures)?,
            joint: self.memory(plan.output_len)?,
            picture_gradient,
            key: Memory::zeros(stream, 8)?,
            scratch: self.executor.scratch(scratch(plan))?,
            constants,
            recordings: Recordings::default(),
        })
    }

    fn give_back(&mut self, slot: Slot) {
        if let Some(planned) = self.plans.get_mut(&slot.plan) {
            planned.idle.push(slot);
        }
    }

    /// [`Home::forward`] with pictures and outputs on either side.
    pub(crate) fn run_forward(
        &mut self,
        call: &Call<'_>,
        given: Given<'_>,
        joint: Floats<'_>,
        timings: Option<&mut Timings>,
    ) -> Result<Option<Ticket>> {
        let executor = Arc::clone(&self.executor);
        bind(executor.stream())?;
        self.refresh()?;
        let mut slot = self.take_slot(call)?;
        let ran = self.forward_in(&mut slot, call, given, joint, timings);
        match ran {
            Ok(()) if call.keep => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.kept.insert(ticket, slot);
                Ok(Some(ticket))
            }
            ran => {
                self.give_back(slot);
                ran.map(|()| None)
            }
        }
    }

    fn forward_in(
        &mut self,
        slot: &mut Slot,
        call: &Call<'_>,
        given: Given<'_>,
        joint: Floats<'_>,
        timings: Option<&mut Timings>,
    ) -> Result<()> {
        let executor = Arc::clone(&self.executor);
        let pictures = slot.take(&executor, call, given)?;
        if call.update {
            self.save_statistics()?;
        }
        let (constants, convolutions) = (Arc::clone(&slot.constants), executor.convolutions());
        let (at, out) = (slot.addresses(self.parameters()?.addresses()), slot.joint.at());
        let steps = Steps::new(&executor, &convolutions, &constants, call, at);
        let launch = |mut timings: Option<&mut Timings>| {
            for index in 0..call.plan.steps.len() {
                let total = timings.as_deref_mut().map(|timings| &mut timings.forward[index]);
                // SAFETY: the addresses are those of a slot of this plan, and of vectors of its network.
                timed(executor.stream(), total, || unsafe { steps.forward(index, pictures) })?;
            }
            // SAFETY: as above.
            unsafe { steps.outputs(out) }
        };
        match timings {
            Some(timings) => launch(Some(timings))?,
            None => {
                let key = Recorded::Forward { update: call.update, pictures };
                slot.recordings.run(executor.stream(), key, || launch(None))?;
            }
        }
        slot.joint.give(joint)
    }

    /// Keeps the statistics of before a step that moves them.
    fn save_statistics(&mut self) -> Result<()> {
        let parameters = self.parameters()?;
        if !parameters.moved {
            parameters.before.copy_from(&parameters.statistics)?;
            parameters.moved = true;
        }
        Ok(())
    }

    /// [`Home::backward`] with gradients on either side.
    pub(crate) fn run_backward(
        &mut self,
        call: &Call<'_>,
        ticket: Ticket,
        joint: &Cotangent<'_>,
        written: &mut [bool],
        images: Option<Floats<'_>>,
        timings: Option<&mut Timings>,
    ) -> Result<()> {
        let Some(mut slot) = self.kept.remove(&ticket) else { return Ok(()) };
        bind(self.executor.stream())?;
        let ran = self.backward_in(&mut slot, call, joint, written, images, timings);
        self.give_back(slot);
        ran
    }

    fn backward_in(
        &mut self,
        slot: &mut Slot,
        call: &Call<'_>,
        joint: &Cotangent<'_>,
        written: &mut [bool],
        images: Option<Floats<'_>>,
        timings: Option<&mut Timings>,
    ) -> Result<()> {
        let executor = Arc::clone(&self.executor);
        joint.copy_to(&slot.joint)?;
        let gradient = self.gradient()?;
        let (constants, convolutions) = (Arc::clone(&slot.constants), executor.convolutions());
        let to_pictures = slot.picture_gradient.as_ref().map_or(Ptr::NONE, Memory::at);
        let (at, seeds) = (slot.addresses(self.parameters()?.addresses()), slot.joint.at());
        let steps = Steps::new(&executor, &convolutions, &constants, call, at);
        let launch = |written: &mut [bool], mut timings: Option<&mut Timings>| {
            // SAFETY: the addresses are those of a slot of this plan, and of vectors of its network.
            unsafe { steps.seeds(seeds)? };
            let mut gradients = Gradients { theta: gradient, written };
            for step in &call.plan.backward {
                let total = timings.as_deref_mut().map(|timings| &mut timings.backward[step.step]);
                // SAFETY: as above.
                timed(executor.stream(), total, || unsafe {
                    steps.backward(step, &mut gradients, to_pictures)
                })?;
            }
            Ok(())
        };
        match timings {
            Some(timings) => launch(written, Some(timings))?,
            None => {
                let key = Recorded::Backward { written: written.to_vec() };
                slot.recordings.run(executor.stream(), key, || launch(&mut written.to_vec(), None))?;
                for parameter in call.plan.trained() {
                    written[parameter] = true;
                }
            }
        }
        match (&slot.picture_gradient, images) {
            (Some(gradient), Some(images)) => gradient.give(images),
            _ => Ok(()),
        }
    }

    /// The gradient of theta, zeros at first.
    fn gradient(&mut self) -> Result<Ptr> {
        let bytes = self.parameters()?.theta.bytes();
        ready(&mut self.gradient, self.executor.stream(), bytes).map(Memory::at)
    }

    /// The pieces of theta with flags for the active segments, on the device.
    fn pieces(&mut self, structure: &Structure, active: &[bool]) -> Result<(Ptr, usize)> {
        if self.updating.pieces.as_ref().is_none_or(|(known, ..)| known != active) {
            let pieces: Vec<Piece> =
                structure.pieces.iter().map(|piece| piece.on_device(active[piece.segment()])).collect();
            let memory = match self.updating.pieces.take() {
                Some((_, memory, count)) if count == pieces.len() => memory,
                _ => Memory::zeros(self.executor.stream(), size_of_val(&pieces[..]))?,
            };
            memory.write(&pieces)?;
            self.updating.pieces = Some((active.to_vec(), memory, pieces.len()));
        }
        let pieces = self.updating.pieces.as_ref();
        Ok(pieces.map_or((Ptr::NONE, 0), |(_, memory, count)| (memory.at(), *count)))
    }

    /// Launches the sum of the gradient's squares; where it will lie.
    fn launch_squares(&mut self, structure: &Structure, active: &[bool]) -> Result<Ptr> {
        let (pieces, count) = self.pieces(structure, active)?;
        let executor = Arc::clone(&self.executor);
        let gradient = self.gradient()?;
        let place = &mut self.updating.squares;
        let squares = ready(place, executor.stream(), size_of::<SquareSum>())?.at();
        let scratch = executor.scratch(Kernels::square_sum_scratch(count))?;
        // SAFETY: the gradient is as long as the pieces say; the scratch memory is that of this count.
        unsafe { executor.kernels.square_sum(pieces, count, gradient, scratch, squares)? };
        Ok(squares)
    }
}

/// The block in `place`, made of zeros if there is none yet.
fn ready<'a>(place: &'a mut Option<Memory>, stream: &Arc<CudaStream>, bytes: usize) -> Result<&'a Memory> {
    Ok(match place {
        Some(memory) => memory,
        None => place.insert(Memory::zeros(stream, bytes)?),
    })
}

/// Runs `work`, and adds its time to `total` if there is one: the device is waited for then.
fn timed(
    stream: &Arc<CudaStream>,
    total: Option<&mut Duration>,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let Some(total) = total else { return work() };
    let wait = || stream.synchronize().map_err(|error| failed(stream, &error.to_string()));
    wait()?;
    let start = Instant::now();
    work()?;
    wait()?;
    *total += start.elapsed();
    Ok(())
}

impl Home for OnGpu {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn load(&mut self, theta: Buffer, statistics: Buffer) -> Result<()> {
        if self.vectors.is_none() {
            let bf16 = self.executor.maps() == Format::Bf16;
            let shadow = || Memory::zeros(self.executor.stream(), 2 * theta.len());
            self.vectors = Some(Parameters {
                theta: self.memory(theta.len())?,
                shadow: bf16.then(shadow).transpose()?,
                stale: true,
                statistics: self.memory(statistics.len())?,
                before: self.memory(statistics.len())?,
                moved: false,
            });
        }
        let parameters = self.parameters()?;
        parameters.theta.write(&theta[..])?;
        parameters.statistics.write(&statistics[..])?;
        parameters.stale = true;
        Ok(())
    }

    fn read(&self, vector: Vector) -> Result<Cow<'_, [f32]>> {
        let Some(parameters) = &self.vectors else { return Ok(Cow::Borrowed(&[])) };
        let memory = match vector {
            Vector::Theta => Some(&parameters.theta),
            Vector::Statistics => Some(&parameters.statistics),
            Vector::Gradient => self.gradient.as_ref(),
            Vector::First => self.first.as_ref(),
            Vector::Second => self.second.as_ref(),
        };
        let values = memory.map(|memory| memory.read(memory.floats())).transpose()?;
        Ok(values.unwrap_or_default().into())
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn load_moments(&mut self, moments: Moments) -> Result<()> {
        let stream = self.executor.stream();
        let upload = |buffer: &Option<Buffer>| {
            buffer.as_ref().map(|buffer| Memory::of(stream, &buffer[..])).transpose()
        };
        (self.first, self.second) = (upload(&moments.first)?, upload(&moments.second)?);
        self.steps = moments.steps;
        Ok(())
    }

    fn copy_from(&mut self, other: &dyn Home) -> Result<()> {
        let other = self.of(other.as_any())?;
        let Some(from) = &other.vectors else { return Ok(()) };
        let parameters = self.parameters()?;
        parameters.theta.copy_from(&from.theta)?;
        parameters.statistics.copy_from(&from.statistics)?;
        parameters.stale = true;
        Ok(())
    }

    fn forward(
        &mut self,
        call: &Call<'_>,
        images: Images<'_>,
        joint: &mut [f32],
        timings: Option<&mut Timings>,
    ) -> Result<Option<Ticket>> {
        self.run_forward(call, Given::Host(images), Floats::Host(joint), timings)
    }

    fn backward(
        &mut self,
        call: &Call<'_>,
        ticket: Ticket,
        joint: &[f32],
        written: &mut [bool],
        images: Option<&mut [f32]>,
        timings: Option<&mut Timings>,
    ) -> Result<()> {
        let (joint, images) = (Cotangent::Host(joint), images.map(Floats::Host));
        self.run_backward(call, ticket, &joint, written, images, timings)
    }

    fn release(&mut self, ticket: Ticket) {
        if let Some(slot) = self.kept.remove(&ticket) {
            self.give_back(slot);
        }
    }

    fn first_non_finite(&mut self, call: &Call<'_>, images: Images<'_>) -> Result<Option<usize>> {
        bind(self.executor.stream())?;
        self.refresh()?;
        let slot = self.take_slot(call)?;
        let found = self.look_for_non_finite(&slot, call, images);
        self.give_back(slot);
        found
    }

    fn discard_statistics(&mut self) -> Result<()> {
        let parameters = self.parameters()?;
        if parameters.moved {
            parameters.statistics.copy_from(&parameters.before)?;
            parameters.moved = false;
        }
        Ok(())
    }

    fn settle(&mut self) {
        if let Some(parameters) = &mut self.vectors {
            parameters.moved = false;
        }
    }

    fn square_sum(&mut self, structure: &Structure, active: &[bool]) -> Result<f64> {
        if self.gradient.is_none() {
            return Ok(0.0);
        }
        self.launch_squares(structure, active)?;
        let squares =
            self.updating.squares.as_ref().map(|squares| squares.read::<SquareSum>(1)).transpose()?;
        Ok(squares.map_or(0.0, |squares| if squares[0].finite == 1 { squares[0].sum } else { f64::NAN }))
    }

    fn update(
        &mut self,
        structure: &Structure,
        rule: &Update<'_>,
        average: Option<(&mut dyn Home, f32)>,
    ) -> Result<()> {
        let executor = Arc::clone(&self.executor);
        let gradient = self.gradient()?;
        let [first, second] = self.moments(rule.optimizer)?;
        let mut scalars =
            Scalars::new(rule.optimizer, rule.lr, rule.weight_decay, rule.scale, self.steps + 1);
        let mut squares = None;
        if let Some(largest) = rule.clip_norm {
            scalars.clip_norm = largest;
            squares = Some(self.launch_squares(structure, rule.active)?);
        }
        let followed = match average {
            None => Ptr::NONE,
            Some((average, decay)) => {
                scalars.average_decay = decay;
                let average = self.of_mut(average.as_any_mut())?;
                let followed = average.parameters()?;
                followed.statistics.copy_from(&self.parameters()?.statistics)?;
                followed.stale = true;
                followed.theta.at()
            }
        };
        let (pieces, count) = self.pieces(structure, rule.active)?;
        let scalars = self.scalars(scalars)?;
        let parameters = self.parameters()?;
        let vectors = Vectors {
            theta: parameters.theta.at(),
            gradient,
            first,
            second,
            average: followed,
            shadow: parameters.shadow.as_ref().map_or(Ptr::NONE, Memory::at),
        };
        // The update writes the shadow of what it moves; a shadow that was stale stays so, for the rest of it.
        // SAFETY: all vectors are as long as the pieces say.
        unsafe { executor.kernels.update(rule.optimizer, pieces, count, vectors, scalars, squares)? };
        self.steps += 1;
        Ok(())
    }

    fn memory(&self) -> TrainingMemory {
        let bytes = |memory: &Option<Memory>| memory.as_ref().map_or(0, |memory| memory.bytes() as u64);
        let slots = self.plans.values().flat_map(|planned| &planned.idle);
        let slots = slots.chain(self.kept.values());
        let parameters = self.vectors.as_ref();
        TrainingMemory {
            parameters: parameters
                .map_or(0, |parameters| parameters.theta.bytes() as u64 + bytes(&parameters.shadow)),
            statistics: parameters.map_or(0, |parameters| 2 * parameters.statistics.bytes() as u64),
            gradient: bytes(&self.gradient),
            moments: bytes(&self.first) + bytes(&self.second),
            average: 0,
            arena: slots.map(|slot| slot.arena.bytes() as u64).sum(),
        }
    }
}

impl OnGpu {
    /// What `optimizer` remembers, zeros at first; [`Ptr::NONE`] for a second moment that it has not.
    fn moments(&mut self, optimizer: Optimizer) -> Result<[Ptr; 2]> {
        let (bytes, stream) = (self.parameters()?.theta.bytes(), self.executor.stream());
        let first = ready(&mut self.first, stream, bytes)?.at();
        if optimizer.moments() < 2 {
            self.second = None;
            return Ok([first, Ptr::NONE]);
        }
        Ok([first, ready(&mut self.second, stream, bytes)?.at()])
    }

    fn scalars(&mut self, scalars: Scalars) -> Result<Ptr> {
        let memory = ready(&mut self.updating.scalars, self.executor.stream(), size_of::<Scalars>())?;
        memory.write(&[scalars])?;
        Ok(memory.at())
    }

    fn look_for_non_finite(
        &mut self,
        slot: &Slot,
        call: &Call<'_>,
        images: Images<'_>,
    ) -> Result<Option<usize>> {
        let executor = Arc::clone(&self.executor);
        let pictures = slot.take(&executor, call, Given::Host(images))?;
        let convolutions = executor.convolutions();
        let at = slot.addresses(self.parameters()?.addresses());
        let steps = Steps::new(&executor, &convolutions, &slot.constants, call, at);
        for (index, step) in call.plan.steps.iter().enumerate() {
            // SAFETY: the addresses are those of a slot of this plan, and of vectors of its network.
            unsafe { steps.forward(index, pictures)? };
            if !slot.is_finite(call.plan, step.kind.result())? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}
