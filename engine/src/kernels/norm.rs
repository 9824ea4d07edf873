//! Batch normalization with what follows it in one pass: `y = activation(factor * (a z + b) + residual)`, where `a` and
//! `b` come from the batch's or the running statistics, and `factor` is stochastic depth's, one per sample.
//!
//! Sums over the batch are taken by parts that depend on the sizes alone and added in order, in f64, so they do not
//! depend on the thread count.

use models::Activation;

use crate::buffer::rounded;
use crate::kernels::activation::{Function, dispatch_activation, slope_of};
use crate::kernels::spans::{At, CHUNK, WIDEST, fill_table, lanes_and_table, period, table_len};
use crate::pool::{Disjoint, Pool};
use crate::simd::{Simd, dispatch};

/// A batch seen by kernels that treat every channel alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Pictures.
    pub samples: usize,
    /// Positions of each map, 1 for vectors.
    pub positions: usize,
    /// Channels, innermost.
    pub channels: usize,
}

impl Rows {
    /// All elements.
    pub fn len(self) -> usize {
        self.count() * self.channels
    }

    /// Values per channel.
    pub fn count(self) -> usize {
        self.samples * self.positions
    }
}

/// A part of the work: where it starts, its length, and where in a table it starts.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    len: usize,
    phase: usize,
}

/// Sizes of a normalization and its division into parts: chunks, or samples where each has a factor of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// The batch.
    pub rows: Rows,
    /// Whether stochastic depth gives every sample a factor.
    pub by_sample: bool,
}

impl Norm {
    fn part_len(&self) -> usize {
        if self.by_sample {
            return self.rows.positions * self.rows.channels;
        }
        let period = period(self.rows.channels);
        period * (CHUNK / period).max(1)
    }

    fn parts(&self) -> usize {
        self.rows.len().div_ceil(self.part_len())
    }

    fn part(&self, index: usize) -> Part {
        let start = index * self.part_len();
        let len = self.part_len().min(self.rows.len() - start);
        Part { start, len, phase: start % period(self.rows.channels) }
    }

    fn table(&self) -> usize {
        rounded(table_len(self.rows.channels))
    }

    /// Floats kept from forward to backward: mean, inverse deviation and the tables of `a` and `b`.
    pub fn saved_len(&self) -> usize {
        2 * rounded(self.rows.channels) + 2 * self.table()
    }

    /// Floats of working memory that either direction needs.
    pub fn work_len(&self) -> usize {
        (3 + 2 * self.parts()) * self.table() + 2 * rounded(self.rows.channels)
    }

    /// The working memory of the sums, and room for mean and variance.
    pub fn split_work<'a>(&self, work: &'a mut [f32]) -> (&'a mut [f32], [&'a mut [f32]; 2]) {
        let (work, rest) = work.split_at_mut((3 + 2 * self.parts()) * self.table());
        let (mean, variance) = rest.split_at_mut(rounded(self.rows.channels));
        (work, [&mut mean[..self.rows.channels], &mut variance[..self.rows.channels]])
    }

    fn saved<'a>(&self, saved: &'a [f32]) -> Saved<'a> {
        let line = rounded(self.rows.channels);
        let (mean, rest) = saved.split_at(line);
        let (inverse, rest) = rest.split_at(line);
        let (a, b) = rest.split_at(self.table());
        Saved { mean, inverse, a, b }
    }
}

/// What forward leaves for backward.
struct Saved<'a> {
    mean: &'a [f32],
    inverse: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
}

/// The batch's mean and biased variance of every channel, into `mean` and `variance`.
pub fn statistics(
    pool: &Pool,
    norm: &Norm,
    z: &[f32],
    work: &mut [f32],
    mean: &mut [f32],
    variance: &mut [f32],
) {
    let (channels, table) = (norm.rows.channels, norm.table());
    let (tables, partials) = work.split_at_mut(3 * table);
    // Sums of differences from the first row: subtracting a typical value keeps the variance's digits.
    let origin = &mut tables[..table];
    fill_table(&mut origin[..table_len(channels)], channels, |channel| z[channel]);
    let origin = &*origin;
    let shared = Disjoint::new(partials);
    let isa = pool.isa();
    pool.run(norm.parts(), &|index| {
        let part = norm.part(index);
        // SAFETY: every part has its own partial sums.
        let sums = unsafe { shared.part(index * 2 * table, 2 * table) };
        let z = &z[part.start..part.start + part.len];
        let phase = part.phase;
        dispatch!(isa, moments_kernel(z: &[f32], phase: usize, origin: &[f32], sums: &mut [f32]));
    });
    let count = norm.rows.count() as f64;
    for channel in 0..channels {
        let [first, second] = total(norm, partials, channel);
        let offset = first / count;
        mean[channel] = (f64::from(origin[channel]) + offset) as f32;
        variance[channel] = ((second / count - offset * offset).max(0.0)) as f32;
    }
}

