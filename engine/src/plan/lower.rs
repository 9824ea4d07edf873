//! Lowers a graph: which nodes run, which are fused, and what backward needs.

use models::{Activation, Graph, NodeId, Op, Pool2d, Role, Shape};

use super::fold::{Folding, Share};
use super::memory::{Event, assign};
use super::{
    BackwardStep, ConvStep, Depth, Format, GradientRef, Kind, NormStep, OutputRef, ParameterRef, Place, Plan,
    Step, ValueId,
};
use crate::kernels::activation::derives_from_output;
use crate::kernels::conv::{ConvShape, Form};
use crate::kernels::mixing::column_sums_work;
use crate::kernels::norm::{Norm, Rows};
use crate::kernels::pooling::PoolShape;
use crate::theta::{FlatOrders, Table};

/// What a plan is for.
#[derive(Clone, Copy)]
pub(crate) struct Purpose<'a> {
    /// Pictures in a batch.
    pub batch: usize,
    /// Batch statistics, dropout and stochastic depth.
    pub train: bool,
    /// Weights with batch norm folded in, instead of theta. Excludes training and gradients.
    pub folding: Option<&'a Folding>,
    /// Whether backward reaches the parameters.
    pub parameters: bool,
    /// Whether backward reaches the images.
    pub images: bool,
    /// By node: no gradient, no update, batch norm in evaluation.
    pub frozen: &'a [bool],
    /// The nodes whose values are wanted, in order.
    pub want: &'a [NodeId],
    /// Number format of maps and their gradients.
    pub maps: Format,
}

impl<'a> Purpose<'a> {
    /// Answering with folded weights.
    pub(crate) fn answering(
        batch: usize,
        folding: &'a Folding,
        frozen: &'a [bool],
        want: &'a [NodeId],
    ) -> Self {
        let (train, parameters, images) = (false, false, false);
        Self { batch, train, folding: Some(folding), parameters, images, frozen, want, maps: Format::F32 }
    }
}

/// Lowers `graph`.
pub(crate) fn lower(graph: &Graph, table: &Table, orders: &FlatOrders, purpose: &Purpose<'_>) -> Plan {
    let mut lowering = Lowering::new(graph, table, orders, purpose);
    lowering.steps();
    lowering.outputs();
    lowering.backward();
    lowering.finish()
}

/// Nodes that run as one: the first gives the operation, the last the result.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    depth: Option<(NodeId, f32)>,
    residual: Option<NodeId>,
    activation: Option<Activation>,
}

