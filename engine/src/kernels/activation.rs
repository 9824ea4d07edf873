//! Elementwise functions and their derivatives, as types that the kernels are compiled for one by one.
//!
//! Never here: anything that knows channels.

use models::Activation;

use crate::kernels::spans::{Source, chunks, lanes};
use crate::pool::{Disjoint, Pool};
use crate::simd::{self, Simd};

/// An elementwise function that a kernel is compiled for. `slope` is [`Activation::LeakyRelu`]'s; the others ignore it.
pub trait Function {
    /// The function.
    fn value<V: Simd>(x: V, slope: V) -> V;
    /// Its derivative at `x`.
    fn derivative<V: Simd>(x: V, slope: V) -> V;
    /// Its derivative where its value is `y`; only for functions of which [`derives_from_output`] says so.
    fn derivative_at_value<V: Simd>(y: V, slope: V) -> V;
}

/// Whether the derivative follows from the function's value, so that its argument need not be kept.
pub fn derives_from_output(activation: Activation) -> bool {
    match activation {
        Activation::Relu | Activation::Relu6 | Activation::Sigmoid | Activation::HardSigmoid => true,
        Activation::LeakyRelu(slope) => slope > 0.0,
        Activation::Silu | Activation::HardSwish => false,
    }
}

/// `x`
pub struct Identity;
/// [`Activation::Relu`]
pub struct Relu;
/// [`Activation::Relu6`]
pub struct Relu6;
/// [`Activation::LeakyRelu`]
pub struct LeakyRelu;
/// [`Activation::Silu`]
pub struct Silu;
/// [`Activation::HardSwish`]
pub struct HardSwish;
/// [`Activation::HardSigmoid`]
pub struct HardSigmoid;
/// [`Activation::Sigmoid`]
pub struct Sigmoid;

/// `inside` where `low < x < high`, else zero.
#[inline(always)]
fn between<V: Simd>(x: V, low: f32, high: f32, inside: V) -> V {
    let below_high = V::splat(high).if_greater(x, inside, V::zero());
    x.if_greater(V::splat(low), below_high, V::zero())
}

impl Function for Identity {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        x
    }
    #[inline(always)]
    fn derivative<V: Simd>(_: V, _: V) -> V {
        V::splat(1.0)
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(_: V, _: V) -> V {
        V::splat(1.0)
    }
}

impl Function for Relu {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        simd::activate(Activation::Relu, x)
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, _: V) -> V {
        x.if_greater(V::zero(), V::splat(1.0), V::zero())
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, slope: V) -> V {
        Self::derivative(y, slope)
    }
}

impl Function for Relu6 {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        simd::activate(Activation::Relu6, x)
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, _: V) -> V {
        between(x, 0.0, 6.0, V::splat(1.0))
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, slope: V) -> V {
        Self::derivative(y, slope)
    }
}

impl Function for LeakyRelu {
    #[inline(always)]
    fn value<V: Simd>(x: V, slope: V) -> V {
        x.if_greater(V::zero(), x, x.mul(slope))
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, slope: V) -> V {
        x.if_greater(V::zero(), V::splat(1.0), slope)
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, slope: V) -> V {
        Self::derivative(y, slope)
    }
}

impl Function for Silu {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        simd::activate(Activation::Silu, x)
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, _: V) -> V {
        // s (1 + x (1 - s))
        let s = simd::sigmoid(x);
        let one = V::splat(1.0);
        s.mul(x.mul_add(one.sub(s), one))
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, _: V) -> V {
        debug_assert!(false, "the derivative of SiLU does not follow from its value");
        y
    }
}

impl Function for HardSwish {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        simd::activate(Activation::HardSwish, x)
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, _: V) -> V {
        // 0 below -3, 1 above 3, x / 3 + 1 / 2 between, where it is -1/2 to 3/2: no clamp gives that
        let inside = x.mul_add(V::splat(1.0 / 3.0), V::splat(0.5));
        let below = V::splat(3.0).if_greater(x, inside, V::splat(1.0));
        x.if_greater(V::splat(-3.0), below, V::zero())
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, _: V) -> V {
        debug_assert!(false, "the derivative of HardSwish does not follow from its value");
        y
    }
}

