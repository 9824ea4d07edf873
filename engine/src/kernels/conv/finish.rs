//! What is done to a sum while it is in a register: bias, residual, the cheap activations.
//!
//! Never here: sums.

use models::Activation;

use super::Epilogue;
use crate::simd::{self, Isa, Simd, dispatch};

/// What is done to a sum before it is stored: `bound(sum + bias + residual)`.
#[derive(Clone, Copy)]
pub struct Finish {
    /// Of the first column; null if there is none.
    pub bias: *const f32,
    /// Added to the result, where the first is written; null if there is none.
    pub residual: *const f32,
    pub bound: Bound,
    /// Add to `out` instead of overwriting it; then nothing else is done.
    pub accumulate: bool,
}

impl Finish {
    /// The sum as it is.
    pub const PLAIN: Self =
        Self { bias: std::ptr::null(), residual: std::ptr::null(), bound: Bound::Free, accumulate: false };

    /// Of an epilogue, as far as kernels do it: [`left_over`] does the rest. `bias` begins at channel `channel`.
    pub fn of(epilogue: &Epilogue<'_>, channel: usize, accumulate: bool) -> Self {
        let null = std::ptr::null();
        Self {
            bias: epilogue.bias.map_or(null, |bias| bias[channel..].as_ptr()),
            residual: epilogue.residual.map_or(null, <[f32]>::as_ptr),
            bound: Bound::of(epilogue.activation).unwrap_or(Bound::Free),
            accumulate,
        }
    }

    /// Where the residual of the first result lies, if there is one.
    pub fn residual(&self) -> Option<*const f32> {
        (!self.residual.is_null()).then_some(self.residual)
    }

    /// The same for results that begin `place` floats further in the output.
    pub fn at(self, place: usize) -> Self {
        if self.residual.is_null() {
            return self;
        }
        Self { residual: self.residual.wrapping_add(place), ..self }
    }

    /// What sums begin with: the bias of `count` channels from `start`.
    ///
    /// # Safety
    /// The bias, if there is one, has them.
    #[inline(always)]
    pub unsafe fn first<V: Simd>(&self, start: usize, count: usize) -> V {
        if self.bias.is_null() {
            return V::zero();
        }
        // SAFETY: the caller's promise.
        unsafe { V::load_partial(self.bias.wrapping_add(start), count) }
    }

    /// Writes a sum to `to`: a whole vector, or `count` lanes of it. `residual` is read if there is one.
    ///
    /// # Safety
    /// `to` is writable, and what is read is readable.
    #[inline(always)]
    pub unsafe fn put<V: Simd, const WHOLE: bool>(
        &self,
        mut value: V,
        to: *mut f32,
        residual: *const f32,
        count: usize,
    ) {
        let load = |from: *const f32| {
            // SAFETY: the caller's promise.
            unsafe { if WHOLE { V::load(from) } else { V::load_partial(from, count) } }
        };
        if self.accumulate {
            value = value.add(load(to));
        }
        if !self.residual.is_null() {
            value = value.add(load(residual));
        }
        let value = self.bound.apply(value);
        // SAFETY: the caller's promise.
        unsafe { if WHOLE { value.store(to) } else { value.store_partial(to, count) } }
    }
}

/// The activations that cost two or three instructions.
#[derive(Clone, Copy)]
pub enum Bound {
    Free,
    /// Clamped from below and above.
    Between(f32, f32),
    /// `x * min(max(x + 3, 0), 6) / 6`
    HardSwish,
}

impl Bound {
    /// The bound that is this activation, if there is one.
    pub fn of(activation: Option<Activation>) -> Option<Self> {
        match activation {
            None => Some(Bound::Free),
            Some(Activation::Relu) => Some(Bound::Between(0.0, f32::INFINITY)),
            Some(Activation::Relu6) => Some(Bound::Between(0.0, 6.0)),
            Some(Activation::HardSwish) => Some(Bound::HardSwish),
            Some(_) => None,
        }
    }

    /// What is not a number stays so.
    #[inline(always)]
    fn apply<V: Simd>(self, x: V) -> V {
        match self {
            Bound::Free => x,
            Bound::Between(low, high) => V::splat(high).min(V::splat(low).max(x)),
            Bound::HardSwish => simd::activate(Activation::HardSwish, x),
        }
    }
}

/// The activation of an epilogue, if kernels lack it.
pub fn left_over(epilogue: &Epilogue<'_>) -> Option<Activation> {
    epilogue.activation.filter(|&activation| Bound::of(Some(activation)).is_none())
}

/// `row = activation(row)`
pub fn activate(isa: Isa, activation: Activation, row: &mut [f32]) {
    dispatch!(isa, activate_kernel(row: &mut [f32], activation: Activation));
}

#[inline(always)]
fn activate_kernel<V: Simd>(row: &mut [f32], activation: Activation) {
    let to = row.as_mut_ptr();
    for start in (0..row.len()).step_by(V::LANES) {
        let count = V::LANES.min(row.len() - start);
        // SAFETY: `count` floats remain.
        unsafe {
            let value = V::load_partial(to.add(start), count);
            simd::activate(activation, value).store_partial(to.add(start), count);
        }
    }
}