/// Both sums of a channel over all parts, in order.
fn total(norm: &Norm, partials: &[f32], channel: usize) -> [f64; 2] {
    let (table, used) = (norm.table(), table_len(norm.rows.channels));
    let mut totals = [0.0; 2];
    for sums in partials.chunks_exact(2 * table).take(norm.parts()) {
        for (which, total) in totals.iter_mut().enumerate() {
            let sums = &sums[which * table..which * table + used];
            *total +=
                sums[channel..].iter().step_by(norm.rows.channels).map(|&sum| f64::from(sum)).sum::<f64>();
        }
    }
    totals
}

/// Periods that a sum takes in before it goes back to memory.
const TOGETHER: usize = 4;

#[inline(always)]
fn moments_kernel<V: Simd>(z: &[f32], phase: usize, origin: &[f32], sums: &mut [f32]) {
    let period = sums.len() / 2 - WIDEST;
    sums.fill(0.0);
    let (first, second) = sums.split_at_mut(sums.len() / 2);
    let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
    let (len, z, origin) = (z.len(), z.as_ptr(), origin.as_ptr());
    let mut done = 0;
    while phase == 0 && done + TOGETHER * period <= len {
        for p in (0..period).step_by(V::LANES) {
            // SAFETY: four periods lie within the part; the tables and sums are longer than a period.
            unsafe {
                let origin = V::load(origin.add(p));
                let (mut sum, mut squares) = (V::load(first.add(p)), V::load(second.add(p)));
                for row in 0..TOGETHER {
                    let difference = V::load(z.add(done + row * period + p)).sub(origin);
                    sum = sum.add(difference);
                    squares = difference.mul_add(difference, squares);
                }
                sum.store(first.add(p));
                squares.store(second.add(p));
            }
        }
        done += TOGETHER * period;
    }
    lanes_and_table!(V, len - done, phase, period, (at, p) => {
        // SAFETY: `at` lies within the rest of the part; the tables and sums reach a vector beyond the period. Lanes
        // beyond the part's end hold zero and the origin is not read into them, so they add nothing.
        unsafe {
            let difference: V = at.load::<V>(z.add(done)).sub(at.load_at(origin.add(p)));
            V::load(first.add(p)).add(difference).store(first.add(p));
            difference.mul_add(difference, V::load(second.add(p))).store(second.add(p));
        }
    });
}

/// Where mean and variance of a forward pass come from, and the affine parameters.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// Mean of each channel.
    pub mean: &'a [f32],
    /// Biased variance of each channel (the running one is unbiased, as torch's).
    pub variance: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Batch norm's weight.
    pub scale: &'a [f32],
    /// Batch norm's bias.
    pub shift: &'a [f32],
}

/// Writes what [`normalize`] and [`backward`] read.
pub fn prepare(norm: &Norm, affine: &Affine<'_>, saved: &mut [f32]) {
    let (channels, line, table) = (norm.rows.channels, rounded(norm.rows.channels), norm.table());
    let (mean, rest) = saved.split_at_mut(line);
    let (inverse, rest) = rest.split_at_mut(line);
    let (a, b) = rest.split_at_mut(table);
    mean[..channels].copy_from_slice(&affine.mean[..channels]);
    for (inverse, variance) in inverse.iter_mut().zip(&affine.variance[..channels]) {
        *inverse = (1.0 / (f64::from(*variance) + f64::from(affine.eps)).sqrt()) as f32;
    }
    let used = table_len(channels);
    fill_table(&mut a[..used], channels, |channel| affine.scale[channel] * inverse[channel]);
    let a = &*a;
    fill_table(&mut b[..used], channels, |channel| affine.shift[channel] - a[channel] * affine.mean[channel]);
}

