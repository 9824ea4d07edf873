//! Every path of convolution against its definition summed in f64, on odd shapes.

use std::sync::OnceLock;

use models::Activation;

use super::{
    ConvShape, Epilogue, Form, Size, Weight, WeightFormat, WeightOrder, backward_input, backward_weight,
    dense, forward, pack_weight, reference, scale_outputs, unpack_weight, weight_len,
};
use crate::pool::Pool;
use crate::simd::Isa;

/// Numbers in -1..1 that look random, the same on every machine.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// A pool of two threads per instruction set of this machine.
fn pools() -> &'static [Pool] {
    static POOLS: OnceLock<Vec<Pool>> = OnceLock::new();
    POOLS.get_or_init(|| isas().map(|isa| Pool::with_isa(2, isa)).collect())
}

/// Arrays of a shape, the weights in the engine's layout with zeros in the filling.
struct Case {
    shape: ConvShape,
    x: Vec<f32>,
    weight: Vec<f32>,
    dy: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(shape: ConvShape) -> Self {
        let torch = numbers(shape.out_channels * shape.group_inputs() * shape.taps(), 1);
        let mut weight = vec![0.0; weight_len(&shape)];
        pack_weight(&shape, WeightOrder::Blocked, &torch, &mut weight);
        let (x, dy) = (numbers(shape.in_len(), 2), numbers(shape.out_len(), 3));
        Self { shape, x, weight, dy, bias: numbers(shape.out_channels, 4) }
    }

    /// Results of the three passes, `[y, dx, dw]`.
    fn fast(&self, pool: &Pool, epilogue: &Epilogue<'_>, accumulate: bool) -> [Vec<f32>; 3] {
        let mut y = vec![7.0; self.dy.len()];
        forward(pool, &self.shape, &self.x, Weight::Plain(&self.weight), epilogue, &mut y);
        let [mut dx, mut dw] = self.start(accumulate);
        backward_input(pool, &self.shape, &self.dy, &self.weight, &mut dx, accumulate);
        backward_weight(pool, &self.shape, &self.x, &self.dy, &mut dw, accumulate);
        [y, dx, dw]
    }

    fn plain(&self, epilogue: &Epilogue<'_>, accumulate: bool) -> [Vec<f32>; 3] {
        let mut y = vec![7.0; self.dy.len()];
        reference::forward(&self.shape, &self.x, &self.weight, epilogue, &mut y);
        let [mut dx, mut dw] = self.start(accumulate);
        reference::backward_input(&self.shape, &self.dy, &self.weight, &mut dx, accumulate);
        reference::backward_weight(&self.shape, &self.x, &self.dy, &mut dw, accumulate);
        [y, dx, dw]
    }

    /// What gradients are added to; the filling of the weights' is zero, without accumulation both are rubbish.
    fn start(&self, accumulate: bool) -> [Vec<f32>; 2] {
        if accumulate {
            return [numbers(self.x.len(), 5), self.weight.clone()];
        }
        [vec![7.0; self.x.len()], vec![7.0; self.weight.len()]]
    }

    /// Compares all passes under every instruction set.
    fn check(&self, epilogue: &Epilogue<'_>, accumulate: bool) {
        let expected = self.plain(epilogue, accumulate);
        for pool in pools() {
            let found = self.fast(pool, epilogue, accumulate);
            for (name, (found, expected)) in ["y", "dx", "dw"].into_iter().zip(found.iter().zip(&expected)) {
                let what =
                    format!("{name} of {:?}, {}, accumulate {accumulate}", self.shape, pool.isa().name());
                assert_close(found, expected, &what);
            }
        }
    }
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_within(2e-6, found, expected, what);
}

/// Differences are at most `share` of the largest result, or of 1.
fn assert_within(share: f32, found: &[f32], expected: &[f32], what: &str) {
    let scale = expected.iter().fold(1.0_f32, |scale, x| scale.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let close = (found - expected).abs() <= share * scale;
        assert!(close, "{what}: at {index} found {found}, expected {expected}");
    }
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
        batch,
        in_height: map[0],
        in_width: map[1],
        in_channels: channels[0],
        out_channels: channels[1],
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [padding; 2],
        groups: 1,
    }
}

fn fits(shape: &ConvShape) -> bool {
    (0..2).all(|axis| [shape.in_height, shape.in_width][axis] + 2 * shape.padding[axis] >= shape.kernel[axis])
}

