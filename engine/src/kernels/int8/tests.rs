//! Every path of the kernels over bytes against nested loops written from the definition.

use std::sync::OnceLock;

use models::{Activation, Pool2d};

use super::{Conv, Layer, Output, Quantization, Residual, Table, activation_table, elementwise, pooling};
use crate::kernels::conv::ConvShape;
use crate::kernels::pooling::PoolShape;
use crate::pool::Pool;
use crate::simd::{ByteIsa, Isa};

/// Pools of one and of three threads for all instructions of this machine.
fn pools() -> &'static [Pool] {
    static POOLS: OnceLock<Vec<Pool>> = OnceLock::new();
    POOLS.get_or_init(|| {
        let both = Isa::ALL.into_iter().flat_map(|isa| ByteIsa::ALL.map(|byte_isa| (isa, byte_isa)));
        let here =
            both.filter(|(isa, bytes)| isa.is_available() && bytes.is_available() && bytes.goes_with(*isa));
        here.flat_map(|(isa, bytes)| [1, 3].map(|threads| Pool::with_isa(threads, isa).with_byte_isa(bytes)))
            .collect()
    })
}

/// Numbers that look random, the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    /// Below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Whole numbers of `[-bound, bound]` as floats between -1 and 1.
    fn real(&mut self) -> f32 {
        self.below(2001) as f32 / 1000.0 - 1.0
    }
}

/// A layer with its input.
struct Case {
    shape: ConvShape,
    quantization: Quantization,
    x: Vec<u8>,
    weight: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<i32>,
    residual: Option<(Vec<u8>, Quantization)>,
    output: Output,
}

