//! The backward pass.

use super::{Run, Timings, Values, timed};
use crate::kernels::activation::{self, Kept, derives_from_output};
use crate::kernels::norm::{self, Backward, Slope, Target};
use crate::kernels::spans::Source;
use crate::kernels::{conv, mixing, pooling};
use crate::plan::{BackwardStep, ConvStep, GradientRef, Kind, NormStep, ParameterRef, norm_slope_value};

/// Where backward leaves its results.
pub(crate) struct Gradients<'a> {
    /// As long as theta.
    pub theta: &'a mut [f32],
    /// By segment: whether an earlier backward has written it, so that this one adds.
    pub written: &'a mut [bool],
    /// Of the pictures, NHWC, if the plan reaches them.
    pub images: Option<&'a mut [f32]>,
}

impl Gradients<'_> {
    /// The gradient of a parameter; notes that it is written.
    fn target(&mut self, parameter: ParameterRef) -> Target<'_> {
        let add = std::mem::replace(&mut self.written[parameter.segment], true);
        Target { values: parameter.place.of_mut(self.theta), add }
    }
}

/// Runs all backward steps from the gradient of the joint outputs.
pub(crate) fn backward(
    run: &Run<'_>,
    arena: &mut [f32],
    joint: &[f32],
    gradients: &mut Gradients<'_>,
    mut timings: Option<&mut Timings>,
) {
    let values = Values::new(run.plan, arena);
    seed(run, &values, joint);
    for step in &run.plan.backward {
        let total = timings.as_deref_mut().map(|timings| &mut timings.backward[step.step]);
        timed(total, || run_step(run, &values, step, gradients));
    }
}

/// Hands the outputs' gradients to their values.
fn seed(run: &Run<'_>, values: &Values<'_>, joint: &[f32]) {
    for output in &run.plan.outputs {
        let Some(gradient) = output.gradient else { continue };
        let segment = &joint[output.start..output.start + output.len];
        // SAFETY: nothing else reads or writes meanwhile.
        let values = unsafe { values.write(gradient.value) };
        let target = Target { values, add: gradient.add };
        match output.order {
            None => mixing::pass_on(run.pool, segment, target),
            Some(order) => {
                let mut ordered = vec![0.0; segment.len()];
                order.to_engine(segment, &mut ordered);
                mixing::pass_on(run.pool, &ordered, target);
            }
        }
    }
}

/// # Safety
/// As [`Values::write`].
unsafe fn target<'a>(values: &Values<'a>, gradient: GradientRef) -> Target<'a> {
    // SAFETY: the caller's promise.
    Target { values: unsafe { values.write(gradient.value) }, add: gradient.add }
}

fn run_step(run: &Run<'_>, values: &Values<'_>, step: &BackwardStep, gradients: &mut Gradients<'_>) {
    let pool = run.pool;
    let [first, second] = step.dx;
    // SAFETY: a step reads what forward kept and writes gradients, which the planner keeps apart but for the in-place
    // pair, which is handled as one slice.
    unsafe {
        let target = |gradient: GradientRef| target(values, gradient);
        match &run.plan.steps[step.step].kind {
            Kind::Input { scale, .. } => {
                if let Some(images) = gradients.images.as_deref_mut() {
                    let dx = Target { values: images, add: false };
                    mixing::scale_channels(pool, scale, values.read(step.dy), dx);
                }
            }
            Kind::Affine { scale, .. } => {
                if let Some(dx) = first {
                    mixing::scale_channels(pool, scale, values.read(step.dy), target(dx));
                }
            }
            Kind::Conv(conv) => run_conv(run, values, conv, step, gradients),
            Kind::Norm(norm) => run_norm(run, values, norm, step, gradients),
            // Folded weights take no gradient; such plans have no backward.
            Kind::Folded { .. } => {}
            Kind::Activation { x, y, activation } => {
                let Some(dx) = first else { return };
                let kept = if derives_from_output(*activation) {
                    Kept::Output(values.read(*y))
                } else {
                    Kept::Input(values.read(*x))
                };
                activation::backward(
                    pool,
                    *activation,
                    kept,
                    source(values, step, dx),
                    target(dx).values,
                    dx.add,
                );
            }
            Kind::MaxPool { shape, taps, .. } => {
                if let (Some(dx), Some(taps)) = (first, taps) {
                    pooling::max_backward(pool, shape, values.read(step.dy), values.read(*taps), target(dx));
                }
            }
            Kind::AvgPool { shape, .. } => {
                if let Some(dx) = first {
                    pooling::average_backward(pool, shape, values.read(step.dy), target(dx));
                }
            }
            Kind::GlobalAvgPool { rows, .. } => {
                if let Some(dx) = first {
                    pooling::global_backward(pool, *rows, values.read(step.dy), target(dx));
                }
            }
            Kind::Gate { rows, x, gate, .. } => {
                let dy = values.read(step.dy);
                if let Some(dgate) = second {
                    mixing::gate_backward(pool, *rows, values.read(*x), dy, target(dgate));
                }
                if let Some(dx) = first {
                    mixing::gate_forward(pool, *rows, dy, values.read(*gate), target(dx));
                }
            }
            Kind::Product { a, b, .. } => {
                let dy = values.read(step.dy);
                if let Some(da) = first {
                    mixing::multiply(pool, dy, values.read(*b), target(da));
                }
                if let Some(db) = second {
                    mixing::multiply(pool, dy, values.read(*a), target(db));
                }
            }
            Kind::Sum { y, activation, .. } => {
                if let Some(activation) = activation {
                    let dy = values.write(step.dy);
                    activation::backward(
                        pool,
                        *activation,
                        Kept::Output(values.read(*y)),
                        Source::Same,
                        dy,
                        false,
                    );
                }
                for gradient in step.dx.into_iter().flatten() {
                    mixing::pass_on(pool, values.read(step.dy), target(gradient));
                }
            }
            Kind::Dropout { p, node, .. } => {
                let Some(dx) = first else { return };
                let stream = run.draws.with(node.index() as u64);
                mixing::dropout(pool, *p, stream, source(values, step, dx), target(dx));
            }
            Kind::Depth { depth, .. } => {
                if let Some(dx) = first {
                    let factors = values.read(depth.factors);
                    mixing::scale_samples(pool, factors, values.read(step.dy), target(dx));
                }
            }
            Kind::Transpose { order, .. } => {
                let Some(dx) = first else { return };
                let mut ordered = vec![0.0; values.read(step.dy).len()];
                order.to_engine(values.read(step.dy), &mut ordered);
                mixing::pass_on(pool, &ordered, target(dx));
            }
        }
    }
}

