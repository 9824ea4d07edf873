//! How fast the kernels move memory, on a GPU: nothing is asserted, and the emulator has nothing to say about it.
//!
//! ```text
//! cargo xtask cuda test --hardware -- --ignored --nocapture bandwidth
//! ```

use std::time::Instant;

use models::Pool2d;

use super::*;
use crate::kernels::conv::ConvShape;
use crate::kernels::norm::Rows;
use crate::kernels::pooling::PoolShape;
use crate::optimizer::Optimizer;

const ROUNDS: u32 = 50;

/// Prints time and bandwidth of a launch that reads and writes `bytes`.
fn measure(lab: &Lab, kernel: &str, bytes: usize, launch: impl Fn() -> Result<()>) {
    for _ in 0..3 {
        launch().unwrap();
    }
    lab.gpu.stream.synchronize().unwrap();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        launch().unwrap();
    }
    lab.gpu.stream.synchronize().unwrap();
    let seconds = start.elapsed().as_secs_f64() / f64::from(ROUNDS);
    let rate = bytes as f64 / seconds / 1e9;
    println!("{kernel:32} {:?} {:8.1} us {rate:7.0} GB/s", lab.format, seconds * 1e6);
}

/// Batch norm and what goes with convolutions, on the first maps of a ResNet at 32 pixels.
fn maps(lab: &Lab, rows: Rows) {
    let (kernels, format, channels) = (&lab.kernels, lab.format, rows.channels);
    let map = rows.len() * format.bytes();
    let [z, y, dy, other] = [(); 4].map(|()| lab.scratch(map));
    let [scale, shift, bias] = [(); 3].map(|()| lab.floats(&vec![1.0; channels]));
    let kept = lab.scratch(4 * Saved::len(channels));
    let scratch =
        lab.scratch(Kernels::norm_scratch(rows).max(Kernels::column_sums_scratch(rows.count(), channels)));
    let (saved, affine) =
        (Saved::at(kept.at, channels), Affine { eps: 1e-5, scale: scale.at, shift: shift.at });
    let relu = Some(Activation::Relu);
    let pass = Backward {
        z: z.at,
        saved,
        activation: Some((Activation::Relu, Slope::Recomputed { residual: None })),
        factors: None,
    };
    measure(lab, "pass_on", 2 * map, || unsafe {
        kernels.pass_on(format, z.at, Target::set(y.at), rows.len())
    });
    measure(lab, "add, relu", 3 * map, || unsafe {
        kernels.add(format, z.at, dy.at, relu, y.at, rows.len())
    });
    measure(lab, "activation_forward silu", 2 * map, || unsafe {
        kernels.activation_forward(format, Activation::Silu, z.at, y.at, rows.len())
    });
    measure(lab, "finish, bias, silu", 2 * map, || unsafe {
        kernels.finish(format, y.at, Some(bias.at), None, Some(Activation::Silu), rows.count(), channels)
    });
    measure(lab, "norm_batch", map, || unsafe {
        kernels.norm_batch(format, rows, z.at, &affine, None, saved, scratch.at)
    });
    let after = After { activation: relu, ..After::default() };
    measure(lab, "normalize, relu", 2 * map, || unsafe {
        kernels.normalize(format, rows, z.at, saved, &after, y.at)
    });
    let after = After { activation: relu, residual: Some(other.at), factors: None };
    measure(lab, "normalize, residual, relu", 3 * map, || unsafe {
        kernels.normalize(format, rows, z.at, saved, &after, y.at)
    });
    measure(lab, "norm_backward_sums", 3 * map, || unsafe {
        kernels.norm_backward_sums(format, rows, &pass, dy.at, None, scratch.at)
    });
    measure(lab, "norm_backward_parameters", 0, || unsafe {
        kernels.norm_backward_parameters(rows, saved, true, scale.at, None, scratch.at)
    });
    measure(lab, "norm_backward_apply", 3 * map, || unsafe {
        kernels.norm_backward_apply(format, rows, &pass, dy.at, None, scratch.at)
    });
    measure(lab, "column_sums", map, || unsafe {
        kernels.column_sums(format, dy.at, rows.count(), channels, scratch.at, Target::set(bias.at))
    });
    let key = lab.key(7);
    let draw = Draw { p: 0.2, key: key.at, node: 3 };
    measure(lab, "dropout", 2 * map, || unsafe {
        kernels.dropout(format, draw, z.at, Target::set(y.at), rows.len())
    });
    measure(lab, "global_forward", map, || unsafe { kernels.global_forward(format, rows, z.at, y.at) });
}