impl Case {
    fn new(shape: ConvShape, random: &mut Random) -> Self {
        let each = shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1];
        let scales = (0..shape.out_channels).map(|_| 0.001 + random.real().abs() / 100.0).collect();
        let scale = (each as f32).sqrt() * 0.02;
        let quantization = Quantization { scale, zero_point: random.next() as u8 };
        Self {
            shape,
            quantization: Quantization { scale: 0.02, zero_point: random.next() as u8 },
            x: random.bytes(shape.in_len()),
            weight: random.bytes(shape.out_channels * each).into_iter().map(|byte| byte as i8).collect(),
            scales,
            bias: (0..shape.out_channels).map(|_| (random.real() * 5000.0) as i32).collect(),
            residual: None,
            output: Output::new(quantization),
        }
    }

    /// Exact sum of an output, from the definition: real zeros around the map.
    fn sum(&self, picture: usize, [row, column]: [usize; 2], output: usize) -> i32 {
        let shape = &self.shape;
        let inputs = shape.in_channels / shape.groups;
        let group = output / (shape.out_channels / shape.groups);
        let mut sum = i64::from(self.bias[output]);
        for kernel_row in 0..shape.kernel[0] {
            for kernel_column in 0..shape.kernel[1] {
                let y = (row * shape.stride[0] + kernel_row) as isize - shape.padding[0] as isize;
                let x = (column * shape.stride[1] + kernel_column) as isize - shape.padding[1] as isize;
                if y < 0 || x < 0 || y >= shape.in_height as isize || x >= shape.in_width as isize {
                    continue;
                }
                let pixel = (picture * shape.in_height + y as usize) * shape.in_width + x as usize;
                for input in 0..inputs {
                    let x = self.x[pixel * shape.in_channels + group * inputs + input];
                    let place = ((output * inputs + input) * shape.kernel[0] + kernel_row) * shape.kernel[1];
                    let weight = self.weight[place + kernel_column];
                    sum += (i64::from(x) - i64::from(self.quantization.zero_point)) * i64::from(weight);
                }
            }
        }
        i32::try_from(sum).unwrap()
    }

    /// All sums in the order of the output map, each with its channel.
    fn sums(&self) -> Vec<(usize, i32)> {
        let mut sums = Vec::with_capacity(self.shape.out_len());
        for picture in 0..self.shape.batch {
            for row in 0..self.shape.out_height() {
                for column in 0..self.shape.out_width() {
                    for output in 0..self.shape.out_channels {
                        sums.push((output, self.sum(picture, [row, column], output)));
                    }
                }
            }
        }
        sums
    }

    fn byte(&self, index: usize, (output, sum): (usize, i32)) -> u8 {
        let scale = self.output.quantization.scale;
        let branch = self.output.branch.unwrap_or(self.output.quantization);
        let real = sum as f32 * (self.quantization.scale * self.scales[output] / branch.scale);
        let whole = match &self.residual {
            None => real.round_ties_even() as i64 + i64::from(self.output.quantization.zero_point),
            Some((bytes, residual)) => {
                let zero = f32::from(branch.zero_point);
                let rounded = (real.round_ties_even() + zero).clamp(0.0, 255.0);
                let (a, b) = (branch.scale / scale, residual.scale / scale);
                let zeros = a * zero + b * f32::from(residual.zero_point);
                let offset = f32::from(self.output.quantization.zero_point) - zeros;
                ((rounded * a + offset) + f32::from(bytes[index]) * b).round_ties_even() as i64
            }
        };
        let byte = whole.clamp(i64::from(self.output.low), i64::from(self.output.high)) as u8;
        self.output.table.as_ref().map_or(byte, |table| table[usize::from(byte)])
    }

    /// Compares bytes and real numbers under every instruction set and thread count.
    fn check(&self) {
        let sums = self.sums();
        let expected: Vec<u8> = sums.iter().enumerate().map(|(index, &sum)| self.byte(index, sum)).collect();
        let real =
            |&(output, sum): &(usize, i32)| sum as f32 * (self.quantization.scale * self.scales[output]);
        let reals: Vec<f32> = sums.iter().map(real).collect();
        let layer = Layer {
            x: self.quantization,
            weight: &self.weight,
            weight_scales: &self.scales,
            bias: &self.bias,
        };
        let conv = Conv::new(&self.shape, &layer, self.output.clone()).unwrap();
        for pool in pools() {
            let what = format!("{:?}, {} x {}", self.shape, pool.byte_isa().name(), pool.threads());
            let residual = self
                .residual
                .as_ref()
                .map(|(bytes, quantization)| Residual { bytes, quantization: *quantization });
            let mut found = vec![99; expected.len()];
            conv.forward(pool, &self.x, residual, &mut found);
            assert_same(&found, &expected, &what);
            if !self.shape.is_depthwise() {
                let mut found = vec![99.0; reals.len()];
                conv.forward_f32(pool, &self.x, &mut found);
                assert_same(&found, &reals, &what);
            }
        }
    }
}

