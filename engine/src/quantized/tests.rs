//! Batches against their pictures one by one, and how a batch is divided.

use models::{Graph, Op, Pool2d, Task, formula, zoo};

use super::*;
use crate::Device;
use crate::simd::{ByteIsa, Isa};

const SIDE: usize = 32;
const BATCHES: [usize; 4] = [1, 2, 5, 32];

fn pictures(count: usize, [channels, side]: [usize; 2]) -> Vec<u8> {
    (0..count).flat_map(|index| formula::picture(index, channels, side, side)).collect()
}

/// Runtimes of one and of three threads for all instructions of this machine.
fn runtimes() -> Vec<(String, Runtime)> {
    let both = Isa::ALL.into_iter().flat_map(|isa| ByteIsa::ALL.map(|bytes| (isa, bytes)));
    let here =
        both.filter(|(isa, bytes)| isa.is_available() && bytes.is_available() && bytes.goes_with(*isa));
    let runtime = |isa: Isa, bytes: ByteIsa, threads| {
        let pool = Pool::with_isa(threads, isa).with_byte_isa(bytes);
        (format!("{} and {} x {threads}", isa.name(), bytes.name()), Runtime::of_pool(pool))
    };
    here.flat_map(|(isa, bytes)| [1, 3].map(|threads| runtime(isa, bytes, threads))).collect()
}

/// Batches under all instructions must answer as a plain loop answers each picture alone.
fn check(name: &str, graph: &Graph, [channels, side]: [usize; 2]) {
    let runtime = Runtime::with_isa(Device::Cpu, 1, "portable").unwrap();
    let (all, each) = (pictures(BATCHES[3], [channels, side]), channels * side * side);
    let weights = formula::weights(graph, 1.0);
    let quantized = Quantized::calibrated(graph, &weights, &runtime, Images::U8(&all[..4 * each])).unwrap();
    let mut alone = quantized.clone();
    let expected: Vec<f32> =
        all.chunks(each).flat_map(|picture| alone.run(Images::U8(picture)).unwrap().to_vec()).collect();
    let classes = expected.len() / BATCHES[3];
    for (instructions, runtime) in runtimes() {
        let mut batched = quantized.on(&runtime);
        for batch in BATCHES.into_iter().chain([3]) {
            let found = batched.run(Images::U8(&all[..batch * each])).unwrap();
            let first = found.iter().zip(&expected).position(|(found, expected)| found != expected);
            assert_eq!(first, None, "{name}, batch of {batch}, {instructions}");
            assert_eq!(found.len(), batch * classes, "{name}, batch of {batch}");
        }
    }
}

#[test]
fn a_batch_answers_as_each_of_its_pictures_alone() {
    for name in ["small-cnn-3", "resnet18", "mobilenet-v3-large", "efficientnet-b0", "wrn-10-1"] {
        check(name, &zoo::build(name, &Task::new(10, 3, SIDE)).unwrap(), [3, SIDE]);
    }
    let gray = Task { features: Some(128), ..Task::new(7, 1, 48) };
    check("small-cnn-3, gray", &zoo::build("small-cnn-3", &gray).unwrap(), [1, 48]);
}

#[test]
fn a_batch_whose_answer_is_a_map_keeps_its_pictures_apart() {
    let mut graph = Graph::new(3, 6, 6);
    let mean = graph.add("mean", Op::AvgPool(Pool2d::new(3).padding(1)), &[graph.input()]).unwrap();
    let largest = graph.add("largest", Op::MaxPool(Pool2d::new(2)), &[mean]).unwrap();
    graph.set_output("logits", largest);
    check("two pools", &graph, [3, 6]);
}

#[test]
fn every_picture_is_in_one_group_and_no_group_outgrows_its_memory() {
    for threads in 1..6 {
        for pictures in 1..70 {
            for each in [1, GROUP_BYTES / 7, GROUP_BYTES, 3 * GROUP_BYTES] {
                let division = Division::new(pictures, threads, each);
                let groups: Vec<_> =
                    (0..division.threads).flat_map(|thread| division.groups_of(thread)).collect();
                let mut covered = vec![0; pictures];
                for group in &groups {
                    assert!(!group.is_empty() && group.len() <= division.largest(), "{division:?}");
                    group.clone().for_each(|picture| covered[picture] += 1);
                }
                assert!(covered.iter().all(|&times| times == 1), "{division:?}");
                assert!(division.largest() == 1 || division.largest() * each <= GROUP_BYTES, "{division:?}");
                assert_eq!(division.threads, threads.min(pictures));
            }
        }
    }
}

#[test]
fn threads_have_equal_shares() {
    let division = Division::new(33, 2, GROUP_BYTES / 16);
    let groups = |thread| division.groups_of(thread).collect::<Vec<_>>();
    assert_eq!([groups(0), groups(1)], [[0..8, 16..24], [8..16, 24..33]]);
    assert_eq!(Division::new(32, 1, GROUP_BYTES / 32).groups, 1);
}
