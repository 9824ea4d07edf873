//! Batch normalization: every stage against the processor's with the same inputs, and all of them against the
//! definition.

use super::*;
use crate::buffer::rounded;
use crate::kernels::activation::{self, derives_from_output};
use crate::kernels::norm::{self, Norm, Rows};
use crate::kernels::reference::{self, NormInput};
use crate::pool::Pool;

const EPS: f32 = 1e-3;

/// A case: `[samples, positions, channels]`, and what follows the normalization.
#[derive(Clone, Copy, Debug)]
struct Case {
    sizes: [usize; 3],
    activation: Option<Activation>,
    residual: bool,
    factors: bool,
    /// The gradient of the input goes to a map of its own, and is added; else it replaces `dy`.
    apart: bool,
    /// The statistics are the batch's.
    batch: bool,
}

/// What all stages read.
struct Inputs {
    norm: Norm,
    z: Vec<f32>,
    dy: Vec<f32>,
    residual: Option<Vec<f32>>,
    factors: Option<Vec<f32>>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    running: [Vec<f32>; 2],
}

impl Inputs {
    fn of(lab: &Lab, case: Case) -> Self {
        let [samples, positions, channels] = case.sizes;
        let len = case.sizes.iter().product();
        let rows = Rows { samples, positions, channels };
        let drift = |(i, z): (usize, &f32)| z + (i % channels % 7) as f32 * 0.3;
        let z: Vec<f32> = ramp(len, 2.0).iter().enumerate().map(drift).collect();
        Self {
            norm: Norm { rows, by_sample: case.factors },
            z: lab.rounded(&z),
            dy: lab.ramp(len, 1.0),
            residual: case.residual.then(|| lab.ramp(len, 0.7)),
            factors: case.factors.then(|| (0..samples).map(|sample| [1.25, 0.0][sample % 2]).collect()),
            scale: ramp(channels, 0.5).iter().map(|x| x + 1.0).collect(),
            shift: ramp(channels, 0.3),
            running: [ramp(channels, 0.2), ramp(channels, 0.4).iter().map(|x| x + 1.0).collect()],
        }
    }

    fn channels(&self) -> usize {
        self.norm.rows.channels
    }

    fn count(&self) -> f32 {
        self.norm.rows.count() as f32
    }
}

/// The processor's forward.
struct Host {
    saved: Vec<f32>,
    work: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
    y: Vec<f32>,
}

impl Host {
    fn forward(inputs: &Inputs, case: Case) -> Self {
        let (norm, pool) = (&inputs.norm, Pool::new(1));
        let (mut saved, mut work) = (vec![9.0; norm.saved_len()], vec![9.0; norm.work_len()]);
        let (mut mean, mut variance) = (inputs.running[0].clone(), inputs.running[1].clone());
        if case.batch {
            let (sums, _) = norm.split_work(&mut work);
            norm::statistics(&pool, norm, &inputs.z, sums, &mut mean, &mut variance);
        }
        let affine = norm::Affine {
            mean: &mean,
            variance: &variance,
            eps: EPS,
            scale: &inputs.scale,
            shift: &inputs.shift,
        };
        norm::prepare(norm, &affine, &mut saved);
        let after = norm::After {
            factors: inputs.factors.as_deref(),
            residual: inputs.residual.as_deref(),
            activation: case.activation,
        };
        let mut y = vec![9.0; inputs.z.len()];
        norm::normalize(&pool, norm, &inputs.z, &saved, &after, &mut y);
        Self { saved, work, mean, variance, y }
    }
}

/// The device's copies.
struct Device {
    z: Memory,
    dy: Memory,
    residual: Option<Memory>,
    factors: Option<Memory>,
    scale: Memory,
    shift: Memory,
    saved: Memory,
    scratch: Memory,
    y: Memory,
}

