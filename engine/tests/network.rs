//! What the network promises as a candle op: accumulation, determinism, gradients of the images, draws that backward
//! repeats, freezing, and errors with their reason.
#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used)] // a test may panic

use candle_core::{Device as CandleDevice, Tensor, Var};
use engine::{BatchNormMode, EngineError, Fwd, Grad, Images, Model, Net, Optimizer, Runtime, Step};
use models::{Activation, BatchNorm, Conv2d, Graph, Linear, Op, Pool2d, Weights};

mod support;
use support::runtime;

const SIZE: [usize; 3] = [7, 6, 3];

/// A small graph with every kind of node, a flattened map and three outputs.
fn graph(noise: bool) -> Graph {
    let mut g = Graph::new(3, SIZE[0], SIZE[1]);
    let x = g.normalize("normalize", g.input(), &[0.4, 0.5, 0.6], &[0.2, 0.3, 0.25]).unwrap();
    let x = g.conv2d("stem", x, Conv2d::new(10, 3).padding(1)).unwrap();
    let x = g.batch_norm("stem_bn", x, BatchNorm::default()).unwrap();
    let x = g.activation("stem_act", x, Activation::HardSwish).unwrap();
    let skip = g.add("pool", Op::AvgPool(Pool2d::new(3).stride(1).padding(1)), &[x]).unwrap();
    let x = g.conv2d("expand", skip, Conv2d::new(18, 1)).unwrap();
    let x = g.batch_norm("expand_bn", x, BatchNorm::default()).unwrap();
    let x = g.activation("expand_act", x, Activation::Silu).unwrap();
    let x = g.conv2d("depthwise", x, Conv2d::new(18, 3).padding(1).groups(18)).unwrap();
    let x = g.batch_norm("depthwise_bn", x, BatchNorm::default()).unwrap();
    let x = g.activation("depthwise_act", x, Activation::LeakyRelu(0.1)).unwrap();
    let gate = g.add("squeeze", Op::GlobalAvgPool, &[x]).unwrap();
    let gate = g.conv2d("fc1", gate, Conv2d::new(5, 1).bias()).unwrap();
    let gate = g.activation("fc1_act", gate, Activation::Silu).unwrap();
    let gate = g.conv2d("fc2", gate, Conv2d::new(18, 1).bias()).unwrap();
    let gate = g.activation("fc2_act", gate, Activation::HardSigmoid).unwrap();
    let x = g.scale("gate", x, gate).unwrap();
    let x = g.conv2d("project", x, Conv2d::new(10, 1)).unwrap();
    let x = g.batch_norm("project_bn", x, BatchNorm::default()).unwrap();
    let x = g.add("depth", Op::StochasticDepth(if noise { 0.4 } else { 0.0 }), &[x]).unwrap();
    let x = g.sum("add", x, skip).unwrap();
    // Sums of a convolution as it is: with another map, and with its own input.
    let inner = g.activation("inner", x, Activation::Silu).unwrap();
    let inner = g.conv2d("inner_conv", inner, Conv2d::new(10, 3).padding(1).bias()).unwrap();
    let x = g.sum("inner_sum", inner, x).unwrap();
    let own = g.conv2d("own_conv", x, Conv2d::new(10, 1)).unwrap();
    let x = g.sum("own_sum", own, x).unwrap();
    let x = g.conv2d("grouped", x, Conv2d::new(8, 3).stride(2).padding(1).groups(2).bias()).unwrap();
    let x = g.activation("grouped_act", x, Activation::Relu6).unwrap();
    let map = g.add("max", Op::MaxPool(Pool2d::new(3).stride(1).padding(1)), &[x]).unwrap();
    let flat = g.add("flatten", Op::Flatten, &[map]).unwrap();
    let x = g.linear("features", flat, Linear::new(9)).unwrap();
    let features = g.activation("features_act", x, Activation::Sigmoid).unwrap();
    let x = g.add("dropout", Op::Dropout(if noise { 0.5 } else { 0.0 }), &[features]).unwrap();
    let logits = g.linear("fc", x, Linear::new(4)).unwrap();
    g.set_output("logits", logits);
    g.set_output("features", features);
    g.set_output("flat", flat);
    g.set_output("map", map);
    g
}

fn net(noise: bool, threads: usize) -> Net {
    net_on(noise, &runtime(threads))
}

fn net_on(noise: bool, runtime: &Runtime) -> Net {
    Net::new(graph(noise), runtime, 11).unwrap()
}

fn pixels(batch: usize) -> Vec<f32> {
    let len = batch * SIZE.iter().product::<usize>();
    (0..len).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect()
}

