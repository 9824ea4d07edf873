//! Convolution over NHWC f32 maps: forward with bias, residual and activation, and both gradients.
//!
//! A linear layer is the 1x1 convolution of 1x1 maps. Which kernel runs is chosen by the shape alone, and sums are
//! divided by shape alone, so that a result depends neither on the thread count nor on a measurement.
//!
//! # Layout of the weights
//! Depthwise (`groups == in_channels == out_channels > 1`): `[kh][kw][channel]`. All others:
//! `[group][block of 16 outputs][kh][kw][input of the group][16]`, where the last block of a group is filled up with
//! zeros. Gradients have the same layout and zeros at the same places, and so have moments, and therefore the filling
//! stays zero under any optimizer that leaves a parameter without gradient at zero.
//!
//! # Working memory
//! Kernels that need some keep it per thread from call to call, so only the first call of a size allocates.
//!
//! Never here: normalization, or knowledge of the plan.

use std::str::FromStr;

use models::Activation;

use crate::pool::Pool;
use crate::{EngineError, Result};

mod bf16;
mod dense;
mod depthwise;
mod finish;
mod gather;
mod micro;
mod prepared;
mod product;
#[cfg(test)]
pub(crate) mod reference;
pub(super) mod scratch;
#[cfg(test)]
mod tests;
mod weight_gradient;
mod winograd;

pub use prepared::Form;
pub use winograd::Size;

/// Outputs in a block of the weight layout.
pub const BLOCK: usize = 16;

/// Sizes of a convolution. All maps are `[batch][height][width][channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Pictures.
    pub batch: usize,
    /// Rows of the input.
    pub in_height: usize,
    /// Columns of the input.
    pub in_width: usize,
    /// Channels of the input, a multiple of `groups`.
    pub in_channels: usize,
    /// Channels of the output, a multiple of `groups`.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step down and right.
    pub stride: [usize; 2],
    /// Zeros around the input: above and below, left and right.
    pub padding: [usize; 2],
    /// Groups that see no channel of each other.
    pub groups: usize,
}

impl ConvShape {
    /// A dense layer on `rows` vectors.
    pub fn linear(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            batch: rows,
            in_height: 1,
            in_width: 1,
            in_channels: inputs,
            out_channels: outputs,
            kernel: [1; 2],
            stride: [1; 2],
            padding: [0; 2],
            groups: 1,
        }
    }

    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        (self.in_height + 2 * self.padding[0] - self.kernel[0]) / self.stride[0] + 1
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        (self.in_width + 2 * self.padding[1] - self.kernel[1]) / self.stride[1] + 1
    }

    /// Elements of the input.
    pub fn in_len(&self) -> usize {
        self.batch * self.in_height * self.in_width * self.in_channels
    }

    /// Elements of the output.
    pub fn out_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.out_channels
    }

    /// Whether every channel has a kernel of its own.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Multiplications of a forward pass, padding included.
    pub fn macs(&self) -> usize {
        self.out_len() * self.taps() * self.group_inputs()
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn group_inputs(&self) -> usize {
        self.in_channels / self.groups
    }

    fn group_outputs(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Blocks of [`BLOCK`] outputs in a group.
    fn group_blocks(&self) -> usize {
        self.group_outputs().div_ceil(BLOCK)
    }

    /// Elements of a block.
    fn block_len(&self) -> usize {
        self.taps() * self.group_inputs() * BLOCK
    }

    /// Place of the weight from an input of its group to an output, at a tap (`row * kernel width + column`).
    fn weight_index(&self, output: usize, input: usize, tap: usize) -> usize {
        if self.is_depthwise() {
            return tap * self.out_channels + output;
        }
        let (group, output) = (output / self.group_outputs(), output % self.group_outputs());
        let block = group * self.group_blocks() + output / BLOCK;
        block * self.block_len() + (tap * self.group_inputs() + input) * BLOCK + output % BLOCK
    }
}

/// What happens to a sum before it is stored: `activation(sum + bias + residual)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// One number per output channel.
    pub bias: Option<&'a [f32]>,
    /// A map of the output's shape.
    pub residual: Option<&'a [f32]>,
    /// The last step.
    pub activation: Option<Activation>,
}

