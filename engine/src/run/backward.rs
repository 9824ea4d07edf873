//! The backward pass.

use models::Activation;

use super::{Run, Timings, Values, timed};
use crate::kernels::activation::{self, Kept, derives_from_output};
use crate::kernels::norm::{self, Backward, Rows, Slope, Target};
use crate::kernels::spans::Source;
use crate::kernels::{conv, mixing, pooling};
use crate::plan::{
    BackwardStep, ConvStep, GradientRef, Kind, NormStep, ParameterRef, ValueId, norm_slope_value,
};

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

fn run_step(run: &Run<'_>, values: &Values<'_>, step: &BackwardStep, gradients: &mut Gradients<'_>) {
    let pass = Pass { run, values, step };
    // SAFETY: a step reads what forward kept and writes gradients, which the planner keeps apart but for the in-place
    // pair, which is handled as one slice.
    unsafe {
        match &run.plan.steps[step.step].kind {
            Kind::Input { scale, .. } => pass.input(scale, gradients),
            Kind::Conv(conv) => pass.conv(conv, gradients),
            Kind::Norm(norm) => pass.norm(norm, gradients),
            Kind::Gate { rows, x, gate, .. } => pass.gate(*rows, *x, *gate),
            Kind::Product { a, b, .. } => pass.product(*a, *b),
            Kind::Sum { y, activation, .. } => pass.sum(*y, *activation),
            other => {
                if let Some(dx) = step.dx[0] {
                    pass.unary(other, dx);
                }
            }
        }
    }
}

/// One backward step with what it reads.
#[derive(Clone, Copy)]
struct Pass<'a> {
    run: &'a Run<'a>,
    values: &'a Values<'a>,
    step: &'a BackwardStep,
}