/// Shapes that cover maps, kernels, strides and paddings, each with some of the channel counts.
fn dense_shapes() -> Vec<ConvShape> {
    let channels = [[1, 5], [3, 17], [5, 16], [16, 3], [17, 40], [40, 16], [16, 72], [72, 17]];
    let mut shapes = Vec::new();
    for (kernel, padding) in [(1, 0), (3, 1), (3, 0), (5, 2), (7, 3), (2, 1), (1, 1)] {
        for stride in [1, 2, 3] {
            for map in [[1, 1], [2, 2], [3, 5], [4, 4], [9, 7]] {
                let pick = shapes.len();
                let batch = [1, 2, 5, 9, 17][pick % 5];
                let candidate = shape(batch, map, channels[pick % channels.len()], kernel, stride, padding);
                shapes.extend(fits(&candidate).then_some(candidate));
            }
        }
    }
    shapes
}

#[test]
fn dense_convolution_equals_its_definition() {
    for (index, shape) in dense_shapes().into_iter().enumerate() {
        Case::new(shape).check(&Epilogue::default(), index % 2 == 0);
    }
}

#[test]
fn unequal_axes_are_not_confused() {
    for (kernel, stride, padding) in
        [([1, 3], [1, 2], [0, 1]), ([3, 1], [2, 1], [1, 0]), ([3, 5], [1, 2], [0, 2])]
    {
        for channels in [[3, 20], [20, 18]] {
            let shape = ConvShape { kernel, stride, padding, ..shape(3, [6, 9], channels, 1, 1, 0) };
            Case::new(shape).check(&Epilogue::default(), false);
        }
    }
}

#[test]
fn groups_and_depthwise_equal_their_definition() {
    let channels = [
        (2, [6, 4]),
        (2, [34, 40]),
        (3, [9, 54]),
        (5, [5, 5]),
        (16, [16, 16]),
        (17, [17, 17]),
        (72, [72, 72]),
        (4, [4, 8]),
    ];
    for (groups, channels) in channels {
        for (kernel, padding) in [(1, 0), (3, 1), (5, 2), (3, 0), (7, 3)] {
            for (stride, map) in
                [(1, [1, 1]), (1, [7, 6]), (2, [6, 9]), (2, [2, 2]), (3, [9, 8]), (1, [4, 13])]
            {
                let shape = ConvShape { groups, ..shape(3, map, channels, kernel, stride, padding) };
                if fits(&shape) {
                    Case::new(shape).check(&Epilogue::default(), stride == 1);
                }
            }
        }
    }
}

#[test]
fn linear_layers_equal_their_definition() {
    for rows in [1, 2, 6, 7, 15, 64] {
        for (inputs, outputs) in [(1, 1), (33, 10), (64, 64), (40, 130), (300, 48), (20, 200)] {
            Case::new(ConvShape::linear(rows, inputs, outputs)).check(&Epilogue::default(), rows % 2 == 0);
        }
    }
}

#[test]
fn many_pixels_are_summed_whole() {
    for shape in [
        shape(3, [41, 37], [3, 8], 3, 1, 1),
        shape(2, [53, 50], [8, 20], 1, 1, 0),
        shape(5, [32, 31], [16, 16], 3, 1, 1),
    ] {
        for accumulate in [false, true] {
            Case::new(shape).check(&Epilogue::default(), accumulate);
        }
    }
}

/// The three passes by Winograd's convolution with patches of one size, whether it pays or not.
fn by_winograd(
    case: &Case,
    pool: &Pool,
    size: Size,
    epilogue: &Epilogue<'_>,
    accumulate: bool,
) -> [Vec<f32>; 3] {
    let shape = &case.shape;
    let mut stored = vec![0.0; Form::Winograd(size).len(shape)];
    Form::Winograd(size).store(pool, shape, &case.weight, &mut stored);
    let mut y = vec![7.0; case.dy.len()];
    forward(pool, shape, &case.x, Weight::Winograd(size, &stored), epilogue, &mut y);
    let [mut dx, mut dw] = case.start(accumulate);
    dense::winograd_backward_input(pool, shape, size, &case.dy, &case.weight, &mut dx, accumulate);
    dense::winograd_backward_weight(pool, shape, size, &case.x, &case.dy, &mut dw, accumulate);
    [y, dx, dw]
}

/// Even and odd maps, maps smaller than a patch, channels that fill no block, every padding, few and many patches.
fn winograd_shapes() -> [ConvShape; 7] {
    [
        shape(4, [8, 8], [32, 40], 3, 1, 1),
        shape(3, [15, 18], [40, 33], 3, 1, 1),
        shape(2, [18, 16], [48, 32], 3, 1, 2),
        shape(2, [16, 20], [32, 32], 3, 1, 0),
        shape(1, [3, 1], [17, 16], 3, 1, 1),
        shape(1, [5, 6], [16, 70], 3, 1, 1),
        shape(9, [21, 14], [16, 19], 3, 1, 1),
    ]
}