impl Function for HardSigmoid {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        simd::activate(Activation::HardSigmoid, x)
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, _: V) -> V {
        between(x, -3.0, 3.0, V::splat(1.0 / 6.0))
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, _: V) -> V {
        between(y, 0.0, 1.0, V::splat(1.0 / 6.0))
    }
}

impl Function for Sigmoid {
    #[inline(always)]
    fn value<V: Simd>(x: V, _: V) -> V {
        simd::sigmoid(x)
    }
    #[inline(always)]
    fn derivative<V: Simd>(x: V, slope: V) -> V {
        Self::derivative_at_value(simd::sigmoid(x), slope)
    }
    #[inline(always)]
    fn derivative_at_value<V: Simd>(y: V, _: V) -> V {
        y.mul(V::splat(1.0).sub(y))
    }
}

/// The slope that a kernel passes to [`Function`].
pub fn slope_of(activation: Option<Activation>) -> f32 {
    match activation {
        Some(Activation::LeakyRelu(slope)) => slope,
        _ => 0.0,
    }
}

/// [`dispatch!`] of a kernel generic over [`Simd`] and [`Function`], the function chosen by an `Option<Activation>`.
macro_rules! dispatch_activation {
    ($activation:expr, $isa:expr, $kernel:ident $arguments:tt) => {{
        use $crate::kernels::activation as functions;
        match $activation {
            None => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::Identity, $arguments)
            }
            Some(models::Activation::Relu) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::Relu, $arguments)
            }
            Some(models::Activation::Relu6) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::Relu6, $arguments)
            }
            Some(models::Activation::LeakyRelu(_)) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::LeakyRelu, $arguments)
            }
            Some(models::Activation::Silu) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::Silu, $arguments)
            }
            Some(models::Activation::HardSwish) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::HardSwish, $arguments)
            }
            Some(models::Activation::HardSigmoid) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::HardSigmoid, $arguments)
            }
            Some(models::Activation::Sigmoid) => {
                $crate::kernels::activation::dispatch_one!($isa, $kernel, functions::Sigmoid, $arguments)
            }
        }
    }};
}
pub(crate) use dispatch_activation;

/// One arm of [`dispatch_activation!`].
macro_rules! dispatch_one {
    ($isa:expr, $kernel:ident, $function:ty, $arguments:tt) => {{
        type Chosen = $function;
        $crate::simd::dispatch!($isa, $kernel[Chosen] $arguments)
    }};
}
pub(crate) use dispatch_one;

/// `y = activation(x)`.
pub fn forward(pool: &Pool, activation: Activation, x: &[f32], y: &mut [f32]) {
    let (isa, slope) = (pool.isa(), slope_of(Some(activation)));
    let parts = Disjoint::new(y);
    chunks(pool, x.len(), &|range| {
        // SAFETY: chunks do not overlap.
        let y = unsafe { parts.part(range.start, range.len()) };
        let x = &x[range];
        dispatch_activation!(Some(activation), isa, value_kernel(x: &[f32], slope: f32, y: &mut [f32]));
    });
}

#[inline(always)]
fn value_kernel<V: Simd, F: Function>(x: &[f32], slope: f32, y: &mut [f32]) {
    let (x, slope, len, y) = (x.as_ptr(), V::splat(slope), y.len(), y.as_mut_ptr());
    lanes!(V, len, at => {
        // SAFETY: both slices have `len` elements.
        unsafe { at.store(F::value::<V>(at.load(x), slope), y) }
    });
}

