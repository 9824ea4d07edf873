//! Batch normalization with what follows it, as `crate::kernels::norm`.

use models::Activation;

use super::{Applied, Grid, Kernels, Sums, Target, arguments};
use crate::Result;
use crate::buffer::rounded;
use crate::cuda::{Format, Ptr};
use crate::kernels::norm::Rows;

/// What forward keeps for backward, f32 `[channels]` each: in [`Kernels::normalize`], `y = a z + b`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saved {
    pub mean: Ptr,
    /// One over the deviation.
    pub inverse: Ptr,
    pub a: Ptr,
    pub b: Ptr,
}

impl Saved {
    /// Four vectors one behind the other, each rounded up to a cache line: [`Saved::len`] floats.
    pub(crate) fn at(start: Ptr, channels: usize) -> Self {
        let vector = |index: usize| start.offset(4 * index * rounded(channels));
        Self { mean: vector(0), inverse: vector(1), a: vector(2), b: vector(3) }
    }

    /// Floats that they take; no more than the processor's `Norm::saved_len`.
    #[cfg(test)]
    pub(crate) fn len(channels: usize) -> usize {
        4 * rounded(channels)
    }
}

/// A normalization's parameters, f32 `[channels]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine {
    /// Added to the variance.
    pub eps: f32,
    pub scale: Ptr,
    pub shift: Ptr,
}

/// Running statistics, f32 `[channels]`, that follow the batch's as torch's do: the variance follows the unbiased one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving {
    pub mean: Ptr,
    pub variance: Ptr,
    pub momentum: f32,
}

/// What is added and applied after the normalization.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct After {
    /// Stochastic depth's factor of every sample, f32.
    pub factors: Option<Ptr>,
    /// Added before the activation.
    pub residual: Option<Ptr>,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// Where the activation's derivative comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slope {
    /// From the result.
    Output(Ptr),
    /// From the argument, computed again from `z` and the residual.
    Recomputed {
        /// What was added, if anything.
        residual: Option<Ptr>,
    },
}

/// What backward reads of forward.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backward {
    /// The normalization's input.
    pub z: Ptr,
    pub saved: Saved,
    /// The activation and where its derivative comes from.
    pub activation: Option<(Activation, Slope)>,
    /// Stochastic depth's factor of every sample, f32.
    pub factors: Option<Ptr>,
}

/// Scratch memory: three tables for [`Kernels::norm_backward_apply`], then the parts of two sums.
struct Work {
    coefficients: Ptr,
    parts: Ptr,
}

impl Work {
    fn at(scratch: Ptr, channels: usize) -> Self {
        Self { coefficients: scratch, parts: scratch.offset(4 * 3 * rounded(channels)) }
    }
}

impl Kernels {
    /// Bytes of scratch memory that either direction of a normalization needs; backward's three kernels must find it
    /// as the one before left it.
    pub(crate) fn norm_scratch(rows: Rows) -> usize {
        4 * (3 * rounded(rows.channels) + 2 * Sums::of(rows.count(), rows.channels).parts * rows.channels)
    }

