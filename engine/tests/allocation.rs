//! A model that has seen a batch size answers the next such batch in the memory it has, but for small tables of taps; a
//! quantized one without any of those.
#![allow(clippy::unwrap_used)] // a test may panic
#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use engine::{Device, Images, Model, Quantized, Runtime};
use models::{Task, formula, zoo};

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting the bytes that the current thread asks for.
struct Counting;

// SAFETY: every call goes on to the system's allocator unchanged; the counter is a plain cell of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.set(ALLOCATED.get() + layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_run_of_a_known_size_allocates_no_buffer() {
    for name in ["small-cnn-3", "resnet18", "mobilenet-v3-small", "efficientnet-b0"] {
        let graph = zoo::build(name, &Task::new(10, 3, 32)).unwrap();
        let runtime = Runtime::new(Device::Cpu, 1).unwrap();
        let mut model = Model::new(&graph, &formula::weights(&graph, 1.0), &runtime).unwrap();
        let pictures: Vec<u8> = (0..3).flat_map(|index| formula::picture(index, 3, 32, 32)).collect();
        for batch in [3, 1] {
            model.run(Images::U8(&pictures[..batch * 32 * 32 * 3])).unwrap();
        }
        for batch in [1, 3, 1] {
            let before = ALLOCATED.get();
            model.run(Images::U8(&pictures[..batch * 32 * 32 * 3])).unwrap();
            let bytes = ALLOCATED.get() - before;
            assert!(bytes < 48 << 10, "{name}: {bytes} bytes");
        }
    }
}

#[test]
fn a_quantized_run_of_a_known_size_allocates_nothing() {
    for name in ["small-cnn-3", "resnet18", "mobilenet-v3-small", "efficientnet-b0"] {
        let graph = zoo::build(name, &Task::new(10, 3, 32)).unwrap();
        let runtime = Runtime::new(Device::Cpu, 1).unwrap();
        let pictures: Vec<u8> = (0..32).flat_map(|index| formula::picture(index, 3, 32, 32)).collect();
        let part = |batch: usize| Images::U8(&pictures[..batch * 32 * 32 * 3]);
        let mut model =
            Quantized::calibrated(&graph, &formula::weights(&graph, 1.0), &runtime, part(2)).unwrap();
        model.run(part(32)).unwrap();
        for batch in [1, 5, 32] {
            let before = ALLOCATED.get();
            model.run(part(batch)).unwrap();
            assert_eq!(ALLOCATED.get() - before, 0, "{name}, batch of {batch}");
        }
    }
}
