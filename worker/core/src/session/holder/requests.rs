//! The requests in flight, each with the instant read before it was sent.
//!
//! Several at once: the next renewal does not wait for the last. Bounded, since each ends
//! within L / 4 and only a failed one is followed before its time.

use std::time::Duration;

use crate::id::Timestamp;

use super::Call;

/// Names one request of this process to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) call: Call,
    /// Both clocks before it was sent: t_s.
    pub(super) sent: Timestamp,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    last: u64,
    in_flight: Vec<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    None,
    Some,
}

impl Requests {
    pub(super) fn add(&mut self, call: Call, sent: Timestamp) -> RequestId {
        self.last += 1;
        let id = RequestId(self.last);
        self.in_flight.push(Request { id, call, sent });
        id
    }

    /// The request, once; `None` for one that timed out or was given up.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Request> {
        let position = self.in_flight.iter().position(|request| request.id == id)?;
        Some(self.in_flight.swap_remove(position))
    }

    /// Requests of an earlier incarnation: their answers concern nobody.
    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
    }

    pub(super) fn expire(&mut self, timeout: Duration, now: Timestamp) -> Failed {
        let before = self.in_flight.len();
        self.in_flight.retain(|request| now.at_most_since(request.sent) < timeout);
        if self.in_flight.len() < before { Failed::Some } else { Failed::None }
    }

    pub(super) fn until_expiry(&self, timeout: Duration, now: Timestamp) -> Option<Duration> {
        let ends = self.in_flight.iter().map(|request| request.sent.plus(timeout));
        ends.map(|end| now.until_maybe_past(end)).min()
    }
}
