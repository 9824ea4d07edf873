//! Weights by name, on the host, in torch's layouts: the form in which they are saved, loaded and exchanged.

use std::collections::BTreeMap;

/// A dense `f32` array in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// `shape.iter().product()` values.
    pub data: Vec<f32>,
}

impl Array {
    /// An array of `shape` over `data`.
    ///
    /// # Panics
    /// If `data` has another length than `shape` says: a slip of the caller, never of a file.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "array of shape {shape:?}");
        Self { shape, data }
    }

    /// An array of `shape` where every value is `value`.
    pub fn full(shape: impl Into<Vec<usize>>, value: f32) -> Self {
        let shape = shape.into();
        let length = shape.iter().product();
        Self { shape, data: vec![value; length] }
    }
}

/// Parameters and running statistics by torchvision's names (`features.0.0.weight`), OIHW for convolutions,
/// `[out, in]` for linear layers. Ordered, so that whatever is written from it is the same every time.
pub type Weights = BTreeMap<String, Array>;
