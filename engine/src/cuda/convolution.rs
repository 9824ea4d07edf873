//! Convolutions by cuDNN: forward and both gradients of maps in NHWC. A linear layer is the 1x1 convolution of 1x1 maps.
//! Depthwise convolutions have kernels of our own and do not come here.
//!
//! # Layout of the weights
//! `[output][kh][kw][input of the group]` in the format of the maps, gradients likewise.
//!
//! # Which algorithm
//! The first of cuDNN's own ranking that gives the same bits every time, asks for no more working memory than
//! [`MOST_WORKSPACE`], and runs when it is tried once. Where none of these runs, one whose bits vary is taken, and
//! [`Convolutions::varying`] names the pass. Nothing is measured, so that a resumed run on the same kind of GPU with the
//! same cuDNN chooses the same. Tensor cores want channels in multiples of 8 for bf16 (4 for TF32); where they
//! are not, cuDNN pads or takes an algorithm without them, and so 3 inputs or 10 outputs are slow and not wrong.
//!
//! # Working memory
//! One block that all convolutions share, since they run one after the other. It grows in [`Convolutions::prepare`]
//! alone, and older blocks stay, because recorded graphs go on using them.
//!
//! Never here: biases, activations, or when something runs.

mod algorithm;
mod descriptors;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cudnn::sys::{cudnnHandle_t, cudnnMathType_t};
use cudarc::cudnn::{CudnnError, result, sys};
use cudarc::driver::CudaStream;

use super::memory::{Memory, bind, failed};
use super::{Format, Ptr};
use crate::kernels::conv::ConvShape;
use crate::{EngineError, Precision, Result};

use algorithm::{Algorithm, Call};
use descriptors::Descriptors;

/// Working memory that no algorithm gets more of, in bytes.
const MOST_WORKSPACE: usize = 1 << 30;
/// Where cuDNN wants maps and weights to begin, for its vector loads.
const ALIGNMENT: u64 = 16;
/// The oldest release whose errors are numbered as we read them.
const OLDEST: usize = 90_000;

/// What is computed of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// `y` from `x` and weights.
    Forward,
    /// `dx` from `dy` and weights.
    BackwardInput,
    /// `dw` from `x` and `dy`.
    BackwardWeight,
}

type Key = (Pass, ConvShape, Format);

/// See the module.
#[derive(Debug)]
pub(crate) struct Convolutions {
    handle: Handle,
    stream: Arc<CudaStream>,
    precision: Precision,
    prepared: HashMap<Key, Prepared>,
    /// The last is the largest.
    workspaces: Vec<Memory>,
}

/// A pass that is ready to run.
#[derive(Debug)]
struct Prepared {
    descriptors: Descriptors,
    algorithm: Algorithm,
    workspace: usize,
    varies: bool,
}

impl Convolutions {
    /// For everything that runs on `stream`.
    ///
    /// # Errors
    /// [`EngineError::Device`] if cuDNN is missing, is too old, or does not start.
    pub(crate) fn new(stream: &Arc<CudaStream>, precision: Precision) -> Result<Self> {
        let fail = |reason: String| failed(stream, &reason);
        // A library that is not there is a panic later on.
        // SAFETY: loads the library, whose initialization is the vendor's.
        if !unsafe { sys::is_culib_present() } {
            let reason = "cuDNN 9 is not found (libcudnn.so.9); install it, for one by `pip install nvidia-cudnn-cu13`, \
                          and let LD_LIBRARY_PATH name its folder; or use --device cpu";
            return Err(fail(reason.into()));
        }
        let version = result::get_version();
        if version < OLDEST {
            let found = format!("cuDNN is too old: expected 9.0 or later, found version number {version}");
            return Err(fail(format!("{found}; install cuDNN 9, or use --device cpu")));
        }
        bind(stream)?;
        let handle = Handle::new(stream).map_err(|error| fail(format!("cuDNN does not start: {error}")))?;
        Ok(Self {
            handle,
            stream: Arc::clone(stream),
            precision,
            prepared: HashMap::new(),
            workspaces: Vec::new(),
        })
    }

