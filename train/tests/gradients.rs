//! Where each method's gradient goes in a real network, and where it must not go.
#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::collections::BTreeMap;

use data::{Batch, Drawn, Loaded, View};
use engine::{BatchNormMode, Device, Fwd, Grad, Net, Runtime};
use models::{Graph, Task};
use train::{Method, Nets, Options, Progress, methods};

const SIDE: usize = 16;
const LABELED: usize = 4;

fn build(name: &str, given: &[(&str, &str)]) -> Box<dyn Method> {
    let entry = methods::find(name).unwrap();
    let given =
        given.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect::<BTreeMap<_, _>>();
    (entry.build)(&Options::parse(name, entry.options, &given).unwrap()).unwrap()
}

/// Pictures by a formula that differs with draw, view and place.
fn loaded(method: &dyn Method) -> Loaded {
    let draws = method.draws(LABELED);
    let drawn = |(draw, views): (&data::Draw, Vec<View>)| Drawn {
        ids: (0..draw.count as u32).collect(),
        labels: (0..draw.count as u32).map(|id| id % 3).collect(),
        views,
    };
    let batch = Batch { step: 0, draws: draws.iter().zip(Batch::views(&draws)).map(drawn).collect() };
    let value = |index, view, place| ((place * 31 + place / 7 * (5 + index) + view * 90) % 256) as u8;
    let mut pixels = Vec::new();
    for (index, draw) in draws.iter().enumerate() {
        for view in 0..draw.views.len() {
            pixels.extend((0..draw.count * SIDE * SIDE).map(|place| value(index, view, place)));
        }
    }
    Loaded { batch, pixels }
}

fn graph(arch: &str, method: &dyn Method) -> Graph {
    let mut graph = models::zoo::build(arch, &Task { features: Some(8), ..Task::new(3, 1, SIDE) }).unwrap();
    method.heads(&mut graph).unwrap();
    graph
}

struct Pair {
    student: Net,
    average: Net,
}

/// A student and an average that differs from it.
fn pair(arch: &str, method: &dyn Method) -> Pair {
    let runtime = Runtime::new(Device::Cpu, 1).unwrap();
    let net = |seed| Net::new(graph(arch, method), &runtime, seed).unwrap();
    Pair { student: net(1), average: net(2) }
}

const LATE: Progress = Progress { step: 90, steps: 100, batch: 90, seed: 0 };

/// Gradients of all parameters after one loss.
fn gradients(method: &mut dyn Method, pair: &Pair) -> BTreeMap<String, Vec<f32>> {
    let Loaded { batch, pixels } = loaded(method);
    let pictures = pair.student.images(pixels).unwrap();
    let nets = Nets { student: &pair.student, average: Some(&pair.average), pictures: &pictures };
    pair.student.zero_grad();
    method.loss(&nets, &batch, LATE).unwrap().total.backward().unwrap();
    all_gradients(&pair.student)
}

fn all_gradients(net: &Net) -> BTreeMap<String, Vec<f32>> {
    let trainable = net.graph().parameters().into_iter().filter(|parameter| parameter.role.trainable());
    trainable.map(|parameter| (parameter.name.clone(), net.grad(&parameter.name).unwrap().data)).collect()
}

fn nonzero(gradients: &BTreeMap<String, Vec<f32>>, name: &str) -> bool {
    gradients[name].iter().any(|&value| value != 0.0)
}

#[test]
fn mean_teachers_consistency_reaches_the_student_and_never_the_teacher() {
    let mut with = build("mean-teacher", &[("weight", "50")]);
    let mut without = build("mean-teacher", &[("weight", "0")]);
    let pair = pair("small-cnn-2", &*with);
    let (with, without) = (gradients(&mut *with, &pair), gradients(&mut *without, &pair));
    assert_ne!(with["conv1.weight"], without["conv1.weight"], "the consistency term must move the student");
    let teacher = all_gradients(&pair.average);
    assert!(teacher.keys().all(|name| !nonzero(&teacher, name)), "the teacher is no student");
}

