//! The forward pass.

use super::{Run, Timings, Values, timed};
use crate::Images;
use crate::kernels::conv::{self, Epilogue};
use crate::kernels::norm::{self, Affine, After, Target};
use crate::kernels::spans::Source;
use crate::kernels::{activation, mixing, pooling};
use crate::plan::{ConvStep, Kind, NormStep, Step};

/// The running statistics, to read or to move as well.
pub(crate) enum Statistics<'a> {
    /// They stay as they are; empty for folded weights.
    Keep(&'a [f32]),
    /// Batch statistics are averaged in.
    Update(&'a mut [f32]),
}

impl Statistics<'_> {
    fn values(&self) -> &[f32] {
        match self {
            Statistics::Keep(values) => values,
            Statistics::Update(values) => values,
        }
    }
}

/// Runs all steps.
pub(crate) fn forward(
    run: &Run<'_>,
    arena: &mut [f32],
    images: Images<'_>,
    mut statistics: Statistics<'_>,
    mut timings: Option<&mut Timings>,
) {
    let values = Values::new(run.plan, arena);
    for (index, step) in run.plan.steps.iter().enumerate() {
        let total = timings.as_deref_mut().map(|timings| &mut timings.forward[index]);
        timed(total, || run_step(run, &values, step, images, &mut statistics));
    }
}

/// How far a step has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// A residual and an activation are still to come.
    Branch,
    /// An activation is still to come.
    Before,
    /// All is done.
    After,
}

/// What a step has computed.
pub(crate) struct Seen<'a> {
    /// Its number in the plan.
    pub step: usize,
    pub stage: Stage,
    pub values: &'a [f32],
}

/// Runs all steps of a plan with folded weights and shows each result, before a residual and before an activation too.
pub(crate) fn observe(run: &Run<'_>, arena: &mut [f32], images: Images<'_>, see: &mut dyn FnMut(&Seen<'_>)) {
    let values = Values::new(run.plan, arena);
    for (index, step) in run.plan.steps.iter().enumerate() {
        let mut show = |stage, step: &Step| {
            run_step(run, &values, step, images, &mut Statistics::Keep(&[]));
            // SAFETY: nothing writes while the slice lives.
            see(&Seen { step: index, stage, values: unsafe { values.read(step.kind.result()) } });
        };
        for (stage, kind) in unfinished(&step.kind) {
            show(stage, &Step { kind, nodes: Vec::new() });
        }
        show(Stage::After, step);
    }
}

/// A step without what comes last in it. No step writes over what it reads, so each can be run again.
fn unfinished(kind: &Kind) -> Vec<(Stage, Kind)> {
    match kind {
        Kind::Conv(conv) => {
            let bare = |residual| Kind::Conv(ConvStep { residual, activation: None, ..conv.clone() });
            let branch = conv.residual.map(|_| (Stage::Branch, bare(None)));
            let before = conv.activation.map(|_| (Stage::Before, bare(conv.residual)));
            branch.into_iter().chain(before).collect()
        }
        &Kind::Sum { a, b, y, activation: Some(_) } => {
            vec![(Stage::Before, Kind::Sum { a, b, y, activation: None })]
        }
        _ => Vec::new(),
    }
}

/// Index of the first step whose result is not finite, of a plan that keeps all results until it has looked at them.
pub(crate) fn first_non_finite(
    run: &Run<'_>,
    arena: &mut [f32],
    images: Images<'_>,
    statistics: &[f32],
) -> Option<usize> {
    let values = Values::new(run.plan, arena);
    run.plan.steps.iter().position(|step| {
        run_step(run, &values, step, images, &mut Statistics::Keep(statistics));
        // SAFETY: nothing writes while the slice lives.
        let result = unsafe { values.read(step.kind.result()) };
        !result.iter().all(|value| value.is_finite())
    })
}

/// Copies the outputs, each in torch's order for vectors and NHWC for maps, to their segments of `joint`.
pub(crate) fn copy_outputs(run: &Run<'_>, arena: &mut [f32], joint: &mut [f32]) {
    let values = Values::new(run.plan, arena);
    for output in &run.plan.outputs {
        // SAFETY: nothing writes while the slice lives.
        let value = unsafe { values.read(output.value) };
        let segment = &mut joint[output.start..output.start + output.len];
        match output.order {
            None => segment.copy_from_slice(value),
            Some(order) => order.to_torch(value, segment),
        }
    }
}

fn run_step(
    run: &Run<'_>,
    values: &Values<'_>,
    step: &Step,
    images: Images<'_>,
    statistics: &mut Statistics<'_>,
) {
    let pool = run.pool;
    // SAFETY: a step reads its inputs and writes its result and working memory, which the planner keeps apart.
    unsafe {
        match &step.kind {
            Kind::Input { y, scale, shift, bytes } => match images {
                Images::U8(x) => mixing::look_up(pool, x, bytes, values.write(*y)),
                Images::F32(x) => mixing::affine(pool, x, scale, shift, values.write(*y)),
            },
            Kind::Conv(step) => run_conv(run, values, step),
            Kind::Norm(step) => run_norm(run, values, step, statistics),
            Kind::Folded { norm, x, y, saved, residual, activation } => {
                let residual = residual.map(|residual| values.read(residual));
                let after = After { factors: None, residual, activation: *activation };
                norm::normalize(
                    pool,
                    norm,
                    values.read(*x),
                    saved.of(run.parameters),
                    &after,
                    values.write(*y),
                );
            }
            other => run_plain(run, values, other),
        }
    }
}

/// Steps without parameters.
///
/// # Safety
/// As [`Values::read`].
unsafe fn run_plain(run: &Run<'_>, values: &Values<'_>, kind: &Kind) {
    let pool = run.pool;
    // SAFETY: the caller's promise.
    unsafe {
        let [first, second] = kind.inputs().map(|input| input.map(|value| values.read(value)));
        let Some(x) = first else { return };
        let y = values.write(kind.result());
        match (kind, second) {
            (Kind::Affine { scale, shift, .. }, _) => mixing::affine(pool, x, scale, shift, y),
            (Kind::Activation { activation, .. }, _) => activation::forward(pool, *activation, x, y),
            (Kind::MaxPool { shape, taps, .. }, _) => {
                pooling::max_forward(pool, shape, x, y, taps.map(|taps| values.write(taps)));
            }
            (Kind::AvgPool { shape, .. }, _) => pooling::average_forward(pool, shape, x, y),
            (Kind::GlobalAvgPool { rows, .. }, _) => pooling::global_forward(pool, *rows, x, y),
            (Kind::Gate { rows, .. }, Some(gate)) => mixing::gate_forward(pool, *rows, x, gate, set(y)),
            (Kind::Product { .. }, Some(b)) => mixing::multiply(pool, x, b, set(y)),
            (Kind::Sum { activation, .. }, Some(b)) => mixing::add(pool, x, b, *activation, y),
            (Kind::Dropout { p, node, .. }, _) => {
                let stream = run.draws.with(node.index() as u64);
                mixing::dropout(pool, *p, stream, Source::From(x), set(y));
            }
            (Kind::Depth { depth, .. }, _) => {
                let factors = values.write(depth.factors);
                mixing::depth_factors(depth.p, run.draws.with(depth.node.index() as u64), factors);
                mixing::scale_samples(pool, factors, x, set(y));
            }
            (Kind::Transpose { order, .. }, _) => order.to_torch(x, y),
            // Two inputs are always there; the others have functions of their own.
            (Kind::Gate { .. } | Kind::Product { .. } | Kind::Sum { .. }, None)
            | (Kind::Input { .. } | Kind::Conv(_) | Kind::Norm(_) | Kind::Folded { .. }, _) => {}
        }
    }
}

/// A result that is written for the first time.
fn set(values: &mut [f32]) -> Target<'_> {
    Target { values, add: false }
}

