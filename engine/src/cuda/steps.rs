//! The steps of a plan as launches: forward, and backward in reverse, over one arena. The counterpart of `crate::run`,
//! step by step; nothing here allocates or waits, so that all of it may be captured into a graph.

use models::Activation;

use super::constants::Constants;
use super::convolution::Convolutions;
use super::executor::Executor;
use super::kernels::{self, Affine, After, Backward, Draw, Kept, Kernels, Moving, Saved, Slope, Target, Way};
use super::{Format, Ptr};
use crate::Result;
use crate::home::Call;
use crate::kernels::activation::derives_from_output;
use crate::kernels::conv::ConvShape;
use crate::kernels::norm::Rows;
use crate::plan::{
    BackwardStep, ConvStep, Depth, GradientRef, Kind, NormStep, ParameterRef, Place, Plan, ValueId,
    norm_slope_value,
};

/// Pictures on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pictures {
    U8(Ptr),
    F32(Ptr),
}

/// Where a run's memory and its network's vectors lie.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub arena: Ptr,
    /// Working memory of a step, of at least [`scratch`] bytes.
    pub scratch: Ptr,
    pub theta: Ptr,
    /// Theta in the format of the maps.
    pub shadow: Ptr,
    pub statistics: Ptr,
    /// One u64: the stream of random numbers of this pass.
    pub key: Ptr,
}

/// What the steps of one run read and write.
#[derive(Clone, Copy)]
pub(crate) struct Steps<'a> {
    kernels: &'a Kernels,
    convolutions: &'a Convolutions,
    constants: &'a Constants,
    plan: &'a Plan,
    /// Whether the running statistics move.
    update: bool,
    to: Addresses,
}

/// Bytes of working memory that the steps of `plan` need.
pub(crate) fn scratch(plan: &Plan) -> usize {
    let forward = plan.steps.iter().map(|step| match &step.kind {
        Kind::Norm(norm) => Kernels::norm_scratch(norm.norm.rows),
        _ => 0,
    });
    let backward = plan.backward.iter().map(|step| match &plan.steps[step.step].kind {
        Kind::Norm(norm) => Kernels::norm_scratch(norm.norm.rows),
        Kind::Conv(conv) if step.parameters => {
            let (rows, channels) = output_rows(&conv.shape);
            let bias = conv.bias.map_or(0, |_| Kernels::column_sums_scratch(rows, channels));
            let weight = if conv.shape.is_depthwise() {
                Kernels::depthwise_scratch(&conv.shape)
            } else {
                plan.maps.bytes() * conv.weight.place.len
            };
            bias.max(weight)
        }
        _ => 0,
    });
    forward.chain(backward).max().unwrap_or(0)
}

/// Positions of all pictures of a convolution's output, and its channels.
fn output_rows(shape: &ConvShape) -> (usize, usize) {
    (shape.out_len() / shape.out_channels, shape.out_channels)
}

fn set(at: Ptr) -> Target {
    Target { at, add: false }
}

/// All methods are unsafe as the kernels are: the addresses of [`Steps`] must be those of its plan.
impl<'a> Steps<'a> {
    /// The steps of a call's plan at these addresses.
    pub(crate) fn new(
        executor: &'a Executor,
        convolutions: &'a Convolutions,
        constants: &'a Constants,
        call: &Call<'a>,
        to: Addresses,
    ) -> Self {
        let (kernels, plan, update) = (&executor.kernels, call.plan, call.update);
        Self { kernels, convolutions, constants, plan, update, to }
    }

    fn format(&self) -> Format {
        self.plan.maps
    }

    fn at(&self, value: ValueId) -> Ptr {
        self.to.arena.offset(4 * self.plan.place(value).offset)
    }

    fn len(&self, value: ValueId) -> usize {
        self.plan.place(value).len
    }

    fn theta(&self, place: Place) -> Ptr {
        self.to.theta.offset(4 * place.offset)
    }

    /// A weight in the format of the maps.
    fn weight(&self, place: Place) -> Ptr {
        self.to.shadow.offset(self.format().bytes() * place.offset)
    }