/// All methods are unsafe for the reason that [`Values::read`] and [`Values::write`] are; [`run_step`] says why they
/// may be called.
impl<'a> Pass<'a> {
    unsafe fn dy(&self) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.values.read(self.step.dy) }
    }

    unsafe fn target(&self, gradient: GradientRef) -> Target<'a> {
        // SAFETY: the caller's promise.
        Target { values: unsafe { self.values.write(gradient.value) }, add: gradient.add }
    }

    /// The result's gradient as the source of an elementwise step that may run in place.
    unsafe fn source(&self, dx: GradientRef) -> Source<'a> {
        if self.values.same_place(self.step.dy, dx.value) {
            return Source::Same;
        }
        // SAFETY: the caller's promise.
        Source::From(unsafe { self.dy() })
    }

    unsafe fn input(&self, scale: &[f32], gradients: &mut Gradients<'_>) {
        if let Some(images) = gradients.images.as_deref_mut() {
            // SAFETY: the caller's promise.
            let dy = unsafe { self.dy() };
            mixing::scale_channels(self.run.pool, scale, dy, Target { values: images, add: false });
        }
    }

    unsafe fn conv(&self, conv: &ConvStep, gradients: &mut Gradients<'_>) {
        let pool = self.run.pool;
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(activation) = conv.activation {
                let kept = Kept::Output(self.values.read(conv.y));
                activation::backward(
                    pool,
                    activation,
                    kept,
                    Source::Same,
                    self.values.write(self.step.dy),
                    false,
                );
            }
            let dy = self.dy();
            if let (true, Some(bias), Some(work)) = (self.step.parameters, conv.bias, self.step.work) {
                mixing::column_sums(pool, dy, self.values.write(work), gradients.target(bias));
            }
            if self.step.parameters {
                let Target { values: dw, add } = gradients.target(conv.weight);
                conv::backward_weight(pool, &conv.shape, self.values.read(conv.x), dy, dw, add);
            }
            if let Some(dx) = self.step.dx[0] {
                let weight = conv.weight.place.of(self.run.parameters);
                conv::backward_input(pool, &conv.shape, dy, weight, self.values.write(dx.value), dx.add);
            }
            if let Some(residual) = self.step.dx[1] {
                mixing::pass_on(pool, dy, self.target(residual));
            }
        }
    }

    unsafe fn norm(&self, step: &NormStep, gradients: &mut Gradients<'_>) {
        let ([dz, residual], pool) = (self.step.dx, self.run.pool);
        let Some(work) = self.step.work else { return };
        // SAFETY: the caller's promise.
        unsafe {
            let (dy, work) = (self.values.write(self.step.dy), self.values.write(work));
            let (work, _) = step.norm.split_work(work);
            let pass = self.norm_pass(step);
            let residual = residual.map(|residual| self.target(residual));
            norm::backward_sums(pool, &step.norm, &pass, dy, residual, work);
            let scale = step.scale.place.of(self.run.parameters);
            let own = self.step.parameters.then(|| gradients.pair(step.scale, step.shift));
            norm::backward_parameters(&step.norm, pass.saved, step.batch, scale, own, work);
            let Some(dz) = dz else { return };
            let apart = (!self.values.same_place(self.step.dy, dz.value)).then(|| self.target(dz));
            norm::backward_apply(pool, &step.norm, &pass, work, dy, apart);
        }
    }

    /// What forward has kept of a normalization.
    unsafe fn norm_pass(&self, step: &NormStep) -> Backward<'a> {
        // SAFETY: the caller's promise.
        unsafe {
            let slope = |activation| match norm_slope_value(step) {
                Some(value) if derives_from_output(activation) => Slope::Output(self.values.read(value)),
                Some(value) => Slope::Recomputed { residual: Some(self.values.read(value)) },
                None => Slope::Recomputed { residual: None },
            };
            Backward {
                z: self.values.read(step.z),
                saved: self.values.read(step.saved),
                activation: step.activation.map(|activation| (activation, slope(activation))),
                factors: step.depth.map(|depth| self.values.read(depth.factors)),
            }
        }
    }

    unsafe fn gate(&self, rows: Rows, x: ValueId, gate: ValueId) {
        let ([dx, dgate], pool) = (self.step.dx, self.run.pool);
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(dgate) = dgate {
                mixing::gate_backward(pool, rows, self.values.read(x), self.dy(), self.target(dgate));
            }
            if let Some(dx) = dx {
                mixing::gate_forward(pool, rows, self.dy(), self.values.read(gate), self.target(dx));
            }
        }
    }

    unsafe fn product(&self, a: ValueId, b: ValueId) {
        for (gradient, other) in self.step.dx.into_iter().zip([b, a]) {
            let Some(gradient) = gradient else { continue };
            // SAFETY: the caller's promise.
            unsafe {
                mixing::multiply(self.run.pool, self.dy(), self.values.read(other), self.target(gradient))
            }
        }
    }

    unsafe fn sum(&self, y: ValueId, activation: Option<Activation>) {
        let pool = self.run.pool;
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(activation) = activation {
                let kept = Kept::Output(self.values.read(y));
                activation::backward(
                    pool,
                    activation,
                    kept,
                    Source::Same,
                    self.values.write(self.step.dy),
                    false,
                );
            }
            for gradient in self.step.dx.into_iter().flatten() {
                mixing::pass_on(pool, self.dy(), self.target(gradient));
            }
        }
    }

    /// Steps of one input and no parameters.
    unsafe fn unary(&self, kind: &Kind, dx: GradientRef) {
        let pool = self.run.pool;
        // SAFETY: the caller's promise.
        unsafe {
            match kind {
                Kind::Affine { scale, .. } => mixing::scale_channels(pool, scale, self.dy(), self.target(dx)),
                Kind::Activation { x, y, activation } => self.activation(*x, *y, *activation, dx),
                Kind::MaxPool { shape, taps: Some(taps), .. } => {
                    pooling::max_backward(pool, shape, self.dy(), self.values.read(*taps), self.target(dx));
                }
                Kind::AvgPool { shape, .. } => {
                    pooling::average_backward(pool, shape, self.dy(), self.target(dx))
                }
                Kind::GlobalAvgPool { rows, .. } => {
                    pooling::global_backward(pool, *rows, self.dy(), self.target(dx));
                }
                Kind::Dropout { p, node, .. } => {
                    let stream = self.run.draws.with(node.index() as u64);
                    mixing::dropout(pool, *p, stream, self.source(dx), self.target(dx));
                }
                Kind::Depth { depth, .. } => {
                    mixing::scale_samples(pool, self.values.read(depth.factors), self.dy(), self.target(dx));
                }
                Kind::Transpose { order, .. } => {
                    let mut ordered = vec![0.0; self.dy().len()];
                    order.to_engine(self.dy(), &mut ordered);
                    mixing::pass_on(pool, &ordered, self.target(dx));
                }
                // A pooling whose input needs no gradient noted no places; the others have methods of their own, but
                // for folded weights, which take no gradient.
                Kind::MaxPool { taps: None, .. }
                | Kind::Input { .. }
                | Kind::Conv(_)
                | Kind::Norm(_)
                | Kind::Folded { .. }
                | Kind::Gate { .. }
                | Kind::Product { .. }
                | Kind::Sum { .. } => {}
            }
        }
    }

    unsafe fn activation(&self, x: ValueId, y: ValueId, activation: Activation, dx: GradientRef) {
        // SAFETY: the caller's promise.
        unsafe {
            let kept = if derives_from_output(activation) {
                Kept::Output(self.values.read(y))
            } else {
                Kept::Input(self.values.read(x))
            };
            let Target { values: dx_values, add } = self.target(dx);
            activation::backward(self.run.pool, activation, kept, self.source(dx), dx_values, add);
        }
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
