//! Kernels that touch each value alone or join two, as `crate::kernels::mixing` and `crate::kernels::activation`.

use models::Activation;

use super::{Applied, Grid, Kernels, Sums, Target, arguments, is_wide, vectors};
use crate::Result;
use crate::cuda::{Format, Ptr};
use crate::kernels::activation::derives_from_output;
use crate::kernels::norm::Rows;
use crate::theta::MapOrder;

/// What backward reads of an activation's forward.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kept {
    /// The function's argument.
    Input(Ptr),
    /// The function's value, where [`derives_from_output`] says that it is enough.
    Output(Ptr),
}

/// Random numbers of a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// The probability that something is dropped.
    pub p: f32,
    /// One u64 on the device: the [`crate::random::Stream`] of (seed, step, pass), so that a captured graph can draw
    /// anew.
    pub key: Ptr,
    /// The node's index, which the kernel draws `with`.
    pub node: u64,
}

impl Draw {
    /// The factor of what is kept.
    fn kept(self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

/// Which way a flattened map is reordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the engine's order to torch's.
    ToTorch,
    /// From torch's order to the engine's.
    ToEngine,
}

impl MapOrder {
    /// Rows and columns of the matrix that is transposed.
    fn sizes(self, way: Way) -> [usize; 2] {
        match way {
            Way::ToTorch => [self.positions, self.channels],
            Way::ToEngine => [self.channels, self.positions],
        }
    }
}

impl Kernels {
    /// The table's entry for every byte and channel: bytes `[pixels, channels]`, `table` f32 `[256, channels]`.
    pub(crate) unsafe fn look_up(
        &self,
        format: Format,
        bytes: Ptr,
        table: Ptr,
        y: Ptr,
        pixels: usize,
        channels: usize,
    ) -> Result<()> {
        let (len, wide) = (pixels * channels, is_wide(&[bytes, y]));
        let channels = self.size("channels", channels)?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.look_up.of(format),
                vectors(format, len, wide),
                arguments![bytes, table, y, len as u64, channels, wide],
            )
        }
    }

    /// `y = x * scale + shift` per channel; `x` may be f32 where `y` is not.
    #[allow(clippy::too_many_arguments)] // two maps with formats of their own, two vectors, two sizes
    pub(crate) unsafe fn affine(
        &self,
        format: Format,
        (x, x_format): (Ptr, Format),
        scale: Ptr,
        shift: Ptr,
        y: Ptr,
        pixels: usize,
        channels: usize,
    ) -> Result<()> {
        let (len, wide) = (pixels * channels, is_wide(&[x, y]));
        let (channels, floats) = (self.size("channels", channels)?, u32::from(x_format == Format::F32));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.affine.of(format),
                vectors(format, len, wide),
                arguments![x, floats, scale, shift, y, len as u64, channels, wide],
            )
        }
    }

    /// Gradient of [`Kernels::affine`]: `dx = dy * scale`; `dx` may be f32 where `dy` is not.
    pub(crate) unsafe fn scale_channels(
        &self,
        format: Format,
        dy: Ptr,
        scale: Ptr,
        (dx, dx_format): (Target, Format),
        pixels: usize,
        channels: usize,
    ) -> Result<()> {
        let (len, wide) = (pixels * channels, is_wide(&[dy, dx.at]));
        let (channels, floats) = (self.size("channels", channels)?, u32::from(dx_format == Format::F32));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.scale_channels.of(format),
                vectors(format, len, wide),
                arguments![dy, scale, dx.at, floats, u32::from(dx.add), len as u64, channels, wide],
            )
        }
    }

    /// `y = activation(x)`; `y` may be `x`.
    pub(crate) unsafe fn activation_forward(
        &self,
        format: Format,
        activation: Activation,
        x: Ptr,
        y: Ptr,
        len: usize,
    ) -> Result<()> {
        let function = self.functions.activation_forward.of(format);
        let (applied, wide) = (Applied::of(Some(activation)), is_wide(&[x, y]));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(function, vectors(format, len, wide), arguments![applied, x, y, len as u64, wide])
        }
    }

    /// `dx = dy * activation'`; `dx` may be `dy`.
    pub(crate) unsafe fn activation_backward(
        &self,
        format: Format,
        activation: Activation,
        kept: Kept,
        dy: Ptr,
        dx: Target,
        len: usize,
    ) -> Result<()> {
        let (function, kept) = match kept {
            Kept::Input(x) => (self.functions.activation_from_input.of(format), x),
            Kept::Output(y) => {
                debug_assert!(derives_from_output(activation), "{activation:?}");
                (self.functions.activation_from_output.of(format), y)
            }
        };
        let (applied, wide) = (Applied::of(Some(activation)), is_wide(&[kept, dy, dx.at]));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                function,
                vectors(format, len, wide),
                arguments![applied, kept, dy, dx.at, u32::from(dx.add), len as u64, wide],
            )
        }
    }

    /// What follows a convolution's sums, in place: `y = activation(y + bias + residual)`; `bias` is f32 `[channels]`.
    #[allow(clippy::too_many_arguments)] // a map, what may be added and applied, two sizes
    pub(crate) unsafe fn finish(
        &self,
        format: Format,
        y: Ptr,
        bias: Option<Ptr>,
        residual: Option<Ptr>,
        activation: Option<Activation>,
        rows: usize,
        channels: usize,
    ) -> Result<()> {
        let (bias, residual) = (bias.unwrap_or(Ptr::NONE), residual.unwrap_or(Ptr::NONE));
        let width = super::width(format, channels, &[y, bias, residual]);
        let grid = Grid::columns(rows, channels / width);
        let len = (rows * channels / width) as u64;
        let columns = self.size("channels", channels / width)?;
        let applied = Applied::of(activation);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.finish.of(format),
                grid,
                arguments![applied, bias, residual, y, len, columns, u32::from(width > 1)],
            )
        }
    }

    /// Bytes of scratch memory that [`Kernels::column_sums`] needs.
    pub(crate) fn column_sums_scratch(rows: usize, channels: usize) -> usize {
        Sums::of(rows, channels).parts * channels * 4
    }

    /// Sum of every column of `dy`, `[rows, channels]`, into f32: a bias's gradient.
    pub(crate) unsafe fn column_sums(
        &self,
        format: Format,
        dy: Ptr,
        rows: usize,
        channels: usize,
        scratch: Ptr,
        sums: Target,
    ) -> Result<()> {
        let sizes = self.sum_sizes(format, rows, channels, &[dy])?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.column_parts.of(format),
                sizes.grid,
                arguments![dy, scratch, sizes.rows, sizes.part, sizes.columns, sizes.lanes, sizes.wide],
            )?;
            self.launch(
                &self.functions.column_total,
                Sums::total(channels),
                arguments![scratch, sums.at, u32::from(sums.add), sizes.parts, sizes.channels],
            )
        }
    }

    /// `y = activation(a + b)`; `y` may be either.
    pub(crate) unsafe fn add(
        &self,
        format: Format,
        a: Ptr,
        b: Ptr,
        activation: Option<Activation>,
        y: Ptr,
        len: usize,
    ) -> Result<()> {
        let (function, wide) = (self.functions.add.of(format), is_wide(&[a, b, y]));
        let applied = Applied::of(activation);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(function, vectors(format, len, wide), arguments![applied, a, b, y, len as u64, wide])
        }
    }

    /// `y = a * b`; `y` may be either.
    pub(crate) unsafe fn multiply(
        &self,
        format: Format,
        a: Ptr,
        b: Ptr,
        y: Target,
        len: usize,
    ) -> Result<()> {
        let (function, wide) = (self.functions.multiply.of(format), is_wide(&[a, b, y.at]));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                function,
                vectors(format, len, wide),
                arguments![a, b, y.at, u32::from(y.add), len as u64, wide],
            )
        }
    }

    /// Copies `x` to a gradient, or adds it.
    pub(crate) unsafe fn pass_on(&self, format: Format, x: Ptr, y: Target, len: usize) -> Result<()> {
        let (function, wide) = (self.functions.pass_on.of(format), is_wide(&[x, y.at]));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                function,
                vectors(format, len, wide),
                arguments![x, y.at, u32::from(y.add), len as u64, wide],
            )
        }
    }

    /// `y = x * gate`, the gate one number per picture and channel; also the gradient of `x`, of `dy`.
    pub(crate) unsafe fn gate_forward(
        &self,
        format: Format,
        rows: Rows,
        x: Ptr,
        gate: Ptr,
        y: Target,
    ) -> Result<()> {
        let map = self.map_sizes(format, rows, &[x, gate, y.at])?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.gate_forward.of(format),
                map.grid,
                arguments![x, gate, y.at, u32::from(y.add), map.len, map.columns, map.positions, map.wide],
            )
        }
    }

    /// Gradient of a gate: the sum of `dy * x` over each picture's positions.
    pub(crate) unsafe fn gate_backward(
        &self,
        format: Format,
        rows: Rows,
        x: Ptr,
        dy: Ptr,
        dgate: Target,
    ) -> Result<()> {
        let sizes = self.picture_sizes(format, rows, &[x, dy, dgate.at])?;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.gate_backward.of(format),
                sizes.grid,
                arguments![
                    x,
                    dy,
                    dgate.at,
                    u32::from(dgate.add),
                    sizes.positions,
                    sizes.columns,
                    sizes.lanes,
                    sizes.wide
                ],
            )
        }
    }

    /// Dropout: each value survives with probability `1 - p`, divided by that. Backward draws the same again, so it is
    /// the same function, of the gradient. `y` may be `x`. The draws are those of the processor.
    pub(crate) unsafe fn dropout(
        &self,
        format: Format,
        draw: Draw,
        x: Ptr,
        y: Target,
        len: usize,
    ) -> Result<()> {
        let wide = is_wide(&[x, y.at]);
        let threshold = (f64::from(draw.p) * 4_294_967_296.0) as u32;
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.dropout.of(format),
                vectors(format, len, wide),
                arguments![
                    threshold,
                    draw.kept(),
                    draw.key,
                    draw.node,
                    x,
                    y.at,
                    u32::from(y.add),
                    len as u64,
                    wide
                ],
            )
        }
    }

    /// Stochastic depth's factor of every sample, f32: zero with probability `p`, else `1 / (1 - p)`. The draws are
    /// those of the processor.
    pub(crate) unsafe fn depth_factors(&self, draw: Draw, factors: Ptr, samples: usize) -> Result<()> {
        let (grid, samples) = (Grid::flat(samples), self.size("samples", samples)?);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                &self.functions.depth_factors,
                grid,
                arguments![draw.p, draw.kept(), draw.key, draw.node, factors, samples],
            )
        }
    }

    /// `y = x * factor`, one f32 factor per sample; `y` may be `x`.
    pub(crate) unsafe fn scale_samples(
        &self,
        format: Format,
        factors: Ptr,
        x: Ptr,
        y: Target,
        samples: usize,
        sample_len: usize,
    ) -> Result<()> {
        let width = super::width(format, sample_len, &[x, y.at]);
        let len = self.size("vectors of a map", samples * sample_len / width)?;
        let (grid, sample) = (Grid::flat(len as usize), self.size("a sample's values", sample_len / width)?);
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                self.functions.scale_samples.of(format),
                grid,
                arguments![factors, x, y.at, u32::from(y.add), len, sample, u32::from(width > 1)],
            )
        }
    }

    /// An output as f32, in torch's order where `order` says that it lies in the engine's.
    pub(crate) unsafe fn outputs(
        &self,
        format: Format,
        x: Ptr,
        order: Option<MapOrder>,
        y: Ptr,
        len: usize,
    ) -> Result<()> {
        let [outer, inner] = self.sizes(order, Way::ToTorch)?;
        let function = self.functions.outputs.of(format);
        // SAFETY: the caller's promise.
        unsafe { self.launch(function, Grid::flat(len), arguments![x, y, len as u64, outer, inner]) }
    }

    /// The gradient of an output, f32, in torch's order where `order` says that the value lies in the engine's.
    pub(crate) unsafe fn seeds(
        &self,
        format: Format,
        x: Ptr,
        order: Option<MapOrder>,
        y: Target,
        len: usize,
    ) -> Result<()> {
        let [outer, inner] = self.sizes(order, Way::ToEngine)?;
        let function = self.functions.seeds.of(format);
        let add = u32::from(y.add);
        // SAFETY: the caller's promise.
        unsafe { self.launch(function, Grid::flat(len), arguments![x, y.at, add, len as u64, outer, inner]) }
    }

    /// Reorders flattened maps.
    pub(crate) unsafe fn transpose(
        &self,
        format: Format,
        order: MapOrder,
        way: Way,
        x: Ptr,
        y: Target,
        len: usize,
    ) -> Result<()> {
        let [outer, inner] = self.sizes(Some(order), way)?;
        let function = self.functions.reorder.of(format);
        let add = u32::from(y.add);
        // SAFETY: the caller's promise.
        unsafe { self.launch(function, Grid::flat(len), arguments![x, y.at, add, len as u64, outer, inner]) }
    }

    fn sizes(&self, order: Option<MapOrder>, way: Way) -> Result<[u32; 2]> {
        let [outer, inner] = order.map_or([1, 1], |order| order.sizes(way));
        Ok([self.size("a map's values", outer)?, self.size("a map's values", inner)?])
    }

    /// f32 to the format.
    pub(crate) unsafe fn convert(&self, format: Format, x: Ptr, y: Ptr, len: usize) -> Result<()> {
        let (function, wide) = (self.functions.convert.of(format), is_wide(&[x, y]));
        // SAFETY: the caller's promise.
        unsafe { self.launch(function, vectors(format, len, wide), arguments![x, y, len as u64, wide]) }
    }

    /// A weight's gradient in the format to one in f32.
    pub(crate) unsafe fn accumulate(
        &self,
        format: Format,
        dw: Ptr,
        gradient: Target,
        len: usize,
    ) -> Result<()> {
        let (function, wide) = (self.functions.accumulate.of(format), is_wide(&[dw, gradient.at]));
        // SAFETY: the caller's promise.
        unsafe {
            self.launch(
                function,
                vectors(format, len, wide),
                arguments![dw, gradient.at, u32::from(gradient.add), len as u64, wide],
            )
        }
    }
}