    fn statistics(&self, place: Place) -> Ptr {
        self.to.statistics.offset(4 * place.offset)
    }

    fn draw(&self, p: f32, node: models::NodeId) -> Draw {
        Draw { p, key: self.to.key, node: node.index() as u64 }
    }

    // --- forward ---

    /// The step of this number.
    pub(crate) unsafe fn forward(&self, index: usize, pictures: Pictures) -> Result<()> {
        let (kernels, format) = (self.kernels, self.format());
        let kind = &self.plan.steps[index].kind;
        let y = kind.result();
        let [first, second] = kind.inputs().map(|input| input.map(|value| self.at(value)));
        let (at, len) = (self.at(y), self.len(y));
        // SAFETY: the caller's promise, for every branch.
        unsafe {
            match (kind, first, second) {
                (Kind::Input { scale, .. }, ..) => self.input(index, scale.len(), pictures, at, len),
                (Kind::Conv(step), ..) => self.conv(step),
                (Kind::Norm(step), ..) => self.norm(step),
                (Kind::Affine { scale, .. }, Some(x), _) => {
                    let [scales, shifts] = self.constants.affine(index)?;
                    let pixels = len / scale.len();
                    kernels.affine(format, (x, format), scales, shifts, at, pixels, scale.len())
                }
                (Kind::Activation { activation, .. }, Some(x), _) => {
                    kernels.activation_forward(format, *activation, x, at, len)
                }
                (Kind::MaxPool { shape, taps, .. }, Some(x), _) => {
                    kernels.max_forward(format, shape, x, at, taps.map(|taps| self.at(taps)))
                }
                (Kind::AvgPool { shape, .. }, Some(x), _) => kernels.average_forward(format, shape, x, at),
                (Kind::GlobalAvgPool { rows, .. }, Some(x), _) => {
                    kernels.global_forward(format, *rows, x, at)
                }
                (Kind::Gate { rows, .. }, Some(x), Some(gate)) => {
                    kernels.gate_forward(format, *rows, x, gate, set(at))
                }
                (Kind::Product { .. }, Some(a), Some(b)) => kernels.multiply(format, a, b, set(at), len),
                (Kind::Sum { activation, .. }, Some(a), Some(b)) => {
                    kernels.add(format, a, b, *activation, at, len)
                }
                (Kind::Dropout { p, node, .. }, Some(x), _) => {
                    kernels.dropout(format, self.draw(*p, *node), x, set(at), len)
                }
                (Kind::Depth { depth, .. }, Some(x), _) => {
                    let factors = self.factors(depth)?;
                    let samples = self.plan.batch;
                    kernels.scale_samples(format, factors, x, set(at), samples, len / samples)
                }
                (Kind::Transpose { order, .. }, Some(x), _) => {
                    kernels.transpose(format, *order, Way::ToTorch, x, set(at), len)
                }
                // Every other step has its inputs, and weights are not folded on a device.
                _ => Ok(()),
            }
        }
    }

    unsafe fn input(
        &self,
        index: usize,
        channels: usize,
        pictures: Pictures,
        y: Ptr,
        len: usize,
    ) -> Result<()> {
        let pixels = len / channels;
        // SAFETY: the caller's promise.
        unsafe {
            match pictures {
                Pictures::U8(x) => {
                    let table = self.constants.bytes(index)?;
                    self.kernels.look_up(self.format(), x, table, y, pixels, channels)
                }
                Pictures::F32(x) => {
                    let [scale, shift] = self.constants.affine(index)?;
                    self.kernels.affine(self.format(), (x, Format::F32), scale, shift, y, pixels, channels)
                }
            }
        }
    }