#[test]
fn mean_teachers_statistics_come_from_the_labeled_forward_alone() {
    let mut method = build("mean-teacher", &[]);
    let pair = pair("wrn-10-1", &*method);
    let alone = Net::new(graph("wrn-10-1", &*method), &Runtime::new(Device::Cpu, 1).unwrap(), 1).unwrap();
    let teacher_before = pair.average.weights().unwrap();
    gradients(&mut *method, &pair);
    let Loaded { batch, pixels } = loaded(&*method);
    let pictures = alone.images(pixels).unwrap();
    let nets = Nets { student: &alone, average: None, pictures: &pictures };
    let images = nets.images(&batch.draws[0].views).unwrap();
    let bn = BatchNormMode::Train { update: true };
    alone
        .forward(&images, Fwd { grad: Grad::None, bn, want: &["logits"], step: LATE.batch, pass: 0 })
        .unwrap();
    assert!(
        pair.student.weights().unwrap() == alone.weights().unwrap(),
        "the student's statistics saw other pictures"
    );
    assert!(pair.average.weights().unwrap() == teacher_before, "the teacher's statistics moved");
}

#[test]
fn two_heads_are_tied_and_both_trained() {
    let mut method = build("mean-teacher", &[("logit-distance", "0.01")]);
    let pair = pair("small-cnn-2", &*method);
    let gradients = gradients(&mut *method, &pair);
    assert!(nonzero(&gradients, "consistency.weight") && nonzero(&gradients, "fc.weight"));
}

#[test]
fn fixmatch_without_a_confident_guess_is_supervised_training() {
    // No softmax of random weights reaches 1; the network has no batch norm, through which pictures could meet.
    let (mut fixmatch, mut supervised) = (build("fixmatch", &[("tau", "1")]), build("supervised", &[]));
    let pair = pair("small-cnn-2", &*supervised);
    let (fixmatch, supervised) = (gradients(&mut *fixmatch, &pair), gradients(&mut *supervised, &pair));
    for (name, expected) in &supervised {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs().max(1e-2);
        assert!(fixmatch[name].iter().zip(expected).all(near), "{name}");
    }
}

#[test]
fn fixmatch_with_confident_guesses_learns_from_unlabeled_pictures() {
    let (mut sure, mut unsure) = (build("fixmatch", &[("tau", "0")]), build("fixmatch", &[("tau", "1")]));
    let pair = pair("small-cnn-2", &*sure);
    assert_ne!(gradients(&mut *sure, &pair)["conv1.weight"], gradients(&mut *unsure, &pair)["conv1.weight"]);
}

#[test]
fn comatch_trains_its_embedding_which_no_saved_network_has() {
    let mut method = build("comatch", &[]);
    let pair = pair("small-cnn-2", &*method);
    let gradients = gradients(&mut *method, &pair);
    for name in ["embedding.0.weight", "embedding.2.weight", "fc.weight", "conv1.weight"] {
        assert!(nonzero(&gradients, name), "{name}");
    }
    let plain =
        models::zoo::build("small-cnn-2", &Task { features: Some(8), ..Task::new(3, 1, SIDE) }).unwrap();
    assert!(plain.find("embedding.0").is_none());
}

#[test]
fn views_are_joined_in_the_order_that_is_asked_for() {
    let method = build("supervised", &[]);
    let student = pair("small-cnn-2", &*method).student;
    let pictures = student.images((0..6).flat_map(|picture| [picture; SIDE * SIDE]).collect()).unwrap();
    let nets = Nets { student: &student, average: None, pictures: &pictures };
    let [first, second, third] = [(0, 1), (1, 2), (3, 3)].map(|(first, count)| View { first, count });
    let seen = |views: &[View]| -> Vec<u8> {
        let images = nets.images(views).unwrap();
        assert_eq!(images.dims()[1..], [SIDE, SIDE, 1]);
        let pixels = images.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        pixels.into_iter().step_by(SIDE * SIDE).collect()
    };
    assert_eq!(seen(&[first, second, third]), [0, 1, 2, 3, 4, 5]);
    assert_eq!(seen(&[second]), [1, 2]);
    assert_eq!(seen(&[third, first]), [3, 4, 5, 0]);
    assert_eq!(seen(&[first, third, second]), [0, 3, 4, 5, 1, 2]);
    assert!(nets.images(&[View { first: 4, count: 3 }]).is_err(), "there are six pictures");
    assert!(nets.images(&[]).is_err());
}