impl Device {
    fn new(lab: &Lab, inputs: &Inputs) -> Self {
        Self {
            z: lab.map(&inputs.z),
            dy: lab.map(&inputs.dy),
            residual: inputs.residual.as_ref().map(|values| lab.map(values)),
            factors: inputs.factors.as_ref().map(|values| lab.floats(values)),
            scale: lab.floats(&inputs.scale),
            shift: lab.floats(&inputs.shift),
            saved: lab.scratch(4 * Saved::len(inputs.channels())),
            scratch: lab.scratch(Kernels::norm_scratch(inputs.norm.rows)),
            y: lab.map(&vec![9.0; inputs.z.len()]),
        }
    }

    fn affine(&self) -> Affine {
        Affine { eps: EPS, scale: self.scale.at, shift: self.shift.at }
    }

    fn saved(&self, inputs: &Inputs) -> Saved {
        Saved::at(self.saved.at, inputs.channels())
    }
}

fn check(lab: &Lab, case: Case) {
    let inputs = Inputs::of(lab, case);
    let host = Host::forward(&inputs, case);
    let device = Device::new(lab, &inputs);
    prepare(lab, case, &inputs, &host, &device);
    let after = After {
        factors: device.factors.as_ref().map(|memory| memory.at),
        residual: device.residual.as_ref().map(|memory| memory.at),
        activation: case.activation,
    };
    let saved = device.saved(&inputs);
    unsafe { lab.kernels.normalize(lab.format, inputs.norm.rows, device.z.at, saved, &after, device.y.at) }
        .unwrap();
    lab.close("normalize", &device.y, &host.y);
    backward(lab, case, &inputs, host, &device);
}

/// Statistics, what follows from them, and the running ones.
fn prepare(lab: &Lab, case: Case, inputs: &Inputs, host: &Host, device: &Device) {
    let (rows, channels, momentum) = (inputs.norm.rows, inputs.channels(), 0.1);
    let [mean, variance] = inputs.running.each_ref().map(|values| lab.floats(values));
    let (affine, saved) = (device.affine(), device.saved(inputs));
    if case.batch {
        let moving = Moving { mean: mean.at, variance: variance.at, momentum };
        unsafe {
            lab.kernels.norm_batch(
                lab.format,
                rows,
                device.z.at,
                &affine,
                Some(&moving),
                saved,
                device.scratch.at,
            )
        }
        .unwrap();
        let unbiased = inputs.count() / (inputs.count() - 1.0).max(1.0);
        let moved = |running: &[f32], batch: &[f32], factor: f32| -> Vec<f32> {
            running.iter().zip(batch).map(|(r, b)| (1.0 - momentum) * r + momentum * b * factor).collect()
        };
        let expected = moved(&inputs.running[0], &host.mean, 1.0);
        lab.close_floats("norm_settle running mean", &mean, &expected, 1e-5);
        let expected = moved(&inputs.running[1], &host.variance, unbiased);
        lab.close_floats("norm_settle running variance", &variance, &expected, 1e-5);
    } else {
        unsafe { lab.kernels.norm_running(channels, mean.at, variance.at, &affine, saved) }.unwrap();
    }
    let line = rounded(channels);
    let found = lab.read_floats(&device.saved, 4 * line);
    let table = (host.saved.len() - 2 * line) / 2;
    for (number, start) in [0, line, 2 * line, 2 * line + table].into_iter().enumerate() {
        let (found, expected) = (&found[number * line..][..channels], &host.saved[start..start + channels]);
        lab.compare("norm_settle, norm_prepare", found, expected, 0.0, 1e-5);
    }
}

fn backward(lab: &Lab, case: Case, inputs: &Inputs, mut host: Host, device: &Device) {
    let y = lab.rounded(&host.y);
    let (work, _) = inputs.norm.split_work(&mut host.work);
    let passes = Passes::new(lab, case, inputs, device, &host.saved, &y);
    passes.sums(work);
    let [scales, shifts] = passes.parameters(work);
    let apart = passes.apply(work);
    if lab.format == Format::F32 && case.batch {
        against_the_definition(lab, case, inputs, device, [&scales, &shifts], &apart);
    }
}

