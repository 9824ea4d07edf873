//! This toolkit's own engine: nothing to install.

use engine::{Images, Model, Profile};

use super::Engine;
use crate::Result;

/// A clone of the loaded network: weights shared with the other workers, working memory its own.
#[derive(Debug)]
pub struct Native(pub Model);

impl Engine for Native {
    fn run(&mut self, images: &[u8]) -> Result<&[f32]> {
        Ok(self.0.run(Images::U8(images))?)
    }

    fn run_values(&mut self, values: &[f32]) -> Result<&[f32]> {
        Ok(self.0.run(Images::F32(values))?)
    }

    fn start_profile(&mut self) -> bool {
        self.0.start_profile();
        true
    }

    fn profile(&self) -> Option<Profile> {
        Some(self.0.profile())
    }
}
