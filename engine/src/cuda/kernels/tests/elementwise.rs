//! Kernels that touch each value alone or join two.

use super::*;
use crate::kernels::activation::{self, derives_from_output};
use crate::kernels::mixing;
use crate::kernels::norm::{self, Rows};
use crate::kernels::spans::{CHUNK, Source};
use crate::pool::Pool;
use crate::random::Stream;
use crate::theta::MapOrder;

const ALL: [Activation; 7] = [
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu(0.1),
    Activation::Silu,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Sigmoid,
];
const LENGTHS: [usize; 4] = [1, 64, 1003, 4096];
const MATRICES: [[usize; 2]; 6] = [[1, 1], [7, 10], [5, 24], [3000, 33], [700, 64], [3, 2056]];

fn pool() -> Pool {
    Pool::new(1)
}

fn added(values: &mut [f32], add: bool) -> norm::Target<'_> {
    norm::Target { values, add }
}

fn run(result: Result<()>) {
    result.unwrap();
}

#[test]
fn pictures_from_bytes_and_from_floats() {
    Lab::each(|lab| {
        for (pixels, channels) in [(5, 3), (1000, 3), (999, 1), (64, 4)] {
            let len = pixels * channels;
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 % 256) as u8).collect();
            let table = ramp(256 * channels, 2.5);
            let mut expected = vec![0.0; len];
            mixing::look_up(&pool(), &bytes, &table, &mut expected);
            let (x, numbers, y) =
                (lab.bytes(&bytes, lab.shift), lab.floats(&table), lab.map(&vec![9.0; len]));
            run(unsafe { lab.kernels.look_up(lab.format, x.at, numbers.at, y.at, pixels, channels) });
            lab.close("look_up", &y, &expected);

            let (scale, shift) = (ramp(channels, 2.0), ramp(channels, 0.5));
            let (scales, shifts) = (lab.floats(&scale), lab.floats(&shift));
            for floats in [true, false] {
                let values = if floats { ramp(len, 3.0) } else { lab.ramp(len, 3.0) };
                let (x, x_format) =
                    if floats { (lab.floats(&values), Format::F32) } else { (lab.map(&values), lab.format) };
                mixing::affine(&pool(), &values, &scale, &shift, &mut expected);
                let y = lab.map(&vec![9.0; len]);
                run(unsafe {
                    lab.kernels.affine(
                        lab.format,
                        (x.at, x_format),
                        scales.at,
                        shifts.at,
                        y.at,
                        pixels,
                        channels,
                    )
                });
                lab.close("affine", &y, &expected);
            }
            for (floats, add) in [(true, false), (false, true)] {
                let (values, mut dx) = (lab.ramp(len, 1.0), lab.ramp(len, 0.3));
                let dy = lab.map(&values);
                let (to, to_format) =
                    if floats { (lab.floats(&dx), Format::F32) } else { (lab.map(&dx), lab.format) };
                let target = Target { at: to.at, add };
                run(unsafe {
                    lab.kernels.scale_channels(
                        lab.format,
                        dy.at,
                        scales.at,
                        (target, to_format),
                        pixels,
                        channels,
                    )
                });
                mixing::scale_channels(&pool(), &scale, &values, added(&mut dx, add));
                if floats {
                    lab.close_floats("scale_channels", &to, &dx, 1e-5);
                } else {
                    lab.close("scale_channels", &to, &dx);
                }
            }
        }
    });
}

#[test]
fn activations_and_their_derivatives() {
    Lab::each(|lab| {
        for len in LENGTHS {
            for activation in ALL {
                let (x, dy) = (lab.ramp(len, 9.0), lab.ramp(len, 2.0));
                let mut expected = vec![0.0; len];
                activation::forward(&pool(), activation, &x, &mut expected);
                let (from, to) = (lab.map(&x), lab.map(&vec![9.0; len]));
                run(unsafe { lab.kernels.activation_forward(lab.format, activation, from.at, to.at, len) });
                lab.close("activation_forward", &to, &expected);
                let y = lab.rounded(&expected);
                let kept = lab.map(&y);
                for (output, add, in_place) in
                    [(false, false, true), (false, true, false), (true, true, false), (true, false, true)]
                {
                    if output && !derives_from_output(activation) {
                        continue;
                    }
                    let (host, device) = if output {
                        (activation::Kept::Output(&y), Kept::Output(kept.at))
                    } else {
                        (activation::Kept::Input(&x), Kept::Input(from.at))
                    };
                    let mut dx = if in_place { dy.clone() } else { lab.ramp(len, 0.7) };
                    let (dx_map, dy_map) = (lab.map(&dx), lab.map(&dy));
                    let source = if in_place { dx_map.at } else { dy_map.at };
                    activation::backward(&pool(), activation, host, Source::From(&dy), &mut dx, add);
                    let target = Target { at: dx_map.at, add };
                    run(unsafe {
                        lab.kernels.activation_backward(lab.format, activation, device, source, target, len)
                    });
                    lab.close("activation_backward", &dx_map, &dx);
                }
            }
        }
    });
}