/// # Safety
/// As [`Values::read`].
unsafe fn run_conv(run: &Run<'_>, values: &Values<'_>, step: &ConvStep) {
    // SAFETY: the caller's promise.
    unsafe {
        let epilogue = Epilogue {
            bias: step.bias.map(|bias| bias.place.of(run.parameters)),
            residual: step.residual.map(|residual| values.read(residual)),
            activation: step.activation,
        };
        let weight = step.form.weight(step.weight.place.of(run.parameters));
        conv::forward(run.pool, &step.shape, values.read(step.x), weight, &epilogue, values.write(step.y));
    }
}

/// # Safety
/// As [`Values::read`].
unsafe fn run_norm(run: &Run<'_>, values: &Values<'_>, step: &NormStep, statistics: &mut Statistics<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        let (z, saved, work) = (values.read(step.z), values.write(step.saved), values.write(step.work));
        let (scale, shift) = (step.scale.place.of(run.parameters), step.shift.place.of(run.parameters));
        let affine = |mean, variance| Affine { mean, variance, eps: step.eps, scale, shift };
        if step.batch {
            let (work, [mean, variance]) = step.norm.split_work(work);
            norm::statistics(run.pool, &step.norm, z, work, mean, variance);
            norm::prepare(&step.norm, &affine(mean, variance), saved);
            if let Statistics::Update(running) = statistics {
                move_statistics(step, running, mean, variance);
            }
        } else {
            let [mean, variance] = step.running.map(|place| place.of(statistics.values()));
            norm::prepare(&step.norm, &affine(mean, variance), saved);
        }
        let factors = step.depth.map(|depth| {
            let factors = values.write(depth.factors);
            mixing::depth_factors(depth.p, run.draws.with(depth.node.index() as u64), factors);
            &*factors
        });
        let residual = step.residual.map(|residual| values.read(residual));
        let after = After { factors, residual, activation: step.activation };
        norm::normalize(run.pool, &step.norm, z, saved, &after, values.write(step.y));
    }
}

/// As torch does: the running variance takes in the unbiased one.
fn move_statistics(step: &NormStep, running: &mut [f32], mean: &[f32], variance: &[f32]) {
    let count = step.norm.rows.count() as f32;
    let unbiased = count / (count - 1.0).max(1.0);
    let [running_mean, running_variance] = step.running;
    for (running, batch) in running_mean.of_mut(running).iter_mut().zip(mean) {
        *running = (1.0 - step.momentum) * *running + step.momentum * batch;
    }
    for (running, batch) in running_variance.of_mut(running).iter_mut().zip(variance) {
        *running = (1.0 - step.momentum) * *running + step.momentum * batch * unbiased;
    }
}