fn tensor(pixels: Vec<f32>) -> Tensor {
    let batch = pixels.len() / SIZE.iter().product::<usize>();
    Tensor::from_vec(pixels, (batch, SIZE[0], SIZE[1], SIZE[2]), &CandleDevice::Cpu).unwrap()
}

fn train(grad: Grad) -> Fwd<'static> {
    Fwd {
        grad,
        bn: BatchNormMode::Train { update: false },
        want: &["logits", "features", "map"],
        step: 3,
        pass: 1,
    }
}

/// A loss that reads all outputs, with weights of its own for every element.
fn loss(net: &Net, images: &Tensor, fwd: Fwd<'_>) -> Tensor {
    let outputs = net.forward(images, fwd).unwrap();
    let part = |name: &str, step: f64| {
        let output = outputs.get(name).unwrap().flatten_all().unwrap();
        let len = output.elem_count();
        let weights = Tensor::arange(0, len as u32, &CandleDevice::Cpu).unwrap();
        let weights = weights.to_dtype(output.dtype()).unwrap().affine(step, 0.3).unwrap().sin().unwrap();
        (output.sqr().unwrap() + output).unwrap().mul(&weights).unwrap().sum_all().unwrap()
    };
    let total = fwd
        .want
        .iter()
        .enumerate()
        .map(|(i, name)| part(name, 0.7 + i as f64))
        .reduce(|a, b| (a + b).unwrap());
    total.unwrap()
}

fn scalar(loss: &Tensor) -> f64 {
    f64::from(loss.to_scalar::<f32>().unwrap())
}

/// Compares a gradient with central differences of the loss along a few of its elements. A kink of an activation
/// within a step spoils that difference, rounding spoils the shortest, so one of several steps has to agree.
fn compare(what: &str, gradient: &[f32], mut loss_at: impl FnMut(usize, f32) -> f64) {
    let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
    for index in [0, gradient.len() / 3, gradient.len() / 2, gradient.len() - 1] {
        let mut difference = |step| (loss_at(index, step) - loss_at(index, -step)) / (2.0 * f64::from(step));
        let differences = [2e-3, 1e-3, 4e-4].map(&mut difference);
        let error = |difference: f64| (difference - f64::from(gradient[index])).abs();
        assert!(
            differences.into_iter().map(error).fold(f64::INFINITY, f64::min) < 0.02 * norm.max(1.0),
            "{what} [{index}]: {}, expected {differences:?} of {norm}",
            gradient[index]
        );
    }
}

fn check_parameters(noise: bool, bn: BatchNormMode) {
    let net = net(noise, 2);
    let images = tensor(pixels(5));
    let fwd = Fwd { bn, ..train(Grad::Params) };
    // Running statistics near the batch's: values far smaller than a step would cross every kink.
    for _ in 0..40 {
        let moving = BatchNormMode::Train { update: true };
        net.forward(&images, Fwd { bn: moving, ..train(Grad::None) }).unwrap();
    }
    loss(&net, &images, fwd).backward().unwrap();
    let weights = net.weights().unwrap();
    let trainable: Vec<_> = net.graph().parameters().into_iter().filter(|p| p.role.trainable()).collect();
    for parameter in trainable {
        let gradient = net.grad(&parameter.name).unwrap();
        compare(&parameter.name, &gradient.data, |index, step| {
            let mut moved = weights.clone();
            moved.get_mut(&parameter.name).unwrap().data[index] += step;
            net.load(&moved).unwrap();
            scalar(&loss(&net, &images, fwd))
        });
    }
}

#[test]
fn gradients_of_every_parameter_match_finite_differences_in_training() {
    check_parameters(false, BatchNormMode::Train { update: false });
}

#[test]
fn gradients_match_with_dropout_and_stochastic_depth_drawn_the_same_again() {
    check_parameters(true, BatchNormMode::Train { update: false });
}

#[test]
fn gradients_match_with_running_statistics() {
    check_parameters(true, BatchNormMode::Eval);
}

#[test]
fn gradients_of_the_images_match_finite_differences() {
    let net = net(true, 2);
    for grad in [Grad::Input, Grad::Both, Grad::Params] {
        let images = Var::from_tensor(&tensor(pixels(4))).unwrap();
        let gradients = loss(&net, &images, train(grad)).backward().unwrap();
        let gradient: Vec<f32> = gradients.get(&images).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        compare("images", &gradient, |index, step| {
            let mut moved = pixels(4);
            moved[index] += step;
            scalar(&loss(&net, &tensor(moved), train(Grad::None)))
        });
        let reached = net.grad("stem.weight").unwrap().data.iter().any(|&g| g != 0.0);
        assert_eq!(reached, grad != Grad::Input, "{grad:?}");
        net.zero_grad();
    }
}

