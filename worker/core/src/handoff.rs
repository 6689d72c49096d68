//! Planned moves: the state travels while the owner serves, the owner stops, the table decides.
//!
//! [`Shard`] is one shard as one node sees it: it opens and closes the host as the table says
//! and runs the owner's side ([`source`]) and the receiving side ([`target`]) of its moves.
//! [`Leader`] turns what owners report into `CommitMove` and `AbortMove`. Every message is
//! keyed by shard, epoch and move. The bytes, the calls and the host belong to the shell: here
//! only their lengths, their ends and the order of steps are known.

pub mod leader;
pub mod shard;
pub mod source;
pub mod target;

#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::{
    admit::MIN_PARK,
    id::{Epoch, Incarnation, LogIndex, MoveId, NodeId, Timestamp},
    registry::MoveRef,
};

pub use leader::Leader;
pub use shard::{Local, Shard, Tombstone};

/// How long admitted calls may take to finish once the owner stopped admitting.
pub const DRAIN_CAP: Duration = Duration::from_secs(2);
/// How long the rest and its acknowledgement may take: five times the expected 200 ms.
pub const REST_CAP: Duration = Duration::from_secs(1);
/// A remainder that the first phase's rate carries in this time may be sent with calls parked.
pub const REST_TIME: Duration = Duration::from_millis(200);
/// Most state of a host that cannot export while it serves: 200 ms at 20 MiB/s.
pub const SMALL_STATE: u64 = 4 << 20;
/// One chunk leaves in one piece: its time is the network's delay, not a rate.
pub const ONE_CHUNK: u64 = 32 << 10;
/// Rounds of the first phase that may pass without the remainder getting smaller.
pub const STUBBORN_ROUNDS: u8 = 3;
/// Longest wait for a target's `Prepare`; the owner serves meanwhile.
pub const PREPARE_CAP: Duration = Duration::from_secs(30);
/// Longest wait for the next round of the first phase; the owner serves meanwhile.
pub const STREAM_CAP: Duration = Duration::from_secs(30);
/// Pause between two sendings of a message or report that may have been lost.
pub const REPEAT: Duration = Duration::from_millis(200);
/// Pause between two reports that a move is under way: 64 moves cost the leader 32 a second.
pub const WORKING: Duration = Duration::from_secs(2);
/// A leader gives a move up that its owner has not spoken of for so long: five lost reports.
pub const SILENCE: Duration = Duration::from_secs(10);
/// Pause before a command is proposed again whose fate is unknown.
pub const PROPOSE_AGAIN: Duration = Duration::from_secs(1);
/// An owner that must leave within this has time for one attempt only: prepare, drain, rest.
pub const LAST_ATTEMPT: Duration = Duration::from_secs(5);

// A parked call must outlast the drain by a second, and drain and rest together.
const _: () = assert!(DRAIN_CAP.as_millis() + 1_000 < MIN_PARK.as_millis());
const _: () = assert!(DRAIN_CAP.as_millis() + REST_CAP.as_millis() < MIN_PARK.as_millis());

/// One run of one node: what a row names as owner or target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Process {
    pub node: NodeId,
    pub incarnation: Incarnation,
}

impl Process {
    pub fn new(node: NodeId, incarnation: Incarnation) -> Self {
        Self { node, incarnation }
    }
}

/// Length and digest of all the state that was sent, or received, for one move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Whole {
    pub length: u64,
    pub digest: u64,
}

/// What owner and target say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub key: MoveRef,
    pub body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Owner: make ready, for the incarnation that the row names.
    Prepare { target: Incarnation },
    /// Owner: all was sent, this is what you should hold.
    Whole(Whole),
    /// Target: ready for the state.
    Prepared,
    /// Target: holds all of it, and keeps it until the row says otherwise.
    Holds(Whole),
    /// Target: will not take this move.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("the target runs under another incarnation")]
    OtherIncarnation,
    #[error("the target knows no such move, or knows that it is over")]
    Over,
    #[error("the target's host could not prepare")]
    CannotPrepare,
    #[error("the target holds {0:?}")]
    Differs(Whole),
}

/// What an owner says to the leader, repeated until the row changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub key: MoveRef,
    pub source: Process,
    pub target: Process,
    pub news: News,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Under way; the owner still serves or drains.
    Working,
    /// The target holds the whole and the owner serves no more: commit.
    Released,
    /// The owner serves on and will never release for this move: abort.
    GaveUp(GiveUp),
}

/// Why an owner ended a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GiveUp {
    #[error("the target did not prepare in time")]
    SlowPrepare,
    #[error("the state did not arrive in time")]
    SlowTransfer,
    #[error("the state changes faster than it travels")]
    NotConverging,
    #[error("the host cannot export while it serves and holds {0} bytes")]
    TooLarge(u64),
    #[error("admitted calls did not finish in time")]
    SlowCalls,
    #[error("the transfer broke")]
    Broken,
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// What the shell of a node does. Host work of one shard is done in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Send {
        to: Process,
        message: Message,
    },
    Report(Report),
    /// Let the host make ready, without effects; then [`Step::Prepared`].
    Prepare(MoveRef),
    /// Send one more round of the state while serving; then [`Step::Round`] or [`Step::Measured`].
    Export {
        key: MoveRef,
        to: Process,
    },
    /// Admit no more; [`Step::Idle`] as soon as no admitted call runs.
    Drain(MoveRef),
    /// Cancel the calls that still run and count them as failed.
    CancelCalls(MoveRef),
    /// Freeze the host, keep its state, send the rest; then [`Step::RestSent`].
    Freeze {
        key: MoveRef,
        to: Process,
    },
    /// Send nothing more for this move.
    StopTransfer(MoveRef),
    /// Admit again; the host never froze.
    Resume(MoveRef),
    /// Open the host; then `shard::Event::Opened`.
    Open {
        epoch: Epoch,
        with: State,
    },
    /// Close the host and forget its state, the frozen one too.
    Close,
    /// Forget the state received for this move.
    Discard(MoveRef),
}

/// What a host is opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Assigned or failed over: nobody handed anything over.
    Empty,
    /// Its own state from before the move that was given up.
    Frozen,
    Received(MoveId),
}

/// What the shell finished, or failed to do, for one move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepared,
    CannotPrepare,
    /// A round was sent, and so many bytes have changed since.
    Round {
        sent: u64,
        remainder: u64,
    },
    /// The host cannot export while it serves; this is all that it holds.
    Measured {
        total: u64,
    },
    Idle,
    RestSent(Whole),
    /// The stream or the host failed.
    Broken,
    /// The target stored a piece; this is what it holds by now.
    Stored(Whole),
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Output {
    pub actions: Vec<Action>,
    pub wake_at: Option<Timestamp>,
}

/// The index at which a move began, which is also the index of its row while it lasts.
fn began(id: MoveId) -> LogIndex {
    LogIndex(id.0)
}

/// The earlier of two wake-ups, clock by clock: early is harmless, late is not.
fn earlier(left: Option<Timestamp>, right: Option<Timestamp>) -> Option<Timestamp> {
    match (left, right) {
        (Some(left), Some(right)) => {
            Some(Timestamp::new(left.boottime.min(right.boottime), left.raw.min(right.raw)))
        }
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    }
}