    unsafe fn conv(&self, step: &ConvStep) -> Result<()> {
        let (x, y, format) = (self.at(step.x), self.at(step.y), self.format());
        // SAFETY: the caller's promise.
        unsafe {
            if step.shape.is_depthwise() {
                self.kernels.depthwise_forward(format, &step.shape, x, self.theta(step.weight.place), y)?;
            } else {
                self.convolutions.forward(&step.shape, format, x, self.weight(step.weight.place), y)?;
            }
            let bias = step.bias.map(|bias| self.theta(bias.place));
            let residual = step.residual.map(|residual| self.at(residual));
            if bias.is_none() && residual.is_none() && step.activation.is_none() {
                return Ok(());
            }
            let (rows, channels) = output_rows(&step.shape);
            self.kernels.finish(format, y, bias, residual, step.activation, rows, channels)
        }
    }

    fn norm_affine(&self, step: &NormStep) -> Affine {
        let (scale, shift) = (self.theta(step.scale.place), self.theta(step.shift.place));
        Affine { eps: step.eps, scale, shift }
    }

    fn saved(&self, step: &NormStep) -> Saved {
        Saved::at(self.at(step.saved), step.norm.rows.channels)
    }

    unsafe fn norm(&self, step: &NormStep) -> Result<()> {
        let (rows, saved, format) = (step.norm.rows, self.saved(step), self.format());
        let [mean, variance] = step.running.map(|place| self.statistics(place));
        let (affine, z) = (self.norm_affine(step), self.at(step.z));
        // SAFETY: the caller's promise.
        unsafe {
            if step.batch {
                let moving = self.update.then_some(Moving { mean, variance, momentum: step.momentum });
                self.kernels.norm_batch(format, rows, z, &affine, moving.as_ref(), saved, self.to.scratch)?;
            } else {
                self.kernels.norm_running(rows.channels, mean, variance, &affine, saved)?;
            }
            let factors = step.depth.as_ref().map(|depth| self.factors(depth)).transpose()?;
            let residual = step.residual.map(|residual| self.at(residual));
            let after = After { factors, residual, activation: step.activation };
            self.kernels.normalize(format, rows, z, saved, &after, self.at(step.y))
        }
    }

    /// Draws stochastic depth's factors.
    unsafe fn factors(&self, depth: &Depth) -> Result<Ptr> {
        let factors = self.at(depth.factors);
        // SAFETY: the caller's promise.
        unsafe { self.kernels.depth_factors(self.draw(depth.p, depth.node), factors, self.plan.batch)? };
        Ok(factors)
    }

    /// Copies the outputs to their segments of `joint`, f32.
    pub(crate) unsafe fn outputs(&self, joint: Ptr) -> Result<()> {
        for output in &self.plan.outputs {
            let to = joint.offset(4 * output.start);
            // SAFETY: the caller's promise.
            unsafe {
                self.kernels.outputs(self.format(), self.at(output.value), output.order, to, output.len)?;
            }
        }
        Ok(())
    }

    // --- backward ---

    /// Hands the outputs' gradients, f32, to their values.
    pub(crate) unsafe fn seeds(&self, joint: Ptr) -> Result<()> {
        for output in &self.plan.outputs {
            let Some(gradient) = output.gradient else { continue };
            let from = joint.offset(4 * output.start);
            // SAFETY: the caller's promise.
            unsafe {
                self.kernels.seeds(self.format(), from, output.order, self.target(gradient), output.len)?;
            }
        }
        Ok(())
    }

    fn target(&self, gradient: GradientRef) -> Target {
        Target { at: self.at(gradient.value), add: gradient.add }
    }