    /// Gets a pass ready to run: allocates, launches and waits, so it is no part of what is recorded. Does nothing the
    /// second time.
    ///
    /// # Errors
    /// [`EngineError::Device`] that names the shape, and what each algorithm was refused for.
    pub(crate) fn prepare(&mut self, pass: Pass, shape: &ConvShape, format: Format) -> Result<()> {
        let key = (pass, *shape, format);
        if self.prepared.contains_key(&key) {
            return Ok(());
        }
        if shape.is_depthwise() {
            return Err(self.error(&key, "depthwise convolutions are not cuDNN's here"));
        }
        bind(&self.stream)?;
        let mut refused = Vec::new();
        let trial = Trial::new(&self.stream, &key)?;
        for varying in [false, true] {
            for &math in self.maths(format) {
                match self.choose(&key, math, varying, &trial) {
                    Ok(prepared) => {
                        self.prepared.insert(key, prepared);
                        return Ok(());
                    }
                    Err(why) => refused.push(format!("{math:?}: {why}")),
                }
            }
        }
        let mend = if format == Format::Bf16 { "; --precision f32 may have one" } else { "" };
        Err(self.error(&key, format!("no algorithm runs ({}){mend}", refused.join("; "))))
    }

    /// Passes whose results may differ in their last bits from run to run, since cuDNN has no other algorithm for them.
    pub(crate) fn varying(&self) -> Vec<String> {
        let varying = self.prepared.iter().filter(|(_, prepared)| prepared.varies);
        let mut names: Vec<String> = varying.map(|(key, _)| name(key)).collect();
        names.sort();
        names
    }

    /// `y = conv(x, weight)`; overwrites `y`. Allocates and waits for nothing.
    ///
    /// # Errors
    /// [`EngineError::Device`] if the pass was not prepared, or cuDNN's own error.
    ///
    /// # Safety
    /// Device memory of the shape's sizes in this format, beginning at multiples of 16 bytes, that stays until the
    /// stream has come past.
    pub(crate) unsafe fn forward(
        &self,
        shape: &ConvShape,
        format: Format,
        x: Ptr,
        weight: Ptr,
        y: Ptr,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run((Pass::Forward, *shape, format), [x, weight, y], false) }
    }

    /// `dx = conv'(dy, weight)`, or adds that to `dx`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    ///
    /// # Safety
    /// As [`Self::forward`].
    pub(crate) unsafe fn backward_input(
        &self,
        shape: &ConvShape,
        format: Format,
        dy: Ptr,
        weight: Ptr,
        dx: Ptr,
        add: bool,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run((Pass::BackwardInput, *shape, format), [dx, weight, dy], add) }
    }

    /// `dw = conv'(x, dy)`, or adds that to `dw`.
    ///
    /// # Errors
    /// As [`Self::forward`].
    ///
    /// # Safety
    /// As [`Self::forward`].
    pub(crate) unsafe fn backward_weight(
        &self,
        shape: &ConvShape,
        format: Format,
        x: Ptr,
        dy: Ptr,
        dw: Ptr,
        add: bool,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.run((Pass::BackwardWeight, *shape, format), [x, dw, dy], add) }
    }

    /// Runs a prepared pass over input, weights and output, one of which it writes.
    unsafe fn run(&self, key: Key, maps: [Ptr; 3], add: bool) -> Result<()> {
        let prepared = self.prepared.get(&key).ok_or_else(|| self.error(&key, "was not prepared"))?;
        debug_assert!(maps.iter().all(|map| map.0 % ALIGNMENT == 0), "{key:?} at {maps:?}");
        bind(&self.stream)?;
        let call = Call { handle: self.handle.0, maps, add, workspace: self.workspace() };
        // SAFETY: the caller's promise; descriptors say the same sizes, and the workspace is as large as any pass needs.
        unsafe { prepared.launch(&call) }.map_err(|error| self.error(&key, error))
    }

    /// Kinds of products that may be taken, the best first.
    fn maths(&self, format: Format) -> &'static [cudnnMathType_t] {
        use cudnnMathType_t::{CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH, CUDNN_TENSOR_OP_MATH};
        match (format, self.precision) {
            (Format::Bf16, _) => &[CUDNN_TENSOR_OP_MATH, CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH],
            // cuDNN's default for f32 is TF32 on GPUs that have it.
            (Format::F32, Precision::Tf32) => &[CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH],
            (Format::F32, _) => &[CUDNN_FMA_MATH],
        }
    }

    /// The first algorithm that runs with this kind of products; else why none does.
    fn choose(
        &mut self,
        key: &Key,
        math: cudnnMathType_t,
        varying: bool,
        trial: &Trial,
    ) -> Result<Prepared, String> {
        let mut descriptors = Descriptors::new(key, math).map_err(|error| error.to_string())?;
        let ranked =
            algorithm::ranked(key.0, self.handle.0, &descriptors).map_err(|error| error.to_string())?;
        let mut refused = Vec::new();
        for candidate in ranked.into_iter().filter(|candidate| candidate.varies() == varying) {
            let name = format!("{:?}", candidate.algorithm);
            if let Some(reason) = candidate.refused() {
                refused.push(format!("{name} {reason}"));
                continue;
            }
            // What is to be exact is never run in another kind than it was asked for.
            let runs_in = if math == cudnnMathType_t::CUDNN_FMA_MATH { math } else { candidate.math };
            let tried = descriptors.set_math(runs_in).map_err(|error| error.to_string());
            match tried.and_then(|()| self.try_out(&descriptors, candidate.algorithm, trial)) {
                Ok(workspace) => {
                    let algorithm = candidate.algorithm;
                    return Ok(Prepared { descriptors, algorithm, workspace, varies: varying });
                }
                Err(reason) => refused.push(format!("{name} {reason}")),
            }
        }
        Err(refused.join(", "))
    }

    /// Runs an algorithm once on memory of its own, and returns the working memory that it takes.
    fn try_out(
        &mut self,
        descriptors: &Descriptors,
        algorithm: Algorithm,
        trial: &Trial,
    ) -> Result<usize, String> {
        let workspace = algorithm.workspace(self.handle.0, descriptors).map_err(|error| error.to_string())?;
        if workspace > MOST_WORKSPACE {
            return Err(format!("asks for {} MiB of working memory", workspace >> 20));
        }
        self.grow_workspace(workspace).map_err(|error| error.to_string())?;
        let call =
            Call { handle: self.handle.0, maps: trial.maps(), add: false, workspace: self.workspace() };
        // SAFETY: the trial's memory is of the sizes that the descriptors say, and lives until the stream is waited for.
        unsafe { algorithm.launch(descriptors, workspace, &call) }.map_err(|error| error.to_string())?;
        self.stream.synchronize().map_err(|error| error.to_string())?;
        Ok(workspace)
    }

    fn grow_workspace(&mut self, bytes: usize) -> Result<()> {
        if self.workspaces.last().is_some_and(|last| last.bytes() >= bytes) || bytes == 0 {
            return Ok(());
        }
        self.workspaces.push(Memory::zeros(&self.stream, bytes.next_power_of_two())?);
        Ok(())
    }

    fn workspace(&self) -> Ptr {
        self.workspaces.last().map_or(Ptr(0), |last| last.at())
    }

    fn error(&self, key: &Key, reason: impl std::fmt::Display) -> EngineError {
        failed(&self.stream, &format!("cuDNN, {}: {reason}", name(key)))
    }
}

