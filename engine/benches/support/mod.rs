//! What the benchmarks of layers share: shapes, their work, and the shortest time of a call.

use std::time::{Duration, Instant};

use engine::kernels::conv::ConvShape;

/// A layer of square maps and kernels, padded to keep the map's size at stride 1.
pub fn square(
    batch: usize,
    map: usize,
    [inputs, outputs]: [usize; 2],
    kernel: usize,
    stride: usize,
    depthwise: bool,
) -> ConvShape {
    ConvShape {
        in_height: map,
        in_width: map,
        kernel: [kernel; 2],
        stride: [stride; 2],
        padding: [kernel / 2; 2],
        groups: if depthwise { inputs } else { 1 },
        ..ConvShape::linear(batch, inputs, outputs)
    }
}

/// Products that meet no padding.
pub fn work(shape: &ConvShape) -> f64 {
    let hits = |axis: usize, size: usize, out: usize| {
        let hit = |target: usize, tap: usize| {
            (target * shape.stride[axis] + tap).wrapping_sub(shape.padding[axis]) < size
        };
        (0..out).map(|target| (0..shape.kernel[axis]).filter(|&tap| hit(target, tap)).count()).sum::<usize>()
    };
    let pairs = hits(0, shape.in_height, shape.out_height()) * hits(1, shape.in_width, shape.out_width());
    (pairs * shape.batch * shape.in_channels / shape.groups * shape.out_channels) as f64
}

/// Seconds: of this thread on a processor where there is one thread, since they do not pass while another process has
/// the processor; else on the clock.
fn seconds(threads: usize) -> f64 {
    let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to a local.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Shortest seconds of a call, each measurement over as many calls as take some microseconds.
pub fn shortest(threads: usize, time: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let before = seconds(threads);
    call();
    let calls = (20e-6 / (seconds(threads) - before).max(1e-7)).ceil() as usize;
    let (start, mut shortest) = (Instant::now(), f64::MAX);
    while start.elapsed() < time {
        let before = seconds(threads);
        (0..calls).for_each(|_| call());
        shortest = shortest.min((seconds(threads) - before) / calls as f64);
    }
    shortest
}
