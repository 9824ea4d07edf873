//! Pooling against the processor's.

use models::Pool2d;

use super::*;
use crate::kernels::norm::{self, Rows};
use crate::kernels::pooling::{self, PoolShape};
use crate::pool::Pool;

fn shapes() -> Vec<PoolShape> {
    let window = |kernel, stride, padding| Pool2d { kernel, stride, padding };
    let shape = |height, width, channels, window| PoolShape { batch: 2, height, width, channels, window };
    vec![
        shape(6, 8, 5, window([2, 2], [2, 2], [0, 0])),
        shape(9, 7, 16, window([3, 3], [2, 2], [1, 1])),
        shape(7, 5, 19, window([3, 2], [1, 3], [1, 0])),
        shape(5, 5, 32, window([5, 5], [1, 1], [2, 2])),
        shape(4, 4, 3, window([2, 2], [3, 3], [0, 0])),
        shape(3, 1, 8, window([3, 1], [1, 1], [1, 0])),
    ]
}

fn lengths(shape: &PoolShape) -> [usize; 2] {
    let [height, width] = shape.out();
    [shape.batch * shape.height * shape.width * shape.channels, shape.batch * height * width * shape.channels]
}

#[test]
fn largest_values_and_their_gradient() {
    Lab::each(|lab| {
        for shape in shapes() {
            let (pool, [inputs, outputs]) = (Pool::new(1), lengths(&shape));
            let (x, dy) = (lab.ramp(inputs, 4.0), lab.ramp(outputs, 1.0));
            let (mut y, mut taps) = (vec![9.0; outputs], vec![9.0; outputs]);
            pooling::max_forward(&pool, &shape, &x, &mut y, Some(&mut taps));
            let (from, to) = (lab.map(&x), lab.map(&vec![9.0; outputs]));
            let noted = lab.scratch(2 * outputs);
            unsafe { lab.kernels.max_forward(lab.format, &shape, from.at, to.at, Some(noted.at)) }.unwrap();
            assert_eq!(lab.read_map(&to, outputs), y, "{shape:?}");
            let bytes = lab.read_bytes(&noted, 2 * outputs);
            let found = bytes.chunks_exact(2).map(|pair| f32::from(u16::from_ne_bytes([pair[0], pair[1]])));
            assert!(found.eq(taps.iter().copied()), "{shape:?}");
            let to = lab.map(&vec![9.0; outputs]);
            unsafe { lab.kernels.max_forward(lab.format, &shape, from.at, to.at, None) }.unwrap();
            assert_eq!(lab.read_map(&to, outputs), y, "{shape:?} without taps");
            for add in [false, true] {
                let mut dx = lab.ramp(inputs, 0.6);
                let (gradient, to) = (lab.map(&dy), lab.map(&dx));
                pooling::max_backward(&pool, &shape, &dy, &taps, norm::Target { values: &mut dx, add });
                let target = Target { at: to.at, add };
                unsafe { lab.kernels.max_backward(lab.format, &shape, gradient.at, noted.at, target) }
                    .unwrap();
                lab.close("max_backward", &to, &dx);
            }
        }
    });
}

#[test]
fn the_first_of_equal_values_takes_the_gradient() {
    Lab::each(|lab| {
        let window = Pool2d { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
        let shape = PoolShape { batch: 1, height: 2, width: 2, channels: 8, window };
        let (x, y, noted) = (lab.map(&[1.0; 32]), lab.map(&[0.0; 8]), lab.scratch(16));
        let (dy, dx) = (lab.map(&[3.0; 8]), lab.map(&[9.0; 32]));
        unsafe {
            lab.kernels.max_forward(lab.format, &shape, x.at, y.at, Some(noted.at)).unwrap();
            lab.kernels.max_backward(lab.format, &shape, dy.at, noted.at, Target::set(dx.at)).unwrap();
        }
        let expected: Vec<f32> = (0..32).map(|i| if i < 8 { 3.0 } else { 0.0 }).collect();
        assert_eq!(lab.read_map(&dx, 32), expected);
    });
}

#[test]
fn means_and_their_gradient() {
    Lab::each(|lab| {
        for shape in shapes() {
            let (pool, [inputs, outputs]) = (Pool::new(1), lengths(&shape));
            let (x, dy) = (lab.ramp(inputs, 4.0), lab.ramp(outputs, 1.0));
            let mut y = vec![9.0; outputs];
            pooling::average_forward(&pool, &shape, &x, &mut y);
            let (from, to) = (lab.map(&x), lab.map(&vec![9.0; outputs]));
            unsafe { lab.kernels.average_forward(lab.format, &shape, from.at, to.at) }.unwrap();
            lab.close("average_forward", &to, &y);
            for add in [false, true] {
                let mut dx = lab.ramp(inputs, 0.6);
                let (gradient, to) = (lab.map(&dy), lab.map(&dx));
                pooling::average_backward(&pool, &shape, &dy, norm::Target { values: &mut dx, add });
                let target = Target { at: to.at, add };
                unsafe { lab.kernels.average_backward(lab.format, &shape, gradient.at, target) }.unwrap();
                lab.close("average_backward", &to, &dx);
            }
        }
    });
}

#[test]
fn the_mean_over_all_positions_and_its_gradient() {
    Lab::each(|lab| {
        for (positions, channels) in [(1, 5), (4, 16), (7, 35), (49, 3), (16, 520), (300, 24)] {
            let (pool, rows) = (Pool::new(1), Rows { samples: 3, positions, channels });
            let (x, dy) = (lab.ramp(rows.len(), 2.0), lab.ramp(3 * channels, 1.0));
            let mut y = vec![9.0; dy.len()];
            pooling::global_forward(&pool, rows, &x, &mut y);
            let (from, to) = (lab.map(&x), lab.map(&vec![9.0; dy.len()]));
            unsafe { lab.kernels.global_forward(lab.format, rows, from.at, to.at) }.unwrap();
            lab.close("global_forward", &to, &y);
            for add in [false, true] {
                let mut dx = lab.ramp(rows.len(), 0.6);
                let (gradient, to) = (lab.map(&dy), lab.map(&dx));
                pooling::global_backward(&pool, rows, &dy, norm::Target { values: &mut dx, add });
                let target = Target { at: to.at, add };
                unsafe { lab.kernels.global_backward(lab.format, rows, gradient.at, target) }.unwrap();
                lab.close("global_backward", &to, &dx);
            }
        }
    });
}

#[test]
fn a_window_with_too_many_taps_is_an_error_that_names_them() {
    let lab = Lab::open(Format::F32, 0);
    let window = Pool2d { kernel: [300, 300], stride: [1, 1], padding: [0, 0] };
    let shape = PoolShape { batch: 1, height: 300, width: 300, channels: 1, window };
    let error =
        unsafe { lab.kernels.max_forward(lab.format, &shape, Ptr::NONE, Ptr::NONE, None) }.unwrap_err();
    assert!(error.to_string().contains("90000"), "{error}");
}
