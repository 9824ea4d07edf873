//! Where the tests of whole networks run: the device that `DISTILL_TEST_DEVICE` names (`cuda`), else the processor, in
//! f32 either way, so that one suite serves both.

use engine::{Device, Precision, Runtime};

/// The runtime that is tested.
pub fn runtime(threads: usize) -> Runtime {
    let name = std::env::var("DISTILL_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device: Device = name.parse().expect("DISTILL_TEST_DEVICE");
    Runtime::with_precision(device, threads, Precision::F32).expect("the device of DISTILL_TEST_DEVICE")
}