fn name((pass, shape, format): &Key) -> String {
    format!("{pass:?} of {shape:?} in {format:?}")
}

impl Prepared {
    unsafe fn launch(&self, call: &Call) -> Result<(), CudnnError> {
        // SAFETY: the caller's promise.
        unsafe { self.algorithm.launch(&self.descriptors, self.workspace, call) }
    }
}

/// Memory that an algorithm is tried out on: input, weights, output.
struct Trial([Memory; 3]);

impl Trial {
    fn new(stream: &Arc<CudaStream>, (_, shape, format): &Key) -> Result<Self> {
        let weights =
            shape.out_channels * shape.kernel[0] * shape.kernel[1] * shape.in_channels / shape.groups;
        let zeros = |count: usize| Memory::zeros(stream, count * format.bytes());
        Ok(Self([zeros(shape.in_len())?, zeros(weights)?, zeros(shape.out_len())?]))
    }

    fn maps(&self) -> [Ptr; 3] {
        self.0.each_ref().map(Memory::at)
    }
}

/// cuDNN, started for one stream.
#[derive(Debug)]
struct Handle(cudnnHandle_t);

// SAFETY: cuDNN lets a handle go from thread to thread, as long as one uses it at a time; every use binds the context
// first and goes through `Convolutions`, which is not `Sync`.
unsafe impl Send for Convolutions {}

impl Handle {
    fn new(stream: &CudaStream) -> Result<Self, CudnnError> {
        let handle = Self(result::create_handle()?);
        // SAFETY: both were just made; they are the same type by two names.
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }?;
        Ok(handle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: nobody else has it. An error could only be that it is no handle.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

/// An address as cuDNN takes it.
fn pointer(at: Ptr) -> *mut c_void {
    at.0 as *mut c_void
}