    /// A backward step; `images` is where the pictures' gradient goes, f32.
    pub(crate) unsafe fn backward(
        &self,
        step: &BackwardStep,
        gradients: &mut Gradients<'_>,
        images: Ptr,
    ) -> Result<()> {
        let (kernels, format) = (self.kernels, self.format());
        let (dy, len) = (self.at(step.dy), self.len(step.dy));
        let [first, second] = step.dx.map(|dx| dx.map(|dx| self.target(dx)));
        // SAFETY: the caller's promise, for every branch.
        unsafe {
            match (&self.plan.steps[step.step].kind, first) {
                (Kind::Input { scale, .. }, _) if self.plan.image_gradient => {
                    let [scales, _] = self.constants.affine(step.step)?;
                    let to = (set(images), Format::F32);
                    kernels.scale_channels(format, dy, scales, to, len / scale.len(), scale.len())
                }
                (Kind::Conv(conv), _) => self.conv_backward(conv, step, gradients),
                (Kind::Norm(norm), _) => self.norm_backward(norm, step, gradients),
                (Kind::Gate { rows, x, gate, .. }, _) => {
                    if let Some(dgate) = second {
                        kernels.gate_backward(format, *rows, self.at(*x), dy, dgate)?;
                    }
                    first.map_or(Ok(()), |dx| kernels.gate_forward(format, *rows, dy, self.at(*gate), dx))
                }
                (Kind::Product { a, b, .. }, _) => {
                    for (to, other) in [first, second].into_iter().zip([b, a]) {
                        let Some(to) = to else { continue };
                        kernels.multiply(format, dy, self.at(*other), to, len)?;
                    }
                    Ok(())
                }
                (Kind::Sum { y, activation, .. }, _) => {
                    self.through(*activation, *y, dy, len)?;
                    for to in [first, second].into_iter().flatten() {
                        kernels.pass_on(format, dy, to, len)?;
                    }
                    Ok(())
                }
                (kind, Some(dx)) => self.unary_backward(step.step, kind, dy, dx, len),
                (_, None) => Ok(()),
            }
        }
    }

    /// Passes a gradient back through an activation whose value was kept, in place.
    unsafe fn through(&self, activation: Option<Activation>, y: ValueId, dy: Ptr, len: usize) -> Result<()> {
        let Some(activation) = activation else { return Ok(()) };
        let kept = Kept::Output(self.at(y));
        // SAFETY: the caller's promise.
        unsafe { self.kernels.activation_backward(self.format(), activation, kept, dy, set(dy), len) }
    }

    /// Steps of one input and no parameters.
    unsafe fn unary_backward(
        &self,
        index: usize,
        kind: &Kind,
        dy: Ptr,
        dx: Target,
        len: usize,
    ) -> Result<()> {
        let (kernels, format) = (self.kernels, self.format());
        // SAFETY: the caller's promise.
        unsafe {
            match kind {
                Kind::Affine { scale, .. } => {
                    let [scales, _] = self.constants.affine(index)?;
                    kernels.scale_channels(format, dy, scales, (dx, format), len / scale.len(), scale.len())
                }
                Kind::Activation { x, y, activation } => {
                    let kept = if derives_from_output(*activation) {
                        Kept::Output(self.at(*y))
                    } else {
                        Kept::Input(self.at(*x))
                    };
                    kernels.activation_backward(format, *activation, kept, dy, dx, len)
                }
                Kind::MaxPool { shape, taps: Some(taps), .. } => {
                    kernels.max_backward(format, shape, dy, self.at(*taps), dx)
                }
                Kind::AvgPool { shape, .. } => kernels.average_backward(format, shape, dy, dx),
                Kind::GlobalAvgPool { rows, .. } => kernels.global_backward(format, *rows, dy, dx),
                Kind::Dropout { p, node, .. } => kernels.dropout(format, self.draw(*p, *node), dy, dx, len),
                Kind::Depth { depth, .. } => {
                    let samples = self.plan.batch;
                    kernels.scale_samples(format, self.at(depth.factors), dy, dx, samples, len / samples)
                }
                Kind::Transpose { order, .. } => {
                    kernels.transpose(format, *order, Way::ToEngine, dy, dx, len)
                }
                // As on the processor: these carry no gradient on, or have methods of their own.
                Kind::MaxPool { taps: None, .. }
                | Kind::Input { .. }
                | Kind::Conv(_)
                | Kind::Norm(_)
                | Kind::Folded { .. }
                | Kind::Gate { .. }
                | Kind::Product { .. }
                | Kind::Sum { .. } => Ok(()),
            }
        }
    }

