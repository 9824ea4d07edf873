//! All passes against the definition, on a GPU or on the emulator. What the numbers are compared with is
//! `kernels::conv::reference`, which knows neither cuDNN nor its layouts.

use cudarc::driver::{CudaSlice, DevicePtr, sys};

use super::super::Gpu;
use super::*;
use crate::kernels::conv::{self, WeightOrder, reference};

fn shape(
    size: [usize; 3],
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
) -> ConvShape {
    let ([batch, in_height, in_width], [in_channels, out_channels]) = (size, channels);
    ConvShape { batch, in_height, in_width, in_channels, out_channels, kernel, stride, padding, groups: 1 }
}

fn shapes() -> Vec<ConvShape> {
    let grouped = |groups, shape: ConvShape| ConvShape { groups, ..shape };
    vec![
        shape([2, 8, 8], [16, 24], [3, 3], [1, 1], [1, 1]),
        shape([3, 7, 5], [3, 10], [3, 3], [2, 2], [1, 1]),
        shape([1, 9, 6], [5, 7], [5, 3], [2, 1], [2, 0]),
        shape([2, 6, 6], [8, 8], [1, 1], [2, 2], [0, 0]),
        shape([1, 4, 4], [2, 3], [4, 4], [1, 1], [3, 3]),
        grouped(2, shape([2, 5, 7], [6, 4], [3, 3], [1, 2], [1, 1])),
        grouped(3, shape([1, 6, 5], [9, 15], [3, 1], [1, 1], [1, 0])),
        ConvShape::linear(5, 33, 10),
        ConvShape::linear(1, 8, 1),
    ]
}

/// Numbers between -1 and 1 that `format` holds exactly.
fn numbers(seed: u64, len: usize, format: Format) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| rounded(next(), format)).collect()
}

fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

fn rounded(value: f32, format: Format) -> f32 {
    match format {
        Format::F32 => value,
        Format::Bf16 => f32::from_bits(u32::from(bf16(value)) << 16),
    }
}

fn encoded(values: &[f32], format: Format) -> Vec<u8> {
    match format {
        Format::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Format::Bf16 => values.iter().flat_map(|value| bf16(*value).to_le_bytes()).collect(),
    }
}

fn decoded(bytes: &[u8], format: Format) -> Vec<f32> {
    match format {
        Format::F32 => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Format::Bf16 => {
            let value = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            bytes.as_chunks::<2>().0.iter().map(value).collect()
        }
    }
}

/// From `[output][kh][kw][input]` to the engine's layout on the processor, by way of torch's.
fn packed(shape: &ConvShape, ohwi: &[f32]) -> Vec<f32> {
    let (inputs, taps) = (shape.in_channels / shape.groups, shape.kernel[0] * shape.kernel[1]);
    let mut oihw = vec![0.0; ohwi.len()];
    for (at, value) in ohwi.iter().enumerate() {
        let (output, tap, input) = (at / (taps * inputs), at / inputs % taps, at % inputs);
        oihw[(output * inputs + input) * taps + tap] = *value;
    }
    let mut packed = vec![0.0; conv::weight_len(shape)];
    conv::pack_weight(shape, WeightOrder::Blocked, &oihw, &mut packed);
    packed
}

fn unpacked(shape: &ConvShape, packed: &[f32]) -> Vec<f32> {
    let (inputs, taps) = (shape.in_channels / shape.groups, shape.kernel[0] * shape.kernel[1]);
    let mut oihw = vec![0.0; shape.out_channels * inputs * taps];
    conv::unpack_weight(shape, WeightOrder::Blocked, packed, &mut oihw);
    let mut ohwi = vec![0.0; oihw.len()];
    for (at, value) in ohwi.iter_mut().enumerate() {
        let (output, tap, input) = (at / (taps * inputs), at / inputs % taps, at % inputs);
        *value = oihw[(output * inputs + input) * taps + tap];
    }
    ohwi
}

struct Bench {
    gpu: Gpu,
    convolutions: Convolutions,
}

impl Bench {
    fn new(precision: Precision) -> Self {
        let gpu = Gpu::open(0).unwrap();
        let convolutions = Convolutions::new(&gpu.stream, precision).unwrap();
        Self { gpu, convolutions }
    }

    fn upload(&self, values: &[f32], format: Format) -> CudaSlice<u8> {
        self.gpu.stream.clone_htod(&encoded(values, format)).unwrap()
    }

    fn at(&self, memory: &CudaSlice<u8>) -> Ptr {
        Ptr(memory.device_ptr(&self.gpu.stream).0)
    }

    fn download(&self, memory: &CudaSlice<u8>, format: Format) -> Vec<f32> {
        decoded(&self.gpu.stream.clone_dtoh(memory).unwrap(), format)
    }