struct Lowering<'a> {
    graph: &'a Graph,
    table: &'a Table,
    orders: &'a FlatOrders,
    purpose: &'a Purpose<'a>,
    /// Nodes that read each node, among those that run; a wanted node counts once more.
    readers: Vec<Vec<NodeId>>,
    wanted: Vec<bool>,
    needed: Vec<bool>,
    /// Whether a node's value needs a gradient.
    tracked: Vec<bool>,
    claimed: Vec<bool>,
    values: Vec<Option<ValueId>>,
    lengths: Vec<usize>,
    /// By value: whether it is a map, a vector or the gradient of one, rather than working memory.
    maps: Vec<bool>,
    /// By value: its gradient, once a backward step has been planned that writes it.
    gradients: Vec<Option<ValueId>>,
    tracked_values: Vec<bool>,
    steps: Vec<Step>,
    backward: Vec<BackwardStep>,
    outputs: Vec<OutputRef>,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, table: &'a Table, orders: &'a FlatOrders, purpose: &'a Purpose<'a>) -> Self {
        let count = graph.nodes().len();
        let mut lowering = Self {
            graph,
            table,
            orders,
            purpose,
            readers: vec![Vec::new(); count],
            wanted: vec![false; count],
            needed: vec![false; count],
            tracked: vec![false; count],
            claimed: vec![false; count],
            values: vec![None; count],
            lengths: Vec::new(),
            maps: Vec::new(),
            gradients: Vec::new(),
            tracked_values: Vec::new(),
            steps: Vec::new(),
            backward: Vec::new(),
            outputs: Vec::new(),
        };
        lowering.mark_needed();
        lowering.mark_tracked();
        lowering
    }

    fn mark_needed(&mut self) {
        for &node in self.purpose.want {
            self.wanted[node.index()] = true;
            self.needed[node.index()] = true;
        }
        let ids: Vec<NodeId> = self.graph.iter().map(|(id, _)| id).collect();
        for &id in ids.iter().rev().filter(|id| id.index() > 0) {
            if self.needed[id.index()] {
                for &input in &self.graph.node(id).inputs {
                    self.needed[input.index()] = true;
                    self.readers[input.index()].push(id);
                }
            }
        }
        self.needed[0] = true;
    }

    fn mark_tracked(&mut self) {
        for (id, node) in self.graph.iter() {
            let own = self.trains(id) || (id.index() == 0 && self.purpose.images);
            self.tracked[id.index()] = own || node.inputs.iter().any(|input| self.tracked[input.index()]);
        }
    }

    /// Whether the node has parameters that need a gradient.
    fn trains(&self, node: NodeId) -> bool {
        let stores = matches!(self.graph.node(node).op, Op::Conv2d(_) | Op::Linear(_) | Op::BatchNorm(_));
        stores && self.purpose.parameters && !self.purpose.frozen[node.index()]
    }

    fn any_gradient(&self) -> bool {
        self.purpose.parameters || self.purpose.images
    }

    /// The only reader of a node whose value nothing else wants.
    fn only_reader(&self, node: NodeId) -> Option<NodeId> {
        match self.readers[node.index()][..] {
            [reader] if !self.wanted[node.index()] && !self.claimed[reader.index()] => Some(reader),
            _ => None,
        }
    }

    // --- forward ---

    fn steps(&mut self) {
        let mut groups: Vec<Option<(NodeId, Group)>> = vec![None; self.graph.nodes().len()];
        for (id, _) in self.graph.iter() {
            if self.needed[id.index()] && !self.claimed[id.index()] {
                let (last, group) = self.group(id);
                groups[last.index()] = Some((id, group));
            }
        }
        for (id, _) in self.graph.iter() {
            if let Some((first, group)) = groups[id.index()] {
                self.emit(first, id, &group);
            }
        }
    }

    /// Takes in the nodes after `first` that can be fused with it; returns the last.
    fn group(&mut self, first: NodeId) -> (NodeId, Group) {
        self.claimed[first.index()] = true;
        let mut group = Group::default();
        let last = match &self.graph.node(first).op {
            Op::Input => self.take(first, |op| matches!(op, Op::Normalize { .. })),
            Op::Conv2d(_) | Op::Linear(_) if self.purpose.folding.is_some() => {
                let last = self.take_folded_norm(first);
                let last = self.take_identities(last);
                let last = self.take_residual(last, &mut group);
                self.take_activation(last, &mut group)
            }
            Op::Conv2d(_) | Op::Linear(_) => {
                let last = self.take_activation_by_output(first, &mut group);
                if last == first { self.take_plain_residual(first, &mut group) } else { last }
            }
            Op::BatchNorm(_) => {
                let last = self.take_depth(first, &mut group);
                let last = self.take_residual(last, &mut group);
                self.take_activation(last, &mut group)
            }
            Op::Add => self.take_activation_by_output(first, &mut group),
            _ => first,
        };
        (last, group)
    }

    /// Claims the only reader if it is such an operation.
    fn take(&mut self, node: NodeId, accepts: impl Fn(&Op) -> bool) -> NodeId {
        match self.only_reader(node).filter(|&reader| accepts(&self.graph.node(reader).op)) {
            Some(reader) => {
                self.claimed[reader.index()] = true;
                reader
            }
            None => node,
        }
    }

    fn take_folded_norm(&mut self, conv: NodeId) -> NodeId {
        match self.purpose.folding.and_then(|folding| folding.share(conv)) {
            Some(Share::Conv { norm: Some(_), .. }) => self.take(conv, |op| matches!(op, Op::BatchNorm(_))),
            _ => conv,
        }
    }

    /// Dropout and stochastic depth do nothing in evaluation.
    fn take_identities(&mut self, node: NodeId) -> NodeId {
        let next = self.take(node, |op| matches!(op, Op::Dropout(_) | Op::StochasticDepth(_)));
        if next == node { node } else { self.take_identities(next) }
    }

    fn take_depth(&mut self, node: NodeId, group: &mut Group) -> NodeId {
        if !self.purpose.train {
            return self.take_identities(node);
        }
        let next = self.take(node, |op| matches!(op, Op::StochasticDepth(_)));
        if let Op::StochasticDepth(p) = self.graph.node(next).op {
            group.depth = (next != node).then_some((next, p));
        }
        next
    }

    fn take_residual(&mut self, node: NodeId, group: &mut Group) -> NodeId {
        let Some(reader) = self.only_reader(node) else { return node };
        let reader_node = self.graph.node(reader);
        let other = reader_node.inputs.iter().copied().find(|&input| input != node);
        match (&reader_node.op, other) {
            (Op::Add, Some(other)) => {
                group.residual = Some(other);
                self.claimed[reader.index()] = true;
                reader
            }
            _ => node,
        }
    }

    /// A sum whose result goes on as it is: backward then needs nothing of it.
    fn take_plain_residual(&mut self, node: NodeId, group: &mut Group) -> NodeId {
        let sum = self.only_reader(node).filter(|&sum| {
            let after = self.only_reader(sum).map(|reader| &self.graph.node(reader).op);
            !matches!(after, Some(Op::Activation(_)))
        });
        if sum.is_some() { self.take_residual(node, group) } else { node }
    }

    fn take_activation(&mut self, node: NodeId, group: &mut Group) -> NodeId {
        let next = self.take(node, |op| matches!(op, Op::Activation(_)));
        if let (true, Op::Activation(activation)) = (next != node, &self.graph.node(next).op) {
            group.activation = Some(*activation);
        }
        next
    }

    /// The activation, if backward can do without its argument.
    fn take_activation_by_output(&mut self, node: NodeId, group: &mut Group) -> NodeId {
        let reader = self.only_reader(node).map(|reader| &self.graph.node(reader).op);
        match reader {
            Some(Op::Activation(activation)) if !self.any_gradient() || derives_from_output(*activation) => {
                self.take_activation(node, group)
            }
            _ => node,
        }
    }

    fn emit(&mut self, first: NodeId, last: NodeId, group: &Group) {
        let node = self.graph.node(first);
        let kind = match &node.op {
            Op::Input => self.input(last),
            Op::Normalize { mean, std } => {
                let (scale, shift) = affine(mean, std);
                Kind::Affine { x: self.input_value(first, 0), y: self.new_node_value(last), scale, shift }
            }
            Op::Conv2d(_) | Op::Linear(_) => self.conv(first, last, group),
            Op::BatchNorm(_) => self.norm(first, last, group),
            Op::Activation(activation) => {
                let x = self.input_value(first, 0);
                Kind::Activation { x, y: self.new_node_value(last), activation: *activation }
            }
            Op::MaxPool(window) => self.max_pool(first, *window),
            Op::AvgPool(window) => {
                let (shape, x) = (self.pool_shape(first, *window), self.input_value(first, 0));
                Kind::AvgPool { shape, x, y: self.new_node_value(last) }
            }
            Op::GlobalAvgPool => {
                let (rows, x) = (self.rows(node.inputs[0]), self.input_value(first, 0));
                Kind::GlobalAvgPool { rows, x, y: self.new_node_value(last) }
            }
            Op::Flatten => return self.flatten(first),
            Op::Dropout(_) | Op::StochasticDepth(_) if !self.purpose.train => return self.alias(first),
            Op::Dropout(p) => {
                let x = self.input_value(first, 0);
                Kind::Dropout { x, y: self.new_node_value(last), p: *p, node: first }
            }
            Op::StochasticDepth(p) => {
                let x = self.input_value(first, 0);
                let factors = self.new_work(self.purpose.batch);
                let depth = Depth { p: *p, node: first, factors };
                Kind::Depth { x, y: self.new_node_value(last), depth }
            }
            Op::Add => {
                let (a, b) = (self.input_value(first, 0), self.input_value(first, 1));
                Kind::Sum { a, b, y: self.new_node_value(last), activation: group.activation }
            }
            Op::Mul => self.product(first),
        };
        self.steps.push(Step { kind, nodes: self.chain(first, last) });
    }

    /// The nodes from the first to the last of a group, each the only reader of the one before.
    fn chain(&self, first: NodeId, last: NodeId) -> Vec<NodeId> {
        let mut chain = vec![first];
        let mut node = first;
        while node != last {
            node = self.readers[node.index()][0];
            chain.push(node);
        }
        chain
    }

    fn input(&mut self, last: NodeId) -> Kind {
        let channels = self.graph.input_shape().channels();
        let (scale, shift) = match &self.graph.node(last).op {
            Op::Normalize { mean, std } => affine(mean, std),
            _ => (vec![1.0; channels], vec![0.0; channels]),
        };
        let bytes = byte_table(&scale, &shift);
        Kind::Input { y: self.new_node_value(last), scale, shift, bytes }
    }

    fn conv(&mut self, first: NodeId, last: NodeId, group: &Group) -> Kind {
        let (weight, form, bias) = match self.purpose.folding.and_then(|folding| folding.share(first)) {
            Some(Share::Conv { weight, form, bias, .. }) => {
                let parameter = |place| ParameterRef { place, segment: usize::MAX };
                (parameter(weight), form, bias.map(parameter))
            }
            _ => {
                let bias = self.optional_parameter(first, Role::Bias);
                (self.parameter(first, Role::Weight), Form::Plain, bias)
            }
        };
        let x = self.input_value(first, 0);
        let residual = group.residual.map(|node| self.value(node));
        let y = self.new_node_value(last);
        let shape = conv_shape(self.graph, first, self.purpose.batch);
        Kind::Conv(ConvStep { shape, x, y, weight, form, bias, residual, activation: group.activation })
    }

    fn norm(&mut self, first: NodeId, last: NodeId, group: &Group) -> Kind {
        let rows = self.rows(first);
        let x = self.input_value(first, 0);
        let residual = group.residual.map(|node| self.value(node));
        if let Some(Share::Norm { saved }) = self.purpose.folding.and_then(|folding| folding.share(first)) {
            let norm = Norm { rows, by_sample: false };
            let y = self.new_node_value(last);
            return Kind::Folded { norm, x, y, saved, residual, activation: group.activation };
        }
        let (eps, momentum) = match &self.graph.node(first).op {
            Op::BatchNorm(norm) => (norm.eps, norm.momentum),
            _ => (0.0, 0.0),
        };
        let norm = Norm { rows, by_sample: group.depth.is_some() };
        let batch = self.purpose.batch;
        let depth = group.depth.map(|(node, p)| Depth { p, node, factors: self.new_work(batch) });
        let running = [Role::RunningMean, Role::RunningVar].map(|role| self.parameter(first, role).place);
        Kind::Norm(NormStep {
            norm,
            z: x,
            y: self.new_node_value(last),
            residual,
            activation: group.activation,
            depth,
            batch: self.purpose.train && !self.purpose.frozen[first.index()],
            eps,
            momentum,
            scale: self.parameter(first, Role::Scale),
            shift: self.parameter(first, Role::Shift),
            running,
            saved: self.new_work(norm.saved_len()),
            work: self.new_work(norm.work_len()),
        })
    }

    fn max_pool(&mut self, node: NodeId, window: Pool2d) -> Kind {
        let (shape, x) = (self.pool_shape(node, window), self.input_value(node, 0));
        let y = self.new_node_value(node);
        let needed = self.tracked[self.graph.node(node).inputs[0].index()];
        let taps = needed.then(|| self.new_work(self.lengths[y.0]));
        Kind::MaxPool { shape, x, y, taps }
    }

    fn product(&mut self, node: NodeId) -> Kind {
        let inputs = &self.graph.node(node).inputs;
        let (a, b) = (self.input_value(node, 0), self.input_value(node, 1));
        let (map, gate) = (self.graph.node(inputs[0]).shape, self.graph.node(inputs[1]).shape);
        let rows = self.rows(inputs[0]);
        let y = self.new_node_value(node);
        if map == gate { Kind::Product { a, b, y } } else { Kind::Gate { rows, x: a, gate: b, y } }
    }

    /// A flattened map is the same memory, unless orders must agree.
    fn flatten(&mut self, node: NodeId) {
        let from = self.graph.node(self.graph.node(node).inputs[0]).shape;
        let [height, width] = from.spatial();
        if !self.orders.explicit || from.channels() == 1 || height * width == 1 {
            return self.alias(node);
        }
        let order = crate::theta::MapOrder { channels: from.channels(), positions: height * width };
        let x = self.input_value(node, 0);
        let kind = Kind::Transpose { x, y: self.new_node_value(node), order };
        self.steps.push(Step { kind, nodes: vec![node] });
    }

    fn alias(&mut self, node: NodeId) {
        self.values[node.index()] = Some(self.input_value(node, 0));
    }

    /// Working memory of this many floats.
    fn new_work(&mut self, len: usize) -> ValueId {
        self.new_value(len, false, false)
    }

    fn new_value(&mut self, len: usize, map: bool, tracked: bool) -> ValueId {
        self.lengths.push(len);
        self.maps.push(map);
        self.tracked_values.push(tracked);
        self.gradients.push(None);
        ValueId(self.lengths.len() - 1)
    }

    fn new_node_value(&mut self, node: NodeId) -> ValueId {
        let len = self.purpose.batch * self.graph.node(node).shape.elements();
        let value = self.new_value(len, true, self.tracked[node.index()]);
        self.values[node.index()] = Some(value);
        value
    }

    /// The value of a node that has been emitted: topological order sees to that.
    #[allow(clippy::expect_used)] // a slip in this file, never of a graph
    fn value(&self, node: NodeId) -> ValueId {
        self.values[node.index()].expect("a node is emitted before its readers")
    }

    fn input_value(&self, node: NodeId, index: usize) -> ValueId {
        self.value(self.graph.node(node).inputs[index])
    }

    fn rows(&self, node: NodeId) -> Rows {
        let shape = self.graph.node(node).shape;
        let [height, width] = shape.spatial();
        Rows { samples: self.purpose.batch, positions: height * width, channels: shape.channels() }
    }

    fn pool_shape(&self, node: NodeId, window: Pool2d) -> PoolShape {
        let from = self.graph.node(self.graph.node(node).inputs[0]).shape;
        let [height, width] = from.spatial();
        PoolShape { batch: self.purpose.batch, height, width, channels: from.channels(), window }
    }

    fn optional_parameter(&self, node: NodeId, role: Role) -> Option<ParameterRef> {
        let index = self.table.index_of(node, role)?;
        let segment = &self.table.segments[index];
        let place = Place { offset: segment.offset, len: segment.length };
        Some(ParameterRef { place, segment: index })
    }

    #[allow(clippy::expect_used)] // the table is made from the same graph
    fn parameter(&self, node: NodeId, role: Role) -> ParameterRef {
        self.optional_parameter(node, role).expect("the table has every array of the graph")
    }

    // --- outputs ---

    fn outputs(&mut self) {
        let mut start = 0;
        for &node in self.purpose.want {
            let value = self.value(node);
            let len = self.lengths[value.0];
            let order = self.orders.of_node(node);
            let gradient = self.gradient_of(value);
            self.outputs.push(OutputRef { node, value, start, len, order, gradient });
            start += len;
        }
    }

    // --- backward ---

    /// The gradient of a value, made when it is first written; `None` if it needs none.
    fn gradient_of(&mut self, value: ValueId) -> Option<GradientRef> {
        if !self.any_gradient() || !self.tracked_values[value.0] {
            return None;
        }
        if let Some(gradient) = self.gradients[value.0] {
            return Some(GradientRef { value: gradient, add: true });
        }
        let gradient = self.new_value(self.lengths[value.0], true, false);
        self.gradients[value.0] = Some(gradient);
        Some(GradientRef { value: gradient, add: false })
    }

    fn backward(&mut self) {
        for index in (0..self.steps.len()).rev() {
            let Some(dy) = self.gradients[self.steps[index].kind.result().0] else { continue };
            let [first, mut second] = self.steps[index].kind.inputs();
            if self.shares_gradient(index, dy) {
                second = None;
            }
            let dx = [first, second].map(|input| input.and_then(|value| self.gradient_of(value)));
            let parameters = self.step_trains(index);
            let work = match &self.steps[index].kind {
                Kind::Conv(step) if parameters && step.bias.is_some() => {
                    let rows = step.shape.out_len() / step.shape.out_channels;
                    Some(column_sums_work(rows, step.shape.out_channels))
                }
                Kind::Norm(step) => Some(step.norm.work_len()),
                _ => None,
            };
            let work = work.map(|len| self.new_work(len));
            self.backward.push(BackwardStep { step: index, dy, dx, parameters, work });
        }
    }

    /// Lets what was added to a convolution take the gradient of the sum for its own, if it has none yet: the convolution
    /// reads it now, and whoever else adds to it comes later.
    fn shares_gradient(&mut self, index: usize, dy: ValueId) -> bool {
        let Kind::Conv(ConvStep { x, residual: Some(residual), activation: None, .. }) =
            self.steps[index].kind
        else {
            return false;
        };
        let free = residual != x && self.tracked_values[residual.0] && self.gradients[residual.0].is_none();
        if free {
            self.gradients[residual.0] = Some(dy);
        }
        free
    }

    fn step_trains(&self, index: usize) -> bool {
        let segment = match &self.steps[index].kind {
            Kind::Conv(step) => step.weight.segment,
            Kind::Norm(step) => step.scale.segment,
            _ => return false,
        };
        self.table.segments.get(segment).is_some_and(|segment| self.trains(segment.parameter.node))
    }

    // --- memory ---

    fn finish(self) -> Plan {
        let events = events(&self.steps, &self.outputs, &self.backward);
        let floats = |(&len, &map): (&usize, &bool)| match (self.purpose.maps, map) {
            (Format::Bf16, true) => len.div_ceil(2),
            _ => len,
        };
        let floats: Vec<usize> = self.lengths.iter().zip(&self.maps).map(floats).collect();
        let (mut places, arena_len) = assign(&floats, &events);
        places.iter_mut().zip(&self.lengths).for_each(|(place, &len)| place.len = len);
        Plan {
            maps: self.purpose.maps,
            batch: self.purpose.batch,
            output_len: self.outputs.iter().map(|output| output.len).sum(),
            image_gradient: self.purpose.images && !self.backward.is_empty(),
            steps: self.steps,
            backward: self.backward,
            outputs: self.outputs,
            arena_len,
            places,
        }
    }
}