/// What backward reads of an activation's forward.
#[derive(Clone, Copy, Debug)]
pub enum Kept<'a> {
    /// The function's argument.
    Input(&'a [f32]),
    /// The function's value, where [`derives_from_output`] says that it is enough.
    Output(&'a [f32]),
}

/// Gradient through `y = activation(x)`: `dx = dy * activation'(x)`, written or added.
pub fn backward(
    pool: &Pool,
    activation: Activation,
    kept: Kept<'_>,
    dy: Source<'_>,
    dx: &mut [f32],
    add: bool,
) {
    let (isa, slope) = (pool.isa(), slope_of(Some(activation)));
    let len = dx.len();
    let parts = Disjoint::new(dx);
    chunks(pool, len, &|range| {
        // SAFETY: chunks do not overlap, and the range lies within the slices.
        let (dx, dy) = unsafe {
            let dx = parts.part(range.start, range.len());
            let dy = dy.part(dx, range.start);
            (dx, dy)
        };
        match kept {
            Kept::Input(x) => {
                let x = &x[range];
                dispatch_activation!(
                    Some(activation),
                    isa,
                    from_input_kernel(x: &[f32], slope: f32, dy: *const f32, dx: &mut [f32], add: bool)
                );
            }
            Kept::Output(y) => {
                let y = &y[range];
                dispatch_activation!(
                    Some(activation),
                    isa,
                    from_output_kernel(y: &[f32], slope: f32, dy: *const f32, dx: &mut [f32], add: bool)
                );
            }
        }
    });
}

#[inline(always)]
fn from_input_kernel<V: Simd, F: Function>(x: &[f32], slope: f32, dy: *const f32, dx: &mut [f32], add: bool) {
    let (x, slope, len, dx) = (x.as_ptr(), V::splat(slope), dx.len(), dx.as_mut_ptr());
    lanes!(V, len, at => {
        // SAFETY: all have `len` elements.
        unsafe { at.put(at.load::<V>(dy).mul(F::derivative(at.load(x), slope)), dx, add) }
    });
}

#[inline(always)]
fn from_output_kernel<V: Simd, F: Function>(
    y: &[f32],
    slope: f32,
    dy: *const f32,
    dx: &mut [f32],
    add: bool,
) {
    let (y, slope, len, dx) = (y.as_ptr(), V::splat(slope), dx.len(), dx.as_mut_ptr());
    lanes!(V, len, at => {
        // SAFETY: all have `len` elements.
        unsafe { at.put(at.load::<V>(dy).mul(F::derivative_at_value(at.load(y), slope)), dx, add) }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::reference::{self, isas, ramp};

    const ALL: [Activation; 7] = [
        Activation::Relu,
        Activation::Relu6,
        Activation::LeakyRelu(0.1),
        Activation::Silu,
        Activation::HardSwish,
        Activation::HardSigmoid,
        Activation::Sigmoid,
    ];

    #[test]
    fn derivatives_match_finite_differences_from_input_and_from_output() {
        let x = ramp(1003, 9.0);
        let dy = ramp(1003, 2.0);
        for isa in isas() {
            let pool = Pool::with_isa(2, isa);
            for activation in ALL {
                let expected: Vec<f32> =
                    x.iter().zip(&dy).map(|(&x, dy)| dy * reference::derivative(activation, x)).collect();
                let mut dx = vec![0.0; x.len()];
                backward(&pool, activation, Kept::Input(&x), Source::From(&dy), &mut dx, false);
                reference::assert_close(&dx, &expected, 2e-3, &format!("{activation:?} {isa:?}"));
                if derives_from_output(activation) {
                    let mut y = vec![0.0; x.len()];
                    forward(&pool, activation, &x, &mut y);
                    let mut in_place = dy.clone();
                    backward(&pool, activation, Kept::Output(&y), Source::Same, &mut in_place, false);
                    reference::assert_close(
                        &in_place,
                        &expected,
                        2e-3,
                        &format!("{activation:?} from output"),
                    );
                }
            }
        }
    }

    #[test]
    fn gradients_are_added_where_asked() {
        let (x, dy) = (ramp(37, 1.0), ramp(37, 1.0));
        let pool = Pool::new(1);
        let (mut once, mut twice) = (vec![0.0; 37], vec![0.0; 37]);
        backward(&pool, Activation::Silu, Kept::Input(&x), Source::From(&dy), &mut once, false);
        for add in [false, true] {
            backward(&pool, Activation::Silu, Kept::Input(&x), Source::From(&dy), &mut twice, add);
        }
        assert!(once.iter().zip(&twice).all(|(once, twice)| 2.0 * once == *twice));
    }
}
