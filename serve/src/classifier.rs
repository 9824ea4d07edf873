//! A model in this process: pictures in, answers out, one after the other. What `distill predict` uses; the server
//! puts a queue between.

use std::time::Instant;

use engine::Profile;
use picture::Limits;

use crate::http::wire::{Prediction, Times};
use crate::pipeline::{prepare, ranked};
use crate::{Card, Engine, Result, ServeError, Served};

/// A model with an engine of its own.
pub struct Classifier {
    served: Served,
    engine: Box<dyn Engine>,
    limits: Limits,
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Classifier").field(self.served.card()).finish()
    }
}

impl Classifier {
    /// Starts an engine for a loaded model.
    ///
    /// # Errors
    /// If the engine cannot start.
    pub fn new(served: Served) -> Result<Self> {
        let engine = served.engine()?;
        Ok(Self { served, engine, limits: Limits::default() })
    }

    /// The model.
    pub fn served(&self) -> &Served {
        &self.served
    }

    /// Takes the time of every node from here on, after an answer to a black picture that warms up.
    ///
    /// # Errors
    /// [`ServeError::NoProfile`] for an engine that does not tell, and the engine's own errors.
    pub fn start_profile(&mut self) -> Result<()> {
        let Card { channels, height, width, engine, .. } = *self.served.card();
        self.engine.run(&vec![0; channels * height * width])?;
        if self.engine.start_profile() {
            Ok(())
        } else {
            Err(ServeError::NoProfile { engine: engine.name() })
        }
    }

    /// What the nodes have taken since [`Classifier::start_profile`]; nothing without it.
    pub fn profile(&self) -> Profile {
        self.engine.profile().unwrap_or_default()
    }

    /// Classifies the bytes of a picture file; at most `top` classes are returned. Nothing waits in a queue here.
    ///
    /// # Errors
    /// [`crate::ServeError::Picture`] for bytes that are no picture, and the engine's own errors.
    pub fn classify(&mut self, bytes: &[u8], top: usize) -> Result<Prediction> {
        let begun = Instant::now();
        let prepared = prepare(bytes, self.served.target(), self.limits)?;
        let ready = Instant::now();
        let logits = self.engine.run(&prepared.pixels)?;
        let inference = ready.elapsed();
        let top = ranked(logits, &self.served.card().labels, top);
        let times_us = Times {
            decode: Times::micros(prepared.decode),
            preprocess: Times::micros(prepared.preprocess),
            queue: 0,
            inference: Times::micros(inference),
            total: Times::micros(begun.elapsed()),
        };
        Ok(Prediction { name: None, top, times_us })
    }
}
