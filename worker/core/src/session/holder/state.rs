//! Where one incarnation of the process stands, and what follows from that alone.

use std::time::Duration;

use crate::{id::Timestamp, session::lease::Lease};

use super::{Call, Why};

/// Handlers of a lost incarnation that still run after this end the process.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Closed, but not told to stop within this: the restart was called off.
const STOP_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A new incarnation is being made durable.
    Unregistered,
    /// `known`: its Register was applied, only the answer was lost.
    Registering {
        known: bool,
    },
    Registered,
    Closing {
        then: Then,
        since: Timestamp,
    },
    /// Everything is closed; the registry learns it so that nobody waits for the expiry.
    Reporting {
        then: Then,
        since: Timestamp,
    },
    /// Closed after its drain: nothing held, nothing asked.
    Closed {
        since: Timestamp,
        for_ever: bool,
    },
    Ended,
}

/// Why the shards are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    RegisterAnew,
    /// Report CloseInPlace first, then end.
    Exit(Why),
}

impl State {
    /// What is asked of the leader over and over in this state.
    pub(super) fn call(self) -> Option<Call> {
        match self {
            Self::Registering { known: false } => Some(Call::Register),
            Self::Registering { known: true }
            | Self::Registered
            | Self::Closing { then: Then::Exit(_), .. } => Some(Call::Renew),
            Self::Reporting { .. } => Some(Call::CloseInPlace),
            Self::Unregistered
            | Self::Closing { then: Then::RegisterAnew, .. }
            | Self::Closed { .. }
            | Self::Ended => None,
        }
    }

    /// Closed for its removal: nothing but the table ends that.
    pub(super) fn is_parked(self) -> bool {
        matches!(self, Self::Closed { for_ever: true, .. })
    }

    /// The instant at which the state has lasted too long.
    pub(super) fn overdue_at(self, lease: Lease) -> Option<Timestamp> {
        match self {
            Self::Closing { since, .. } => Some(since.plus(CLOSE_WITHIN)),
            Self::Reporting { since, .. } => Some(since.plus(lease.length())),
            Self::Closed { since, for_ever: false } => Some(since.plus(STOP_WITHIN)),
            Self::Closed { for_ever: true, .. }
            | Self::Unregistered
            | Self::Registering { .. }
            | Self::Registered
            | Self::Ended => None,
        }
    }
}
