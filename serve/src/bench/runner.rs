//! What is measured: an engine that is ready to run, and the pictures that it is given. Never here: a clock.

use models::Graph;

use crate::pipeline::Target;
use crate::{Card, Engine, Result, Served};

/// Pictures that the calls go through.
pub(super) const PICTURES: usize = 16;

/// An engine, ready to run.
pub(super) struct Runner {
    pub engine: Box<dyn Engine>,
    served: Served,
}

impl Runner {
    pub fn start(served: Served) -> Result<Self> {
        Ok(Self { engine: served.engine()?, served })
    }

    /// The model once more, for a server of its own.
    pub fn served_again(&self) -> Served {
        self.served.clone()
    }

    /// What the model says of itself.
    pub fn card(&self) -> &Card {
        self.served.card()
    }

    /// The network, where it is known.
    pub fn graph(&self) -> Option<&Graph> {
        self.served.graph()
    }

    /// What a picture must become for it.
    pub fn target(&self) -> Target {
        self.served.target()
    }

    /// `count` pictures of the network's size, one after the other.
    pub fn pictures(&self, count: usize) -> Vec<u8> {
        let Card { channels, height, width, .. } = *self.card();
        (0..count).flat_map(|index| models::formula::picture(index, channels, height, width)).collect()
    }
}
