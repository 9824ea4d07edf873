//! Formats of stored weights: bf16 answers as f32 does but for the rounding of the weights.
#![allow(clippy::unwrap_used)] // a test may panic

use engine::{Device, Images, Model, Runtime, WeightFormat};
use models::{Task, formula, zoo};

fn logits(name: &str, format: WeightFormat, pictures: &[u8], isa: &str) -> Vec<f32> {
    let graph = zoo::build(name, &Task::new(10, 3, 32)).unwrap();
    let runtime = Runtime::with_isa(Device::Cpu, 2, isa).unwrap();
    let mut model = Model::with_format(&graph, &formula::weights(&graph, 1.0), format, &runtime).unwrap();
    model.run(Images::U8(pictures)).unwrap().to_vec()
}

#[test]
fn weights_in_bf16_move_the_answer_by_a_few_thousandths() {
    for (name, batch) in [("mobilenet-v3-small", 1), ("resnet18", 3), ("small-cnn-3", 1), ("wrn-10-1", 2)] {
        let pictures: Vec<u8> = (0..batch).flat_map(|index| formula::picture(index, 3, 32, 32)).collect();
        let machine = Runtime::new(Device::Cpu, 1).unwrap().isa();
        let whole = logits(name, WeightFormat::F32, &pictures, machine);
        let half = logits(name, WeightFormat::Bf16, &pictures, machine);
        let largest = whole.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let moved = whole.iter().zip(&half).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        // A weight moves by 1/512 of itself at most.
        assert!(moved > 0.0 && moved < 0.02, "{name}: moved by {moved} of the largest logit");
        // The same rounded weights under any instruction set.
        let portable = logits(name, WeightFormat::Bf16, &pictures, "portable");
        let apart = half.iter().zip(&portable).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        assert!(apart < 2e-4, "{name}: {apart} of the largest logit between instruction sets");
    }
}