/// What is added and applied after the normalization.
#[derive(Clone, Copy, Debug, Default)]
pub struct After<'a> {
    /// Stochastic depth's factor of every sample.
    pub factors: Option<&'a [f32]>,
    /// Added before the activation.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Option<Activation>,
}

/// `y = activation(factor * (a z + b) + residual)`.
pub fn normalize(pool: &Pool, norm: &Norm, z: &[f32], saved: &[f32], after: &After<'_>, y: &mut [f32]) {
    let saved = norm.saved(saved);
    let (isa, slope, activation) = (pool.isa(), slope_of(after.activation), after.activation);
    let period = period(norm.rows.channels);
    let (a, b) = (saved.a, saved.b);
    let parts = Disjoint::new(y);
    pool.run(norm.parts(), &|index| {
        let part = norm.part(index);
        // SAFETY: parts do not overlap.
        let y = unsafe { parts.part(part.start, part.len) };
        let span = Span {
            phase: part.phase,
            period,
            factor: after.factors.map_or(1.0, |factors| factors[index]),
            residual: after.residual.map(|residual| &residual[part.start..part.start + part.len]),
        };
        let z = &z[part.start..part.start + part.len];
        dispatch_activation!(
            activation,
            isa,
            normalize_kernel(z: &[f32], a: &[f32], b: &[f32], span: Span<'_>, slope: f32, y: &mut [f32])
        );
    });
}

/// A part as its kernel sees it.
#[derive(Clone, Copy)]
struct Span<'a> {
    phase: usize,
    period: usize,
    factor: f32,
    residual: Option<&'a [f32]>,
}

#[inline(always)]
fn normalize_kernel<V: Simd, F: Function>(
    z: &[f32],
    a: &[f32],
    b: &[f32],
    span: Span<'_>,
    slope: f32,
    y: &mut [f32],
) {
    let (len, slope, factor) = (y.len(), V::splat(slope), V::splat(span.factor));
    let residual = span.residual.map(<[f32]>::as_ptr);
    let (z, a, b, y) = (z.as_ptr(), a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    lanes_and_table!(V, len, span.phase, span.period, (at, p) => {
        // SAFETY: all slices have the part's length; tables reach a vector beyond the period.
        unsafe {
            let mut value = at.load::<V>(z).mul_add(V::load(a.add(p)), V::load(b.add(p))).mul(factor);
            if let Some(residual) = residual {
                value = value.add(at.load(residual));
            }
            at.store(F::value(value, slope), y);
        }
    });
}

/// Where the activation's derivative comes from.
#[derive(Clone, Copy, Debug)]
pub enum Slope<'a> {
    /// From the result.
    Output(&'a [f32]),
    /// From the argument, computed again from `z` and the residual.
    Recomputed {
        /// What was added, if anything.
        residual: Option<&'a [f32]>,
    },
}

/// Where a gradient goes.
#[derive(Debug)]
pub struct Target<'a> {
    /// The gradient.
    pub values: &'a mut [f32],
    /// Whether to add to what is there.
    pub add: bool,
}

/// The first pass of backward: what [`backward_sums`] reads and writes.
pub struct Backward<'a> {
    /// The normalization's input.
    pub z: &'a [f32],
    /// Saved by [`prepare`].
    pub saved: &'a [f32],
    /// The activation and where its derivative comes from.
    pub activation: Option<(Activation, Slope<'a>)>,
    /// Stochastic depth's factor of every sample.
    pub factors: Option<&'a [f32]>,
}

