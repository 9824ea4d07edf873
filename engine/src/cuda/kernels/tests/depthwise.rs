//! Depthwise convolution against the processor's.

use super::*;
use crate::kernels::conv::{self, ConvShape, Epilogue, Weight};
use crate::pool::Pool;

fn shapes() -> Vec<ConvShape> {
    let shape = |[in_height, in_width]: [usize; 2], channels, kernel, stride, padding| ConvShape {
        batch: 2,
        in_height,
        in_width,
        in_channels: channels,
        out_channels: channels,
        kernel,
        stride,
        padding,
        groups: channels,
    };
    vec![
        shape([8, 8], 16, [3, 3], [1, 1], [1, 1]),
        shape([9, 7], 24, [3, 3], [2, 2], [1, 1]),
        shape([7, 11], 13, [5, 5], [1, 1], [2, 2]),
        shape([8, 6], 40, [5, 5], [2, 2], [2, 2]),
        shape([10, 9], 8, [7, 7], [1, 1], [3, 3]),
        shape([6, 9], 5, [1, 9], [1, 2], [0, 4]),
        shape([5, 6], 520, [2, 3], [3, 1], [0, 1]),
        shape([40, 50], 16, [3, 3], [1, 1], [1, 1]),
        shape([1, 1], 8, [3, 3], [1, 1], [1, 1]),
    ]
}

#[test]
fn all_three_passes() {
    Lab::each(|lab| {
        for shape in shapes() {
            let pool = Pool::new(1);
            let (x, dy) = (lab.ramp(shape.in_len(), 2.0), lab.ramp(shape.out_len(), 1.0));
            let weight = ramp(conv::weight_len(&shape), 0.7);
            let mut y = vec![9.0; dy.len()];
            conv::forward(&pool, &shape, &x, Weight::Plain(&weight), &Epilogue::default(), &mut y);
            let (from, weights, to) = (lab.map(&x), lab.floats(&weight), lab.map(&vec![9.0; y.len()]));
            unsafe { lab.kernels.depthwise_forward(lab.format, &shape, from.at, weights.at, to.at) }.unwrap();
            lab.close("depthwise_forward", &to, &y);
            let gradient = lab.map(&dy);
            for add in [false, true] {
                let mut dx = lab.ramp(x.len(), 0.6);
                let to = lab.map(&dx);
                conv::backward_input(&pool, &shape, &dy, &weight, &mut dx, add);
                let target = Target { at: to.at, add };
                unsafe {
                    lab.kernels.depthwise_backward_input(lab.format, &shape, gradient.at, weights.at, target)
                }
                .unwrap();
                lab.close("depthwise_backward_input", &to, &dx);

                let mut dw = ramp(weight.len(), 0.2);
                let to = lab.floats(&dw);
                conv::backward_weight(&pool, &shape, &x, &dy, &mut dw, add);
                let target = Target { at: to.at, add };
                let scratch = lab.scratch(Kernels::depthwise_scratch(&shape));
                unsafe {
                    lab.kernels.depthwise_backward_weight(
                        lab.format,
                        &shape,
                        from.at,
                        gradient.at,
                        target,
                        scratch.at,
                    )
                }
                .unwrap();
                // Sums of up to four thousand products of size 2 that cancel, in f32 on both.
                lab.close_floats("depthwise_backward_weight", &to, &dw, 1e-4);
                lab.read_bytes(&scratch, Kernels::depthwise_scratch(&shape));
            }
        }
    });
}