#[test]
fn what_is_not_a_number_stays_so() {
    Lab::each(|lab| {
        for activation in ALL {
            for (len, place) in [(16, 3), (5, 4)] {
                let mut x = vec![1.0; len];
                x[place] = f32::NAN;
                let (from, to) = (lab.map(&x), lab.map(&vec![9.0; len]));
                run(unsafe { lab.kernels.activation_forward(lab.format, activation, from.at, to.at, len) });
                let found = lab.read_map(&to, len);
                assert!(
                    found[place].is_nan() || matches!(activation, Activation::LeakyRelu(_)),
                    "{activation:?}"
                );
                assert_eq!(found.iter().filter(|value| value.is_nan()).count(), 1, "{activation:?}");
            }
        }
    });
}

#[test]
fn extreme_arguments_of_exponentials_give_their_limits() {
    Lab::each(|lab| {
        let x = [-200.0, -89.0, 89.0, 200.0, 0.0, f32::NEG_INFINITY, f32::INFINITY, -0.0];
        let (from, to) = (lab.map(&x), lab.map(&[9.0; 8]));
        run(unsafe { lab.kernels.activation_forward(lab.format, Activation::Sigmoid, from.at, to.at, 8) });
        lab.close("activation_forward", &to, &[0.0, 0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 0.5]);
        run(unsafe { lab.kernels.activation_forward(lab.format, Activation::Silu, from.at, to.at, 5) });
        assert_eq!(lab.read_map(&to, 5), lab.rounded(&[-0.0, 0.0, 89.0, 200.0, 0.0]).as_slice());
    });
}

#[test]
fn what_follows_a_convolution() {
    Lab::each(|lab| {
        for [rows, channels] in MATRICES {
            let len = rows * channels;
            let (y, residual, bias) = (lab.ramp(len, 2.0), lab.ramp(len, 1.3), ramp(channels, 0.4));
            let (more, biases) = (lab.map(&residual), lab.floats(&bias));
            for (with_bias, with_residual, activation) in [
                (true, false, None),
                (false, true, Some(Activation::Relu)),
                (true, true, Some(Activation::Silu)),
                (false, false, Some(Activation::HardSwish)),
            ] {
                let sum = |i: usize| {
                    let added = if with_bias { bias[i % channels] } else { 0.0 };
                    y[i] + added + if with_residual { residual[i] } else { 0.0 }
                };
                let sums: Vec<f32> = (0..len).map(sum).collect();
                let mut expected = sums.clone();
                if let Some(activation) = activation {
                    activation::forward(&pool(), activation, &sums, &mut expected);
                }
                let map = lab.map(&y);
                let (bias, residual) = (with_bias.then_some(biases.at), with_residual.then_some(more.at));
                run(unsafe {
                    lab.kernels.finish(lab.format, map.at, bias, residual, activation, rows, channels)
                });
                lab.close("finish", &map, &expected);
            }
        }
    });
}

#[test]
fn sums_of_columns() {
    Lab::each(|lab| {
        for [rows, channels] in [[1, 1], [7, 10], [3000, 33], [2100, 64], [5, 20_000], [40_000, 3]] {
            let values = lab.ramp(rows * channels, 1.0);
            let dy = lab.map(&values);
            let scratch = lab.scratch(Kernels::column_sums_scratch(rows, channels));
            for add in [false, true] {
                let mut expected = ramp(channels, 1.0);
                let sums = lab.floats(&expected);
                let mut work = vec![0.0; mixing::column_sums_work(rows, channels)];
                mixing::column_sums(&pool(), &values, &mut work, added(&mut expected, add));
                let target = Target { at: sums.at, add };
                run(unsafe {
                    lab.kernels.column_sums(lab.format, dy.at, rows, channels, scratch.at, target)
                });
                // Both sum thousands of numbers of size 1 in f32.
                lab.close_floats("column_sums", &sums, &expected, 1e-4);
                lab.read_bytes(&scratch, Kernels::column_sums_scratch(rows, channels));
            }
        }
    });
}