/// Number format of stored weights; sums are f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// As they were trained.
    #[default]
    F32,
    /// Rounded to 8 bits of mantissa: half as much to read where one picture at a time is answered.
    Bf16,
}

impl WeightFormat {
    /// Their names.
    pub const NAMES: [&'static str; 2] = ["f32", "bf16"];

    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            WeightFormat::F32 => Self::NAMES[0],
            WeightFormat::Bf16 => Self::NAMES[1],
        }
    }

    /// `value` as this format holds it.
    pub fn round(self, value: f32) -> f32 {
        match self {
            WeightFormat::F32 => value,
            WeightFormat::Bf16 => bf16::value(bf16::round(value)),
        }
    }
}

impl FromStr for WeightFormat {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self> {
        let found = [WeightFormat::F32, WeightFormat::Bf16].into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| EngineError::Unknown {
            kind: "format of weights",
            name: name.into(),
            known: Self::NAMES.join(", "),
        })
    }
}

/// Weights of a forward pass in one of the forms that kernels read; all but the first are made by [`Form::store`].
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// The engine's layout.
    Plain(&'a [f32]),
    /// Coefficients for Winograd's convolution with patches of this size.
    Winograd(Size, &'a [f32]),
    /// The engine's layout in bf16.
    Bf16(&'a [u16]),
}

/// Which index of a weight is innermost. Depthwise weights lie the same in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightOrder {
    /// Blocks of outputs, as the processor's kernels read them; see the module.
    #[default]
    Blocked,
    /// `[output][kh][kw][input of the group]`, as cuDNN reads the weights of NHWC maps.
    Ohwi,
}

impl WeightOrder {
    /// Elements of the weights, filling included.
    pub fn len(self, shape: &ConvShape) -> usize {
        match self {
            WeightOrder::Blocked => weight_len(shape),
            WeightOrder::Ohwi => shape.out_channels * shape.taps() * shape.group_inputs(),
        }
    }

    /// Distance of two weights of one output, one input apart and one tap apart, and where the output's weights start.
    fn steps(self, shape: &ConvShape, output: usize) -> [usize; 3] {
        let (inputs, taps) = (shape.group_inputs(), shape.taps());
        match self {
            _ if shape.is_depthwise() => [0, shape.out_channels, output],
            WeightOrder::Blocked => [BLOCK, inputs * BLOCK, shape.weight_index(output, 0, 0)],
            WeightOrder::Ohwi => [1, inputs, output * taps * inputs],
        }
    }
}

/// Elements of the weights in the engine's layout, filling included.
pub fn weight_len(shape: &ConvShape) -> usize {
    if shape.is_depthwise() {
        return shape.taps() * shape.out_channels;
    }
    shape.groups * shape.group_blocks() * shape.block_len()
}

/// Weights from torch's layout `[output][input of the group][kh][kw]` to the engine's.
///
/// # Panics
/// If a slice has not the length that the shape says.
pub fn pack_weight(shape: &ConvShape, order: WeightOrder, oihw: &[f32], packed: &mut [f32]) {
    assert_eq!(packed.len(), order.len(shape), "packed weights of {shape:?}");
    packed.fill(0.0);
    for_each_weight(shape, order, oihw.len(), |torch, engine| packed[engine] = oihw[torch]);
}

/// Weights from the engine's layout to torch's.
///
/// # Panics
/// If a slice has not the length that the shape says.
pub fn unpack_weight(shape: &ConvShape, order: WeightOrder, packed: &[f32], oihw: &mut [f32]) {
    assert_eq!(packed.len(), order.len(shape), "packed weights of {shape:?}");
    for_each_weight(shape, order, oihw.len(), |torch, engine| oihw[torch] = packed[engine]);
}

/// Calls `visit` with the place of every weight in torch's and in the engine's layout.
fn for_each_weight(shape: &ConvShape, order: WeightOrder, len: usize, mut visit: impl FnMut(usize, usize)) {
    let (inputs, taps) = (shape.group_inputs(), shape.taps());
    assert_eq!(len, shape.out_channels * inputs * taps, "weights of {shape:?}");
    for output in 0..shape.out_channels {
        let [input_step, tap_step, start] = order.steps(shape, output);
        for input in 0..inputs {
            for tap in 0..taps {
                visit((output * inputs + input) * taps + tap, start + tap * tap_step + input * input_step);
            }
        }
    }
}

/// Multiplies the weights of every output, in the engine's layout, by its factor: how batch norm is folded in.
///
/// # Panics
/// If a slice has not the length that the shape says.
pub fn scale_outputs(shape: &ConvShape, order: WeightOrder, packed: &mut [f32], factors: &[f32]) {
    assert_eq!(packed.len(), order.len(shape), "packed weights of {shape:?}");
    assert_eq!(factors.len(), shape.out_channels, "factors of {shape:?}");
    if shape.is_depthwise() {
        let scale = |(weight, factor): (&mut f32, &f32)| *weight *= factor;
        return packed
            .chunks_exact_mut(factors.len())
            .for_each(|tap| tap.iter_mut().zip(factors).for_each(scale));
    }
    if order == WeightOrder::Ohwi {
        let outputs = packed.chunks_exact_mut(shape.taps() * shape.group_inputs()).zip(factors);
        return outputs.for_each(|(weights, factor)| weights.iter_mut().for_each(|weight| *weight *= factor));
    }
    let blocks = factors.chunks(shape.group_outputs()).flat_map(|group| group.chunks(BLOCK));
    for (block, factors) in packed.chunks_exact_mut(shape.block_len()).zip(blocks) {
        for weights in block.chunks_exact_mut(BLOCK) {
            weights.iter_mut().zip(factors).for_each(|(weight, factor)| *weight *= factor);
        }
    }
}

/// `y = activation(conv(x, weight) + bias + residual)`. Overwrites `y`.
///
/// # Panics
/// If a slice has not the length that the shape says, or the layer has no kernel for this form of weights.
pub fn forward(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weight: Weight<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (form, floats) = match weight {
        Weight::Plain(weight) => (Form::Plain, weight.len()),
        Weight::Winograd(size, weight) => (Form::Winograd(size), weight.len()),
        Weight::Bf16(weight) => (Form::Bf16, weight.len() / 2),
    };
    assert_eq!(floats, form.len(shape), "weights of {shape:?}");
    check(shape, x.len(), y.len());
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == shape.out_channels), "bias of {shape:?}");
    assert!(epilogue.residual.is_none_or(|residual| residual.len() == y.len()), "residual of {shape:?}");
    match weight {
        Weight::Plain(weight) if shape.is_depthwise() => {
            depthwise::forward(pool, shape, x, weight, epilogue, y)
        }
        _ => {
            assert!(!shape.is_depthwise(), "prepared weights of {shape:?}");
            dense::forward(pool, shape, x, weight, epilogue, y);
        }
    }
}

/// Gradient of the input from that of the output: overwrites `dx`, or adds to it.
///
/// # Panics
/// If a slice has not the length that the shape says.
pub fn backward_input(
    pool: &Pool,
    shape: &ConvShape,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    check(shape, dx.len(), dy.len());
    assert_eq!(weight.len(), weight_len(shape), "weights of {shape:?}");
    let pass = if shape.is_depthwise() { depthwise::backward_input } else { dense::backward_input };
    pass(pool, shape, dy, weight, dx, accumulate);
}

/// Gradient of the weights from input and gradient of the output: overwrites `dw`, or adds to it.
///
/// # Panics
/// If a slice has not the length that the shape says.
pub fn backward_weight(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    accumulate: bool,
) {
    check(shape, x.len(), dy.len());
    assert_eq!(dw.len(), weight_len(shape), "weights of {shape:?}");
    let pass = if shape.is_depthwise() { depthwise::backward_weight } else { dense::backward_weight };
    pass(pool, shape, x, dy, dw, accumulate);
}

fn check(shape: &ConvShape, x: usize, y: usize) {
    assert_eq!(x, shape.in_len(), "input of {shape:?}");
    assert_eq!(y, shape.out_len(), "output of {shape:?}");
}
