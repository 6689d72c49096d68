//! Sessions: who may serve, until when, and when the leader may take it away.
//!
//! The log is the lease: an applied renewal grants a right counted from before it was
//! sent, and an expiry counted from after it was applied, so the right ends first. Each
//! submodule is one machine or one judgement. None of them sends, proposes or reads a
//! clock; the thin shells around them do.

use std::time::Duration;

use crate::id::Timestamp;

pub mod expiry;
pub mod fencing;
pub mod freshness;
pub mod holder;
pub mod lease;
pub mod leave;
pub mod register;
pub mod repeats;

/// Shortest sleep asked for: two clocks of different rates never agree to the nanosecond.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// What a machine wants done, in order, and when it wants to be woken at the latest: by
/// whichever clock gets there first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Output<Action> {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

impl<Action> Output<Action> {
    fn sleeping(actions: Vec<Action>, sleep: Option<Duration>, now: Timestamp) -> Self {
        Self { actions, wake_at: sleep.map(|span| now.plus(span.max(SHORTEST_SLEEP))) }
    }
}

#[cfg(test)]
mod tests;