/// The way back on both sides: the stages leave what the next one reads in `work` and in the device's copies.
struct Passes<'a> {
    lab: &'a Lab,
    case: Case,
    inputs: &'a Inputs,
    device: &'a Device,
    host: norm::Backward<'a>,
    on_device: Backward,
    pool: Pool,
}

impl<'a> Passes<'a> {
    /// `saved` and `y` are what the processor's forward has left.
    fn new(
        lab: &'a Lab,
        case: Case,
        inputs: &'a Inputs,
        device: &'a Device,
        saved: &'a [f32],
        y: &'a [f32],
    ) -> Self {
        let by_output = |activation| case.residual && derives_from_output(activation);
        let host_slope = |activation| match &inputs.residual {
            Some(_) if by_output(activation) => norm::Slope::Output(y),
            residual => norm::Slope::Recomputed { residual: residual.as_deref() },
        };
        let device_slope = |activation| match &device.residual {
            Some(_) if by_output(activation) => Slope::Output(device.y.at),
            residual => Slope::Recomputed { residual: residual.as_ref().map(|memory| memory.at) },
        };
        let host = norm::Backward {
            z: &inputs.z,
            saved,
            activation: case.activation.map(|activation| (activation, host_slope(activation))),
            factors: inputs.factors.as_deref(),
        };
        let on_device = Backward {
            z: device.z.at,
            saved: device.saved(inputs),
            activation: case.activation.map(|activation| (activation, device_slope(activation))),
            factors: device.factors.as_ref().map(|memory| memory.at),
        };
        Self { lab, case, inputs, device, host, on_device, pool: Pool::new(1) }
    }

    fn sums(&self, work: &mut [f32]) {
        let Self { lab, case, inputs, device, .. } = *self;
        let (mut dy, mut dresidual) = (inputs.dy.clone(), lab.ramp(inputs.dy.len(), 0.4));
        let onward = lab.map(&dresidual);
        let target = case.residual.then_some(norm::Target { values: &mut dresidual, add: case.apart });
        norm::backward_sums(&self.pool, &inputs.norm, &self.host, &mut dy, target, work);
        let target = case.residual.then_some(Target { at: onward.at, add: case.apart });
        let (pass, rows) = (&self.on_device, inputs.norm.rows);
        let (kernels, scratch) = (&lab.kernels, device.scratch.at);
        unsafe { kernels.norm_backward_sums(lab.format, rows, pass, device.dy.at, target, scratch) }.unwrap();
        lab.close("norm_sums", &device.dy, &dy);
        lab.close("norm_sums onward", &onward, &dresidual);
    }

    /// The gradients of scale, added to ones, and of shift.
    fn parameters(&self, work: &mut [f32]) -> [Memory; 2] {
        let Self { lab, case, inputs, device, .. } = *self;
        let (mut dscale, mut dshift) = (vec![1.0; inputs.channels()], vec![9.0; inputs.channels()]);
        let (scales, shifts) = (lab.floats(&dscale), lab.floats(&dshift));
        let gradients = [
            norm::Target { values: &mut dscale, add: true },
            norm::Target { values: &mut dshift, add: false },
        ];
        let (norm, saved) = (&inputs.norm, self.host.saved);
        norm::backward_parameters(norm, saved, case.batch, &inputs.scale, Some(gradients), work);
        let gradients = Some([Target { at: scales.at, add: true }, Target::set(shifts.at)]);
        let (saved, scale, scratch) = (self.on_device.saved, device.scale.at, device.scratch.at);
        unsafe {
            lab.kernels.norm_backward_parameters(norm.rows, saved, case.batch, scale, gradients, scratch)
        }
        .unwrap();
        // Sums of hundreds of numbers of size 1 that cancel, in f32 on both.
        lab.close_floats("norm_parameters", &scales, &dscale, 1e-4);
        lab.close_floats("norm_parameters", &shifts, &dshift, 1e-4);
        [scales, shifts]
    }

