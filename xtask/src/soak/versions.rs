//! Which version of the model answers now, as far as it can be known: between the order to reload and its completion
//! either may.

use std::sync::{Mutex, PoisonError};

/// What is known at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Counts every change.
    epoch: u64,
    /// The version that answers; none while a reload is under way.
    settled: Option<usize>,
}

/// What is known, for all threads.
pub struct Versions(Mutex<Known>);

impl Versions {
    /// The version that the server starts with.
    pub fn new(first: usize) -> Self {
        Self(Mutex::new(Known { epoch: 0, settled: Some(first) }))
    }

    /// What is known now.
    pub fn now(&self) -> Known {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reload has come to nothing: what answered before goes on.
    pub fn restore(&self, before: Known) {
        self.change(before.settled);
    }

    /// A reload begins, or has put `settled` in place.
    pub fn change(&self, settled: Option<usize>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Known { epoch: known.epoch + 1, settled };
    }
}

impl Known {
    /// Whether `version` may answer a request that began at `self` and was answered at `then`.
    pub fn allows(self, version: usize, then: Self) -> bool {
        self.epoch != then.epoch || self.settled.is_none_or(|settled| settled == version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_version_may_answer_while_one_takes_the_others_place() {
        let versions = Versions::new(0);
        let before = versions.now();
        assert!(before.allows(0, versions.now()) && !before.allows(1, versions.now()));
        versions.change(None);
        let during = versions.now();
        assert!(before.allows(1, during) && during.allows(0, during) && during.allows(1, during));
        versions.change(Some(1));
        let after = versions.now();
        assert!(after.allows(1, after) && !after.allows(0, after) && during.allows(0, after));
    }
}