#[test]
fn sums_products_and_copies() {
    Lab::each(|lab| {
        for len in LENGTHS {
            let (a, b, c) = (lab.ramp(len, 2.0), lab.ramp(len + 1, 1.5)[1..].to_vec(), lab.ramp(len, 0.9));
            let (a_map, b_map) = (lab.map(&a), lab.map(&b));
            for activation in [None, Some(Activation::Relu), Some(Activation::Sigmoid)] {
                let (mut expected, y) = (vec![0.0; len], lab.map(&c));
                mixing::add(&pool(), &a, &b, activation, &mut expected);
                run(unsafe { lab.kernels.add(lab.format, a_map.at, b_map.at, activation, y.at, len) });
                lab.close("add", &y, &expected);
            }
            for add in [false, true] {
                let (mut expected, y) = (c.clone(), lab.map(&c));
                mixing::multiply(&pool(), &a, &b, added(&mut expected, add));
                run(unsafe {
                    lab.kernels.multiply(lab.format, a_map.at, b_map.at, Target { at: y.at, add }, len)
                });
                lab.close("multiply", &y, &expected);
                let (mut expected, y) = (c.clone(), lab.map(&c));
                mixing::pass_on(&pool(), &a, added(&mut expected, add));
                run(unsafe { lab.kernels.pass_on(lab.format, a_map.at, Target { at: y.at, add }, len) });
                lab.close("pass_on", &y, &expected);
                let (mut expected, gradient) = (c.clone(), lab.floats(&c));
                mixing::pass_on(&pool(), &a, added(&mut expected, add));
                run(unsafe {
                    lab.kernels.accumulate(lab.format, a_map.at, Target { at: gradient.at, add }, len)
                });
                lab.close_floats("accumulate", &gradient, &expected, 1e-7);
            }
            let (values, y) = (ramp(len, 2.0), lab.map(&c));
            run(unsafe { lab.kernels.convert(lab.format, lab.floats(&values).at, y.at, len) });
            assert_eq!(
                lab.read_map(&y, len),
                lab.rounded(&values),
                "convert rounds to nearest, ties to even"
            );
        }
    });
}