#[test]
fn winograd_of_both_sizes_equals_the_definition() {
    for (index, shape) in winograd_shapes().into_iter().enumerate() {
        let case = Case::new(shape);
        let residual = numbers(case.dy.len(), 6);
        let activation = Some([Activation::Relu, Activation::Silu, Activation::HardSwish][index % 3]);
        let whole = Epilogue { bias: Some(&case.bias), residual: Some(&residual), activation };
        for (epilogue, accumulate) in [(Epilogue::default(), true), (whole, false)] {
            let expected = case.plain(&epilogue, accumulate);
            for (pool, size) in pools().iter().flat_map(|pool| [(pool, Size::Two), (pool, Size::Four)]) {
                let found = by_winograd(&case, pool, size, &epilogue, accumulate);
                for (name, (found, expected)) in ["y", "dx", "dw"].iter().zip(found.iter().zip(&expected)) {
                    assert_within(
                        6e-6,
                        found,
                        expected,
                        &format!("{name}, {size:?}, {shape:?}, {}", pool.isa().name()),
                    );
                }
            }
        }
    }
}

#[test]
fn winograd_depends_neither_on_the_thread_count_nor_on_how_patches_are_shared_out() {
    for shape in winograd_shapes() {
        let case = Case::new(shape);
        for (isa, size) in isas().flat_map(|isa| [(isa, Size::Two), (isa, Size::Four)]) {
            let [one, two, three] = [1, 2, 3].map(|threads| {
                by_winograd(&case, &Pool::with_isa(threads, isa), size, &Epilogue::default(), false)
            });
            assert!(one == two && two == three, "{shape:?} {size:?} {}", isa.name());
        }
    }
}

/// Errors of Winograd's sums over 128 channels, as a share of the results' root mean square, against those of the direct
/// sum: at most 1e-5, and at most four times as large (with the points 1 and 2 they are ten times as large).
#[test]
fn winograd_is_nearly_as_exact_as_the_direct_sum() {
    let mut case = Case::new(shape(1, [16, 16], [128, 16], 3, 1, 1));
    case.x.iter_mut().for_each(|value| *value = value.max(0.0));
    let [y, dx, dw] = case.plain(&Epilogue::default(), false);
    let mut direct = vec![0.0; y.len()];
    let unchanged = ConvShape { batch: 1, ..case.shape };
    reference::forward_in_f32(&unchanged, &case.x, &case.weight, &mut direct);
    let direct = error(&direct, &y);
    for (pool, size) in pools().iter().flat_map(|pool| [(pool, Size::Two), (pool, Size::Four)]) {
        let found = by_winograd(&case, pool, size, &Epilogue::default(), false);
        let errors = [(&found[0], &y), (&found[1], &dx), (&found[2], &dw)].map(|(a, b)| error(a, b));
        assert!(errors.iter().all(|&error| error < 1e-5), "{size:?}: {errors:?}");
        assert!(errors[0] < 4.0 * direct, "{size:?}: {} against {direct}", errors[0]);
    }
}

/// Largest difference as a share of the root mean square.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    let square: f64 = expected.iter().map(|&x| f64::from(x).powi(2)).sum();
    let largest = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    largest / (square / expected.len() as f64).sqrt()
}

#[test]
fn prepared_weights_answer_as_plain_ones_in_their_format() {
    let shapes = [
        shape(1, [12, 12], [64, 70], 3, 1, 1),
        shape(3, [9, 7], [17, 40], 3, 2, 1),
        shape(1, [2, 2], [256, 48], 3, 1, 1),
        shape(5, [6, 6], [24, 33], 1, 1, 0),
        shape(2, [16, 16], [3, 16], 3, 2, 1),
        ConvShape { groups: 2, ..shape(2, [6, 6], [12, 34], 3, 1, 1) },
        ConvShape { groups: 24, ..shape(2, [6, 6], [24, 24], 3, 1, 1) },
        ConvShape::linear(1, 300, 130),
        ConvShape::linear(20, 40, 17),
    ];
    for (shape, format) in
        shapes.iter().flat_map(|shape| [(shape, WeightFormat::F32), (shape, WeightFormat::Bf16)])
    {
        let mut case = Case::new(*shape);
        case.weight.iter_mut().for_each(|value| *value = format.round(*value));
        let epilogue = Epilogue { bias: Some(&case.bias), ..Epilogue::default() };
        let [expected, _, _] = case.plain(&epilogue, false);
        for pool in pools() {
            let form = Form::of(shape, format);
            let mut stored = vec![0.0; form.len(shape)];
            form.store(pool, shape, &case.weight, &mut stored);
            let mut y = vec![7.0; expected.len()];
            forward(pool, shape, &case.x, form.weight(&stored), &epilogue, &mut y);
            assert_close(&y, &expected, &format!("{shape:?} in {form:?}, {}", pool.isa().name()));
        }
    }
}