fn assert_same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T], what: &str) {
    let first = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(index) = first {
        panic!("{what}: at {index} found {:?}, expected {:?}", found[index], expected[index]);
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

fn shape(
    batch: usize,
    map: [usize; 2],
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
) -> ConvShape {
    ConvShape {
        in_height: map[0],
        in_width: map[1],
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        ..ConvShape::linear(batch, channels[0], channels[1])
    }
}

fn depthwise(batch: usize, map: [usize; 2], channels: usize, kernel: usize, stride: usize) -> ConvShape {
    ConvShape { groups: channels, ..shape(batch, map, [channels; 2], kernel, stride, kernel / 2) }
}

#[test]
fn dense_layers_of_any_shape_give_the_sums_of_their_definition() {
    let mut random = Random(0x1234_5678_9abc);
    let channels = [1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 24, 31, 33, 40];
    for _ in 0..60 {
        let kernel = random.one_of(&[1, 1, 2, 3, 3, 3, 5, 7]);
        let padding = random.below(kernel / 2 + 1);
        let map = [0; 2].map(|_| kernel.max(1 + random.below(9)));
        let (inputs, outputs) = (random.one_of(&channels), random.one_of(&channels));
        let (batch, stride) = (1 + random.below(3), 1 + random.below(2));
        Case::new(shape(batch, map, [inputs, outputs], kernel, stride, padding), &mut random).check();
    }
}

#[test]
fn groups_see_no_channel_of_each_other() {
    let mut random = Random(77);
    for (groups, inputs, outputs) in [(2, 3, 5), (3, 4, 16), (4, 1, 2), (2, 20, 33), (5, 2, 1)] {
        for (kernel, stride) in [(1, 1), (3, 1), (3, 2)] {
            let dense = shape(2, [5, 4], [groups * inputs, groups * outputs], kernel, stride, kernel / 2);
            Case::new(ConvShape { groups, ..dense }, &mut random).check();
        }
    }
}

#[test]
fn sides_may_differ() {
    let mut random = Random(5);
    for (kernel, stride, padding) in
        [([1, 3], [1, 2], [0, 1]), ([3, 1], [2, 1], [1, 0]), ([2, 5], [1, 1], [1, 2])]
    {
        let sides = ConvShape { kernel, stride, padding, ..shape(1, [6, 7], [6, 9], 1, 1, 0) };
        Case::new(sides, &mut random).check();
        let channels = 9;
        let sides = ConvShape { in_channels: channels, groups: channels, ..sides };
        Case::new(sides, &mut random).check();
    }
}

#[test]
fn maps_smaller_than_the_kernel_leave_out_what_meets_padding() {
    let mut random = Random(6);
    for map in [[1, 1], [2, 2], [1, 3], [3, 2]] {
        for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (7, 2)] {
            Case::new(shape(2, map, [12, 20], kernel, stride, kernel / 2), &mut random).check();
            Case::new(depthwise(1, map, 20, kernel, stride), &mut random).check();
        }
    }
}

#[test]
fn linear_layers_of_few_and_many_rows_are_exact() {
    let mut random = Random(8);
    for (rows, inputs, outputs) in [
        (1, 96, 10),
        (1, 64, 300),
        (2, 33, 257),
        (3, 128, 129),
        (4, 16, 64),
        (6, 20, 100),
        (29, 12, 40),
        (1, 5000, 3),
    ] {
        Case::new(ConvShape::linear(rows, inputs, outputs), &mut random).check();
    }
}

#[test]
fn large_layers_are_divided_among_threads() {
    let mut random = Random(9);
    Case::new(shape(1, [28, 28], [64, 40], 3, 1, 1), &mut random).check();
    Case::new(shape(1, [2, 2], [128, 256], 3, 1, 1), &mut random).check();
    Case::new(depthwise(2, [40, 41], 72, 3, 1), &mut random).check();
}

#[test]
fn depthwise_layers_of_any_shape_give_the_sums_of_their_definition() {
    let mut random = Random(11);
    for channels in [2, 3, 8, 16, 20, 31, 32, 33, 40, 63, 64, 65, 72, 96, 97, 120, 130] {
        for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (4, 1), (7, 1)] {
            let map = [1 + random.below(8), 1 + random.below(12)];
            if map.iter().all(|side| side + kernel / 2 * 2 >= kernel) {
                Case::new(depthwise(1 + random.below(2), map, channels, kernel, stride), &mut random).check();
            }
        }
    }
}

#[test]
fn the_largest_numbers_do_not_saturate() {
    let mut random = Random(12);
    for shape in
        [shape(1, [4, 5], [64, 20], 3, 1, 1), ConvShape::linear(3, 1000, 40), depthwise(1, [6, 6], 70, 5, 1)]
    {
        for (x, weight, zero_point) in
            [(255, -128, 0), (255, 127, 0), (0, -128, 255), (0, 127, 255), (255, -128, 128)]
        {
            let mut case = Case::new(shape, &mut random);
            case.x.fill(x);
            case.weight.fill(weight);
            case.quantization.zero_point = zero_point;
            case.output.quantization.scale = 1e-3; // far beyond a byte, and beyond 16 bits
            case.check();
            case.output.quantization = Quantization { scale: 1e3, zero_point: 120 };
            case.check();
            // Neighbors of opposite sign: pairs of products cancel, or do not.
            case.weight.iter_mut().step_by(2).for_each(|other| *other = -1 - weight);
            case.check();
            case.output.quantization = Quantization { scale: 1e-12, zero_point: 120 };
            case.check();
        }
    }
}

