//! One update of theta from its gradient: clip, decay, moments, step and the moving average, in a single pass.
//!
//! Never here: schedules; the learning rate comes with each step.

use crate::buffer::Buffer;
use crate::kernels::spans::{CHUNK, lanes};
use crate::pool::{Disjoint, Pool};
use crate::simd::{Simd, dispatch};
use crate::theta::Table;

/// An optimizer over theta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// Stochastic gradient descent as torch has it: decay is added to the gradient, then momentum.
    Sgd {
        /// Momentum.
        momentum: f32,
        /// Nesterov's form.
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    AdamW {
        /// Decay of the first moment.
        beta1: f32,
        /// Decay of the second moment.
        beta2: f32,
        /// Added to the root of the second moment.
        eps: f32,
    },
}

/// What an optimizer remembers, in theta's layout.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moments {
    /// Momentum, or Adam's first moment.
    pub first: Option<Buffer>,
    /// Adam's second moment.
    pub second: Option<Buffer>,
    /// Updates so far.
    pub steps: u64,
}

impl Optimizer {
    /// Numbers that it remembers of each parameter.
    pub(crate) fn moments(self) -> usize {
        match self {
            Optimizer::Sgd { .. } => 1,
            Optimizer::AdamW { .. } => 2,
        }
    }
}

impl Moments {
    /// Makes room for what `optimizer` remembers, as zeros.
    fn prepare(&mut self, optimizer: Optimizer, len: usize) {
        let adam = matches!(optimizer, Optimizer::AdamW { .. });
        self.first.get_or_insert_with(|| Buffer::zeros(len));
        if adam {
            self.second.get_or_insert_with(|| Buffer::zeros(len));
        } else {
            self.second = None;
        }
    }
}

/// A piece of theta: one task of the update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    offset: usize,
    len: usize,
    segment: usize,
    decays: bool,
}

/// Cuts theta into pieces of one segment each.
pub(crate) fn pieces(table: &Table) -> Vec<Piece> {
    let trainable =
        table.segments.iter().enumerate().filter(|(_, segment)| segment.parameter.role.trainable());
    let cut = |(index, segment): (usize, &crate::theta::Segment)| {
        let (start, end, decays) =
            (segment.offset, segment.offset + segment.length, segment.parameter.role.decays());
        (start..end).step_by(CHUNK).map(move |offset| Piece {
            offset,
            len: CHUNK.min(end - offset),
            segment: index,
            decays,
        })
    };
    trainable.flat_map(cut).collect()
}

/// An update.
#[derive(Clone, Copy)]
pub(crate) struct Update<'a> {
    pub optimizer: Optimizer,
    pub lr: f32,
    pub weight_decay: f32,
    /// Factor on the gradient before it is clipped.
    pub scale: f32,
    /// Largest allowed norm of the scaled gradient; [`update`] leaves clipping to its caller.
    pub clip_norm: Option<f32>,
    pub pieces: &'a [Piece],
    /// By segment: whether it has a gradient and is not frozen.
    pub active: &'a [bool],
}

impl Update<'_> {
    /// torch's `clip_grad_norm_`: the factor that brings the scaled gradient to the largest allowed norm, from its sum
    /// of squares.
    pub(crate) fn clip(&self, squares: impl FnOnce() -> f64) -> f32 {
        let Some(largest) = self.clip_norm else { return 1.0 };
        let norm = squares().sqrt() * f64::from(self.scale);
        (f64::from(largest) / (norm + 1e-6)).min(1.0) as f32
    }
}

impl Piece {
    /// The segment that it is a piece of.
    #[cfg_attr(not(feature = "cuda-core"), allow(dead_code))]
    pub(crate) fn segment(&self) -> usize {
        self.segment
    }

    /// As the device's kernels read it.
    #[cfg(feature = "cuda-core")]
    pub(crate) fn on_device(&self, active: bool) -> crate::cuda::Piece {
        use crate::cuda::Piece;
        let flags = u32::from(active) * Piece::ACTIVE + u32::from(self.decays) * Piece::DECAYS;
        Piece { offset: self.offset as u32, len: self.len as u32, flags }
    }
}

