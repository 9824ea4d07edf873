//! cuDNN's algorithms of the three passes under one name: their ranking, their working memory, their launch.
//!
//! Never here: which of them is taken.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use cudarc::cudnn::sys::{
    cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdDataAlgoPerf_t, cudnnConvolutionBwdFilterAlgo_t,
    cudnnConvolutionBwdFilterAlgoPerf_t, cudnnConvolutionFwdAlgo_t, cudnnConvolutionFwdAlgoPerf_t,
    cudnnDeterminism_t, cudnnHandle_t, cudnnMathType_t, cudnnStatus_t,
};
use cudarc::cudnn::{CudnnError, result};

use super::super::Ptr;
use super::descriptors::Descriptors;
use super::{Pass, pointer};

/// More than cuDNN has of any pass.
const MOST: usize = 16;

/// An algorithm of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) enum Algorithm {
    Forward(cudnnConvolutionFwdAlgo_t),
    BackwardInput(cudnnConvolutionBwdDataAlgo_t),
    BackwardWeight(cudnnConvolutionBwdFilterAlgo_t),
}

/// What a pass is launched on.
pub(super) struct Call {
    pub handle: cudnnHandle_t,
    /// Input, weights and output, or their gradients: one of them is written.
    pub maps: [Ptr; 3],
    /// Whether the result is added to what is there.
    pub add: bool,
    /// As large as the algorithm asked for.
    pub workspace: Ptr,
}

/// What cuDNN's ranking says of an algorithm.
pub(super) struct Candidate {
    pub algorithm: Algorithm,
    pub math: cudnnMathType_t,
    status: cudnnStatus_t,
    determinism: cudnnDeterminism_t,
}

impl Candidate {
    /// Why it is not even tried.
    pub(super) fn refused(&self) -> Option<String> {
        (self.status != cudnnStatus_t::CUDNN_STATUS_SUCCESS).then(|| format!("{:?}", self.status))
    }

    /// Whether its results may differ from run to run.
    pub(super) fn varies(&self) -> bool {
        self.determinism != cudnnDeterminism_t::CUDNN_DETERMINISTIC
    }
}

/// Asks cuDNN for its ranking of a pass: `$ask` is called with how many answers fit and where they go.
macro_rules! rank {
    ($kind:path, $answer:ty, |$asked:ident, $returned:ident, $answers:ident| $ask:expr) => {{
        let mut count: c_int = 0;
        let mut answers = [const { MaybeUninit::<$answer>::uninit() }; MOST];
        let ($asked, $returned, $answers) = (MOST as c_int, &raw mut count, answers.as_mut_ptr().cast());
        // SAFETY: descriptors and handle are alive, and as many answers fit as are asked for.
        unsafe { $ask }?;
        let answered = usize::try_from(count).unwrap_or(0).min(MOST);
        let candidate = |answer: &MaybeUninit<$answer>| {
            // SAFETY: cuDNN wrote so many.
            let answer = unsafe { answer.assume_init_ref() };
            Candidate {
                algorithm: $kind(answer.algo),
                math: answer.mathType,
                status: answer.status,
                determinism: answer.determinism,
            }
        };
        Ok(answers[..answered].iter().map(candidate).collect())
    }};
}

/// The algorithms of a pass as cuDNN ranks them, the fastest first by its own estimate.
pub(super) fn ranked(
    pass: Pass,
    handle: cudnnHandle_t,
    with: &Descriptors,
) -> Result<Vec<Candidate>, CudnnError> {
    let (x, weight, y, convolution) = (with.x.0, with.weight.0, with.y.0, with.convolution.0);
    match pass {
        Pass::Forward => {
            rank!(Algorithm::Forward, cudnnConvolutionFwdAlgoPerf_t, |asked, returned, answers| {
                result::get_convolution_forward_algorithm(
                    handle,
                    x,
                    weight,
                    convolution,
                    y,
                    asked,
                    returned,
                    answers,
                )
            })
        }
        Pass::BackwardInput => {
            rank!(Algorithm::BackwardInput, cudnnConvolutionBwdDataAlgoPerf_t, |asked, returned, answers| {
                result::get_convolution_backward_data_algorithm(
                    handle,
                    weight,
                    y,
                    convolution,
                    x,
                    asked,
                    returned,
                    answers,
                )
            })
        }
        Pass::BackwardWeight => rank!(
            Algorithm::BackwardWeight,
            cudnnConvolutionBwdFilterAlgoPerf_t,
            |asked, returned, answers| {
                result::get_convolution_backward_filter_algorithm(
                    handle,
                    x,
                    y,
                    convolution,
                    weight,
                    asked,
                    returned,
                    answers,
                )
            }
        ),
    }
}

impl Algorithm {
    /// Bytes of working memory that it needs.
    pub(super) fn workspace(self, handle: cudnnHandle_t, with: &Descriptors) -> Result<usize, CudnnError> {
        let (x, weight, y, convolution) = (with.x.0, with.weight.0, with.y.0, with.convolution.0);
        // SAFETY: descriptors and handle are alive.
        unsafe {
            match self {
                Algorithm::Forward(algorithm) => result::get_convolution_forward_workspace_size(
                    handle,
                    x,
                    weight,
                    convolution,
                    y,
                    algorithm,
                ),
                Algorithm::BackwardInput(algorithm) => result::get_convolution_backward_data_workspace_size(
                    handle,
                    weight,
                    y,
                    convolution,
                    x,
                    algorithm,
                ),
                Algorithm::BackwardWeight(algorithm) => {
                    result::get_convolution_backward_filter_workspace_size(
                        handle,
                        x,
                        y,
                        convolution,
                        weight,
                        algorithm,
                    )
                }
            }
        }
    }

    /// Puts it on the handle's stream.
    ///
    /// # Safety
    /// The call's memory is of the device, of the sizes that the descriptors say, its working memory of `workspace`
    /// bytes, and stays until the stream has come past.
    pub(super) unsafe fn launch(
        self,
        with: &Descriptors,
        workspace: usize,
        call: &Call,
    ) -> Result<(), CudnnError> {
        let (x_like, weight_like, y_like, convolution) =
            (with.x.0, with.weight.0, with.y.0, with.convolution.0);
        let [x, weight, y] = call.maps.map(pointer);
        let space = pointer(call.workspace);
        // Read before the call returns.
        let (one, keep): (f32, f32) = (1.0, if call.add { 1.0 } else { 0.0 });
        let (alpha, beta) = ((&raw const one).cast::<c_void>(), (&raw const keep).cast::<c_void>());
        let handle = call.handle;
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle,
                    alpha,
                    x_like,
                    x,
                    weight_like,
                    weight,
                    convolution,
                    algorithm,
                    space,
                    workspace,
                    beta,
                    y_like,
                    y,
                ),
                Algorithm::BackwardInput(algorithm) => result::convolution_backward_data(
                    handle,
                    alpha,
                    weight_like,
                    weight,
                    y_like,
                    y,
                    convolution,
                    algorithm,
                    space,
                    workspace,
                    beta,
                    x_like,
                    x,
                ),
                Algorithm::BackwardWeight(algorithm) => result::convolution_backward_filter(
                    handle,
                    alpha,
                    x_like,
                    x,
                    y_like,
                    y,
                    convolution,
                    algorithm,
                    space,
                    workspace,
                    beta,
                    weight_like,
                    weight,
                ),
            }
        }
    }
}
