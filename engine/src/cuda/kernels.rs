//! Launches the kernels of `engine/cuda/*.cuh`, a method each. All run on the GPU's stream, so that what is launched
//! later sees what was launched before, and may be captured into a graph: nothing here allocates device memory, waits,
//! or reads a result.
//!
//! Every method is unsafe for one reason: the addresses that it takes must be the device's, of memory that is large
//! enough and stays until the stream has come past. Maps are NHWC in the `Format` that a method is given; what else
//! reads as f32 is f32 in either. Results may lie on inputs where a method says so, and nowhere else. A [`Target`] says
//! whether its kernel adds to what is there. Sums are taken by parts that depend on the sizes alone and added in order.
//!
//! Never here: which kernel runs when; that is the executor's business.

mod depthwise;
mod elementwise;
mod norm;
mod optimizer;
mod pooling;
mod sizes;
#[cfg(test)]
mod tests;

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaModule, CudaStream, DriverError, result};
use models::Activation;

use super::{Format, Gpu, Ptr};
use crate::kernels::activation::slope_of;
use crate::{EngineError, Result};

pub(crate) use elementwise::{Draw, Kept, Way};
pub(crate) use norm::{Affine, After, Backward, Moving, Saved, Slope};
pub(crate) use optimizer::{Piece, Scalars, SquareSum, Vectors};

/// Threads of a block, in every kernel.
const THREADS: usize = 256;
/// Most blocks of a kernel whose threads go over the elements in steps.
const BLOCKS: usize = 16_384;
/// Vectors of a thread that stays in its column, if there are so many: what it reads of the column serves them all.
const IN_COLUMN: usize = 4;
/// Most blocks of a sum over rows in one format: what 128 multiprocessors hold at once, three each.
const SUMS: usize = 384;
/// Channels that a block of a sum over rows covers.
const TILE: usize = 256;
/// Elements that a block of a sum over rows takes in at least, if there are so many.
const PART: usize = 8192;

/// Where a gradient goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Its place.
    pub at: Ptr,
    /// Whether to add to what is there.
    pub add: bool,
}

impl Target {
    /// A place that is written for the first time.
    pub(crate) fn set(at: Ptr) -> Self {
        Self { at, add: false }
    }
}

/// A kernel in both formats.
#[derive(Debug)]
struct Both {
    f32: Function,
    bf16: Function,
}

impl Both {
    fn of(&self, format: Format) -> &Function {
        match format {
            Format::F32 => &self.f32,
            Format::Bf16 => &self.bf16,
        }
    }
}

#[derive(Debug)]
struct Function {
    name: String,
    function: CudaFunction,
}

/// The kernels by the names that they have in `engine/cuda`, looked up in a module all at once.
macro_rules! functions {
    (both: $($both:ident)*; one: $($one:ident)*) => {
        #[derive(Debug)]
        struct Functions {
            $($both: Both,)*
            $($one: Function,)*
        }

        impl Functions {
            fn load(find: impl Fn(String) -> Result<Function>) -> Result<Self> {
                Ok(Self {
                    $($both: Both {
                        f32: find(concat!(stringify!($both), "_f32").into())?,
                        bf16: find(concat!(stringify!($both), "_bf16").into())?,
                    },)*
                    $($one: find(stringify!($one).into())?,)*
                })
            }
        }
    };
}

functions! {
    both:
        look_up affine scale_channels activation_forward activation_from_input activation_from_output finish
        column_parts add multiply pass_on gate_forward gate_backward dropout scale_samples outputs seeds reorder
        convert accumulate
        moments normalize norm_sums norm_apply
        max_forward max_backward average_forward average_backward global_forward global_backward
        depthwise_forward depthwise_backward_input depthwise_weight_parts;
    one:
        column_total depth_factors
        norm_settle norm_prepare norm_parameters
        sgd adamw square_parts square_total
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Kernels {
    stream: Arc<CudaStream>,
    functions: Functions,
    device: String,
}

impl Kernels {
    /// All kernels of the GPU's module.
    ///
    /// # Errors
    /// [`EngineError::Device`] that names a kernel which is not there.
    pub(crate) fn new(gpu: &Gpu) -> Result<Self> {
        let device = format!("cuda:{}", gpu.stream.context().ordinal());
        let functions = Functions::load(|name| find(&gpu.module, &device, name))?;
        Ok(Self { stream: gpu.stream.clone(), functions, device })
    }

    /// # Safety
    /// The arguments are the kernel's, in number, order and type, and the addresses among them as the module says.
    unsafe fn launch(&self, function: &Function, grid: Grid, arguments: &mut [*mut c_void]) -> Result<()> {
        if grid.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { self.submit(function, grid, arguments) }.map_err(|error| EngineError::Device {
            device: self.device.clone(),
            reason: format!("kernel `{}` on {grid:?} blocks did not start: {error}", function.name),
        })
    }

    /// # Safety
    /// As [`Kernels::launch`].
    unsafe fn submit(
        &self,
        function: &Function,
        Grid([x, y, z]): Grid,
        arguments: &mut [*mut c_void],
    ) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()?;
        // SAFETY: the function and the stream are of the bound context and alive; else the caller's promise.
        unsafe {
            result::launch_kernel(
                function.function.cu_function(),
                (x, y, z),
                (THREADS as u32, 1, 1),
                0,
                self.stream.cu_stream(),
                arguments,
            )
        }
    }

    fn too_large(&self, what: &str, found: usize, most: usize) -> EngineError {
        let reason =
            format!("{what} must be at most {most} there, found {found}; use smaller batches or maps");
        EngineError::Device { device: self.device.clone(), reason }
    }

    /// A size as the kernels take it.
    fn size(&self, what: &str, size: usize) -> Result<u32> {
        // The sign bit stays free: kernels add paddings and steps to sizes.
        let most = i32::MAX as usize;
        if size > most { Err(self.too_large(what, size, most)) } else { Ok(size as u32) }
    }
}