    /// The map to which the gradient of the input is added, where it goes apart; else that is in the place of `dy`.
    fn apply(&self, work: &mut [f32]) -> Memory {
        let Self { lab, case, inputs, device, .. } = *self;
        // From the very gradient that the device has left, rounded as it is.
        let mut left = lab.read_map(&device.dy, inputs.dy.len());
        let mut dz = lab.ramp(left.len(), 0.3);
        let apart = lab.map(&dz);
        let target = case.apart.then_some(norm::Target { values: &mut dz, add: true });
        norm::backward_apply(&self.pool, &inputs.norm, &self.host, work, &mut left, target);
        let target = case.apart.then_some(Target { at: apart.at, add: true });
        let (pass, rows) = (&self.on_device, inputs.norm.rows);
        let (kernels, scratch) = (&lab.kernels, device.scratch.at);
        unsafe { kernels.norm_backward_apply(lab.format, rows, pass, device.dy.at, target, scratch) }
            .unwrap();
        if case.apart {
            lab.close("norm_apply apart", &apart, &dz);
        } else {
            lab.close("norm_apply in place", &device.dy, &left);
        }
        apart
    }
}

/// Everything against f64 arithmetic and the chain rule.
fn against_the_definition(
    lab: &Lab,
    case: Case,
    inputs: &Inputs,
    device: &Device,
    [scales, shifts]: [&Memory; 2],
    apart: &Memory,
) {
    let expected = reference::norm(&NormInput {
        sizes: case.sizes,
        z: &inputs.z,
        scale: &inputs.scale,
        shift: &inputs.shift,
        eps: EPS,
        factors: inputs.factors.as_deref(),
        residual: inputs.residual.as_deref(),
        activation: case.activation,
        dy: &inputs.dy,
    });
    lab.close_floats_of(
        "normalize, definition",
        &lab.read_map(&device.y, expected.y.len()),
        &expected.y,
        1e-4,
    );
    let mut dz = lab.read_map(if case.apart { apart } else { &device.dy }, expected.dz.len());
    if case.apart {
        dz.iter_mut().zip(lab.ramp(expected.dz.len(), 0.3)).for_each(|(dz, before)| *dz -= before);
    }
    lab.close_floats_of("norm_apply, definition", &dz, &expected.dz, 1e-3);
    let found: Vec<f32> =
        lab.read_floats(scales, expected.dscale.len()).iter().map(|value| value - 1.0).collect();
    lab.close_floats_of("norm_parameters, definition", &found, &expected.dscale, 1e-3);
    let found = lab.read_floats(shifts, expected.dshift.len());
    lab.close_floats_of("norm_parameters, definition", &found, &expected.dshift, 1e-3);
}

impl Lab {
    fn close_floats_of(&self, kernel: &str, found: &[f32], expected: &[f32], tolerance: f32) {
        self.compare(kernel, found, expected, 0.0, tolerance);
    }
}

fn cases(sizes: [usize; 3], activation: Option<Activation>) -> Vec<Case> {
    let case = |residual, factors, apart, batch| Case { sizes, activation, residual, factors, apart, batch };
    vec![
        case(false, false, false, true),
        case(true, false, true, true),
        case(true, true, false, true),
        case(false, true, true, true),
        case(true, false, false, false),
        case(false, false, true, false),
    ]
}

#[test]
fn every_stage_matches_the_processor_and_the_definition_at_odd_sizes() {
    Lab::each(|lab| {
        for sizes in [[3, 5, 7], [2, 9, 16], [4, 1, 24], [3, 35, 3], [5, 13, 130]] {
            cases(sizes, Some(Activation::Relu)).into_iter().for_each(|case| check(lab, case));
        }
    });
}

#[test]
fn every_activation_follows_a_normalization() {
    Lab::each(|lab| {
        for activation in [None, Some(Activation::Silu), Some(Activation::HardSwish), Some(Activation::Relu6)]
        {
            cases([3, 11, 24], activation).into_iter().for_each(|case| check(lab, case));
        }
        for activation in [Activation::LeakyRelu(0.1), Activation::Sigmoid, Activation::HardSigmoid] {
            cases([3, 11, 24], Some(activation)).into_iter().take(4).for_each(|case| check(lab, case));
        }
    });
}

