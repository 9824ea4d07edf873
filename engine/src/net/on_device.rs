//! The op where candle's tensors lie on the GPU: addresses go to the network's home, and nothing is copied to the host.

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Layout, Result, Shape, Storage, Tensor};

use super::NetOp;
use crate::cuda::{Cotangent, Executor, Floats, Given, OnGpu, Pictures, Ptr};
use crate::home::{Call, Home};
use crate::run::Timings;
use crate::{EngineError, Result as EngineResult};

/// The home of a network on the GPU.
fn on_gpu(home: &mut dyn Home) -> EngineResult<&mut OnGpu> {
    home.as_any_mut().downcast_mut().ok_or_else(|| EngineError::Images {
        expected: "images on the processor, where the network lives".into(),
        found: "images on the GPU".into(),
    })
}

/// Floats of candle's on the device, which whoever launches next overwrites.
fn room(
    device: &CudaDevice,
    len: usize,
) -> Result<(candle_core::cuda_backend::cudarc::driver::CudaSlice<f32>, Ptr)> {
    // SAFETY: every element is written before anything can read it, since all runs on one stream.
    let slice = unsafe { device.alloc::<f32>(len)? };
    let at = Ptr(slice.device_ptr(&device.cuda_stream()).0);
    Ok((slice, at))
}

/// The first element that a contiguous layout shows, and how many there are.
fn range(layout: &Layout) -> Result<(usize, usize)> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a tensor given to a network is not contiguous")
    };
    Ok((start, end - start))
}

fn pictures(storage: &CudaStorage, layout: &Layout) -> Result<Pictures> {
    let (start, _) = range(layout)?;
    let stream = storage.device.cuda_stream();
    match storage.dtype() {
        DType::U8 => {
            Ok(Pictures::U8(Ptr(storage.as_cuda_slice::<u8>()?.device_ptr(&stream).0).offset(start)))
        }
        DType::F32 => {
            Ok(Pictures::F32(Ptr(storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0).offset(4 * start)))
        }
        other => candle_core::bail!("images are neither u8 nor f32, but {other:?}"),
    }
}

/// Bytes as a tensor on the GPU, through page-locked memory.
pub(super) fn upload(gpu: &Executor, place: &Device, bytes: &[u8], shape: Shape) -> Result<Tensor> {
    let device = place.as_cuda_device()?;
    // SAFETY: every byte is written before anything can read it, since all runs on one stream.
    let slice = unsafe { device.alloc::<u8>(bytes.len())? };
    let at = Ptr(slice.device_ptr(&device.cuda_stream()).0);
    // SAFETY: the block is as long.
    unsafe { gpu.stage(bytes, at) }.map_err(Error::wrap)?;
    Ok(tensor(CudaStorage::wrap_cuda_slice(slice, device.clone()), shape))
}

/// A tensor that no operation has made.
fn tensor(storage: CudaStorage, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(Storage::Cuda(storage), shape, candle_core::op::BackpropOp::none(), false)
}

pub(super) fn forward(op: &NetOp, images: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
    let len = op.plan.output_len;
    let (joint, at) = room(&images.device, len)?;
    let given = Given::Device(pictures(images, layout)?);
    op.forward_by(|home, call, timings| on_gpu(home)?.run_forward(call, given, Floats::Device(at), timings))
        .map_err(Error::wrap)?;
    Ok((CudaStorage::wrap_cuda_slice(joint, images.device.clone()), Shape::from(len)))
}

/// The first output of a pass that keeps nothing, as a tensor of this shape.
pub(crate) fn answer(
    home: &mut dyn Home,
    call: &Call<'_>,
    images: &CudaStorage,
    layout: &Layout,
    shape: Vec<usize>,
    timings: Option<&mut Timings>,
) -> EngineResult<Tensor> {
    let (joint, at) = room(&images.device, call.plan.output_len)?;
    let given = Given::Device(pictures(images, layout)?);
    on_gpu(home)?.run_forward(call, given, Floats::Device(at), timings)?;
    Ok(tensor(CudaStorage::wrap_cuda_slice(joint, images.device.clone()), shape))
}

/// Accumulates into the gradient of theta; returns that of the images if they need one.
pub(super) fn backward(op: &NetOp, images: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
    let (storage, layout) = gradient.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!("the outputs' gradient is not on the GPU")
    };
    let (start, len) = range(layout)?;
    let stream = storage.device.cuda_stream();
    let from = Ptr(storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0).offset(4 * start);
    let of_images = op.plan.image_gradient.then(|| room(&storage.device, op.pictures_len())).transpose()?;
    let to = of_images.as_ref().map(|(_, at)| Floats::Device(*at));
    op.backward_by(|home, call, ticket, written, timings| {
        on_gpu(home)?.run_backward(call, ticket, &Cotangent::Device(from, len), written, to, timings)
    })
    .map_err(Error::wrap)?;
    let Some((slice, _)) = of_images else { return Ok(None) };
    Ok(Some(tensor(CudaStorage::wrap_cuda_slice(slice, storage.device.clone()), images.shape())))
}
