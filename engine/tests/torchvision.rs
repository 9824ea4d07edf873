//! Logits of the zoo's networks against torchvision's, on weights and pictures that both sides fill by one formula.
//!
//! `fixtures/torchvision_logits.py` made the numbers.
#![cfg(feature = "candle")]
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test may panic, and says how far it was off

use candle_core::{Device as CandleDevice, Tensor};
use engine::{BatchNormMode, Device, Fwd, Grad, Images, Model, Net, Runtime};
use models::{Graph, Task, Weights, formula, zoo};
use serde_json::Value;

mod support;

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/torchvision_logits.json")).unwrap()
}

struct Case {
    name: String,
    graph: Graph,
    weights: Weights,
    pictures: Vec<u8>,
    count: usize,
    size: usize,
    expected: Vec<Vec<f64>>,
}

fn case(name: &str) -> Case {
    let fixture = fixture();
    let number = |key: &str| fixture[key].as_u64().unwrap() as usize;
    let (count, channels, size) = (number("pictures"), number("channels"), number("size"));
    let network = &fixture["networks"][name];
    let graph = zoo::build(name, &Task::new(number("classes"), channels, size)).unwrap();
    let weights = formula::weights(&graph, network["gain"].as_f64().unwrap());
    let pictures = (0..count).flat_map(|index| formula::picture(index, channels, size, size)).collect();
    let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let expected = network["logits"].as_array().unwrap().iter().map(row).collect();
    Case { name: name.into(), graph, weights, pictures, count, size, expected }
}

fn top(row: &[f64]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

impl Case {
    fn compare(&self, how: &str, logits: &[f32]) {
        let classes = self.expected[0].len();
        assert_eq!(logits.len(), self.count * classes);
        let largest = self.expected.iter().flatten().fold(1.0_f64, |largest, x| largest.max(x.abs()));
        let mut worst = 0.0_f64;
        for (found, expected) in logits.chunks_exact(classes).zip(&self.expected) {
            let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
            for (found, expected) in found.iter().zip(expected) {
                let error = (found - expected).abs();
                worst = worst.max(error / largest);
                assert!(error <= 1e-4 * largest, "{} {how}: {found}, expected {expected}", self.name);
            }
            assert_eq!(top(&found), top(expected), "{} {how}: top-1", self.name);
        }
        println!("worst logits of {} {how} {worst:e}", self.name);
    }

    fn model(&self, runtime: &Runtime) -> Model {
        Model::new(&self.graph, &self.weights, runtime).unwrap()
    }

    fn net(&self, runtime: &Runtime) -> Net {
        let net = Net::new(self.graph.clone(), runtime, 0).unwrap();
        net.load(&self.weights).unwrap();
        net
    }

    fn net_logits(&self, net: &Net, grad: Grad) -> Vec<f32> {
        let shape = (self.count, self.size, self.size, 3);
        let images = Tensor::from_vec(self.pictures.clone(), shape, &CandleDevice::Cpu).unwrap();
        let fwd = Fwd { grad, bn: BatchNormMode::Eval, want: &["logits"], step: 0, pass: 0 };
        let outputs = net.forward(&images, fwd).unwrap();
        outputs.get("logits").unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Folded and packed, from bytes and floats, one by one and together; and unfolded, as for training.
    fn check(&self) {
        let runtime = support::runtime(2);
        let mut model = self.model(&runtime);
        self.compare("as a model", model.run(Images::U8(&self.pictures)).unwrap());
        let floats: Vec<f32> = self.pictures.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        self.compare("from floats", model.run(Images::F32(&floats)).unwrap());
        let each = self.pictures.len() / self.count;
        let one_by_one: Vec<f32> =
            self.pictures.chunks(each).flat_map(|one| model.run(Images::U8(one)).unwrap().to_vec()).collect();
        self.compare("one by one", &one_by_one);
        let net = self.net(&runtime);
        self.compare("as a network", &self.net_logits(&net, Grad::None));
        self.compare("as a network with gradient", &self.net_logits(&net, Grad::Params));
    }
}

#[test]
fn resnet18() {
    case("resnet18").check();
}

#[test]
fn resnet50() {
    case("resnet50").check();
}

#[test]
fn mobilenet_v3_small() {
    case("mobilenet-v3-small").check();
}

#[test]
fn mobilenet_v3_large() {
    case("mobilenet-v3-large").check();
}

#[test]
fn efficientnet_b0() {
    case("efficientnet-b0").check();
}

#[test]
fn every_instruction_set_gives_torchvisions_logits() {
    let case = case("mobilenet-v3-small");
    let mut ran = Vec::new();
    for isa in ["avx512", "avx2", "portable"] {
        let Ok(runtime) = Runtime::with_isa(Device::Cpu, 2, isa) else { continue };
        case.compare(isa, case.model(&runtime).run(Images::U8(&case.pictures)).unwrap());
        case.compare(isa, &case.net_logits(&case.net(&runtime), Grad::Params));
        ran.push(isa);
    }
    assert!(ran.contains(&"portable"), "{ran:?}");
    println!("instruction sets that ran: {ran:?}");
}

#[test]
fn clones_share_weights_and_answer_alike() {
    let case = case("mobilenet-v3-small");
    let mut model = case.model(&support::runtime(1));
    let first = model.run(Images::U8(&case.pictures)).unwrap().to_vec();
    let mut clone = model.clone();
    let answer = std::thread::spawn({
        let pictures = case.pictures.clone();
        move || clone.run(Images::U8(&pictures)).unwrap().to_vec()
    });
    assert_eq!(answer.join().unwrap(), first);
}

#[test]
fn pictures_of_another_size_are_an_error_that_says_so() {
    let case = case("mobilenet-v3-small");
    let mut model = case.model(&support::runtime(1));
    let message = model.run(Images::U8(&case.pictures[1..])).unwrap_err().to_string();
    assert!(message.contains("64 x 64 x 3"), "{message}");
    assert!(model.run(Images::U8(&[])).is_err());
    assert!(
        model.run_output(Images::U8(&case.pictures), "logit").unwrap_err().to_string().contains("logits")
    );
}
