//! Where the time of training steps went: waiting for pictures, the network node by node, the update, and the rest.
//!
//! Never here: the clock; the loop hands its measurements in.

use engine::Profile;

/// The steps of a run's last session, but for the first, which plans and warms up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainingProfile {
    /// Architecture.
    pub arch: String,
    /// Threads that computed.
    pub threads: usize,
    /// Optimizer steps that were measured.
    pub steps: u64,
    /// Pictures of these steps; views count.
    pub pictures: u64,
    /// Seconds of these steps.
    pub seconds: f64,
    /// Of these, waiting for pictures.
    pub waiting: f64,
    /// Of these, clipping, the optimizer and the moving average.
    pub update: f64,
    /// Of these, the moving average's own answers, where the method asks it.
    pub average: f64,
    /// The network that learns.
    pub network: Profile,
}

impl TrainingProfile {
    /// Seconds within the network that learns, forward and backward.
    pub fn within(&self) -> f64 {
        self.network.seconds().iter().sum()
    }

    /// Seconds of everything else: the loss, a teacher's answers, copies of pictures and outputs.
    pub fn rest(&self) -> f64 {
        (self.seconds - self.waiting - self.update - self.average - self.within()).max(0.0)
    }
}
