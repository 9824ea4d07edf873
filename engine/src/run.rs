//! Runs a plan: forward over its steps, backward over their reverse, in one arena.
//!
//! Never here: what is fused, or where values lie; the plan has settled both.

mod backward;
mod forward;

use std::marker::PhantomData;
use std::time::{Duration, Instant};

#[cfg(feature = "candle")]
pub(crate) use backward::{Gradients, backward};
pub(crate) use forward::{Stage, Statistics, copy_outputs, first_non_finite, forward, observe};

use crate::plan::{Plan, ValueId};
use crate::pool::Pool;
use crate::random::Stream;

/// What every step of a run reads.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    pub pool: &'a Pool,
    pub plan: &'a Plan,
    /// Theta, or the folded weights.
    pub parameters: &'a [f32],
    /// Of (seed, step, pass).
    pub draws: Stream,
}

/// Time spent in each step of a plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timings {
    pub forward: Vec<Duration>,
    pub backward: Vec<Duration>,
}

impl Timings {
    /// Of a plan with this many steps.
    pub(crate) fn new(steps: usize) -> Self {
        Self { forward: vec![Duration::ZERO; steps], backward: vec![Duration::ZERO; steps] }
    }
}

/// Runs `work`, and adds its time to `total` if there is one.
fn timed<T>(total: Option<&mut Duration>, work: impl FnOnce() -> T) -> T {
    match total {
        None => work(),
        Some(total) => {
            let start = Instant::now();
            let result = work();
            *total += start.elapsed();
            result
        }
    }
}

/// The values of a plan in their arena.
#[derive(Clone, Copy)]
struct Values<'a> {
    base: *mut f32,
    plan: &'a Plan,
    _arena: PhantomData<&'a mut [f32]>,
}

impl<'a> Values<'a> {
    fn new(plan: &'a Plan, arena: &'a mut [f32]) -> Self {
        assert!(
            arena.len() >= plan.arena_len,
            "arena of {} floats, the plan needs {}",
            arena.len(),
            plan.arena_len
        );
        Self { base: arena.as_mut_ptr(), plan, _arena: PhantomData }
    }

    /// A value to read.
    ///
    /// # Safety
    /// No slice from [`Values::write`] that overlaps it is alive. The planner gives values that a step touches places
    /// that do not overlap, but for an in-place pair, so it is enough that a step does not write what it reads.
    unsafe fn read(&self, value: ValueId) -> &'a [f32] {
        let place = self.plan.place(value);
        // SAFETY: the place lies within the arena, which is borrowed for 'a; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.base.add(place.offset), place.len) }
    }

    /// A value to write.
    ///
    /// # Safety
    /// As for [`Values::read`], for any other slice of it.
    #[allow(clippy::mut_from_ref)] // the arena is behind the raw pointer
    unsafe fn write(&self, value: ValueId) -> &'a mut [f32] {
        let place = self.plan.place(value);
        // SAFETY: as in `read`.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(place.offset), place.len) }
    }

    fn same_place(&self, a: ValueId, b: ValueId) -> bool {
        self.plan.place(a).offset == self.plan.place(b).offset
    }
}