#[test]
fn ties_go_to_the_even_byte() {
    // x * 1 * 0.5: every odd x is a tie.
    for groups in [1, 16] {
        let shape = ConvShape { groups, ..ConvShape::linear(16, 16, 16) };
        let mut case = Case::new(shape, &mut Random(3));
        case.x = (0..=255).collect();
        case.quantization = Quantization { scale: 0.5, zero_point: 7 };
        case.output = Output::new(Quantization { scale: 1.0, zero_point: 7 });
        case.bias.fill(0);
        case.scales.fill(1.0);
        let each = 16 / groups;
        case.weight = (0..16 * each).map(|index| i8::from(index % each == index / each % each)).collect();
        case.check();
        let byte = |x: f32| ((x - 7.0) / 2.0).round_ties_even() + 7.0;
        assert_eq!((byte(8.0), byte(10.0), byte(12.0)), (7.0, 9.0, 9.0));
    }
}

#[test]
fn residuals_activations_and_tables_follow_the_sum() {
    let mut random = Random(14);
    for shape in [
        shape(2, [5, 5], [20, 35], 3, 1, 1),
        ConvShape::linear(1, 40, 130),
        shape(1, [9, 3], [8, 16], 1, 2, 0),
    ] {
        let mut case = Case::new(shape, &mut random);
        case.residual = Some((random.bytes(shape.out_len()), Quantization { scale: 0.031, zero_point: 77 }));
        case.check();
        let quantization = case.output.quantization;
        case.output = Output::new(quantization)
            .of_branch(Quantization { scale: quantization.scale * 0.7, zero_point: 140 });
        case.check();
        for activation in [Activation::Relu, Activation::Relu6] {
            case.output = Output::clamped(quantization, activation).unwrap();
            case.check();
        }
        let table = activation_table(quantization, Activation::HardSwish, Quantization::of_range(-0.4, 3.0));
        case.output = Output::new(quantization).then(table);
        case.check();
    }
    let mut case = Case::new(depthwise(2, [7, 6], 75, 3, 1), &mut random);
    let quantization = case.output.quantization;
    case.output = Output::clamped(quantization, Activation::Relu6).unwrap();
    case.check();
    case.output =
        Output::new(quantization).then(activation_table(quantization, Activation::Silu, quantization));
    case.check();
}

#[test]
fn sums_that_could_overflow_are_refused() {
    let shape = ConvShape::linear(1, 70_000, 1);
    let (weight, scales) = (vec![127; 70_000], [1.0]);
    let x = Quantization { scale: 1.0, zero_point: 0 };
    let layer = Layer { x, weight: &weight, weight_scales: &scales, bias: &[] };
    let error = Conv::new(&shape, &layer, Output::new(x)).unwrap_err().to_string();
    assert!(error.contains("sums of output 0 may reach 2266950000"), "{error}");
}

#[test]
fn bytes_stand_for_their_numbers() {
    let quantization = Quantization::of_range(-1.0, 3.0);
    assert_eq!(quantization.zero_point, 64);
    assert_eq!(quantization.dequantize(quantization.zero_point), 0.0);
    for byte in 0..=255 {
        assert_eq!(quantization.quantize(quantization.dequantize(byte)), byte);
    }
    assert_eq!((quantization.quantize(-9.0), quantization.quantize(f32::INFINITY)), (0, 255));
    assert_eq!(Quantization::of_range(0.5, 0.5).zero_point, 0);
    let signed = Quantization::of_signed(0.1, -128);
    assert_eq!(signed.zero_point, 0);
    assert_eq!(Quantization::of_signed(0.1, 5).zero_point, 133);
}

