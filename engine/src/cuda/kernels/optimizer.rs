//! One update of theta from its gradient, as `crate::optimizer`, over f32 vectors on the device.

use super::{Argument, Grid, Kernels, arguments};
use crate::Result;
use crate::cuda::Ptr;
use crate::optimizer::{Optimizer, Rule, Update};

/// A piece of theta, as it lies on the device: what a block updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Piece {
    /// First float.
    pub offset: u32,
    /// Floats, at most `kernels::spans::CHUNK`.
    pub len: u32,
    /// [`Piece::ACTIVE`] and [`Piece::DECAYS`].
    pub flags: u32,
}

impl Piece {
    #[cfg(test)]
    pub(crate) const LARGEST: usize = crate::kernels::spans::CHUNK;
    /// It has a gradient and is not frozen.
    pub(crate) const ACTIVE: u32 = 1;
    /// Weight decay applies to it.
    pub(crate) const DECAYS: u32 = 2;
}

/// The numbers of an update, as they lie on the device, so that a captured graph takes the next step's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct Scalars {
    pub lr: f32,
    pub weight_decay: f32,
    /// Factor on the gradient before it is clipped.
    pub scale: f32,
    /// The largest norm of the scaled gradient; infinite for no clipping. Only where the sum of squares is given.
    pub clip_norm: f32,
    pub first_decay: f32,
    pub second_decay: f32,
    pub eps: f32,
    /// Adam's `lr / (1 - beta1^t)` and `1 / sqrt(1 - beta2^t)`.
    pub step_size: f32,
    pub second_scale: f32,
    /// Decay of the moving average.
    pub average_decay: f32,
    pub nesterov: u32,
    /// Whether a gradient that is not finite leaves everything as it is. Only where the sum of squares is given.
    pub skip: u32,
}

impl Scalars {
    /// For update number `steps`, counted from 1, without clipping, average and skipping.
    pub(crate) fn new(optimizer: Optimizer, lr: f32, weight_decay: f32, scale: f32, steps: u64) -> Self {
        let (pieces, active, clip_norm) = (&[][..], &[][..], None);
        let update = Update { optimizer, lr, weight_decay, scale, clip_norm, pieces, active };
        let rule = Rule::new(&update, steps);
        Self {
            lr: rule.lr,
            weight_decay: rule.decay,
            scale: rule.scale,
            clip_norm: f32::INFINITY,
            first_decay: rule.first_decay,
            second_decay: rule.second_decay,
            eps: rule.eps,
            step_size: rule.step_size,
            second_scale: rule.second_scale,
            average_decay: 0.0,
            nesterov: u32::from(rule.nesterov),
            skip: 0,
        }
    }
}

/// The gradient's sum of squares, as it lies on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct SquareSum {
    pub sum: f64,
    /// 1 if every number was finite, else 0.
    pub finite: u32,
    pub unused: u32,
}

/// The vectors of an update, in one layout.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Vectors {
    pub theta: Ptr,
    pub gradient: Ptr,
    /// Momentum, or Adam's first moment.
    pub first: Ptr,
    /// Adam's second moment; [`Ptr::NONE`] for SGD.
    pub second: Ptr,
    /// The moving average, or [`Ptr::NONE`].
    pub average: Ptr,
    /// Theta in bf16, or [`Ptr::NONE`].
    pub shadow: Ptr,
}

impl Argument for Vectors {}

impl Kernels {
    /// `optimizer`'s update, torch's, of the active pieces; the average follows in all. `scalars` is a [`Scalars`] on the
    /// device, `squares` a [`SquareSum`] there, for clipping and skipping.
    pub(crate) unsafe fn update(
        &self,
        optimizer: Optimizer,
        pieces: Ptr,
        count: usize,
        vectors: Vectors,
        scalars: Ptr,
        squares: Option<Ptr>,
    ) -> Result<()> {
        let function = match optimizer {
            Optimizer::Sgd { .. } => &self.functions.sgd,
            Optimizer::AdamW { .. } => &self.functions.adamw,
        };
        let (grid, squares) = (Grid([self.size("pieces", count)?, 1, 1]), squares.unwrap_or(Ptr::NONE));
        // SAFETY: the caller's promise.
        unsafe { self.launch(function, grid, arguments![pieces, vectors, scalars, squares]) }
    }

    /// Bytes of scratch memory that [`Kernels::square_sum`] needs.
    pub(crate) fn square_sum_scratch(count: usize) -> usize {
        8 * count
    }

    /// Sum of squares of the gradient's active pieces, in f64, added in order, into a [`SquareSum`].
    pub(crate) unsafe fn square_sum(
        &self,
        pieces: Ptr,
        count: usize,
        gradient: Ptr,
        scratch: Ptr,
        squares: Ptr,
    ) -> Result<()> {
        let count = self.size("pieces", count)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                &self.functions.square_parts,
                Grid([count, 1, 1]),
                arguments![pieces, gradient, scratch],
            )?;
            self.launch(&self.functions.square_total, Grid([1, 1, 1]), arguments![scratch, count, squares])
        }
    }
}