fn find(module: &Arc<CudaModule>, device: &str, name: String) -> Result<Function> {
    match module.load_function(&name) {
        Ok(function) => Ok(Function { name, function }),
        Err(error) => Err(EngineError::Device {
            device: device.into(),
            reason: format!("the program holds no kernel `{name}` for this device: {error}"),
        }),
    }
}

/// What a kernel takes: the sizes and layouts are the same in Rust and in CUDA's C++.
trait Argument {}
impl Argument for Ptr {}
impl Argument for u32 {}
impl Argument for u64 {}
impl Argument for f32 {}
impl Argument for Applied {}

/// An activation as the kernels take it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Applied {
    code: u32,
    slope: f32,
}

impl Applied {
    fn of(activation: Option<Activation>) -> Self {
        let code = match activation {
            None => 0,
            Some(Activation::Relu) => 1,
            Some(Activation::Relu6) => 2,
            Some(Activation::LeakyRelu(_)) => 3,
            Some(Activation::Silu) => 4,
            Some(Activation::HardSwish) => 5,
            Some(Activation::HardSigmoid) => 6,
            Some(Activation::Sigmoid) => 7,
        };
        Self { code, slope: slope_of(activation) }
    }
}

/// The address of an argument, as the driver takes it.
fn argument<T: Argument>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

/// The arguments of a launch; they live as long as the statement that this stands in.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => { &mut [$($crate::cuda::kernels::argument(&$value)),*] };
}
use arguments;

/// Blocks of a launch.
#[derive(Clone, Copy, Debug)]
struct Grid([u32; 3]);

impl Grid {
    fn is_empty(self) -> bool {
        self.0.contains(&0)
    }

    /// A thread for each of `items`, or several items for a thread.
    fn flat(items: usize) -> Self {
        Grid([items.div_ceil(THREADS).min(BLOCKS) as u32, 1, 1])
    }

    /// The same for `rows` of `columns` items, where each thread stays in its column: at least a thread a column.
    fn columns(rows: usize, columns: usize) -> Self {
        let blocks = (rows * columns).div_ceil(THREADS * IN_COLUMN).min(BLOCKS);
        Grid([blocks.max(columns.div_ceil(THREADS)) as u32, 1, 1])
    }
}

/// 1 where all pointers are aligned to 16 bytes, so that a kernel may read so many at once; else 0.
fn is_wide(pointers: &[Ptr]) -> u32 {
    u32::from(pointers.iter().all(|pointer| pointer.0.is_multiple_of(16)))
}

/// A thread for 16 bytes, or for each element where that cannot be.
fn vectors(format: Format, len: usize, wide: u32) -> Grid {
    Grid::flat(if wide == 1 { len.div_ceil(16 / format.bytes()) } else { len })
}

/// How many elements a thread reads at once: 16 bytes of them where everything is aligned so, else one. `len` is what
/// must hold whole vectors.
fn width(format: Format, len: usize, pointers: &[Ptr]) -> usize {
    let wide = 16 / format.bytes();
    let aligned = len.is_multiple_of(wide) && is_wide(pointers) == 1;
    if aligned { wide } else { 1 }
}

/// A sum over rows: who takes in what.
#[derive(Clone, Copy, Debug)]
struct Sums {
    /// Parts that the rows are cut into.
    parts: usize,
    /// Rows of a part, the last may have fewer.
    rows: usize,
}

impl Sums {
    /// The division for a matrix of this size, whatever its format.
    fn of(rows: usize, channels: usize) -> Self {
        let tiles = channels.div_ceil(TILE).max(1);
        let parts = (rows * channels).div_ceil(PART * tiles).min(SUMS.div_ceil(tiles)).clamp(1, rows.max(1));
        let part = rows.div_ceil(parts).max(1);
        Sums { parts: rows.div_ceil(part).max(1), rows: part }
    }

    /// Vectors of columns in a block, and blocks next to each other.
    fn lanes(channels: usize, width: usize) -> (usize, usize) {
        let columns = channels / width;
        let tiles = columns.div_ceil(32);
        let lanes = columns.div_ceil(tiles);
        (lanes, columns.div_ceil(lanes))
    }

    /// Blocks of the second stage, where 8 channels are a block.
    fn total(channels: usize) -> Grid {
        Grid([channels.div_ceil(8) as u32, 1, 1])
    }
}
