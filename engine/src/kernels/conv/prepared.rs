//! Weights of a layer in the form that inference reads fastest, made once.
//!
//! Never here: how a form is multiplied.

use crate::pool::Pool;

use super::winograd::{self, Size};
use super::{ConvShape, Weight, WeightFormat, bf16, weight_len};

/// A form of a layer's weights. It depends on the shape for one picture and on the format alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The engine's layout.
    Plain,
    /// Coefficients for patches of this size.
    Winograd(Size),
    /// The engine's layout in bf16.
    Bf16,
}

impl Form {
    /// The form for a layer.
    pub fn of(shape: &ConvShape, format: WeightFormat) -> Self {
        let shape = ConvShape { batch: 1, ..*shape };
        let bytes = match format {
            WeightFormat::F32 => 4,
            WeightFormat::Bf16 => 2,
        };
        match (winograd::best_prepared(&shape, bytes), format) {
            (Some(size), _) => Form::Winograd(size),
            // Little to read, and kernels of their own.
            (None, WeightFormat::Bf16) if !shape.is_depthwise() && shape.in_channels > 4 => Form::Bf16,
            (None, _) => Form::Plain,
        }
    }

    /// Floats of memory that the weights take.
    pub fn len(self, shape: &ConvShape) -> usize {
        match self {
            Form::Plain => weight_len(shape),
            Form::Winograd(size) => winograd::transformed_len(size, shape),
            Form::Bf16 => weight_len(shape).div_ceil(2),
        }
    }

    /// Brings weights in the engine's layout, already rounded to their format, into this form.
    ///
    /// # Panics
    /// If a slice has not the length that the shape and the form say.
    pub fn store(self, pool: &Pool, shape: &ConvShape, packed: &[f32], to: &mut [f32]) {
        assert_eq!(packed.len(), weight_len(shape), "packed weights of {shape:?}");
        assert_eq!(to.len(), self.len(shape), "{self:?} of {shape:?}");
        match self {
            Form::Plain => to.copy_from_slice(packed),
            Form::Winograd(size) => winograd::transform_weights(pool, size, shape.in_channels, packed, to),
            Form::Bf16 => {
                bf16::view_mut(to).iter_mut().zip(packed).for_each(|(to, &value)| *to = bf16::round(value));
            }
        }
    }

    /// What [`Form::store`] has written, for a forward pass.
    pub fn weight(self, stored: &[f32]) -> Weight<'_> {
        match self {
            Form::Plain => Weight::Plain(stored),
            Form::Winograd(size) => Weight::Winograd(size, stored),
            Form::Bf16 => Weight::Bf16(bf16::view(stored)),
        }
    }
}