/// The whole run as far as memory is concerned: forward, the copy of the outputs, backward.
fn events(steps: &[Step], outputs: &[OutputRef], backward: &[BackwardStep]) -> Vec<Event> {
    let mut events: Vec<Event> = steps.iter().map(|step| forward_event(&step.kind)).collect();
    let reads = outputs.iter().map(|output| output.value);
    let seeds = outputs.iter().filter_map(|output| Some(output.gradient?.value));
    events.push(Event { touches: reads.chain(seeds).collect(), in_place: None });
    events.extend(backward.iter().map(|step| backward_event(&steps[step.step].kind, step)));
    events
}

fn forward_event(kind: &Kind) -> Event {
    let mut touches: Vec<ValueId> = kind.inputs().into_iter().flatten().chain([kind.result()]).collect();
    match kind {
        Kind::Norm(step) => {
            touches.extend([step.saved, step.work]);
            touches.extend(step.depth.map(|depth| depth.factors));
        }
        Kind::MaxPool { taps, .. } => touches.extend(*taps),
        Kind::Depth { depth, .. } => touches.push(depth.factors),
        _ => {}
    }
    Event { touches, in_place: None }
}

/// What backward reads of forward, beside the gradients.
fn backward_event(kind: &Kind, step: &BackwardStep) -> Event {
    let mut touches = vec![step.dy];
    touches.extend(step.dx.iter().flatten().map(|gradient| gradient.value));
    touches.extend(step.work);
    let [first, second] = step.dx;
    match kind {
        Kind::Conv(conv) => {
            touches.extend(step.parameters.then_some(conv.x));
            touches.extend(conv.activation.map(|_| conv.y));
        }
        Kind::Norm(norm) => {
            touches.extend([norm.z, norm.saved]);
            touches.extend(norm.depth.map(|depth| depth.factors));
            touches.extend(norm_slope_value(norm));
        }
        Kind::Activation { x, y, activation } => {
            touches.push(if derives_from_output(*activation) { *y } else { *x });
        }
        Kind::MaxPool { taps, .. } => touches.extend(*taps),
        Kind::Gate { x, gate, .. } => {
            touches.extend(first.map(|_| *gate));
            touches.extend(second.map(|_| *x));
        }
        Kind::Product { a, b, .. } => {
            touches.extend(first.map(|_| *b));
            touches.extend(second.map(|_| *a));
        }
        Kind::Sum { y, activation, .. } => touches.extend(activation.map(|_| *y)),
        Kind::Depth { depth, .. } => touches.push(depth.factors),
        Kind::Input { .. }
        | Kind::Affine { .. }
        | Kind::Folded { .. }
        | Kind::AvgPool { .. }
        | Kind::GlobalAvgPool { .. }
        | Kind::Dropout { .. }
        | Kind::Transpose { .. } => {}
    }
    let elementwise = matches!(kind, Kind::Norm(_) | Kind::Activation { .. } | Kind::Dropout { .. });
    let in_place = first.filter(|dx| elementwise && !dx.add).map(|dx| (step.dy, dx.value));
    Event { touches, in_place }
}