#[test]
fn images_made_by_other_candle_operations_get_their_gradient() {
    let net = net(false, 1);
    let shift = Var::from_vec(vec![0.1_f32], 1, &CandleDevice::Cpu).unwrap();
    let loss_at =
        |shift: &Tensor| loss(&net, &tensor(pixels(2)).broadcast_add(shift).unwrap(), train(Grad::Params));
    let gradients = loss_at(&shift).backward().unwrap();
    let gradient: Vec<f32> = gradients.get(&shift).unwrap().to_vec1().unwrap();
    compare("shift", &gradient, |_, step| {
        scalar(&loss_at(&Tensor::from_vec(vec![0.1 + step], 1, &CandleDevice::Cpu).unwrap()))
    });
}

#[test]
fn training_and_evaluation_without_gradient_give_what_they_give_with_it() {
    let net = net(true, 2);
    let images = tensor(pixels(3));
    for bn in [BatchNormMode::Eval, BatchNormMode::Train { update: false }] {
        let losses =
            [Grad::None, Grad::Params].map(|grad| scalar(&loss(&net, &images, Fwd { bn, ..train(grad) })));
        assert!((losses[0] - losses[1]).abs() < 1e-4 * losses[0].abs().max(1.0), "{bn:?}: {losses:?}");
    }
}

#[test]
fn outputs_come_in_torchs_order() {
    let net = net(false, 1);
    let want = &["map", "flat", "features"];
    let outputs = net.forward(&tensor(pixels(2)), Fwd { want, ..train(Grad::None) }).unwrap();
    let map = outputs.get("map").unwrap();
    assert_eq!(map.dims(), [2, 4, 3, 8]);
    let flat = map.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap().reshape((2, 96)).unwrap();
    let found: Vec<f32> = outputs.get("flat").unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found, flat.flatten_all().unwrap().to_vec1::<f32>().unwrap());
    let message = outputs.get("logits").unwrap_err().to_string();
    assert!(message.contains("no output `logits`") && message.contains("map, flat, features"), "{message}");
    assert!(net.forward(&tensor(pixels(1)), Fwd { want: &["logit"], ..train(Grad::None) }).is_err());
}

#[test]
fn gradients_of_flattened_outputs_reach_the_right_elements() {
    let net = net(false, 2);
    let images = tensor(pixels(2));
    let fwd = Fwd { want: &["flat", "logits"], ..train(Grad::Params) };
    loss(&net, &images, fwd).backward().unwrap();
    let weights = net.weights().unwrap();
    let gradient = net.grad("grouped.weight").unwrap();
    compare("grouped.weight", &gradient.data, |index, step| {
        let mut moved = weights.clone();
        moved.get_mut("grouped.weight").unwrap().data[index] += step;
        net.load(&moved).unwrap();
        scalar(&loss(&net, &images, fwd))
    });
}

#[test]
fn two_forwards_in_one_loss_and_two_losses_add_up() {
    let net = net(true, 2);
    let (a, b) = (tensor(pixels(4)), tensor(pixels(4)).affine(0.5, 0.2).unwrap());
    let names: Vec<String> = net.graph().parameters().into_iter().map(|p| p.name).collect();
    let all =
        || -> Vec<f32> { names.iter().filter_map(|name| net.grad(name).ok()).flat_map(|g| g.data).collect() };
    let mut separate = Vec::new();
    for (images, pass) in [(&a, 0), (&b, 1)] {
        net.zero_grad();
        loss(&net, images, Fwd { pass, ..train(Grad::Params) }).backward().unwrap();
        separate.push(all());
    }
    let sum: Vec<f32> = separate[0].iter().zip(&separate[1]).map(|(a, b)| a + b).collect();
    let close = |found: Vec<f32>| {
        let largest = sum.iter().fold(1.0_f32, |largest, x| largest.max(x.abs()));
        assert!(found.iter().zip(&sum).all(|(found, sum)| (found - sum).abs() < 1e-5 * largest));
    };
    net.zero_grad();
    let first = loss(&net, &a, Fwd { pass: 0, ..train(Grad::Params) });
    let second = loss(&net, &b, Fwd { pass: 1, ..train(Grad::Params) });
    (first + second).unwrap().backward().unwrap();
    close(all());
    net.zero_grad();
    loss(&net, &a, Fwd { pass: 0, ..train(Grad::Params) }).backward().unwrap();
    loss(&net, &b, Fwd { pass: 1, ..train(Grad::Params) }).backward().unwrap();
    close(all());
    net.zero_grad();
    assert!(all().iter().all(|&g| g == 0.0));
}