/// Updates `theta`, and lets `average` follow it with its decay.
pub(crate) fn update(
    pool: &Pool,
    update: &Update<'_>,
    theta: &mut [f32],
    gradient: &[f32],
    moments: &mut Moments,
    average: Option<(&mut [f32], f32)>,
) {
    moments.prepare(update.optimizer, theta.len());
    moments.steps += 1;
    let rule = Rule::new(update, moments.steps);
    let isa = pool.isa();
    let keep = average.as_ref().map_or(0.0, |(_, decay)| *decay);
    let theta = Disjoint::new(theta);
    let first = moments.first.as_deref_mut().map(Disjoint::new);
    let second = moments.second.as_deref_mut().map(Disjoint::new);
    let average = average.map(|(average, _)| Disjoint::new(average));
    pool.run(update.pieces.len(), &|index| {
        let piece = update.pieces[index];
        // SAFETY: pieces do not overlap.
        let (theta, first, second, average) = unsafe {
            let part = |all: &Option<Disjoint<'_, f32>>| {
                all.as_ref().map_or(std::ptr::null_mut(), |all| all.part(piece.offset, piece.len).as_mut_ptr())
            };
            (theta.part(piece.offset, piece.len), part(&first), part(&second), part(&average))
        };
        if update.active[piece.segment] {
            let gradient = &gradient[piece.offset..piece.offset + piece.len];
            let rule = Rule { decay: if piece.decays { rule.decay } else { 0.0 }, ..rule };
            match update.optimizer {
                Optimizer::Sgd { .. } => {
                    dispatch!(isa, sgd_kernel(rule: Rule, theta: &mut [f32], gradient: &[f32], first: *mut f32));
                }
                Optimizer::AdamW { .. } => dispatch!(
                    isa,
                    adam_kernel(
                        rule: Rule,
                        theta: &mut [f32],
                        gradient: &[f32],
                        first: *mut f32,
                        second: *mut f32
                    )
                ),
            }
        }
        if !average.is_null() {
            dispatch!(isa, average_kernel(keep: f32, theta: &mut [f32], average: *mut f32));
        }
    });
}

/// The numbers of an update.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    pub scale: f32,
    pub decay: f32,
    pub lr: f32,
    pub first_decay: f32,
    pub second_decay: f32,
    pub nesterov: bool,
    pub eps: f32,
    /// Adam's `lr / (1 - beta1^t)` and `1 / sqrt(1 - beta2^t)`.
    pub step_size: f32,
    pub second_scale: f32,
}

impl Rule {
    /// For update number `steps`, counted from 1.
    pub(crate) fn new(update: &Update<'_>, steps: u64) -> Self {
        let rule = Self {
            scale: update.scale,
            decay: update.weight_decay,
            lr: update.lr,
            first_decay: 0.0,
            second_decay: 0.0,
            nesterov: false,
            eps: 0.0,
            step_size: update.lr,
            second_scale: 1.0,
        };
        match update.optimizer {
            Optimizer::Sgd { momentum, nesterov } => Self { first_decay: momentum, nesterov, ..rule },
            Optimizer::AdamW { beta1, beta2, eps } => {
                let correction = |beta: f32| 1.0 - f64::from(beta).powf(steps as f64);
                Self {
                    first_decay: beta1,
                    second_decay: beta2,
                    eps,
                    step_size: (f64::from(update.lr) / correction(beta1)) as f32,
                    second_scale: (1.0 / correction(beta2).sqrt()) as f32,
                    ..rule
                }
            }
        }
    }
}