#[test]
fn epilogues_apply_bias_then_residual_then_activation() {
    let activations = [
        None,
        Some(Activation::Relu),
        Some(Activation::Relu6),
        Some(Activation::LeakyRelu(0.1)),
        Some(Activation::Silu),
        Some(Activation::HardSwish),
        Some(Activation::HardSigmoid),
        Some(Activation::Sigmoid),
    ];
    for (groups, channels) in [(1, [5, 37]), (2, [6, 38]), (19, [19, 19])] {
        let case = Case::new(ConvShape { groups, ..shape(2, [5, 6], channels, 3, 1, 1) });
        let residual = numbers(case.dy.len(), 6);
        for activation in activations {
            for bias in [None, Some(&case.bias[..])] {
                for residual in [None, Some(&residual[..])] {
                    case.check(&Epilogue { bias, residual, activation }, false);
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_thread_count() {
    let grouped = |groups, channels| ConvShape { groups, ..shape(5, [9, 8], channels, 3, 1, 1) };
    let shapes = [
        shape(9, [9, 7], [17, 72], 3, 1, 1),
        shape(9, [8, 8], [32, 40], 3, 1, 1),
        shape(9, [4, 4], [40, 72], 3, 2, 1),
        shape(7, [40, 40], [3, 16], 3, 2, 1),
        shape(3, [60, 61], [16, 16], 1, 1, 0),
        ConvShape::linear(64, 72, 200),
        ConvShape::linear(1, 72, 200),
        grouped(2, [32, 64]),
        grouped(40, [40, 40]),
    ];
    for isa in isas() {
        for shape in shapes {
            let case = Case::new(shape);
            let [one, two, three] =
                [1, 2, 3].map(|threads| case.fast(&Pool::with_isa(threads, isa), &Epilogue::default(), true));
            assert!(one == two && two == three, "{shape:?} {}", isa.name());
        }
    }
}

#[test]
fn filling_of_a_gradient_is_zero() {
    let case = Case::new(shape(3, [5, 5], [5, 21], 3, 1, 1));
    let [_, _, dw] = case.fast(&Pool::new(2), &Epilogue::default(), false);
    let mut torch = vec![0.0; 21 * 5 * 9];
    unpack_weight(&case.shape, WeightOrder::Blocked, &dw, &mut torch);
    let mut again = vec![0.0; dw.len()];
    pack_weight(&case.shape, WeightOrder::Blocked, &torch, &mut again);
    assert_eq!(dw, again);
}

#[test]
fn packing_and_back_is_the_identity_and_fills_with_zeros() {
    let cases = [(3, 17, 1, 3), (6, 40, 2, 1), (5, 5, 5, 3), (4, 8, 4, 2)];
    for ((inputs, outputs, groups, kernel), order) in
        cases.into_iter().flat_map(|case| [(case, WeightOrder::Blocked), (case, WeightOrder::Ohwi)])
    {
        let shape = ConvShape { groups, ..shape(1, [5, 5], [inputs, outputs], kernel, 1, 0) };
        let torch: Vec<f32> = (0..outputs * inputs / groups * shape.taps()).map(|i| i as f32 + 1.0).collect();
        let mut packed = vec![7.0; order.len(&shape)];
        pack_weight(&shape, order, &torch, &mut packed);
        assert_eq!(packed.iter().filter(|&&w| w != 0.0).count(), torch.len());
        let mut back = vec![0.0; torch.len()];
        unpack_weight(&shape, order, &packed, &mut back);
        assert_eq!(back, torch);
        let factors: Vec<f32> = (0..outputs).map(|output| output as f32 - 2.5).collect();
        scale_outputs(&shape, order, &mut packed, &factors);
        unpack_weight(&shape, order, &packed, &mut back);
        let each = torch.len() / outputs;
        let scaled = torch.iter().enumerate().map(|(i, weight)| weight * factors[i / each]);
        assert_eq!(back, scaled.collect::<Vec<f32>>());
    }
}

#[test]
fn cudnns_order_has_the_inputs_of_a_group_innermost() {
    let shape = shape(1, [5, 5], [2, 3], 2, 1, 0);
    let torch: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let mut packed = vec![0.0; 24];
    pack_weight(&shape, WeightOrder::Ohwi, &torch, &mut packed);
    // Output 1, torch's [2 inputs][2][2] from 8 on: taps outside, inputs inside.
    assert_eq!(packed[8..16], [8.0, 12.0, 9.0, 13.0, 10.0, 14.0, 11.0, 15.0]);
}