/// Passes `dy` back through the activation, in place, hands it to the residual, and sums it for every channel. Returns
/// nothing: the sums wait in `work` for [`parameter_gradients`] and [`backward_apply`].
pub fn backward_sums(
    pool: &Pool,
    norm: &Norm,
    pass: &Backward<'_>,
    dy: &mut [f32],
    residual: Option<Target<'_>>,
    work: &mut [f32],
) {
    let (channels, table) = (norm.rows.channels, norm.table());
    let saved = norm.saved(pass.saved);
    let (tables, partials) = work.split_at_mut(3 * table);
    fill_table(&mut tables[..table_len(channels)], channels, |channel| saved.mean[channel]);
    let mean = &tables[..table];
    let (isa, sums, dy) = (pool.isa(), Disjoint::new(partials), Disjoint::new(dy));
    let add = residual.as_ref().is_some_and(|target| target.add);
    let residual = residual.map(|target| Disjoint::new(target.values));
    let activation = pass.activation.map(|(activation, _)| activation);
    let slope = slope_of(activation);
    pool.run(norm.parts(), &|index| {
        let part = norm.part(index);
        let slice = |values: &'_ [f32]| -> *const f32 { values[part.start..part.start + part.len].as_ptr() };
        // SAFETY: every part has its own sums and its own piece of the gradients.
        let (sums, dy, residual) = unsafe {
            let residual = residual.as_ref().map(|all| all.part(part.start, part.len).as_mut_ptr());
            (sums.part(index * 2 * table, 2 * table), dy.part(part.start, part.len), residual)
        };
        let (output, added) = match pass.activation {
            Some((_, Slope::Output(y))) => (Some(slice(y)), None),
            Some((_, Slope::Recomputed { residual })) => (None, residual.map(slice)),
            None => (None, None),
        };
        let piece = SumsPart {
            z: slice(pass.z),
            a: saved.a.as_ptr(),
            b: saved.b.as_ptr(),
            mean: mean.as_ptr(),
            output,
            added,
            residual,
            add,
            phase: part.phase,
            period: period(channels),
            factor: pass.factors.map_or(1.0, |factors| factors[index]),
            store: activation.is_some(),
        };
        dispatch_activation!(
            activation,
            isa,
            sums_kernel(piece: SumsPart, slope: f32, dy: &mut [f32], sums: &mut [f32])
        );
    });
}

/// A part of [`backward_sums`]; every pointer reaches the part's length, or a table.
#[derive(Clone, Copy)]
struct SumsPart {
    z: *const f32,
    a: *const f32,
    b: *const f32,
    mean: *const f32,
    output: Option<*const f32>,
    added: Option<*const f32>,
    residual: Option<*mut f32>,
    add: bool,
    phase: usize,
    period: usize,
    factor: f32,
    store: bool,
}

#[inline(always)]
fn sums_kernel<V: Simd, F: Function>(part: SumsPart, slope: f32, dy: &mut [f32], sums: &mut [f32]) {
    sums.fill(0.0);
    let (first, second) = sums.split_at_mut(sums.len() / 2);
    let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
    let (len, dy, period) = (dy.len(), dy.as_mut_ptr(), part.period);
    let slope = V::splat(slope);
    let mut done = 0;
    while part.phase == 0 && done + TOGETHER * period <= len {
        for p in (0..period).step_by(V::LANES) {
            // SAFETY: `SumsPart`'s promise; four periods lie within the part, and tables and sums are longer than one.
            unsafe {
                let numbers = Numbers::<V>::at(&part, p);
                let (mut sum, mut product) = (V::load(first.add(p)), V::load(second.add(p)));
                for row in 0..TOGETHER {
                    let at = At { index: done + row * period + p, count: V::LANES };
                    let (gradient, centered) = sums_step::<V, F>(&part, &numbers, slope, at, dy);
                    sum = sum.add(gradient);
                    product = gradient.mul_add(centered, product);
                }
                sum.store(first.add(p));
                product.store(second.add(p));
            }
        }
        done += TOGETHER * period;
    }
    lanes_and_table!(V, len - done, part.phase, period, (rest, p) => {
        // SAFETY: `SumsPart`'s promise; tables and sums reach a vector beyond the period. Lanes beyond the part's end
        // hold a zero gradient, so they add nothing.
        unsafe {
            let at = At { index: done + rest.index, count: rest.count };
            let (gradient, centered) = sums_step::<V, F>(&part, &Numbers::at(&part, p), slope, at, dy);
            V::load(first.add(p)).add(gradient).store(first.add(p));
            gradient.mul_add(centered, V::load(second.add(p))).store(second.add(p));
        }
    });
}

/// The numbers of a vector of channels.
#[derive(Clone, Copy)]
struct Numbers<V> {
    a: V,
    b: V,
    mean: V,
    factor: V,
}

