//! Which of several pipes from one thread of one peer still counts.
//!
//! A caller opens a newer pipe when it gave the older one up, and sends again what the older
//! one may have lost. What was not admitted from the older one by then never will be.

use std::collections::BTreeMap;

use crate::handoff::Process;

/// One IO thread of one run of a peer: it has one pipe to us at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub peer: Process,
    pub thread: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub u64);

#[derive(Clone, Debug, Default)]
pub struct Generations {
    newest: BTreeMap<Origin, Generation>,
}

impl Generations {
    /// False when a newer one is open already: this pipe came late, close it.
    pub fn open(&mut self, origin: Origin, generation: Generation) -> bool {
        let newest = self.newest.entry(origin).or_insert(generation);
        *newest = generation.max(*newest);
        *newest == generation
    }

    /// Asked in the same step that admits a frame; a frame that may not is dropped without
    /// an answer, for nobody waits for one.
    pub fn may_admit(&self, origin: Origin, generation: Generation) -> bool {
        self.newest.get(&origin).is_some_and(|newest| *newest == generation)
    }

    /// A run of a peer that has ended opens nothing more.
    pub fn forget(&mut self, peer: Process) {
        self.newest.retain(|origin, _| origin.peer != peer);
    }
}
