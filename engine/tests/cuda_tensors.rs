//! A network whose images, outputs and gradients are candle's tensors on the GPU, against the processor's: nothing is copied
//! to the host between them. Needs candle's own CUDA kernels, so it is built with the feature `cuda` alone; `cargo xtask
//! cuda pack` takes it to a GPU.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)] // a test may panic

use candle_core::{DType, Device as CandleDevice, Tensor, Var};
use engine::{BatchNormMode, Device, Fwd, Grad, Model, Net, Precision, Runtime};
use models::{Task, formula, zoo};

const BATCH: usize = 3;

fn runtimes() -> [Runtime; 2] {
    let gpu = Runtime::with_precision(Device::Cuda(0), 1, Precision::F32).expect("a GPU");
    [gpu, Runtime::new(Device::Cpu, 1).unwrap()]
}

fn net(runtime: &Runtime) -> Net {
    let graph = zoo::build("small-cnn-2", &Task::new(10, 3, 16)).unwrap().without_noise();
    let net = Net::new(graph, runtime, 1).unwrap();
    net.load(&formula::weights(net.graph(), 1.0)).unwrap();
    net
}

fn model(net: &Net, runtime: &Runtime) -> Model {
    Model::new(net.graph(), &net.weights().unwrap(), runtime).unwrap()
}

fn nets() -> [Net; 2] {
    runtimes().each_ref().map(net)
}

fn pixels() -> Vec<u8> {
    (0..BATCH).flat_map(|index| formula::picture(index, 3, 16, 16)).collect()
}

fn fwd(step: u64) -> Fwd<'static> {
    let bn = BatchNormMode::Train { update: true };
    Fwd { grad: Grad::Both, bn, want: &["logits"], step, pass: 0 }
}

fn host(tensor: &Tensor) -> Vec<f32> {
    tensor.to_device(&CandleDevice::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(found.len() == expected.len() && apart <= 1e-4 * largest, "{what}: {apart} apart at {largest}");
}

#[test]
fn bytes_on_the_gpu_give_outputs_there_and_gradients_in_the_engine() {
    let [ours, theirs] = nets();
    for step in 0..3 {
        let [found, expected] = [&ours, &theirs].map(|net| {
            let images = net.images(pixels()).unwrap();
            assert_eq!(images.device().is_cuda(), net.tensors().is_cuda());
            let outputs = net.forward(&images, fwd(step)).unwrap();
            let logits = outputs.get("logits").unwrap();
            assert_eq!(logits.device().is_cuda(), net.tensors().is_cuda());
            logits.backward().unwrap(); // of the sum of all
            let gradient = net.grad("conv1.weight").unwrap();
            net.zero_grad();
            (host(logits), gradient.data)
        });
        assert!(expected.1.iter().any(|&value| value != 0.0));
        close("logits", &found.0, &expected.0);
        close("gradient", &found.1, &expected.1);
    }
}

#[test]
fn floats_on_the_gpu_get_their_gradient_there() {
    let [ours, theirs] = nets();
    let [found, expected] = [&ours, &theirs].map(|net| {
        let floats: Vec<f32> = pixels().iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let images = Tensor::from_vec(floats, (BATCH, 16, 16, 3), net.tensors()).unwrap();
        let images = Var::from_tensor(&images).unwrap();
        assert_eq!(images.dtype(), DType::F32);
        let outputs = net.forward(&images, fwd(0)).unwrap();
        let gradients = outputs.get("logits").unwrap().backward().unwrap();
        host(gradients.get(&images).unwrap())
    });
    close("the images' gradient", &found, &expected);
}

#[test]
fn a_model_on_the_gpu_answers_there_for_a_part_of_a_batch() {
    let [found, expected] = runtimes().map(|runtime| {
        let net = net(&runtime);
        let mut model = model(&net, &runtime);
        let images = net.images(pixels()).unwrap().narrow(0, 1, 2).unwrap();
        let answers = [(); 3].map(|()| {
            let answer = model.answer(&images).unwrap();
            assert_eq!((answer.device().is_cpu(), answer.dims()), (net.tensors().is_cpu(), &[2, 10][..]));
            host(&answer)
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "recorded and replayed it is the same");
        answers[0].clone()
    });
    close("logits", &found, &expected);
}

#[test]
fn a_model_on_the_processor_refuses_images_of_the_gpu() {
    let [gpu, cpu] = runtimes();
    let (ours, theirs) = (net(&gpu), net(&cpu));
    let images = ours.images(pixels()).unwrap();
    let error = model(&theirs, &cpu).answer(&images).unwrap_err().to_string();
    assert!(error.contains("images on the processor"), "{error}");
}

#[test]
fn a_network_on_the_gpu_takes_images_of_the_processor_too() {
    let [ours, theirs] = nets();
    let images = Tensor::from_vec(pixels(), (BATCH, 16, 16, 3), &CandleDevice::Cpu).unwrap();
    let [found, expected] = [&ours, &theirs].map(|net| {
        let outputs = net.forward(&images, fwd(0)).unwrap();
        assert!(outputs.get("logits").unwrap().device().is_cpu());
        host(outputs.get("logits").unwrap())
    });
    close("logits", &found, &expected);
    let error = theirs.forward(&ours.images(pixels()).unwrap(), fwd(0)).unwrap_err().to_string();
    assert!(error.contains("images"), "{error}");
}
