//! A network's vectors in this machine's memory, run by the processor's kernels.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;

use crate::buffer::Buffer;
use crate::home::{Call, Home, Structure, Ticket, Vector};
use crate::memory::TrainingMemory;
use crate::optimizer::{Moments, Update, square_sum, update};
use crate::run::{Gradients, Run, Statistics, Timings, backward, copy_outputs, first_non_finite, forward};
use crate::{EngineError, Images, Result};

/// See the module.
#[derive(Default)]
pub(crate) struct Host {
    theta: Buffer,
    statistics: Buffer,
    /// The statistics before the first forward that moved them since the last update.
    statistics_before: Option<Buffer>,
    gradient: Buffer,
    moments: Moments,
    /// Theta with batch norm folded in, while neither has changed.
    folded: Option<Buffer>,
    idle: Vec<Buffer>,
    kept: HashMap<Ticket, Buffer>,
    tickets: u64,
}

impl Host {
    /// The smallest idle arena of at least `len` floats, or a new one in place of the smallest idle.
    fn take_arena(&mut self, len: usize) -> Buffer {
        self.idle.sort_by_key(|arena| arena.len());
        let fits = self.idle.partition_point(|arena| arena.len() < len);
        if fits < self.idle.len() {
            return self.idle.remove(fits);
        }
        if !self.idle.is_empty() {
            self.idle.remove(0);
        }
        Buffer::zeros(len)
    }

    fn of(other: &dyn Any) -> Result<&Self> {
        other.downcast_ref().ok_or_else(another_device)
    }
}

/// Two networks that were to work together live on different devices.
pub(crate) fn another_device() -> EngineError {
    EngineError::Device {
        device: "of the other network".into(),
        reason: "both networks must live on the same device, made with the same runtime".into(),
    }
}

fn run<'a>(call: &Call<'a>, parameters: &'a [f32]) -> Run<'a> {
    Run { pool: call.structure.runtime.pool(), plan: call.plan, parameters, draws: call.draws }
}

impl Home for Host {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn load(&mut self, theta: Buffer, statistics: Buffer) -> Result<()> {
        (self.theta, self.statistics, self.folded) = (theta, statistics, None);
        Ok(())
    }

    fn read(&self, vector: Vector) -> Result<Cow<'_, [f32]>> {
        let values: &[f32] = match vector {
            Vector::Theta => &self.theta,
            Vector::Statistics => &self.statistics,
            Vector::Gradient => &self.gradient,
            Vector::First => self.moments.first.as_deref().unwrap_or_default(),
            Vector::Second => self.moments.second.as_deref().unwrap_or_default(),
        };
        Ok(values.into())
    }

    fn steps(&self) -> u64 {
        self.moments.steps
    }

    fn load_moments(&mut self, moments: Moments) -> Result<()> {
        self.moments = moments;
        Ok(())
    }

    fn copy_from(&mut self, other: &dyn Home) -> Result<()> {
        let other = Self::of(other.as_any())?;
        self.theta.copy_from_slice(&other.theta);
        self.statistics.copy_from_slice(&other.statistics);
        self.folded = None;
        Ok(())
    }

    fn forward(
        &mut self,
        call: &Call<'_>,
        images: Images<'_>,
        joint: &mut [f32],
        timings: Option<&mut Timings>,
    ) -> Result<Option<Ticket>> {
        let mut arena = self.take_arena(call.plan.arena_len);
        if call.folded {
            let Structure { graph, table, folding, runtime, .. } = call.structure;
            let fold = || folding.fold(runtime.pool(), graph, table, &self.theta, &self.statistics);
            let run = run(call, self.folded.get_or_insert_with(fold));
            forward(&run, &mut arena, images, Statistics::Keep(&[]), timings);
            copy_outputs(&run, &mut arena, joint);
        } else {
            let run = run(call, &self.theta);
            let statistics = if call.update {
                self.statistics_before.get_or_insert_with(|| self.statistics.clone());
                self.folded = None;
                Statistics::Update(&mut self.statistics)
            } else {
                Statistics::Keep(&self.statistics)
            };
            forward(&run, &mut arena, images, statistics, timings);
            copy_outputs(&run, &mut arena, joint);
        }
        if !call.keep {
            self.idle.push(arena);
            return Ok(None);
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.kept.insert(ticket, arena);
        Ok(Some(ticket))
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
        let Some(mut arena) = self.kept.remove(&ticket) else { return Ok(()) };
        if self.gradient.is_empty() {
            self.gradient = Buffer::zeros(self.theta.len());
        }
        let mut gradients = Gradients { theta: &mut self.gradient, written, images };
        backward(&run(call, &self.theta), &mut arena, joint, &mut gradients, timings);
        self.idle.push(arena);
        Ok(())
    }

    fn release(&mut self, ticket: Ticket) {
        self.idle.extend(self.kept.remove(&ticket));
    }

    fn first_non_finite(&mut self, call: &Call<'_>, images: Images<'_>) -> Result<Option<usize>> {
        let mut arena = self.take_arena(call.plan.arena_len);
        let found = first_non_finite(&run(call, &self.theta), &mut arena, images, &self.statistics);
        self.idle.push(arena);
        Ok(found)
    }

    fn discard_statistics(&mut self) -> Result<()> {
        if let Some(before) = self.statistics_before.take() {
            self.statistics = before;
            self.folded = None;
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.statistics_before = None;
    }

    fn square_sum(&mut self, structure: &Structure, active: &[bool]) -> Result<f64> {
        Ok(square_sum(structure.runtime.pool(), &structure.pieces, active, &self.gradient))
    }

    fn update(
        &mut self,
        structure: &Structure,
        rule: &Update<'_>,
        average: Option<(&mut dyn Home, f32)>,
    ) -> Result<()> {
        let average = match average {
            None => None,
            Some((average, decay)) => {
                let average: &mut Self = average.as_any_mut().downcast_mut().ok_or_else(another_device)?;
                average.statistics.copy_from_slice(&self.statistics);
                average.folded = None;
                Some((&mut *average.theta, decay))
            }
        };
        let pool = structure.runtime.pool();
        let squares = || square_sum(pool, rule.pieces, rule.active, &self.gradient);
        let rule = &Update { scale: rule.scale * rule.clip(squares), clip_norm: None, ..*rule };
        update(pool, rule, &mut self.theta, &self.gradient, &mut self.moments, average);
        self.folded = None;
        Ok(())
    }

    fn memory(&self) -> TrainingMemory {
        let bytes = |buffer: &Buffer| (buffer.len() * size_of::<f32>()) as u64;
        let optional = |buffer: &Option<Buffer>| buffer.as_ref().map_or(0, bytes);
        TrainingMemory {
            parameters: bytes(&self.theta),
            statistics: bytes(&self.statistics) + optional(&self.statistics_before),
            gradient: bytes(&self.gradient),
            moments: optional(&self.moments.first) + optional(&self.moments.second),
            average: 0,
            arena: self.idle.iter().chain(self.kept.values()).map(bytes).sum(),
        }
    }
}
