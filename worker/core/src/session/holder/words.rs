//! What the holder hears and says. Data only.

use crate::{
    id::{Incarnation, LogIndex, NodeId, Timestamp},
    registry::{Drain, Life},
    session::lease::Lease,
};

use super::RequestId;

/// What the session asks of the leader, through any member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Register,
    Renew,
    CloseInPlace,
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The member asked last.
    Usual,
    Another,
    Member(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Applied at `index`, with the lease in force there.
    Granted {
        index: LogIndex,
        lease: Lease,
    },
    NotLeader {
        hint: Option<NodeId>,
    },
    Refused(Refusal),
    /// No connection, or none any more.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not formed, or the replaced session may still live.
    Retry,
    AlreadyRegistered,
    /// This incarnation's session is over.
    Stale,
    /// It was closed as it asked to be.
    Closed,
    /// Its table misses more than 2 L.
    TableBehind,
    Marked,
    Left,
    /// This directory may never register.
    Identity,
}

/// The node's own row as its table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnRow {
    pub incarnation: Incarnation,
    pub life: Life,
    pub drain: Drain,
    pub marked: bool,
}

impl OwnRow {
    /// The row of a node that left so long ago that it has none.
    pub const LEFT: Self = Self {
        incarnation: Incarnation { counter: 0, nonce: 0 },
        life: Life::Left,
        drain: Drain::Removal,
        marked: false,
    };
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// A counter made durable and a fresh nonce, asked for by `NewIncarnation`.
    Incarnation(Incarnation),
    /// The clock moved on; `jitter` is drawn anew from 0 to 1.
    Wake {
        jitter: f64,
    },
    /// The oldest of the last ticks of every IO thread and executor; since when the disk's
    /// probe is pending.
    Health {
        oldest_tick: Timestamp,
        probe_pending_since: Option<Timestamp>,
    },
    Answered {
        request: RequestId,
        answer: Answer,
    },
    /// The table was read up to `index`.
    Table {
        index: LogIndex,
        row: Option<OwnRow>,
    },
    /// No handler of the incarnation runs and every host has closed its shards.
    AllClosed(Incarnation),
    /// Told to stop: hands its shards over first.
    Leaving,
    ToldToStop,
    /// Told to stop, and nobody takes the shards: close them in place.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for an incarnation.
    NewIncarnation,
    /// The clocks were read before this was returned: they are the request's t_s.
    Send {
        request: RequestId,
        call: Call,
        incarnation: Incarnation,
        via: Via,
    },
    /// The watching thread stops serving at `right`; replaces every earlier one.
    ServeUntil {
        right: Timestamp,
    },
    /// The right has ended: admit nothing, acknowledge nothing, cancel what overruns.
    StopServing,
    /// Admit nothing more for this incarnation, close its shards, report `AllClosed`.
    CloseAll(Incarnation),
    /// The disk is slow: ask that somebody else have the shards. Repeated until the table shows it.
    Leave,
    /// The disk is well again: take that back.
    Stay,
    /// The table lags: read it from another member.
    ChangeSource,
    Exit(Why),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Told to stop, and nothing is held any more.
    Stopped,
    /// Handlers of a lost incarnation could not be ended in time.
    StillRunning,
    Marked,
    Left,
    Identity,
}
