//! The commands of the registry's log, what applying one says, and why one is refused.
//!
//! Every command names what its author saw (epoch, incarnation, move, index). What depends
//! on time or chance was judged by the proposer and stands in the command.

use crate::id::{ClusterId, Epoch, Incarnation, LogIndex, MoveId, NodeId, ShardId};

use super::row::{LockId, NodeInfo, Rebalance};

/// Feature level of this build; see `Command::level`.
pub const FEATURE_LEVEL: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// First entry of a cluster: names it and admits the founder as node 1.
    Found {
        cluster: ClusterId,
        founder: NodeInfo,
        directory: u128,
        shard_count: u32,
        lease_ms: u32,
    },
    /// Admits a directory. The same directory again answers the same id. Marks every other
    /// node of the same name, whose last renewal must be the one the proposer judged dead.
    Join {
        info: NodeInfo,
        directory: u128,
        replaces: Vec<(NodeId, LogIndex)>,
    },
    /// The founding set has joined: shards may be assigned from here on.
    Form {
        unix_seconds: u32,
        highest_epoch_found: Epoch,
    },
    Register(Register),
    /// All renewals of one tick; refused one by one.
    Renew {
        sessions: Vec<(NodeId, Incarnation)>,
    },
    /// Ends a session whose last renewal is the one named; atomic.
    Fence {
        node: NodeId,
        incarnation: Incarnation,
        renewed: LogIndex,
    },
    /// As Fence, on proof that the process is dead: needs no renewal compare.
    ReportDeath {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The node itself stopped admitting and no handler can acknowledge; atomic.
    CloseInPlace {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// Ends the session of a draining node that owns and receives nothing.
    Close {
        node: NodeId,
        incarnation: Incarnation,
    },
    DrainRestart {
        node: NodeId,
        incarnation: Incarnation,
    },
    DrainRemoval {
        node: NodeId,
    },
    CancelDrain {
        node: NodeId,
    },
    /// As DrainRestart, asked by the incarnation itself.
    Leave {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// The incarnation takes its own `Leave` back.
    Stay {
        node: NodeId,
        incarnation: Incarnation,
    },
    /// DrainRestart of every Up node in one entry.
    StopAll,
    /// Forced removal: only marks.
    Mark {
        node: NodeId,
    },
    /// Ends a node for ever; from Closed, Fenced or Joining, and only draining for removal or marked.
    Remove {
        node: NodeId,
        incarnation: Incarnation,
    },
    Assign {
        items: Vec<Assign>,
    },
    BeginMove {
        items: Vec<BeginMove>,
    },
    CommitMove {
        items: Vec<MoveRef>,
    },
    AbortMove {
        items: Vec<MoveRef>,
    },
    Configure(Configure),
    /// All rights under the previous lease have ended.
    SettleLease {
        previous_since: LogIndex,
    },
    RaiseLevel {
        level: u32,
    },
    AcquireOperatorEpoch,
    /// A command of an operator; refused unless its epoch is the one in force.
    Guarded {
        operator_epoch: u64,
        command: Box<Command>,
    },
    /// Nothing: a leader's proof that it still reaches a quorum.
    Blank,
}

impl Command {
    /// The lowest feature level that understands the command: no leader proposes one above
    /// the cluster's level (S10).
    pub fn level(&self) -> u32 {
        match self {
            Self::Guarded { command, .. } => command.level(),
            Self::Found { .. }
            | Self::Join { .. }
            | Self::Form { .. }
            | Self::Register(_)
            | Self::Renew { .. }
            | Self::Fence { .. }
            | Self::ReportDeath { .. }
            | Self::CloseInPlace { .. }
            | Self::Close { .. }
            | Self::DrainRestart { .. }
            | Self::DrainRemoval { .. }
            | Self::CancelDrain { .. }
            | Self::Leave { .. }
            | Self::Stay { .. }
            | Self::StopAll
            | Self::Mark { .. }
            | Self::Remove { .. }
            | Self::Assign { .. }
            | Self::BeginMove { .. }
            | Self::CommitMove { .. }
            | Self::AbortMove { .. }
            | Self::Configure(_)
            | Self::SettleLease { .. }
            | Self::RaiseLevel { .. }
            | Self::AcquireOperatorEpoch
            | Self::Blank => 1,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    pub node: NodeId,
    /// The incarnation this one replaces, as its author saw it.
    pub replaces: Incarnation,
    pub incarnation: Incarnation,
    pub info: NodeInfo,
    pub lock: Option<LockId>,
    /// Last renewal of the replaced incarnation that the proposer judged past its expiry;
    /// compared when the replaced session still counts as Up and there is no proof.
    pub renewed: LogIndex,
    /// The lock proves that the replaced process is dead.
    pub proof: bool,
    /// With proof: take its shards again at epoch + 1 (not for the third time in 60 s).
    pub reown: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assign {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub target: NodeId,
    pub incarnation: Incarnation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeginMove {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub target: NodeId,
    pub incarnation: Incarnation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoveRef {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub id: MoveId,
}

/// Settings to change; `None` leaves one as it is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Configure {
    pub lease_ms: Option<u32>,
    pub rebalance: Option<Rebalance>,
    pub max_moves: Option<u32>,
    pub max_moves_per_node: Option<u32>,
    pub cooldown_ms: Option<u32>,
    pub max_voters: Option<u32>,
    pub max_learners: Option<u32>,
    /// Never changes anything: a value other than the founded one is refused, naming both.
    pub shard_count: Option<u32>,
}

/// What an applied command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Done,
    Joined {
        node: NodeId,
    },
    Registered {
        reowned: u32,
        lease_ms: u32,
    },
    /// Those refused, with the lease in force for all others.
    Renewed {
        refused: Vec<NodeId>,
        lease_ms: u32,
    },
    /// Shards that lost their owner by this entry.
    Unassigned {
        shards: u32,
    },
    /// Item by item, in the order of the command: `None` = applied.
    Items {
        refused: Vec<Option<Refused>>,
    },
    OperatorEpoch {
        epoch: u64,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("this log already belongs to cluster {0}")]
    AlreadyFounded(ClusterId),
    #[error("no cluster is founded in this log")]
    NotFounded,
    #[error("the cluster is already formed")]
    AlreadyFormed,
    #[error("the cluster is not formed yet")]
    NotFormed,
    #[error("no node {0} in this cluster")]
    UnknownNode(NodeId),
    #[error("node {0} has left this cluster for ever")]
    NodeLeft(NodeId),
    #[error("node name {name:?} is in use by {node} at {address}")]
    NameInUse { name: String, node: NodeId, address: String, renewed: LogIndex },
    #[error("node {node} is at incarnation {current}, not {seen}")]
    StaleIncarnation { node: NodeId, seen: Incarnation, current: Incarnation },
    #[error(
        "node {node} registered run {known} already, run {offered} comes from a restored copy of its directory: wipe to join anew"
    )]
    RestoredCopy { node: NodeId, offered: u64, known: u64 },
    #[error("node {node} renewed at {current} after {seen}")]
    Renewed { node: NodeId, seen: LogIndex, current: LogIndex },
    #[error("node {0} is marked for removal")]
    Marked(NodeId),
    #[error("node {0} is not up")]
    NotUp(NodeId),
    #[error("node {0} is not draining")]
    NotDraining(NodeId),
    #[error("node {0} stops, or its disk is slow: only it can take this drain back")]
    OwnDrain(NodeId),
    #[error("node {0} is already draining for removal")]
    DrainingForRemoval(NodeId),
    #[error("node {0} has closed: its drain can no longer be cancelled")]
    Closed(NodeId),
    #[error("node {0} is draining and can be no target")]
    NotATarget(NodeId),
    #[error("node {node} still owns {owned} and receives {receiving} shards")]
    StillOwns { node: NodeId, owned: u32, receiving: u32 },
    #[error(
        "node {0} may be removed only when closed, fenced or joining, and draining for removal or marked"
    )]
    NotRemovable(NodeId),
    #[error("no shard {0}")]
    UnknownShard(ShardId),
    #[error("shard {shard} is at {current:?}, not {seen:?}")]
    StaleEpoch { shard: ShardId, seen: Epoch, current: Epoch },
    #[error("shard {0} is not unassigned")]
    NotUnassigned(ShardId),
    #[error("shard {0} is not owned at rest")]
    NotOwned(ShardId),
    #[error("shard {shard} is not in move {id}")]
    NotMoving { shard: ShardId, id: MoveId },
    #[error("shard {0} already belongs to the target")]
    SameNode(ShardId),
    #[error("{field} is {value}, allowed: {allowed}")]
    OutOfRange { field: &'static str, value: u64, allowed: &'static str },
    #[error("SHARDS is {founded} since the cluster was founded and cannot become {asked}")]
    ShardCountFixed { founded: u32, asked: u32 },
    #[error("no previous lease of that change is unsettled")]
    NothingToSettle,
    #[error("feature level {asked} is not above {current}, or a node does not know it")]
    Level { asked: u32, current: u32 },
    #[error("node {node} knows feature level {known}, this cluster is at {required}")]
    LevelTooLow { node: String, known: u32, required: u32 },
    #[error("operator epoch {seen} is not the one in force, {current}")]
    OperatorEpoch { seen: u64, current: u64 },
    #[error("a batch of {0} items is over the limit")]
    BatchTooLarge(usize),
}