/// torch's SGD: `g += decay * w; m = momentum * m + g; w -= lr * (nesterov ? g + momentum * m : m)`.
#[inline(always)]
fn sgd_kernel<V: Simd>(rule: Rule, theta: &mut [f32], gradient: &[f32], momentum: *mut f32) {
    let (len, theta, gradient) = (theta.len(), theta.as_mut_ptr(), gradient.as_ptr());
    let (scale, decay, lr) = (V::splat(rule.scale), V::splat(rule.decay), V::splat(-rule.lr));
    let keep = V::splat(rule.first_decay);
    lanes!(V, len, at => {
        // SAFETY: all have `len` elements.
        unsafe {
            let weight: V = at.load(theta);
            let gradient = weight.mul_add(decay, at.load::<V>(gradient).mul(scale));
            let moved = at.load::<V>(momentum).mul_add(keep, gradient);
            at.store(moved, momentum);
            let direction = if rule.nesterov { moved.mul_add(keep, gradient) } else { moved };
            at.store(direction.mul_add(lr, weight), theta);
        }
    });
}

/// torch's AdamW: `w *= 1 - lr * decay`, then `w -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
#[inline(always)]
fn adam_kernel<V: Simd>(rule: Rule, theta: &mut [f32], gradient: &[f32], first: *mut f32, second: *mut f32) {
    let (len, theta, gradient) = (theta.len(), theta.as_mut_ptr(), gradient.as_ptr());
    let (scale, shrink) = (V::splat(rule.scale), V::splat(1.0 - rule.lr * rule.decay));
    let (keep1, take1) = (V::splat(rule.first_decay), V::splat(1.0 - rule.first_decay));
    let (keep2, take2) = (V::splat(rule.second_decay), V::splat(1.0 - rule.second_decay));
    let (step, second_scale, eps) =
        (V::splat(rule.step_size), V::splat(rule.second_scale), V::splat(rule.eps));
    lanes!(V, len, at => {
        // SAFETY: all have `len` elements.
        unsafe {
            let gradient = at.load::<V>(gradient).mul(scale);
            let mean = at.load::<V>(first).mul(keep1).add(gradient.mul(take1));
            let square = at.load::<V>(second).mul(keep2).add(gradient.mul(gradient).mul(take2));
            at.store(mean, first);
            at.store(square, second);
            let weight = at.load::<V>(theta).mul(shrink);
            let size = square.sqrt().mul_add(second_scale, eps);
            at.store(weight.sub(step.mul(mean).div(size)), theta);
        }
    });
}

#[inline(always)]
fn average_kernel<V: Simd>(keep: f32, theta: &mut [f32], average: *mut f32) {
    let (len, theta) = (theta.len(), theta.as_ptr());
    let (keep, take) = (V::splat(keep), V::splat(1.0 - keep));
    lanes!(V, len, at => {
        // SAFETY: both have `len` elements.
        unsafe { at.store(at.load::<V>(average).mul(keep).add(at.load::<V>(theta).mul(take)), average) }
    });
}