    /// Runs a pass over input, weights and output (`maps`, one of which it writes) and returns what it wrote.
    fn run(
        &mut self,
        pass: Pass,
        shape: &ConvShape,
        format: Format,
        maps: [&[f32]; 3],
        add: bool,
    ) -> Vec<f32> {
        self.convolutions.prepare(pass, shape, format).unwrap();
        let memory = maps.map(|values| self.upload(values, format));
        let [x, weight, y] = memory.each_ref().map(|memory| self.at(memory));
        let convolutions = &self.convolutions;
        // SAFETY: the memory is of these sizes and lives until it is read back.
        let written = unsafe {
            match pass {
                Pass::Forward => convolutions.forward(shape, format, x, weight, y).map(|()| 2),
                Pass::BackwardInput => {
                    convolutions.backward_input(shape, format, y, weight, x, add).map(|()| 0)
                }
                Pass::BackwardWeight => {
                    convolutions.backward_weight(shape, format, x, y, weight, add).map(|()| 1)
                }
            }
        };
        self.download(&memory[written.unwrap()], format)
    }
}

/// What a pass is to write, in f32, and the sum of its terms' magnitudes.
fn expected(pass: Pass, shape: &ConvShape, [x, weight, y]: [&[f32]; 3], add: bool) -> (Vec<f32>, Vec<f32>) {
    let compute = |x: &[f32], weight: &[f32], y: &[f32]| {
        let packed = packed(shape, weight);
        match pass {
            Pass::Forward => {
                let mut result = vec![0.0; y.len()];
                reference::forward(shape, x, &packed, &conv::Epilogue::default(), &mut result);
                result
            }
            Pass::BackwardInput => {
                let mut result = x.to_vec();
                reference::backward_input(shape, y, &packed, &mut result, add);
                result
            }
            Pass::BackwardWeight => {
                let mut result = packed;
                reference::backward_weight(shape, x, y, &mut result, add);
                unpacked(shape, &result)
            }
        }
    };
    let magnitude = |values: &[f32]| values.iter().map(|value| value.abs()).collect::<Vec<_>>();
    (compute(x, weight, y), compute(&magnitude(x), &magnitude(weight), &magnitude(y)))
}

fn is_emulated(gpu: &Gpu) -> bool {
    gpu.stream.context().name().unwrap() == "Emulated GPU"
}

const PASSES: [Pass; 3] = [Pass::Forward, Pass::BackwardInput, Pass::BackwardWeight];

fn weights(shape: &ConvShape) -> usize {
    shape.out_channels * shape.kernel[0] * shape.kernel[1] * shape.in_channels / shape.groups
}

/// The largest error of any pass and shape, in units of the sum of magnitudes; bf16's own rounding taken off.
fn worst(precision: Precision, format: Format) -> f32 {
    let mut bench = Bench::new(precision);
    let mut worst: f32 = 0.0;
    for (seed, shape) in (1..).zip(shapes()) {
        let x = numbers(seed, shape.in_len(), format);
        let weight = numbers(seed + 100, weights(&shape), format);
        let y = numbers(seed + 200, shape.out_len(), format);
        let maps = [&x[..], &weight, &y];
        for (pass, add) in PASSES.into_iter().flat_map(|pass| [(pass, false), (pass, true)]) {
            if pass == Pass::Forward && add {
                continue;
            }
            let found = bench.run(pass, &shape, format, maps, add);
            let (wanted, size) = expected(pass, &shape, maps, add);
            assert_eq!(found.len(), wanted.len());
            for ((found, wanted), size) in found.iter().zip(&wanted).zip(&size) {
                let own = if format == Format::Bf16 { wanted.abs() / 256.0 } else { 0.0 };
                let error = ((found - wanted).abs() - own).max(0.0) / size.max(1e-6);
                assert!(error < 1e-3, "{pass:?} of {shape:?} in {format:?}, add {add}: {found} for {wanted}");
                worst = worst.max(error);
            }
        }
    }
    worst
}

#[test]
fn all_passes_are_exact_in_f32() {
    let worst = worst(Precision::F32, Format::F32);
    assert!(worst < 2e-6, "{worst}");
}

#[test]
fn all_passes_are_right_in_bf16() {
    let worst = worst(Precision::F32, Format::Bf16);
    assert!(worst < 2e-6, "{worst}");
}

#[test]
fn tf32_is_taken_where_it_is_allowed_and_is_near() {
    // Below 1e-3, as `worst` asserts; what it comes to is the GPU's choice, and on the emulator TF32.
    let worst = worst(Precision::Tf32, Format::F32);
    assert!(!is_emulated(&Gpu::open(0).unwrap()) || worst > 1e-5, "{worst}");
}