/// What the activation's derivative is computed from, beside `z`: the result where that is enough and a residual was
/// added, else the residual.
pub(crate) fn norm_slope_value(norm: &NormStep) -> Option<ValueId> {
    let activation = norm.activation?;
    let residual = norm.residual?;
    Some(if derives_from_output(activation) { norm.y } else { residual })
}

/// `(x - mean) / std` as `x * scale + shift`.
fn affine(mean: &[f32], std: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let scale = std.iter().map(|std| 1.0 / std).collect();
    (scale, mean.iter().zip(std).map(|(mean, std)| -mean / std).collect())
}

/// `byte / 255 * scale + shift` for every byte and channel.
fn byte_table(scale: &[f32], shift: &[f32]) -> Vec<f32> {
    let channels = scale.len();
    let entry = |index: usize| {
        let (byte, channel) = (index / channels, index % channels);
        byte as f32 / 255.0 * scale[channel] + shift[channel]
    };
    (0..256 * channels).map(entry).collect()
}

/// Sizes of a convolution or linear node.
pub(crate) fn conv_shape(graph: &Graph, id: NodeId, batch: usize) -> ConvShape {
    let node = graph.node(id);
    let from = graph.node(node.inputs[0]).shape;
    match (&node.op, from) {
        (Op::Conv2d(conv), Shape::Map { channels, height, width }) => ConvShape {
            batch,
            in_height: height,
            in_width: width,
            in_channels: channels,
            out_channels: conv.out_channels,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            groups: conv.groups,
        },
        _ => ConvShape::linear(batch, from.elements(), node.shape.elements()),
    }
}

