//! Admission at the receiver: run the call, wait a little, or promise that it never ran.
//!
//! Nothing is forwarded from here. The facts must be one snapshot, and the answer is acted on
//! without an await in between.

use std::time::Duration;

use super::{Header, Nack, STALE_WAIT};
use crate::{
    handoff::{Local, Process},
    id::{Epoch, LogIndex, MapVersion, Timestamp},
    registry::ShardRow,
};

/// Pause that a full queue asks for: the time in which it drains by some dozen calls.
pub const BUSY_PAUSE: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub me: Process,
    /// The shard's row in the table of this node, none before the first table.
    pub row: Option<ShardRow>,
    /// Index and map version that the table has applied.
    pub applied: LogIndex,
    pub map_version: MapVersion,
    pub local: Local,
    /// End of the right to serve.
    pub right: Timestamp,
    pub now: Timestamp,
    pub header: Header,
    /// How long this frame has waited here already.
    pub waited: Duration,
    pub queue: Queue,
}

/// The shard's queue in front of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub calls: u32,
    pub max_calls: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    pub verdict: Verdict,
    /// The caller knows a higher epoch than the one served here: serve nothing more
    /// (`handoff::shard::Event::NewerEpoch`).
    pub stop_serving: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Admit {
        /// The token of the call, to be named again in [`recheck`].
        epoch: Epoch,
        /// The caller's table is behind: tell it owner, epoch and row in the answer.
        hint: bool,
    },
    /// Decide again when the shard's row or host changes, at the latest after this.
    Wait(Duration),
    Nack(Nack),
}

pub fn admit(facts: &Facts) -> Admission {
    let served = served_epoch(facts.local);
    Admission {
        verdict: verdict(facts),
        stop_serving: served.is_some_and(|epoch| facts.header.epoch > epoch),
    }
}

fn verdict(facts: &Facts) -> Verdict {
    let left = facts.header.budget.saturating_sub(facts.waited);
    if left.is_zero() {
        return Verdict::Nack(Nack::Expired);
    }
    let Some(row) = facts.row else {
        return behind(facts);
    };
    if facts.header.epoch > row.epoch || row.changed > facts.applied {
        return behind(facts);
    }
    if row.owner() != Some((facts.me.node, facts.me.incarnation)) {
        return not_owner(facts, &row);
    }
    // A process that has just registered gets its right with the answer, a moment after the
    // row that made it an owner.
    if facts.now.maybe_past(facts.right) {
        return behind(facts);
    }
    match facts.local {
        Local::Open { epoch } if epoch == row.epoch => {
            at_queue(facts, || Verdict::Admit { epoch, hint: facts.header.epoch < epoch })
        }
        // The row is this node's, the host follows: no row will change when it is open, so
        // the call waits here and not parked at its sender.
        Local::Open { .. } | Local::Opening { .. } | Local::Closed { .. } => {
            at_queue(facts, || Verdict::Wait(left))
        }
        Local::Draining { id, .. } | Local::Frozen { id, .. } => {
            Verdict::Nack(Nack::Moving { row: LogIndex(id.0) })
        }
        Local::Superseded { .. } => Verdict::Nack(Nack::StaleReceiver),
    }
}

/// The caller's table is ahead: give this one a moment to follow.
fn behind(facts: &Facts) -> Verdict {
    let patience = STALE_WAIT.min(facts.header.budget / 4);
    match patience.checked_sub(facts.waited) {
        Some(left) if !left.is_zero() => Verdict::Wait(left),
        Some(_) | None => Verdict::Nack(Nack::StaleReceiver),
    }
}

fn not_owner(facts: &Facts, row: &ShardRow) -> Verdict {
    // An assignment keeps the epoch of the unassigned row, so the epoch alone does not show
    // that the caller saw a newer row.
    if facts.header.epoch == row.epoch && facts.header.map_version > facts.map_version {
        return behind(facts);
    }
    Verdict::Nack(match facts.local {
        Local::Closed { tombstone: Some(tombstone) } if tombstone.row > row.changed => {
            Nack::NotOwner { owner: tombstone.to, epoch: tombstone.epoch, row: tombstone.row }
        }
        Local::Closed { .. }
        | Local::Opening { .. }
        | Local::Open { .. }
        | Local::Draining { .. }
        | Local::Frozen { .. }
        | Local::Superseded { .. } => Nack::NotOwner {
            owner: row.owner().map(|(node, _)| node),
            epoch: row.epoch,
            row: row.changed,
        },
    })
}

fn at_queue(facts: &Facts, fits: impl FnOnce() -> Verdict) -> Verdict {
    if facts.queue.calls >= facts.queue.max_calls {
        return Verdict::Nack(Nack::Busy { after: BUSY_PAUSE });
    }
    fits()
}

fn served_epoch(local: Local) -> Option<Epoch> {
    match local {
        Local::Closed { .. } => None,
        Local::Opening { epoch }
        | Local::Open { epoch }
        | Local::Draining { epoch, .. }
        | Local::Frozen { epoch, .. }
        | Local::Superseded { epoch, .. } => Some(epoch),
    }
}

/// What must still be true right before the acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recheck {
    pub me: Process,
    /// The token under which the call was admitted.
    pub admitted: Epoch,
    pub row: Option<ShardRow>,
    pub local: Local,
    pub right: Timestamp,
    pub now: Timestamp,
}

/// Why an answer must not be given: whether it counts is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    #[error("the shard is no longer owned under epoch {0}")]
    NotOwner(Epoch),
    #[error("the right to serve has ended")]
    RightEnded,
    #[error("the state was already frozen for a move")]
    Frozen,
}

/// The acknowledgement itself: no await may stand between this and the answer. A drain does
/// not withhold, it waits for exactly these calls.
pub fn recheck(facts: &Recheck) -> Result<(), Withheld> {
    let not_owner = Withheld::NotOwner(facts.admitted);
    let row = facts.row.ok_or(not_owner)?;
    let mine = row.owner() == Some((facts.me.node, facts.me.incarnation));
    if !mine || row.epoch != facts.admitted {
        return Err(not_owner);
    }
    match facts.local {
        Local::Open { epoch } | Local::Draining { epoch, .. } if epoch == facts.admitted => {}
        Local::Frozen { .. } => return Err(Withheld::Frozen),
        Local::Closed { .. }
        | Local::Opening { .. }
        | Local::Open { .. }
        | Local::Draining { .. }
        | Local::Superseded { .. } => return Err(not_owner),
    }
    if facts.now.maybe_past(facts.right) {
        return Err(Withheld::RightEnded);
    }
    Ok(())
}