impl<V: Simd> Numbers<V> {
    /// # Safety
    /// [`SumsPart`]'s promise, at a place of its tables.
    #[inline(always)]
    unsafe fn at(part: &SumsPart, p: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b, mean) = (V::load(part.a.add(p)), V::load(part.b.add(p)), V::load(part.mean.add(p)));
            Self { a, b, mean, factor: V::splat(part.factor) }
        }
    }
}

/// One vector of [`sums_kernel`]: stores the gradient behind the activation and hands it on; returns the branch's, and
/// `z` less its mean.
///
/// # Safety
/// [`SumsPart`]'s promise; `at` lies within the part, and `dy` is the part's.
#[inline(always)]
unsafe fn sums_step<V: Simd, F: Function>(
    part: &SumsPart,
    numbers: &Numbers<V>,
    slope: V,
    at: At,
    dy: *mut f32,
) -> (V, V) {
    // SAFETY: the caller's promise.
    unsafe {
        let z = at.load::<V>(part.z);
        let derivative = match part.output {
            Some(output) => F::derivative_at_value(at.load(output), slope),
            None => {
                let mut x = z.mul_add(numbers.a, numbers.b).mul(numbers.factor);
                if let Some(added) = part.added {
                    x = x.add(at.load(added));
                }
                F::derivative(x, slope)
            }
        };
        let gradient = at.load::<V>(dy).mul(derivative);
        if part.store {
            at.store(gradient, dy);
        }
        if let Some(residual) = part.residual {
            at.put(gradient, residual, part.add);
        }
        (gradient.mul(numbers.factor), z.sub(numbers.mean))
    }
}