/// The result's gradient as the source of an elementwise step that may run in place.
///
/// # Safety
/// As [`Values::read`].
unsafe fn source<'a>(values: &Values<'a>, step: &BackwardStep, dx: GradientRef) -> Source<'a> {
    if values.same_place(step.dy, dx.value) {
        return Source::Same;
    }
    // SAFETY: the caller's promise.
    Source::From(unsafe { values.read(step.dy) })
}

/// # Safety
/// As [`Values::read`].
unsafe fn run_conv(
    run: &Run<'_>,
    values: &Values<'_>,
    conv: &ConvStep,
    step: &BackwardStep,
    gradients: &mut Gradients<'_>,
) {
    let pool = run.pool;
    // SAFETY: the caller's promise.
    unsafe {
        if let Some(activation) = conv.activation {
            let kept = Kept::Output(values.read(conv.y));
            activation::backward(pool, activation, kept, Source::Same, values.write(step.dy), false);
        }
        let dy = values.read(step.dy);
        if let (true, Some(bias), Some(work)) = (step.parameters, conv.bias, step.work) {
            mixing::column_sums(pool, dy, values.write(work), gradients.target(bias));
        }
        if step.parameters {
            let Target { values: dw, add } = gradients.target(conv.weight);
            conv::backward_weight(pool, &conv.shape, values.read(conv.x), dy, dw, add);
        }
        if let Some(dx) = step.dx[0] {
            let weight = conv.weight.place.of(run.parameters);
            conv::backward_input(pool, &conv.shape, dy, weight, values.write(dx.value), dx.add);
        }
    }
}

/// # Safety
/// As [`Values::read`].
unsafe fn run_norm(
    run: &Run<'_>,
    values: &Values<'_>,
    step: &NormStep,
    back: &BackwardStep,
    gradients: &mut Gradients<'_>,
) {
    let [dz, residual] = back.dx;
    // SAFETY: the caller's promise.
    unsafe {
        let Some(work) = back.work else { return };
        let (dy, work) = (values.write(back.dy), values.write(work));
        let (work, _) = step.norm.split_work(work);
        let slope = |activation| match norm_slope_value(step) {
            Some(value) if derives_from_output(activation) => Slope::Output(values.read(value)),
            Some(value) => Slope::Recomputed { residual: Some(values.read(value)) },
            None => Slope::Recomputed { residual: None },
        };
        let pass = Backward {
            z: values.read(step.z),
            saved: values.read(step.saved),
            activation: step.activation.map(|activation| (activation, slope(activation))),
            factors: step.depth.map(|depth| values.read(depth.factors)),
        };
        let residual = residual.map(|residual| target(values, residual));
        norm::backward_sums(run.pool, &step.norm, &pass, dy, residual, work);
        let scale = step.scale.place.of(run.parameters);
        let own = back.parameters.then(|| gradients.pair(step.scale, step.shift));
        norm::backward_parameters(&step.norm, pass.saved, step.batch, scale, own, work);
        let Some(dz) = dz else { return };
        let apart = (!values.same_place(back.dy, dz.value)).then(|| target(values, dz));
        norm::backward_apply(run.pool, &step.norm, &pass, work, dy, apart);
    }
}

impl Gradients<'_> {
    /// The gradients of two parameters, the first earlier in theta.
    fn pair(&mut self, first: ParameterRef, second: ParameterRef) -> [Target<'_>; 2] {
        let add = [first, second].map(|one| std::mem::replace(&mut self.written[one.segment], true));
        let (low, high) = self.theta.split_at_mut(second.place.offset);
        let low = &mut low[first.place.offset..first.place.offset + first.place.len];
        let high = &mut high[..second.place.len];
        [Target { values: low, add: add[0] }, Target { values: high, add: add[1] }]
    }
}