#[test]
fn elementwise_kernels_follow_their_definitions() {
    let mut random = Random(21);
    let len = 70_003;
    let (a, b) = (random.bytes(len), random.bytes(len));
    let [qa, qb, qy] =
        [(0.03, 100), (0.011, 3), (0.05, 90)].map(|(scale, zero_point)| Quantization { scale, zero_point });
    let reals: Vec<f32> = (0..len).map(|_| random.real() * 9.0).collect();
    let mut output = Output::new(qy);
    output.low = 20;
    let shift: Table = std::array::from_fn(|byte| (byte as u8).wrapping_mul(7));
    output.table = Some(Box::new(shift));
    let sum = |a: u8, b: u8| {
        let offset = 90.0 - ((0.03 / 0.05) * 100.0 + (0.011 / 0.05) * 3.0);
        let real = (f32::from(a) * (0.03 / 0.05) + offset) + f32::from(b) * (0.011 / 0.05);
        shift[(real.round_ties_even() as i32).clamp(20, 255) as usize]
    };
    for pool in pools() {
        let mut y = vec![0; len];
        elementwise::quantize(pool, qa, &reals, &mut y);
        let expected: Vec<u8> =
            reals.iter().map(|x| ((x / 0.03).round_ties_even() + 100.0).clamp(0.0, 255.0) as u8).collect();
        assert_same(&y, &expected, "quantize");
        let mut back = vec![0.0; len];
        elementwise::dequantize(pool, qa, &y, &mut back);
        let expected: Vec<f32> = y.iter().map(|&y| (f32::from(y) - 100.0) * 0.03).collect();
        assert_same(&back, &expected, "dequantize");
        let map = |bytes, quantization| elementwise::Map { bytes, quantization };
        elementwise::sum(pool, map(&a, qa), map(&b, qb), &output, &mut y);
        let expected: Vec<u8> = a.iter().zip(&b).map(|(&a, &b)| sum(a, b)).collect();
        assert_same(&y, &expected, "sum");
        elementwise::map(pool, &shift, &mut y);
        let expected: Vec<u8> = expected.iter().map(|&y| shift[usize::from(y)]).collect();
        assert_same(&y, &expected, "map");
        elementwise::flip_sign(pool, &mut y);
        assert_same(&y, &expected.iter().map(|y| y ^ 0x80).collect::<Vec<_>>(), "flip");
    }
}

#[test]
fn products_and_gates_follow_their_definition() {
    let mut random = Random(22);
    let [qa, qb, qy] =
        [(0.03, 100), (0.011, 3), (0.021, 90)].map(|(scale, zero_point)| Quantization { scale, zero_point });
    for (batch, positions, channels) in [(2, 35, 70), (1, 1, 65), (3, 4, 5), (1, 900, 96)] {
        let a = random.bytes(batch * positions * channels);
        let b = random.bytes(batch * channels);
        let byte = |(index, &a): (usize, &u8)| {
            let gate = b[index / (positions * channels) * channels + index % channels];
            let product = (i32::from(a) - 100) * (i32::from(gate) - 3);
            ((product as f32 * (0.03 * 0.011 / 0.021)).round_ties_even() as i32 + 90).clamp(0, 255) as u8
        };
        let expected: Vec<u8> = a.iter().enumerate().map(byte).collect();
        for pool in pools() {
            let mut y = vec![0; a.len()];
            let map = |bytes, quantization| elementwise::Map { bytes, quantization };
            elementwise::product(
                pool,
                [positions, channels],
                map(&a, qa),
                map(&b, qb),
                &Output::new(qy),
                &mut y,
            );
            assert_same(&y, &expected, "product");
        }
    }
}

