//! Convolution as its definition says it, summed in f64: what the fast kernels are compared with.
//!
//! Compiled for tests alone.

use models::Activation;

use super::{ConvShape, Epilogue};

/// One product of the sum: places in input, weights and output.
struct Term {
    x: usize,
    weight: usize,
    y: usize,
}

/// Visits every product whose input is not padding.
fn for_each_term(shape: &ConvShape, mut visit: impl FnMut(Term)) {
    let (inputs, outputs) = (shape.group_inputs(), shape.group_outputs());
    for_each_position(shape, |input, output, tap| {
        for out_channel in 0..shape.out_channels {
            let first = out_channel / outputs * inputs;
            for channel in 0..inputs {
                visit(Term {
                    x: input * shape.in_channels + first + channel,
                    weight: shape.weight_index(out_channel, channel, tap),
                    y: output * shape.out_channels + out_channel,
                });
            }
        }
    });
}

/// Visits every pair of input and output pixel with the tap that joins them.
fn for_each_position(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let (height, width) = (shape.out_height(), shape.out_width());
    for picture in 0..shape.batch {
        for (row, column) in grid(height, width) {
            for (tap_row, tap_column) in grid(shape.kernel[0], shape.kernel[1]) {
                let in_row = (row * shape.stride[0] + tap_row).wrapping_sub(shape.padding[0]);
                let in_column = (column * shape.stride[1] + tap_column).wrapping_sub(shape.padding[1]);
                if in_row < shape.in_height && in_column < shape.in_width {
                    let input = (picture * shape.in_height + in_row) * shape.in_width + in_column;
                    let output = (picture * height + row) * width + column;
                    visit(input, output, tap_row * shape.kernel[1] + tap_column);
                }
            }
        }
    }
}

fn grid(height: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..height).flat_map(move |row| (0..width).map(move |column| (row, column)))
}

/// The direct sum in f32, term by term.
pub fn forward_in_f32(shape: &ConvShape, x: &[f32], weight: &[f32], y: &mut [f32]) {
    y.fill(0.0);
    for_each_term(shape, |term| y[term.y] += x[term.x] * weight[term.weight]);
}

/// See [`super::forward`].
pub fn forward(shape: &ConvShape, x: &[f32], weight: &[f32], epilogue: &Epilogue<'_>, y: &mut [f32]) {
    let mut sums = vec![0.0_f64; y.len()];
    for_each_term(shape, |term| sums[term.y] += f64::from(x[term.x]) * f64::from(weight[term.weight]));
    for (index, sum) in sums.iter().enumerate() {
        let bias = epilogue.bias.map_or(0.0, |bias| bias[index % shape.out_channels]);
        let residual = epilogue.residual.map_or(0.0, |residual| residual[index]);
        let value = (sum + f64::from(bias) + f64::from(residual)) as f32;
        y[index] = epilogue.activation.map_or(value, |activation| activate(activation, value));
    }
}

/// See [`super::backward_input`].
pub fn backward_input(shape: &ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32], accumulate: bool) {
    let mut sums = vec![0.0_f64; dx.len()];
    for_each_term(shape, |term| sums[term.x] += f64::from(dy[term.y]) * f64::from(weight[term.weight]));
    store(&sums, dx, accumulate);
}

/// See [`super::backward_weight`].
pub fn backward_weight(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32], accumulate: bool) {
    let mut sums = vec![0.0_f64; dw.len()];
    for_each_term(shape, |term| sums[term.weight] += f64::from(dy[term.y]) * f64::from(x[term.x]));
    store(&sums, dw, accumulate);
}

fn store(sums: &[f64], to: &mut [f32], accumulate: bool) {
    for (to, sum) in to.iter_mut().zip(sums) {
        *to = if accumulate { *to + *sum as f32 } else { *sum as f32 };
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    let relu6 = |x: f32| x.clamp(0.0, 6.0);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => relu6(x),
        Activation::LeakyRelu(slope) => {
            if x > 0.0 {
                x
            } else {
                slope * x
            }
        }
        Activation::Silu => x * sigmoid(x),
        Activation::HardSwish => x * relu6(x + 3.0) / 6.0,
        Activation::HardSigmoid => relu6(x + 3.0) / 6.0,
        Activation::Sigmoid => sigmoid(x),
    }
}