#[test]
fn many_rows_and_many_channels() {
    Lab::each(|lab| {
        for sizes in [[2, 1200, 40], [2, 60, 520], [4, 1, 2064]] {
            cases(sizes, Some(Activation::Relu)).into_iter().take(2).for_each(|case| check(lab, case));
        }
    });
}

#[test]
fn a_large_mean_costs_the_variance_no_digits() {
    let lab = Lab::open(Format::F32, 0);
    let rows = Rows { samples: 4, positions: 100, channels: 5 };
    let z: Vec<f32> = ramp(rows.len(), 0.5).iter().map(|z| z + 1000.0).collect();
    let (map, ones, zeros) = (lab.map(&z), lab.floats(&[1.0; 5]), lab.floats(&[0.0; 5]));
    let (saved, scratch) = (lab.scratch(4 * Saved::len(5)), lab.scratch(Kernels::norm_scratch(rows)));
    let affine = Affine { eps: 0.0, scale: ones.at, shift: zeros.at };
    unsafe {
        lab.kernels.norm_batch(lab.format, rows, map.at, &affine, None, Saved::at(saved.at, 5), scratch.at)
    }
    .unwrap();
    let found = lab.read_floats(&saved, Saved::len(5));
    for channel in 0..5 {
        let column: Vec<f64> = z[channel..].iter().step_by(5).map(|&z| f64::from(z)).collect();
        let exact = column.iter().sum::<f64>() / 400.0;
        let spread = column.iter().map(|z| (z - exact).powi(2)).sum::<f64>() / 400.0;
        assert!((f64::from(found[channel]) - exact).abs() < 1e-4);
        let inverse = f64::from(found[rounded(5) + channel]);
        assert!((inverse * spread.sqrt() - 1.0).abs() < 1e-4);
    }
}

#[test]
fn sums_come_out_the_same_every_time() {
    let lab = Lab::open(Format::Bf16, 0);
    let rows = Rows { samples: 8, positions: 500, channels: 24 };
    let (map, ones) = (lab.map(&lab.ramp(rows.len(), 3.0)), lab.floats(&[1.0; 24]));
    let run = || {
        let (saved, scratch) = (lab.scratch(4 * Saved::len(24)), lab.scratch(Kernels::norm_scratch(rows)));
        let affine = Affine { eps: 0.0, scale: ones.at, shift: ones.at };
        let saved_at = Saved::at(saved.at, 24);
        unsafe { lab.kernels.norm_batch(lab.format, rows, map.at, &affine, None, saved_at, scratch.at) }
            .unwrap();
        lab.read_bytes(&saved, 96)
    };
    assert_eq!(run(), run());
}

/// Where the derivative is read from the result, the result is the device's, which is rounded: nothing here depends on
/// it being the processor's.
#[test]
fn the_derivative_at_a_rounded_result_is_that_of_the_result() {
    let lab = Lab::open(Format::Bf16, 0);
    let y = lab.ramp(64, 0.49).iter().map(|y| y + 0.5).collect::<Vec<_>>();
    let (y, dy) = (lab.rounded(&y), lab.ramp(64, 1.0));
    let mut expected = vec![0.0; 64];
    let kept = activation::Kept::Output(&y);
    let source = crate::kernels::spans::Source::From(&dy);
    activation::backward(&Pool::new(1), Activation::Sigmoid, kept, source, &mut expected, false);
    let (kept, map) = (lab.map(&y), lab.map(&dy));
    let target = Target::set(map.at);
    unsafe {
        lab.kernels.activation_backward(
            lab.format,
            Activation::Sigmoid,
            Kept::Output(kept.at),
            map.at,
            target,
            64,
        )
    }
    .unwrap();
    lab.close("activation_backward", &map, &expected);
}
