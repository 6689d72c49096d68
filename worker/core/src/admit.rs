//! Who may run a call, and what becomes of a call that was not answered.
//!
//! [`owner`] decides at the node that received a frame, [`ingress`] at the node that sent it,
//! [`generations`] which of two pipes between them still counts. Pure functions over facts
//! that one atomic snapshot gave; waiting, queues and bytes belong to the shell.

pub mod generations;
pub mod ingress;
pub mod owner;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::{
    id::{Epoch, LogIndex, MapVersion, NodeId},
    registry::LEASES_MS,
};

/// Deadline of a call that names none: gRPC has no default, and without an end a call parks for ever.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// Sendings of one call that a busy receiver, or one that finds it too late, may refuse.
pub const MAX_ATTEMPTS: u8 = 4;
/// Bytes parked for one shard: four of the largest payloads, or 2 s of 8 MiB/s to one shard.
pub const PARK_PER_SHARD: u64 = 16 << 20;
/// Bytes parked on one node: keeps a worker within its memory when many shards move at once.
pub const PARK_PER_NODE: u64 = 64 << 20;
/// A call stays parked for a lease, in which a dead owner's session ends, and this much for
/// the fence, the assignment and the opening.
pub const PARK_BEYOND_LEASE: Duration = Duration::from_secs(2);
/// Shortest park that any lease allows; a drain must fit into it.
pub const MIN_PARK: Duration =
    PARK_BEYOND_LEASE.saturating_add(Duration::from_millis(*LEASES_MS.start() as u64));
/// How long a receiver behind its caller waits for its own table: some renewal ticks.
pub const STALE_WAIT: Duration = Duration::from_millis(50);

/// What a second execution of the method would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Twice is not once: never resent when it may have run.
    Plain,
    Idempotent,
    /// The host finds the second by its call id.
    Deduplicated,
}

impl Class {
    pub fn may_run_twice(self) -> bool {
        match self {
            Class::Plain => false,
            Class::Idempotent | Class::Deduplicated => true,
        }
    }
}

/// What a frame says of its sender's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub epoch: Epoch,
    pub map_version: MapVersion,
    /// What is left of the deadline.
    pub budget: Duration,
}

/// A promise that the call was not admitted and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    NotOwner {
        owner: Option<NodeId>,
        epoch: Epoch,
        row: LogIndex,
    },
    Moving {
        row: LogIndex,
    },
    Busy {
        after: Duration,
    },
    /// The receiver's table is behind, or it has no right to serve at the moment.
    StaleReceiver,
    Expired,
}
