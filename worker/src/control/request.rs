//! What may be asked of the leader, and how it answers.

use std::time::Duration;

use shoal_core::{
    handoff::Report,
    id::{Incarnation, LogIndex, NodeId, ShardId},
    planner::Plan,
    registry::{Command, Event, LockId, NodeInfo, Refused},
};
use tokio::sync::oneshot;

/// One request and where its answer goes.
pub(super) struct Envelope {
    pub request: Request,
    pub reply: Reply,
}

pub(super) type Reply = oneshot::Sender<Result<Granted, Denied>>;

#[derive(Debug)]
pub enum Request {
    Join {
        info: NodeInfo,
        directory: u128,
    },
    Register(Register),
    Renew(Renew),
    /// What an owner says of a move.
    Report(Report),
    /// A command whose author saw all that it names.
    Propose(Command),
    /// Somebody wants this shard on this node.
    Move {
        shard: ShardId,
        to: NodeId,
        /// The operator's, where one asks: an older one is refused.
        operator_epoch: Option<u64>,
    },
    TransferLeader {
        to: Option<NodeId>,
        operator_epoch: Option<u64>,
    },
    /// What would be done now.
    Plan,
    /// Which nodes have a table that is known to be current.
    Current,
    /// Commits an empty entry: whatever is read afterwards is not older than this request.
    Barrier,
}

#[derive(Debug)]
pub struct Register {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub info: NodeInfo,
    pub lock: Option<LockId>,
}

#[derive(Debug)]
pub struct Renew {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub table: LogIndex,
    /// Until when a process that was told to stop must have handed its shards over.
    pub leaves_within: Option<Duration>,
}

/// It took effect.
#[derive(Debug)]
pub struct Granted {
    pub index: LogIndex,
    pub lease_ms: u32,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    Event(Event),
    Plan(Plan),
    Current(Vec<NodeId>),
    Noted,
}

/// It did not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("this node is not the leader")]
    NotLeader { leader: Option<NodeId> },
    /// Nothing is wrong; the same request may succeed later.
    #[error("{0}")]
    Later(String),
    /// The table of the asking node misses more than two leases.
    #[error("the table of this node is too far behind")]
    TableBehind,
    /// Only the answer was lost.
    #[error("this incarnation is registered already")]
    AlreadyRegistered,
    /// The directory may never register or join here.
    #[error("{0}")]
    Identity(String),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{0}")]
    Impossible(String),
}
