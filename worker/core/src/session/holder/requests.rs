//! The requests in flight, each with the instant read before it was sent.
//!
//! Several at once: the next renewal does not wait for the last. Bounded, since each ends
//! within L / 4 and only a failed one is followed before its time.

use std::time::Duration;

use crate::id::Timestamp;

/// Names one request of this process to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    last: u64,
    in_flight: Vec<(RequestId, Timestamp)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    None,
    Some,
}

impl Requests {
    pub(super) fn sent(&mut self, now: Timestamp) -> RequestId {
        self.last += 1;
        let request = RequestId(self.last);
        self.in_flight.push((request, now));
        request
    }

    /// When the request was sent, once; `None` for one that timed out or was given up.
    pub(super) fn take(&mut self, request: RequestId) -> Option<Timestamp> {
        let position = self.in_flight.iter().position(|(id, _)| *id == request)?;
        Some(self.in_flight.swap_remove(position).1)
    }

    /// Requests of an earlier incarnation: their answers concern nobody.
    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
    }

    pub(super) fn expire(&mut self, timeout: Duration, now: Timestamp) -> Failed {
        let before = self.in_flight.len();
        self.in_flight.retain(|(_, sent)| now.at_most_since(*sent) < timeout);
        if self.in_flight.len() < before { Failed::Some } else { Failed::None }
    }

    pub(super) fn until_expiry(&self, timeout: Duration, now: Timestamp) -> Option<Duration> {
        let remaining =
            |(_, sent): &(RequestId, Timestamp)| now.until_maybe_past(sent.plus(timeout));
        self.in_flight.iter().map(remaining).min()
    }
}