/// Sum of squares of the active pieces of `gradient`, in f64, added in order.
pub(crate) fn square_sum(pool: &Pool, pieces: &[Piece], active: &[bool], gradient: &[f32]) -> f64 {
    let mut sums = vec![0.0_f64; pieces.len()];
    let parts = Disjoint::new(&mut sums);
    pool.run(pieces.len(), &|index| {
        let piece = pieces[index];
        if active[piece.segment] {
            let values = &gradient[piece.offset..piece.offset + piece.len];
            // SAFETY: every task has its own sum.
            unsafe { parts.part(index, 1)[0] = sum_of_squares(values) };
        }
    });
    sums.iter().sum()
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let mut sums = [0.0_f64; 8];
    for chunk in values.chunks(8) {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [f32; 3] = [0.5, -1.25, 2.0];
    const GRADIENTS: [[f32; 3]; 3] = [[0.1, -0.2, 0.3], [0.05, 0.4, -0.6], [-0.3, 0.25, 0.125]];

    /// Three updates; `clip` as torch's `clip_grad_norm_`. Returns weights, average and moments.
    fn three_updates(
        optimizer: Optimizer,
        lr: f32,
        weight_decay: f32,
        clip: f64,
    ) -> (Vec<f32>, Vec<f32>, Moments) {
        let pool = Pool::new(2);
        let pieces = [Piece { offset: 0, len: 3, segment: 0, decays: true }];
        let (mut theta, mut average, mut moments) = (START.to_vec(), START.to_vec(), Moments::default());
        for gradient in GRADIENTS {
            let norm = square_sum(&pool, &pieces, &[true], &gradient).sqrt();
            let scale = (clip / (norm + 1e-6)).min(1.0) as f32;
            let (pieces, active) = (&pieces[..], &[true][..]);
            let rule = Update { optimizer, lr, weight_decay, scale, clip_norm: None, pieces, active };
            update(&pool, &rule, &mut theta, &gradient, &mut moments, Some((&mut average, 0.9)));
        }
        (theta, average, moments)
    }

    fn close(found: &[f32], expected: [f32; 3]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 2e-6 * expected.abs().max(1.0),
                "{found}, expected {expected}"
            );
        }
    }

    // The expected numbers are torch 2.15's: torch.optim.SGD and AdamW on a parameter [0.5, -1.25, 2.0] whose gradient
    // is set to each of GRADIENTS in turn, and ema = 0.9 ema + 0.1 w after every step.

    #[test]
    fn nesterov_with_decay_is_torchs() {
        let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true };
        let (theta, average, moments) = three_updates(sgd, 0.1, 0.01, f64::INFINITY);
        close(&theta, [0.505_163_43, -1.327_137_6, 2.019_702]);
        close(&average, [0.495_402_3, -1.255_893_7, 1.999_168_9]);
        close(moments.first.as_ref().unwrap(), [-0.161_018_22, 0.414_327_23, -0.118_111_22]);
    }

    #[test]
    fn momentum_without_nesterov_is_torchs() {
        let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: false };
        close(&three_updates(sgd, 0.1, 0.0, f64::INFINITY).0, [0.493_4, -1.296_8, 2.020_2]);
    }

    #[test]
    fn adamw_is_torchs() {
        let adam = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
        let (theta, average, moments) = three_updates(adam, 0.01, 0.1, f64::INFINITY);
        close(&theta, [0.482_681_27, -1.245_519_5, 1.989_294_6]);
        close(&average, [0.495_589_58, -1.247_846_1, 1.997_027_9]);
        close(moments.first.as_ref().unwrap(), [-0.017_4, 0.044_8, -0.017_2]);
        close(moments.second.as_ref().unwrap(), [1.024_775_2e-4, 2.622_600_6e-4, 4.650_851_2e-4]);
        assert_eq!(moments.steps, 3);
    }

    #[test]
    fn clipping_by_norm_is_torchs() {
        let sgd = Optimizer::Sgd { momentum: 0.9, nesterov: true };
        close(&three_updates(sgd, 0.1, 0.01, 0.25).0, [0.503_146_77, -1.260_540_2, 1.956_883_8]);
    }

    #[test]
    fn what_is_inactive_stays_and_what_does_not_decay_does_not() {
        let pieces = [
            Piece { offset: 0, len: 1, segment: 0, decays: true },
            Piece { offset: 1, len: 1, segment: 1, decays: false },
            Piece { offset: 2, len: 1, segment: 2, decays: true },
        ];
        let optimizer = Optimizer::Sgd { momentum: 0.0, nesterov: false };
        let active = [true, true, false];
        let rule = Update {
            optimizer,
            lr: 1.0,
            weight_decay: 0.5,
            scale: 1.0,
            clip_norm: None,
            pieces: &pieces,
            active: &active,
        };
        let mut theta = vec![1.0, 1.0, 1.0];
        update(&Pool::new(1), &rule, &mut theta, &[0.0; 3], &mut Moments::default(), None);
        assert_eq!(theta, [0.5, 1.0, 1.0]);
    }
}