fn windows(lab: &Lab) {
    let (kernels, format) = (&lab.kernels, lab.format);
    let window = Pool2d { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let shape = PoolShape { batch: 128, height: 112, width: 112, channels: 64, window };
    let [inputs, outputs] = [112, 56].map(|side| 128 * side * side * 64);
    let (x, y, taps) = (
        lab.scratch(inputs * format.bytes()),
        lab.scratch(outputs * format.bytes()),
        lab.scratch(2 * outputs),
    );
    let moved = (inputs + outputs) * format.bytes() + 2 * outputs;
    measure(lab, "max_forward", moved, || unsafe {
        kernels.max_forward(format, &shape, x.at, y.at, Some(taps.at))
    });
    measure(lab, "max_backward", moved, || unsafe {
        kernels.max_backward(format, &shape, y.at, taps.at, Target::set(x.at))
    });
    for (side, kernel) in [(32, 3), (16, 5)] {
        let shape = ConvShape {
            batch: 256,
            in_height: side,
            in_width: side,
            in_channels: 240,
            out_channels: 240,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [kernel / 2; 2],
            groups: 240,
        };
        let map = shape.in_len() * format.bytes();
        let (x, y) = (lab.scratch(map), lab.scratch(map));
        let (weight, scratch) =
            (lab.floats(&vec![1.0; kernel * kernel * 240]), lab.scratch(Kernels::depthwise_scratch(&shape)));
        let name = |pass: &str| format!("depthwise {pass} {kernel}x{kernel}");
        measure(lab, &name("forward"), 2 * map, || unsafe {
            kernels.depthwise_forward(format, &shape, x.at, weight.at, y.at)
        });
        measure(lab, &name("input"), 2 * map, || unsafe {
            kernels.depthwise_backward_input(format, &shape, y.at, weight.at, Target::set(x.at))
        });
        measure(lab, &name("weight"), 2 * map, || unsafe {
            kernels.depthwise_backward_weight(format, &shape, x.at, y.at, Target::set(weight.at), scratch.at)
        });
    }
}

fn updates(lab: &Lab) {
    let (count, kernels) = (1500, &lab.kernels);
    let len = count * Piece::LARGEST;
    let pieces: Vec<u32> =
        (0..count).flat_map(|n| [(n * Piece::LARGEST) as u32, Piece::LARGEST as u32, 3]).collect();
    let pieces = lab.words(&pieces);
    let [theta, gradient, first, second, average] = [(); 5].map(|()| lab.floats(&vec![0.5; len]));
    let (shadow, squares) = (lab.scratch(2 * len), lab.scratch(size_of::<SquareSum>()));
    let scratch = lab.scratch(Kernels::square_sum_scratch(count));
    let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true };
    let adam = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let scalars = lab.bytes(&super::optimizer::scalar_bytes(&Scalars::new(adam, 1e-3, 1e-2, 1.0, 1)), 0);
    let vectors = Vectors {
        theta: theta.at,
        gradient: gradient.at,
        first: first.at,
        second: second.at,
        average: average.at,
        shadow: shadow.at,
    };
    measure(lab, "square_sum", 4 * len, || unsafe {
        kernels.square_sum(pieces.at, count, gradient.at, scratch.at, squares.at)
    });
    measure(lab, "sgd, average, shadow", 4 * 7 * len + 2 * len, || unsafe {
        kernels.update(sgd, pieces.at, count, vectors, scalars.at, Some(squares.at))
    });
    measure(lab, "adamw, average, shadow", 4 * 9 * len + 2 * len, || unsafe {
        kernels.update(adam, pieces.at, count, vectors, scalars.at, Some(squares.at))
    });
}

#[test]
#[ignore = "measures a GPU"]
fn bandwidth() {
    for format in [Format::Bf16, Format::F32] {
        let lab = Lab::open(format, 0);
        for (positions, channels) in [(1024, 64), (64, 256), (16, 512)] {
            println!("512 pictures, {positions} positions, {channels} channels");
            maps(&lab, Rows { samples: 512, positions, channels });
        }
        windows(&lab);
        updates(&lab);
    }
}