#[test]
fn maps_go_through_the_tables_of_their_channels() {
    let mut random = Random(23);
    let tables: Vec<Table> = (0..3).map(|_| random.bytes(256).try_into().unwrap()).collect();
    let x = random.bytes(3 * 30_000);
    let expected: Vec<u8> =
        x.iter().enumerate().map(|(index, &x)| tables[index % 3][usize::from(x)]).collect();
    for pool in pools() {
        let mut y = vec![0; x.len()];
        elementwise::map_channels(pool, &tables, &x, &mut y);
        assert_same(&y, &expected, "picture");
    }
}

#[test]
fn pooling_follows_its_definition() {
    let mut random = Random(24);
    for (height, width, channels, window) in [
        (8, 7, 33, Pool2d::new(3).stride(2).padding(1)),
        (5, 5, 64, Pool2d::new(2).stride(2)),
        (60, 60, 20, Pool2d::new(3).stride(2).padding(1)),
    ] {
        let shape = PoolShape { batch: 2, height, width, channels, window };
        let x = random.bytes(2 * height * width * channels);
        let [rows, columns] = shape.out();
        let mut largest = Vec::new();
        for index in 0..2 * rows * columns * channels {
            let (pixel, channel) = (index / channels, index % channels);
            let (picture, row, column) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            let mut byte = 0;
            for y in (row * window.stride[0]).saturating_sub(window.padding[0])..height {
                for x_column in (column * window.stride[1]).saturating_sub(window.padding[1])..width {
                    let inside = y + window.padding[0] < row * window.stride[0] + window.kernel[0]
                        && x_column + window.padding[1] < column * window.stride[1] + window.kernel[1];
                    if inside {
                        byte = byte.max(x[((picture * height + y) * width + x_column) * channels + channel]);
                    }
                }
            }
            largest.push(byte);
        }
        let mut averages = Vec::new();
        for index in 0..2 * rows * columns * channels {
            let (pixel, channel) = (index / channels, index % channels);
            let (picture, row, column) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            let mut sum = 0;
            for tap in 0..window.kernel[0] * window.kernel[1] {
                let at = |out: usize, tap: usize, axis: usize| {
                    (out * window.stride[axis] + tap).wrapping_sub(window.padding[axis])
                };
                let (y, x_column) =
                    (at(row, tap / window.kernel[1], 0), at(column, tap % window.kernel[1], 1));
                if y < height && x_column < width {
                    sum +=
                        i32::from(x[((picture * height + y) * width + x_column) * channels + channel]) - 30;
                }
            }
            let area = (window.kernel[0] * window.kernel[1]) as f32;
            let real = sum as f32 * (0.02 / (area * 0.013));
            averages.push((real.round_ties_even() as i32 + 9).clamp(0, 255) as u8);
        }
        let from = Quantization { scale: 0.02, zero_point: 30 };
        let output = Output::new(Quantization { scale: 0.013, zero_point: 9 });
        let positions = height * width;
        let mean = |index: usize| {
            let (picture, channel) = (index / channels, index % channels);
            let pixel =
                |position: usize| i32::from(x[(picture * positions + position) * channels + channel]) - 30;
            let sum: i32 = (0..positions).map(pixel).sum();
            ((sum as f32 * (0.02 / (positions as f32 * 0.013))).round_ties_even() as i32 + 9).clamp(0, 255)
                as u8
        };
        let means: Vec<u8> = (0..2 * channels).map(mean).collect();
        for pool in pools() {
            let mut y = vec![0; largest.len()];
            pooling::largest(pool, &shape, &x, &mut y);
            assert_same(&y, &largest, "largest");
            let mut y = vec![0; averages.len()];
            pooling::average(pool, &shape, &x, from, &output, &mut y);
            assert_same(&y, &averages, "average");
            let mut y = vec![0; means.len()];
            pooling::mean(pool, channels, &x, from, &output, &mut y);
            assert_same(&y, &means, "mean");
        }
    }
}