/// Gradients of scale and shift, and the tables for [`backward_apply`]. `batch` says whether the statistics were the
/// batch's, and therefore carry gradient.
pub fn backward_parameters(
    norm: &Norm,
    saved: &[f32],
    batch: bool,
    scale: &[f32],
    gradients: Option<[Target<'_>; 2]>,
    work: &mut [f32],
) {
    let channels = norm.rows.channels;
    let saved = norm.saved(saved);
    let (tables, partials) = work.split_at_mut(3 * norm.table());
    let [mut scales, mut shifts] =
        gradients.map_or([None, None], |[scale, shift]| [Some(scale), Some(shift)]);
    let count = norm.rows.count() as f64;
    let (of_gradient, rest) = tables.split_at_mut(norm.table());
    let (of_input, constant) = rest.split_at_mut(norm.table());
    for channel in 0..channels {
        let [sum, product] = total(norm, partials, channel);
        let inverse = f64::from(saved.inverse[channel]);
        put(&mut scales, channel, (product * inverse) as f32);
        put(&mut shifts, channel, sum as f32);
        let slope = f64::from(scale[channel]) * inverse;
        let share = if batch { 1.0 / count } else { 0.0 };
        let input = -slope * inverse * inverse * product * share;
        of_gradient[channel] = slope as f32;
        of_input[channel] = input as f32;
        constant[channel] = (-slope * sum * share - input * f64::from(saved.mean[channel])) as f32;
    }
    for table in [of_gradient, of_input, constant] {
        repeat(&mut table[..table_len(channels)], channels);
    }
}

fn put(target: &mut Option<Target<'_>>, index: usize, value: f32) {
    if let Some(Target { values, add }) = target {
        values[index] = if *add { values[index] + value } else { value };
    }
}

/// Repeats the first `channels` entries over the whole table.
fn repeat(table: &mut [f32], channels: usize) {
    let (first, rest) = table.split_at_mut(channels);
    for part in rest.chunks_mut(channels) {
        part.copy_from_slice(&first[..part.len()]);
    }
}

/// The second pass of backward: the input's gradient, from what [`backward_sums`] left in `dy`. It replaces `dy` if
/// `dz` is `None`, else goes to `dz`.
pub fn backward_apply(
    pool: &Pool,
    norm: &Norm,
    pass: &Backward<'_>,
    work: &[f32],
    dy: &mut [f32],
    dz: Option<Target<'_>>,
) {
    let table = norm.table();
    let tables = [&work[..table], &work[table..2 * table], &work[2 * table..3 * table]];
    let isa = pool.isa();
    let add = dz.as_ref().is_some_and(|target| target.add);
    let dy = Disjoint::new(dy);
    let dz = dz.map(|target| Disjoint::new(target.values));
    pool.run(norm.parts(), &|index| {
        let part = norm.part(index);
        // SAFETY: parts do not overlap.
        let (from, to) = unsafe {
            let dy = dy.part(part.start, part.len).as_mut_ptr();
            (dy, dz.as_ref().map_or(dy, |dz| dz.part(part.start, part.len).as_mut_ptr()))
        };
        let piece = ApplyPart {
            z: pass.z[part.start..part.start + part.len].as_ptr(),
            from,
            to,
            add,
            len: part.len,
            tables: tables.map(<[f32]>::as_ptr),
            phase: part.phase,
            period: period(norm.rows.channels),
            factor: pass.factors.map_or(1.0, |factors| factors[index]),
        };
        dispatch!(isa, apply_kernel(piece: ApplyPart));
    });
}

/// A part of [`backward_apply`]; every pointer reaches `len` elements, or a table.
#[derive(Clone, Copy)]
struct ApplyPart {
    z: *const f32,
    from: *const f32,
    to: *mut f32,
    add: bool,
    len: usize,
    tables: [*const f32; 3],
    phase: usize,
    period: usize,
    factor: f32,
}

#[inline(always)]
fn apply_kernel<V: Simd>(part: ApplyPart) {
    let factor = V::splat(part.factor);
    let [of_gradient, of_input, constant] = part.tables;
    lanes_and_table!(V, part.len, part.phase, part.period, (at, p) => {
        // SAFETY: `ApplyPart`'s promise; tables reach a vector beyond the period.
        unsafe {
            let rest = at.load::<V>(part.z).mul_add(V::load(of_input.add(p)), V::load(constant.add(p)));
            let gradient = at.load::<V>(part.from).mul(factor);
            at.put(gradient.mul_add(V::load(of_gradient.add(p)), rest), part.to, part.add);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::activation::derives_from_output;
    use crate::kernels::reference::{self, NormInput, assert_close, isas, ramp};

    const EPS: f32 = 1e-3;

    /// Runs forward and backward and compares all results; `apart` sends the input's gradient to a slice of its own.
    fn check(pool: &Pool, input: &NormInput<'_>, apart: bool) {
        let [samples, positions, channels] = input.sizes;
        let norm = Norm { rows: Rows { samples, positions, channels }, by_sample: input.factors.is_some() };
        let what = format!("{:?} {:?} {:?} apart {apart}", pool.isa(), input.sizes, input.activation);
        let expected = reference::norm(input);
        let (mut saved, mut work) = (vec![9.0; norm.saved_len()], vec![9.0; norm.work_len()]);
        let (sums, [mean, variance]) = norm.split_work(&mut work);
        statistics(pool, &norm, input.z, sums, mean, variance);
        let affine = Affine { mean, variance, eps: EPS, scale: input.scale, shift: input.shift };
        prepare(&norm, &affine, &mut saved);
        let after = After { factors: input.factors, residual: input.residual, activation: input.activation };
        let mut y = vec![9.0; input.z.len()];
        normalize(pool, &norm, input.z, &saved, &after, &mut y);
        assert_close(&y, &expected.y, 1e-4, &format!("y {what}"));

        let slope = |activation| match input.residual {
            Some(_) if derives_from_output(activation) => Slope::Output(&y),
            residual => Slope::Recomputed { residual },
        };
        let activation = input.activation.map(|activation| (activation, slope(activation)));
        let pass = Backward { z: input.z, saved: &saved, activation, factors: input.factors };
        let (mut dy, mut dresidual, mut dz) = (input.dy.to_vec(), vec![9.0; y.len()], vec![1.0; y.len()]);
        let (sums, _) = norm.split_work(&mut work);
        let target = input.residual.map(|_| Target { values: &mut dresidual, add: false });
        backward_sums(pool, &norm, &pass, &mut dy, target, sums);
        let (mut dscale, mut dshift) = (vec![1.0; channels], vec![9.0; channels]);
        let gradients =
            [Target { values: &mut dscale, add: true }, Target { values: &mut dshift, add: false }];
        backward_parameters(&norm, &saved, true, input.scale, Some(gradients), sums);
        let target = apart.then_some(Target { values: &mut dz, add: true });
        backward_apply(pool, &norm, &pass, sums, &mut dy, target);
        dscale.iter_mut().for_each(|value| *value -= 1.0);
        dz.iter_mut().for_each(|value| *value -= 1.0);
        assert_close(if apart { &dz } else { &dy }, &expected.dz, 1e-3, &format!("dz {what}"));
        assert_close(&dscale, &expected.dscale, 1e-3, &format!("dscale {what}"));
        assert_close(&dshift, &expected.dshift, 1e-3, &format!("dshift {what}"));
        if input.residual.is_some() {
            assert_close(&dresidual, &expected.dresidual, 1e-3, &format!("dresidual {what}"));
        }
    }

    fn check_sizes(pool: &Pool, sizes: [usize; 3], activation: Option<Activation>) {
        let len = sizes.iter().product();
        let z: Vec<f32> =
            ramp(len, 2.0).iter().enumerate().map(|(i, z)| z + (i % sizes[2]) as f32 * 0.3).collect();
        let (dy, residual) = (ramp(len, 1.0), ramp(len, 0.7));
        let scale: Vec<f32> = ramp(sizes[2], 0.5).iter().map(|x| x + 1.0).collect();
        let shift = ramp(sizes[2], 0.3);
        let factors: Vec<f32> = (0..sizes[0]).map(|sample| [1.25, 0.0][sample % 2]).collect();
        for (with_residual, with_factors, apart) in
            [(false, false, false), (true, false, true), (true, true, false), (false, true, true)]
        {
            let input = NormInput {
                sizes,
                z: &z,
                scale: &scale,
                shift: &shift,
                eps: EPS,
                factors: with_factors.then_some(&factors),
                residual: with_residual.then_some(&residual),
                activation,
                dy: &dy,
            };
            check(pool, &input, apart);
        }
    }

    #[test]
    fn forward_and_backward_match_the_definition_at_odd_sizes_on_every_instruction_set() {
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            for sizes in [[3, 5, 7], [2, 9, 16], [4, 1, 24], [3, 35, 3], [5, 13, 130], [2, 300, 40]] {
                check_sizes(&pool, sizes, Some(Activation::Relu));
            }
            for activation in [None, Some(Activation::Silu), Some(Activation::HardSwish)] {
                check_sizes(&pool, [3, 11, 24], activation);
            }
            for activation in [Activation::Relu6, Activation::LeakyRelu(0.1), Activation::Sigmoid] {
                check_sizes(&pool, [3, 11, 24], Some(activation));
            }
        }
    }

    #[test]
    fn sums_do_not_depend_on_the_thread_count() {
        let norm = Norm { rows: Rows { samples: 8, positions: 400, channels: 24 }, by_sample: false };
        let z = ramp(norm.rows.len(), 3.0);
        let run = |threads| {
            let (mut work, pool) = (vec![0.0; norm.work_len()], Pool::new(threads));
            let (sums, [mean, variance]) = norm.split_work(&mut work);
            statistics(&pool, &norm, &z, sums, mean, variance);
            (mean.to_vec(), variance.to_vec())
        };
        assert!(norm.parts() > 3);
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn a_large_mean_costs_the_variance_no_digits() {
        let norm = Norm { rows: Rows { samples: 4, positions: 100, channels: 5 }, by_sample: false };
        let z: Vec<f32> = ramp(norm.rows.len(), 0.5).iter().map(|z| z + 1000.0).collect();
        let mut work = vec![0.0; norm.work_len()];
        let (sums, [mean, variance]) = norm.split_work(&mut work);
        statistics(&Pool::new(1), &norm, &z, sums, mean, variance);
        for channel in 0..5 {
            let column: Vec<f64> = z[channel..].iter().step_by(5).map(|&z| f64::from(z)).collect();
            let exact = column.iter().sum::<f64>() / 400.0;
            let spread = column.iter().map(|z| (z - exact).powi(2)).sum::<f64>() / 400.0;
            assert!((f64::from(mean[channel]) - exact).abs() < 1e-4);
            assert!((f64::from(variance[channel]) / spread - 1.0).abs() < 1e-4);
        }
    }
}