    /// The batch's mean and variance, what [`Kernels::normalize`] and backward read of them, and the running
    /// statistics moved if there are some: `statistics`, `prepare` and `move_statistics` of the processor.
    #[allow(clippy::too_many_arguments)] // a map, what is read and written along with it, room
    pub(crate) unsafe fn norm_batch(
        &self,
        format: Format,
        rows: Rows,
        z: Ptr,
        affine: &Affine,
        running: Option<&Moving>,
        saved: Saved,
        scratch: Ptr,
    ) -> Result<()> {
        let parts = Work::at(scratch, rows.channels).parts;
        let sums = self.sum_sizes(format, rows.count(), rows.channels, &[z])?;
        let count = rows.count() as f64;
        let unbiased = (count / (count - 1.0).max(1.0)) as f32;
        let nothing = Moving { mean: Ptr::NONE, variance: Ptr::NONE, momentum: 0.0 };
        let moving = running.unwrap_or(&nothing);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.moments.of(format),
                sums.grid,
                arguments![z, parts, sums.rows, sums.part, sums.columns, sums.lanes, sums.wide],
            )?;
            let first = (z, u32::from(format == Format::Bf16));
            self.launch(
                &self.functions.norm_settle,
                Sums::total(rows.channels),
                arguments![
                    parts,
                    sums.parts,
                    sums.channels,
                    sums.rows,
                    first.0,
                    first.1,
                    affine.eps,
                    affine.scale,
                    affine.shift,
                    saved.mean,
                    saved.inverse,
                    saved.a,
                    saved.b,
                    moving.mean,
                    moving.variance,
                    moving.momentum,
                    unbiased,
                ],
            )
        }
    }

    /// What [`Kernels::normalize`] and backward read of the running statistics.
    pub(crate) unsafe fn norm_running(
        &self,
        channels: usize,
        mean: Ptr,
        variance: Ptr,
        affine: &Affine,
        saved: Saved,
    ) -> Result<()> {
        let (grid, channels) = (Grid::flat(channels), self.size("channels", channels)?);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                &self.functions.norm_prepare,
                grid,
                arguments![
                    mean,
                    variance,
                    channels,
                    affine.eps,
                    affine.scale,
                    affine.shift,
                    saved.mean,
                    saved.inverse,
                    saved.a,
                    saved.b,
                ],
            )
        }
    }

    /// `y = activation(factor * (a z + b) + residual)`; reads `a` and `b` of `saved` alone. `y` may be `z` or the
    /// residual.
    pub(crate) unsafe fn normalize(
        &self,
        format: Format,
        rows: Rows,
        z: Ptr,
        saved: Saved,
        after: &After,
        y: Ptr,
    ) -> Result<()> {
        let residual = after.residual.unwrap_or(Ptr::NONE);
        let factors = after.factors.unwrap_or(Ptr::NONE);
        let map = self.map_sizes(format, rows, &[z, saved.a, saved.b, residual, y])?;
        let applied = Applied::of(after.activation);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.normalize.of(format),
                map.grid,
                arguments![
                    applied,
                    z,
                    saved.a,
                    saved.b,
                    factors,
                    residual,
                    y,
                    map.len,
                    map.columns,
                    map.positions,
                    map.wide,
                ],
            )
        }
    }

    /// Passes `dy` back through the activation, in place, hands it to the residual, and sums it for every channel. The
    /// sums wait in `scratch` for [`Kernels::norm_backward_parameters`].
    pub(crate) unsafe fn norm_backward_sums(
        &self,
        format: Format,
        rows: Rows,
        pass: &Backward,
        dy: Ptr,
        residual: Option<Target>,
        scratch: Ptr,
    ) -> Result<()> {
        let parts = Work::at(scratch, rows.channels).parts;
        let (output, added) = match pass.activation {
            Some((_, Slope::Output(y))) => (y, Ptr::NONE),
            Some((_, Slope::Recomputed { residual })) => (Ptr::NONE, residual.unwrap_or(Ptr::NONE)),
            None => (Ptr::NONE, Ptr::NONE),
        };
        let onward = residual.unwrap_or(Target::set(Ptr::NONE));
        let (factors, kept) = (pass.factors.unwrap_or(Ptr::NONE), pass.saved);
        let sums = self.sum_sizes(
            format,
            rows.count(),
            rows.channels,
            &[pass.z, kept.mean, kept.a, kept.b, dy, output, added, onward.at],
        )?;
        let positions = self.size("positions", rows.positions)?;
        let applied = Applied::of(pass.activation.map(|(activation, _)| activation));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.norm_sums.of(format),
                sums.grid,
                arguments![
                    applied,
                    pass.z,
                    kept.mean,
                    kept.a,
                    kept.b,
                    output,
                    added,
                    factors,
                    dy,
                    onward.at,
                    u32::from(onward.add),
                    parts,
                    sums.rows,
                    sums.part,
                    positions,
                    sums.columns,
                    sums.lanes,
                    sums.wide,
                ],
            )
        }
    }

    /// Gradients of scale and shift, f32, if they need any, and what [`Kernels::norm_backward_apply`] reads. `batch`
    /// says whether the statistics were the batch's, and therefore carry gradient.
    pub(crate) unsafe fn norm_backward_parameters(
        &self,
        rows: Rows,
        saved: Saved,
        batch: bool,
        scale: Ptr,
        gradients: Option<[Target; 2]>,
        scratch: Ptr,
    ) -> Result<()> {
        let Work { coefficients, parts } = Work::at(scratch, rows.channels);
        let division = Sums::of(rows.count(), rows.channels).parts as u32;
        let [dscale, dshift] = gradients.unwrap_or([Target::set(Ptr::NONE); 2]);
        let (count, channels) = (self.size("rows", rows.count())?, self.size("channels", rows.channels)?);
        let line = self.size("channels", rounded(rows.channels))?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                &self.functions.norm_parameters,
                Sums::total(rows.channels),
                arguments![
                    parts,
                    division,
                    channels,
                    count,
                    u32::from(batch),
                    saved.inverse,
                    scale,
                    dscale.at,
                    u32::from(dscale.add),
                    dshift.at,
                    u32::from(dshift.add),
                    coefficients,
                    line,
                ],
            )
        }
    }

    /// The input's gradient, from what [`Kernels::norm_backward_sums`] left in `dy`. It replaces `dy` if `dz` is
    /// `None`.
    pub(crate) unsafe fn norm_backward_apply(
        &self,
        format: Format,
        rows: Rows,
        pass: &Backward,
        dy: Ptr,
        dz: Option<Target>,
        scratch: Ptr,
    ) -> Result<()> {
        let dz = dz.unwrap_or(Target::set(dy));
        let factors = pass.factors.unwrap_or(Ptr::NONE);
        let coefficients = Work::at(scratch, rows.channels).coefficients;
        let map = self.map_sizes(format, rows, &[pass.z, pass.saved.mean, coefficients, dy, dz.at])?;
        let line = self.size("channels", rounded(rows.channels))?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.norm_apply.of(format),
                map.grid,
                arguments![
                    pass.z,
                    pass.saved.mean,
                    coefficients,
                    line,
                    factors,
                    dy,
                    dz.at,
                    u32::from(dz.add),
                    map.len,
                    map.columns,
                    map.positions,
                    map.wide,
                ],
            )
        }
    }
}
