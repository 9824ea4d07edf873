//! cuDNN's descriptions of a convolution's maps and weights, freed when dropped.
//!
//! Never here: memory of the device.

use std::ffi::c_int;

use cudarc::cudnn::sys::{
    cudnnConvolutionDescriptor_t, cudnnConvolutionMode_t, cudnnDataType_t, cudnnFilterDescriptor_t,
    cudnnMathType_t, cudnnStatus_t, cudnnTensorDescriptor_t, cudnnTensorFormat_t,
};
use cudarc::cudnn::{CudnnError, result};

use super::{Format, Key};
use crate::kernels::conv::ConvShape;

const NHWC: cudnnTensorFormat_t = cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

/// What all three passes are described with: `dx` is like `x`, `dy` like `y`, `dw` like the weights.
#[derive(Debug)]
pub(super) struct Descriptors {
    pub x: Tensor,
    pub weight: Filter,
    pub y: Tensor,
    pub convolution: Convolution,
}

impl Descriptors {
    pub(super) fn new((_, shape, format): &Key, math: cudnnMathType_t) -> Result<Self, CudnnError> {
        let kind = data_type(*format);
        let x = [shape.batch, shape.in_channels, shape.in_height, shape.in_width];
        let y = [shape.batch, shape.out_channels, shape.out_height(), shape.out_width()];
        let weight = [shape.out_channels, shape.in_channels / shape.groups, shape.kernel[0], shape.kernel[1]];
        Ok(Self {
            x: Tensor::new(kind, integers(x)?)?,
            weight: Filter::new(kind, integers(weight)?)?,
            y: Tensor::new(kind, integers(y)?)?,
            convolution: Convolution::new(shape, math)?,
        })
    }

    pub(super) fn set_math(&mut self, math: cudnnMathType_t) -> Result<(), CudnnError> {
        // SAFETY: the descriptor is alive.
        unsafe { result::set_convolution_math_type(self.convolution.0, math) }
    }
}

fn data_type(format: Format) -> cudnnDataType_t {
    match format {
        Format::F32 => cudnnDataType_t::CUDNN_DATA_FLOAT,
        Format::Bf16 => cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}

/// Sizes as cuDNN takes them; one that does not fit is none that it supports.
fn integers<const N: usize>(sizes: [usize; N]) -> Result<[c_int; N], CudnnError> {
    let mut integers = [0; N];
    for (to, size) in integers.iter_mut().zip(sizes) {
        *to = c_int::try_from(size).map_err(|_| CudnnError(cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED))?;
    }
    Ok(integers)
}

/// A packed map.
#[derive(Debug)]
pub(super) struct Tensor(pub cudnnTensorDescriptor_t);

impl Tensor {
    fn new(kind: cudnnDataType_t, dims: [c_int; 4]) -> Result<Self, CudnnError> {
        let tensor = Self(result::create_tensor_descriptor()?);
        // SAFETY: it was just made.
        unsafe { result::set_tensor4d_descriptor(tensor.0, NHWC, kind, dims) }?;
        Ok(tensor)
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::destroy_tensor_descriptor(self.0) };
    }
}

/// Weights.
#[derive(Debug)]
pub(super) struct Filter(pub cudnnFilterDescriptor_t);

impl Filter {
    fn new(kind: cudnnDataType_t, dims: [c_int; 4]) -> Result<Self, CudnnError> {
        let filter = Self(result::create_filter_descriptor()?);
        // SAFETY: it was just made.
        unsafe { result::set_filter4d_descriptor(filter.0, kind, NHWC, dims) }?;
        Ok(filter)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::destroy_filter_descriptor(self.0) };
    }
}

/// Padding, strides, groups and the kind of products.
#[derive(Debug)]
pub(super) struct Convolution(pub cudnnConvolutionDescriptor_t);

impl Convolution {
    fn new(shape: &ConvShape, math: cudnnMathType_t) -> Result<Self, CudnnError> {
        let [pad_rows, pad_columns] = integers(shape.padding)?;
        let [step_down, step_right] = integers(shape.stride)?;
        let [groups] = integers([shape.groups])?;
        let convolution = Self(result::create_convolution_descriptor()?);
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let sums = cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: it was just made.
        unsafe {
            result::set_convolution2d_descriptor(
                convolution.0,
                pad_rows,
                pad_columns,
                step_down,
                step_right,
                1,
                1,
                mode,
                sums,
            )?;
            result::set_convolution_group_count(convolution.0, groups)?;
            result::set_convolution_math_type(convolution.0, math)?;
        }
        Ok(convolution)
    }
}

impl Drop for Convolution {
    fn drop(&mut self) {
        // SAFETY: nobody else has it.
        let _ = unsafe { result::destroy_convolution_descriptor(self.0) };
    }
}