#[test]
fn bf16_is_rounded_to_nearest_even() {
    let lab = Lab::open(Format::Bf16, 0);
    // Halfway cases, to the even neighbor below and above; beyond halfway; the largest; what is not finite.
    let bits = [
        0x3f80_8000,
        0x3f81_8000,
        0x3f80_8001,
        0x3f80_7fff,
        0x7f7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x8000_0001_u32,
    ];
    let expected = [0x3f80, 0x3f82, 0x3f81, 0x3f80, 0x7f80, 0x7f80, 0xff80, 0x8000_u16];
    for shift in [0, 1] {
        let values: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let y = lab.bytes(&[0; 16], 2 * shift);
        run(unsafe { lab.kernels.convert(Format::Bf16, lab.floats(&values).at, y.at, 8) });
        let found = lab.read_bytes(&y, 16);
        let found: Vec<u16> =
            found.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn gates_in_both_directions() {
    Lab::each(|lab| {
        for (positions, channels) in [(1, 3), (6, 16), (5, 21), (49, 72), (4, 520)] {
            let rows = Rows { samples: 3, positions, channels };
            let (x, dy, gate) =
                (lab.ramp(rows.len(), 2.0), lab.ramp(rows.len(), 1.0), lab.ramp(3 * channels, 0.9));
            let (x_map, dy_map, gate_map) = (lab.map(&x), lab.map(&dy), lab.map(&gate));
            for add in [false, true] {
                let mut expected = lab.ramp(rows.len(), 0.7);
                let y = lab.map(&expected);
                mixing::gate_forward(&pool(), rows, &x, &gate, added(&mut expected, add));
                let target = Target { at: y.at, add };
                run(unsafe { lab.kernels.gate_forward(lab.format, rows, x_map.at, gate_map.at, target) });
                lab.close("gate_forward", &y, &expected);
                let mut expected = lab.ramp(gate.len(), 0.7);
                let dgate = lab.map(&expected);
                mixing::gate_backward(&pool(), rows, &x, &dy, added(&mut expected, add));
                let target = Target { at: dgate.at, add };
                run(unsafe { lab.kernels.gate_backward(lab.format, rows, x_map.at, dy_map.at, target) });
                lab.close("gate_backward", &dgate, &expected);
            }
        }
    });
}

#[test]
fn dropout_and_stochastic_depth_draw_what_the_processor_draws() {
    Lab::each(|lab| {
        let stream = Stream::new(4).with(9);
        let key = lab.key(stream.key());
        for len in [5, 512, 2 * CHUNK + 77] {
            let draw = Draw { p: 0.3, key: key.at, node: 12 };
            let x = lab.ramp(len, 2.0);
            let mut expected = vec![0.0; len];
            mixing::dropout(&pool(), 0.3, stream.with(12), Source::From(&x), added(&mut expected, false));
            let y = lab.map(&x);
            run(unsafe { lab.kernels.dropout(lab.format, draw, y.at, Target::set(y.at), len) });
            let found = lab.read_map(&y, len);
            assert!(
                found.iter().zip(&expected).all(|(found, expected)| (*found == 0.0) == (*expected == 0.0))
            );
            lab.close("dropout", &y, &expected);
            let (from, mut sum) = (lab.map(&x), lab.ramp(len, 0.4));
            let y = lab.map(&sum);
            mixing::dropout(&pool(), 0.3, stream.with(12), Source::From(&x), added(&mut sum, true));
            run(unsafe {
                lab.kernels.dropout(lab.format, draw, from.at, Target { at: y.at, add: true }, len)
            });
            lab.close("dropout", &y, &sum);
        }
        let mut expected = vec![0.0; 300];
        mixing::depth_factors(0.25, stream.with(3), &mut expected);
        let factors = lab.floats(&[9.0; 300]);
        let draw = Draw { p: 0.25, key: key.at, node: 3 };
        run(unsafe { lab.kernels.depth_factors(draw, factors.at, 300) });
        assert_eq!(lab.read_floats(&factors, 300), expected);
        for sample_len in [7, 40, 1001] {
            for add in [false, true] {
                let (x, mut expected_y) = (lab.ramp(30 * sample_len, 2.0), lab.ramp(30 * sample_len, 0.3));
                let (from, y) = (lab.map(&x), lab.map(&expected_y));
                mixing::scale_samples(&pool(), &expected[..30], &x, added(&mut expected_y, add));
                let target = Target { at: y.at, add };
                run(unsafe {
                    lab.kernels.scale_samples(lab.format, factors.at, from.at, target, 30, sample_len)
                });
                lab.close("scale_samples", &y, &expected_y);
            }
        }
    });
}

#[test]
fn flattened_maps_are_reordered() {
    Lab::each(|lab| {
        for (channels, positions) in [(3, 4), (16, 49), (5, 1), (1, 9)] {
            let (order, len) = (MapOrder { channels, positions }, 3 * channels * positions);
            let (x, start) = (lab.ramp(len, 2.0), lab.ramp(len, 0.5));
            let (mut torch, mut engine) = (vec![0.0; len], vec![0.0; len]);
            order.to_torch(&x, &mut torch);
            order.to_engine(&x, &mut engine);
            let (from, floats) = (lab.map(&x), lab.floats(&x));
            for (ordered, expected) in [(Some(order), &torch), (None, &x)] {
                let y = lab.floats(&vec![9.0; len]);
                run(unsafe { lab.kernels.outputs(lab.format, from.at, ordered, y.at, len) });
                assert_eq!(&lab.read_floats(&y, len), expected, "outputs");
            }
            for (ordered, expected) in [(Some(order), &engine), (None, &x)] {
                for add in [false, true] {
                    let y = lab.map(&start);
                    run(unsafe {
                        lab.kernels.seeds(lab.format, floats.at, ordered, Target { at: y.at, add }, len)
                    });
                    let sum = |(a, b): (&f32, &f32)| if add { a + b } else { *a };
                    lab.close("seeds", &y, &expected.iter().zip(&start).map(sum).collect::<Vec<_>>());
                }
            }
            for (way, expected) in [(Way::ToTorch, &torch), (Way::ToEngine, &engine)] {
                for add in [false, true] {
                    let y = lab.map(&start);
                    let target = Target { at: y.at, add };
                    run(unsafe { lab.kernels.transpose(lab.format, order, way, from.at, target, len) });
                    let sum = |(a, b): (&f32, &f32)| if add { a + b } else { *a };
                    lab.close("transpose", &y, &expected.iter().zip(&start).map(sum).collect::<Vec<_>>());
                }
            }
        }
    });
}