    unsafe fn conv_backward(
        &self,
        conv: &ConvStep,
        step: &BackwardStep,
        gradients: &mut Gradients<'_>,
    ) -> Result<()> {
        let (kernels, format) = (self.kernels, self.format());
        let (dy, len) = (self.at(step.dy), self.len(step.dy));
        // SAFETY: the caller's promise.
        unsafe {
            self.through(conv.activation, conv.y, dy, len)?;
            if let (true, Some(bias)) = (step.parameters, conv.bias) {
                let (rows, channels) = output_rows(&conv.shape);
                let to = gradients.target(bias);
                kernels.column_sums(format, dy, rows, channels, self.to.scratch, to)?;
            }
            if step.parameters {
                self.weight_gradient(conv, dy, gradients.target(conv.weight))?;
            }
            if let Some(dx) = step.dx[0] {
                let dx = self.target(dx);
                if conv.shape.is_depthwise() {
                    let weight = self.theta(conv.weight.place);
                    kernels.depthwise_backward_input(format, &conv.shape, dy, weight, dx)?;
                } else {
                    let weight = self.weight(conv.weight.place);
                    self.convolutions.backward_input(&conv.shape, format, dy, weight, dx.at, dx.add)?;
                }
            }
            step.dx[1].map_or(Ok(()), |residual| kernels.pass_on(format, dy, self.target(residual), len))
        }
    }

    unsafe fn weight_gradient(&self, conv: &ConvStep, dy: Ptr, to: Target) -> Result<()> {
        let (x, format, shape) = (self.at(conv.x), self.format(), &conv.shape);
        // SAFETY: the caller's promise.
        unsafe {
            if shape.is_depthwise() {
                return self.kernels.depthwise_backward_weight(format, shape, x, dy, to, self.to.scratch);
            }
            if format == Format::F32 {
                return self.convolutions.backward_weight(shape, format, x, dy, to.at, to.add);
            }
            // cuDNN writes weights in the format of the maps.
            self.convolutions.backward_weight(shape, format, x, dy, self.to.scratch, false)?;
            self.kernels.accumulate(format, self.to.scratch, to, conv.weight.place.len)
        }
    }

    unsafe fn norm_backward(
        &self,
        norm: &NormStep,
        step: &BackwardStep,
        gradients: &mut Gradients<'_>,
    ) -> Result<()> {
        let (kernels, rows, scratch): (_, Rows, _) = (self.kernels, norm.norm.rows, self.to.scratch);
        let ([dz, residual], dy, format) = (step.dx, self.at(step.dy), self.format());
        let slope = |activation| match norm_slope_value(norm) {
            Some(value) if derives_from_output(activation) => Slope::Output(self.at(value)),
            Some(value) => Slope::Recomputed { residual: Some(self.at(value)) },
            None => Slope::Recomputed { residual: None },
        };
        let pass = Backward {
            z: self.at(norm.z),
            saved: self.saved(norm),
            activation: norm.activation.map(|activation| (activation, slope(activation))),
            factors: norm.depth.map(|depth| self.at(depth.factors)),
        };
        let own = step.parameters.then(|| [norm.scale, norm.shift].map(|own| gradients.target(own)));
        let scale = self.theta(norm.scale.place);
        // SAFETY: the caller's promise.
        unsafe {
            let residual = residual.map(|residual| self.target(residual));
            kernels.norm_backward_sums(format, rows, &pass, dy, residual, scratch)?;
            kernels.norm_backward_parameters(rows, pass.saved, norm.batch, scale, own, scratch)?;
            let Some(dz) = dz else { return Ok(()) };
            let apart = (self.at(dz.value) != dy).then(|| self.target(dz));
            kernels.norm_backward_apply(format, rows, &pass, dy, apart, scratch)
        }
    }
}

/// The gradient of theta.
pub(crate) struct Gradients<'a> {
    pub theta: Ptr,
    /// By segment: whether it holds anything, so that a backward adds.
    pub written: &'a mut [bool],
}

impl Gradients<'_> {
    /// The gradient of a parameter; notes that it is written.
    fn target(&mut self, parameter: ParameterRef) -> kernels::Target {
        let add = std::mem::replace(&mut self.written[parameter.segment], true);
        Target { at: self.theta.offset(4 * parameter.place.offset), add }
    }
}