/// On the emulator, whose ranking promises more for such a kernel than it runs; a GPU may have something better.
#[test]
fn an_algorithm_that_is_refused_when_it_is_tried_gives_way_to_the_next() {
    let mut bench = Bench::new(Precision::F32);
    let shape = shape([1, 12, 12], [2, 3], [11, 11], [1, 1], [5, 5]);
    let format = Format::F32;
    let [x, weight, y] =
        [shape.in_len(), weights(&shape), shape.out_len()].map(|len| numbers(4, len, format));
    for pass in PASSES {
        let found = bench.run(pass, &shape, format, [&x, &weight, &y], false);
        let (wanted, size) = expected(pass, &shape, [&x, &weight, &y], false);
        for ((found, wanted), size) in found.iter().zip(&wanted).zip(&size) {
            assert!((found - wanted).abs() <= 2e-6 * size, "{pass:?}: {found} for {wanted}");
        }
    }
    if is_emulated(&bench.gpu) {
        let varying = bench.convolutions.varying();
        assert_eq!(varying.len(), 2, "{varying:?}");
        assert!(varying[0].starts_with("BackwardInput of ConvShape"), "{varying:?}");
    }
}

#[test]
fn a_pass_that_was_not_prepared_is_an_error_with_its_shape() {
    let bench = Bench::new(Precision::F32);
    let shape = shape([1, 4, 4], [3, 6], [3, 3], [1, 1], [1, 1]);
    // SAFETY: nothing is launched.
    let error = unsafe { bench.convolutions.forward(&shape, Format::F32, Ptr(0), Ptr(0), Ptr(0)) };
    let message = error.unwrap_err().to_string();
    assert!(message.contains("was not prepared") && message.contains("in_channels: 3"), "{message}");
}

#[test]
fn depthwise_convolutions_are_refused() {
    let mut bench = Bench::new(Precision::F32);
    let shape = ConvShape { groups: 4, ..shape([1, 4, 4], [4, 4], [3, 3], [1, 1], [1, 1]) };
    let message = bench.convolutions.prepare(Pass::Forward, &shape, Format::F32).unwrap_err().to_string();
    assert!(message.contains("depthwise"), "{message}");
}

/// A recorded convolution goes on working when a later one makes the working memory grow.
#[test]
fn passes_are_recorded_and_survive_a_larger_workspace() {
    let mut bench = Bench::new(Precision::F32);
    let format = Format::Bf16;
    let small = shape([1, 5, 5], [3, 4], [3, 3], [1, 1], [1, 1]);
    let [x, weight, y] =
        [small.in_len(), weights(&small), small.out_len()].map(|len| numbers(9, len, format));
    for pass in PASSES {
        bench.convolutions.prepare(pass, &small, format).unwrap();
    }
    let memory = [&x, &weight, &y].map(|values| bench.upload(values, format));
    let [x_at, weight_at, y_at] = memory.each_ref().map(|memory| bench.at(memory));
    let stream = Arc::clone(&bench.gpu.stream);
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    // SAFETY: memory of these sizes, alive to the end of the test.
    unsafe {
        bench.convolutions.forward(&small, format, x_at, weight_at, y_at).unwrap();
        bench.convolutions.backward_weight(&small, format, x_at, y_at, weight_at, true).unwrap();
    }
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
    assert_eq!(bench.download(&memory[2], format), y, "recording runs nothing");

    let large = shape([2, 9, 9], [64, 256], [3, 3], [1, 1], [1, 1]);
    for pass in PASSES {
        bench.convolutions.prepare(pass, &large, format).unwrap();
    }
    graph.launch().unwrap();
    let (wanted, _) = expected(Pass::Forward, &small, [&x, &weight, &y], false);
    let found = bench.download(&memory[2], format);
    for (found, wanted) in found.iter().zip(&wanted) {
        assert!((found - wanted).abs() <= wanted.abs() / 256.0 + 1e-5, "{found} for {wanted}");
    }
    let (wanted, _) = expected(Pass::BackwardWeight, &small, [&x, &weight, &found], true);
    for (found, wanted) in bench.download(&memory[1], format).iter().zip(&wanted) {
        assert!((found - wanted).abs() <= wanted.abs() / 256.0 + 1e-5, "{found} for {wanted}");
    }
}

#[test]
fn shapes_that_cudnn_does_not_take_are_named_with_the_reason() {
    let mut bench = Bench::new(Precision::F32);
    let mut bad = shape([1, 4, 4], [6, 4], [3, 3], [1, 1], [1, 1]);
    bad.groups = 4;
    let message = bench.convolutions.prepare(Pass::Forward, &bad, Format::F32).unwrap_err().to_string();
    assert!(message.contains("BAD_PARAM") && message.contains("groups: 4"), "{message}");
}