fn sgd(average: Option<&Net>) -> Step<'_> {
    Step {
        optimizer: Optimizer::Sgd { momentum: 0.9, nesterov: true },
        lr: 0.05,
        weight_decay: 1e-3,
        grad_scale: 1.0,
        clip_norm: Some(1.0),
        ema: average.map(|average| (average, 0.8)),
    }
}

fn three_steps(net: &Net, average: Option<&Net>) {
    for step in 0..3 {
        let bn = BatchNormMode::Train { update: true };
        let fwd = Fwd { bn, step, ..train(Grad::Params) };
        loss(net, &tensor(pixels(40)), fwd).backward().unwrap();
        net.update(&sgd(average)).unwrap();
    }
}

#[test]
fn the_same_bits_come_out_whatever_the_thread_count() {
    let trained = |threads| -> (Weights, Weights) {
        let net = net(true, threads);
        three_steps(&net, None);
        (net.weights().unwrap(), net.optimizer_state().unwrap())
    };
    let one = trained(1);
    assert!(one.0.values().all(|array| array.data.iter().all(|x| x.is_finite())));
    assert!(one == trained(2), "two threads");
    assert!(one == trained(3), "three threads");
}

#[test]
fn a_resumed_network_goes_on_with_the_same_bits() {
    for optimizer in [sgd(None).optimizer, Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }] {
        let step = |net: &Net, number| {
            let bn = BatchNormMode::Train { update: true };
            loss(net, &tensor(pixels(4)), Fwd { bn, step: number, ..train(Grad::Params) })
                .backward()
                .unwrap();
            net.update(&Step { optimizer, ..sgd(None) }).unwrap();
        };
        let straight = net(true, 2);
        (0..4).for_each(|number| step(&straight, number));
        let first = net(true, 2);
        (0..2).for_each(|number| step(&first, number));
        let resumed = net(true, 1);
        resumed.load(&first.weights().unwrap()).unwrap();
        resumed.load_optimizer_state(&first.optimizer_state().unwrap()).unwrap();
        (2..4).for_each(|number| step(&resumed, number));
        assert!(straight.weights().unwrap() == resumed.weights().unwrap());
        assert!(straight.optimizer_state().unwrap() == resumed.optimizer_state().unwrap());
        let mut broken = first.optimizer_state().unwrap();
        broken.remove("steps");
        assert!(resumed.load_optimizer_state(&broken).unwrap_err().to_string().contains("[steps]"));
    }
}

#[test]
fn an_average_follows_and_copies_statistics() {
    let runtime = runtime(2);
    let (net, average) = (net_on(false, &runtime), net_on(false, &runtime));
    let start = net.weights().unwrap();
    three_steps(&net, Some(&average));
    let (weights, averaged) = (net.weights().unwrap(), average.weights().unwrap());
    assert_eq!(weights["stem_bn.running_var"], averaged["stem_bn.running_var"]);
    let (last, mean, first) =
        (weights["fc.weight"].data[0], averaged["fc.weight"].data[0], start["fc.weight"].data[0]);
    assert!((mean - first) * (last - mean) > 0.0, "{first} {mean} {last}");
    assert!(net.update(&sgd(Some(&net))).is_err());
    average.copy_from(&net).unwrap();
    assert_eq!(average.weights().unwrap(), weights);
    let other = Net::new(graph(true), &runtime, 0).unwrap();
    assert!(other.copy_from(&net).is_err());
}

#[test]
fn frozen_nodes_get_no_gradient_and_do_not_move() {
    let net = net(false, 2);
    net.freeze(&|name| !name.starts_with("f") || name == "fc1" || name == "fc2");
    let before = net.weights().unwrap();
    three_steps(&net, None);
    let after = net.weights().unwrap();
    for (name, array) in &before {
        let trains = name.starts_with("fc.") || name.starts_with("features.");
        assert_eq!(*array != after[name], trains, "{name}");
    }
    loss(&net, &tensor(pixels(2)), train(Grad::Params)).backward().unwrap();
    assert!(net.grad("stem.weight").unwrap().data.iter().all(|&g| g == 0.0));
    assert!(net.grad("fc.weight").unwrap().data.iter().any(|&g| g != 0.0));
    net.freeze(&|_| false);
    loss(&net, &tensor(pixels(2)), train(Grad::Params)).backward().unwrap();
    assert!(net.grad("stem.weight").unwrap().data.iter().any(|&g| g != 0.0));
}