/// Bytes whose end is the end of readable memory.
#[cfg(target_os = "linux")]
struct AtTheEdge {
    map: *mut libc::c_void,
    pages: usize,
    len: usize,
}

#[cfg(target_os = "linux")]
impl AtTheEdge {
    const PAGE: usize = 4096;

    fn new(bytes: &[u8]) -> Self {
        let pages = bytes.len().div_ceil(Self::PAGE);
        // SAFETY: a fresh map of its own, whose last page is then closed; the bytes end where that page begins.
        unsafe {
            let (length, access) = ((pages + 1) * Self::PAGE, libc::PROT_READ | libc::PROT_WRITE);
            let map = libc::mmap(
                std::ptr::null_mut(),
                length,
                access,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(map, libc::MAP_FAILED);
            let end = map.cast::<u8>().add(pages * Self::PAGE);
            assert_eq!(libc::mprotect(end.cast(), Self::PAGE, libc::PROT_NONE), 0);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), end.sub(bytes.len()), bytes.len());
            Self { map, pages, len: bytes.len() }
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the map holds them for as long as `self` lives.
        unsafe {
            let start = self.map.cast::<u8>().add(self.pages * Self::PAGE - self.len);
            std::slice::from_raw_parts_mut(start, self.len)
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for AtTheEdge {
    fn drop(&mut self) {
        // SAFETY: the whole map, which nothing borrows any more.
        unsafe { libc::munmap(self.map, (self.pages + 1) * Self::PAGE) };
    }
}

/// A read or write past the end would end the process.
#[test]
#[cfg(target_os = "linux")]
fn nothing_past_the_end_of_a_map_is_touched() {
    let mut random = Random(31);
    let groups = ConvShape { groups: 3, ..shape(1, [3, 3], [9, 15], 1, 1, 0) };
    let mut shapes = vec![groups, shape(1, [5, 5], [7, 9], 3, 2, 1), shape(1, [4, 4], [3, 5], 3, 1, 0)];
    shapes.extend((1..40).map(|channels| ConvShape::linear(1 + channels % 3, channels, channels)));
    shapes
        .extend([2, 15, 31, 32, 33, 40, 63, 64, 65, 97].map(|channels| depthwise(1, [3, 4], channels, 3, 1)));
    shapes.extend(
        [2, 31, 32, 40, 64, 70]
            .map(|channels| ConvShape { padding: [0; 2], ..depthwise(1, [3, 6], channels, 3, 1) }),
    );
    for shape in shapes {
        let case = Case::new(shape, &mut random);
        let layer = Layer {
            x: case.quantization,
            weight: &case.weight,
            weight_scales: &case.scales,
            bias: &case.bias,
        };
        let conv = Conv::new(&shape, &layer, case.output.clone()).unwrap();
        let (mut x, mut y) = (AtTheEdge::new(&case.x), AtTheEdge::new(&vec![0; shape.out_len()]));
        let mut residual = AtTheEdge::new(&vec![1; shape.out_len()]);
        for pool in pools() {
            let residual = Residual { bytes: residual.bytes(), quantization: case.quantization };
            conv.forward(pool, x.bytes(), (!shape.is_depthwise()).then_some(residual), y.bytes());
        }
    }
    let quantization = Quantization { scale: 0.1, zero_point: 9 };
    let output = Output::new(quantization).then(std::array::from_fn(|byte| byte as u8));
    for len in 1..100 {
        let bytes = random.bytes(len);
        let [mut a, mut b, mut y] = [0; 3].map(|_| AtTheEdge::new(&bytes));
        for pool in pools() {
            let [a, b] = [a.bytes(), b.bytes()].map(|bytes| elementwise::Map { bytes, quantization });
            elementwise::sum(pool, a, b, &output, y.bytes());
            elementwise::product(pool, [1, len], a, b, &output, y.bytes());
            pooling::mean(pool, len, a.bytes, quantization, &output, y.bytes());
        }
    }
}