#[cfg(test)]
mod tests {
    use models::{Task, zoo};

    use crate::kernels::conv::WeightOrder;
    use crate::plan::fold::Forms;

    use super::*;

    /// Walks the run: whoever is touched first takes its place over, and whoever lost its place is never touched again.
    fn check_memory(name: &str, plan: &Plan) {
        let mut living: Vec<ValueId> = Vec::new();
        let mut dead: Vec<ValueId> = Vec::new();
        for event in events(&plan.steps, &plan.outputs, &plan.backward) {
            let mut fresh: Vec<ValueId> = Vec::new();
            for value in event.touches {
                assert!(!dead.contains(&value), "{name}: {value:?} is used after its place was taken");
                if !living.contains(&value) && !fresh.contains(&value) {
                    fresh.push(value);
                }
            }
            for value in fresh {
                let (taken, kept) = living.into_iter().partition(|&other| overlap(plan, value, other));
                (living, dead) = (kept, [dead, taken].concat());
                living.push(value);
            }
        }
    }

    fn overlap(plan: &Plan, a: ValueId, b: ValueId) -> bool {
        let (a, b) = (plan.place(a), plan.place(b));
        a.offset < b.offset + b.len && b.offset < a.offset + a.len
    }

    #[test]
    fn every_network_of_the_zoo_is_planned_without_a_value_losing_its_place() {
        for name in zoo::names() {
            let graph = zoo::build(name, &Task::new(10, 3, 48)).unwrap();
            let orders = FlatOrders::of(&graph);
            let table = Table::new(&graph, &orders, WeightOrder::Blocked);
            let folding = Folding::new(&graph, &table, Forms::Plain);
            let frozen = vec![false; graph.nodes().len()];
            let want = [graph.output("logits").unwrap(), graph.output("features").unwrap()];
            let purpose = |train, fold: bool| Purpose {
                batch: 3,
                train,
                folding: fold.then_some(&folding),
                parameters: !fold,
                images: false,
                frozen: &frozen,
                want: &want,
                maps: Format::F32,
            };
            let plans = [(true, false), (false, false), (false, true)].map(|(train, fold)| {
                let plan = lower(&graph, &table, &orders, &purpose(train, fold));
                check_memory(name, &plan);
                plan
            });
            let norms = |plan: &Plan| {
                plan.steps.iter().filter(|step| matches!(step.kind, Kind::Folded { .. })).count()
            };
            let apart = if name.starts_with("wrn") { usize::MAX } else { 0 };
            assert!(norms(&plans[2]) <= apart, "{name}: a batch norm was not folded into its convolution");
            assert_eq!(
                plans[0].backward.len(),
                plans[0].steps.len() - 1,
                "{name}: all but the input runs back"
            );
            assert!(plans[2].arena_len < plans[0].arena_len, "{name}: inference keeps activations");
        }
    }
}