#[test]
fn a_second_backward_and_one_after_an_update_say_what_to_do() {
    let net = net(false, 1);
    let total = loss(&net, &tensor(pixels(2)), train(Grad::Params));
    total.backward().unwrap();
    let message = total.backward().unwrap_err().to_string();
    assert!(message.contains("run back once"), "{message}");
    let total = loss(&net, &tensor(pixels(2)), train(Grad::Params));
    net.update(&sgd(None)).unwrap();
    let message = total.backward().unwrap_err().to_string();
    assert!(message.contains("parameters have changed"), "{message}");
}

#[test]
fn running_statistics_move_only_when_asked_and_a_step_can_be_discarded() {
    let net = net(false, 2);
    let start = net.weights().unwrap();
    loss(&net, &tensor(pixels(3)), train(Grad::Params));
    assert_eq!(net.weights().unwrap(), start);
    let moving = Fwd { bn: BatchNormMode::Train { update: true }, ..train(Grad::Params) };
    loss(&net, &tensor(pixels(3)), moving).backward().unwrap();
    assert_ne!(net.weights().unwrap()["stem_bn.running_mean"], start["stem_bn.running_mean"]);
    net.discard_step().unwrap();
    assert_eq!(net.weights().unwrap(), start);
    assert_eq!(net.grad_norm().unwrap(), 0.0);
}

#[test]
fn what_is_not_finite_is_named() {
    let net = net(false, 1);
    let mut weights = net.weights().unwrap();
    weights.get_mut("project.weight").unwrap().data[3] = f32::NAN;
    net.load(&weights).unwrap();
    let images = tensor(pixels(2));
    assert_eq!(net.non_finite_node(&images, train(Grad::None)).unwrap().as_deref(), Some("project"));
    loss(&net, &images, train(Grad::Params)).backward().unwrap();
    assert!(!net.grad_norm().unwrap().is_finite());
    assert!(net.non_finite_grad().unwrap().is_some());
    net.zero_grad();
    assert_eq!(net.non_finite_grad().unwrap(), None);
}

#[test]
fn a_model_answers_a_part_of_a_larger_tensor_as_it_answers_bytes() {
    let net = net(false, 2);
    let mut model = Model::new(net.graph(), &net.weights().unwrap(), &runtime(2)).unwrap();
    let [height, width, channels] = SIZE;
    let bytes: Vec<u8> = (0..5 * height * width * channels).map(|place| (place * 37 % 251) as u8).collect();
    let all = Tensor::from_slice(&bytes, (5, height, width, channels), &CandleDevice::Cpu).unwrap();
    let part = all.narrow(0, 2, 3).unwrap();
    let answer = model.answer(&part).unwrap();
    assert_eq!(answer.dims(), [3, 4]);
    let answer: Vec<f32> = answer.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(answer, model.run(Images::U8(&bytes[2 * height * width * channels..])).unwrap());
    // The network in training takes the same part.
    let fwd = Fwd { grad: Grad::None, bn: BatchNormMode::Eval, want: &["logits"], step: 0, pass: 0 };
    let logits = net.forward(&part, fwd).unwrap().get("logits").unwrap().flatten_all().unwrap();
    let apart = logits.to_vec1::<f32>().unwrap().into_iter().zip(&answer).map(|(a, b)| (a - b).abs());
    assert!(apart.fold(0.0, f32::max) < 1e-4);
    let error = model.answer(&all.narrow(1, 0, 2).unwrap()).unwrap_err().to_string();
    assert!(error.contains("[n, 7, 6, 3]"), "{error}");
}

#[test]
fn wrong_images_and_names_are_errors_that_say_what_is_wanted() {
    let net = net(false, 1);
    let images = Tensor::zeros((2, 3, 7, 6), candle_core::DType::F32, &CandleDevice::Cpu).unwrap();
    let error = net.forward(&images, train(Grad::None)).unwrap_err();
    assert!(matches!(error, EngineError::Images { .. }));
    assert!(error.to_string().contains("[n, 7, 6, 3]"), "{error}");
    assert!(net.grad("stem.wieght").unwrap_err().to_string().contains("stem.weight"));
    let mut weights = net.weights().unwrap();
    weights.remove("fc.bias");
    assert!(net.load(&weights).unwrap_err().to_string().contains("fc.bias"));
}
