//! What the registry holds: nodes, shards, settings. Data only; the rules are in `apply`.

use crate::id::{ClusterId, Epoch, Incarnation, LogIndex, MoveId, NodeId};

/// Fewest and most shards a cluster can be founded with; always a power of two.
pub const SHARD_COUNTS: std::ops::RangeInclusive<u32> = 16..=65_536;
/// Lease bounds in milliseconds.
pub const LEASES_MS: std::ops::RangeInclusive<u32> = 2_000..=60_000;
/// Items in one batch command: bounds the size of an entry and the time of one apply.
pub const MAX_BATCH: usize = 4_096;
/// Weight bounds of a node.
pub const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1_000;
/// Bounds of moves in flight, in all and per node: one batch can begin them.
pub const MOVES: std::ops::RangeInclusive<u32> = 1..=4_096;
/// Bounds of the pause between balancing rounds, in milliseconds: beyond an hour `Paused` is meant.
pub const COOLDOWNS_MS: std::ops::RangeInclusive<u32> = 0..=3_600_000;
/// Rows of nodes that left, the latest ones: they show who was here, and lead a process that
/// comes back late to the right conclusion; without their row an old id is enough for that.
pub const LEFT_KEPT: usize = 256;
/// How many voters a cluster may aim at.
pub const VOTERS: [u32; 4] = [1, 3, 5, 7];
/// Bounds of the learners: with hundreds of them sequential writes fall by an order of magnitude.
pub const LEARNERS: std::ops::RangeInclusive<u32> = 0..=64;

/// Where a node is reached, each `host:port` as the node advertises it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Addresses {
    /// Clients and pipes (NODE_ADDRESS).
    pub data: String,
    /// Raft, sessions, hand-over (RAFT_ADDRESS).
    pub raft: String,
    /// ADMIN_ADDRESS.
    pub admin: String,
    /// HTTP_ADDRESS.
    pub http: String,
}

/// What a node says of itself when it joins and each time it registers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NodeInfo {
    pub name: String,
    pub pod_uid: Option<String>,
    pub addresses: Addresses,
    pub zone: String,
    pub weight: u32,
    /// Highest feature level the binary knows.
    pub feature_level: u32,
    /// controller-revision-hash in a pod, else the version.
    pub revision: String,
}

/// What two processes must both report to prove that the second took the first one's lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LockId {
    pub boot_id: String,
    pub device: u64,
    pub inode: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// Admitted, no process has registered yet.
    Joining,
    /// Its incarnation holds a session.
    Up,
    /// Gave everything up by itself.
    Closed,
    /// Its session was ended by the registry.
    Fenced,
    /// Removed for ever; the id is never used again.
    Left,
}

impl Life {
    pub fn is_up(self) -> bool {
        self == Self::Up
    }

    pub fn is_closed(self) -> bool {
        self == Self::Closed
    }

    pub fn is_left(self) -> bool {
        self == Self::Left
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drain {
    None,
    /// This incarnation goes away and comes back; ends when another registers.
    Restart(Incarnation),
    /// As `Restart`, and it asks for that itself: it was told to stop, or its disk is slow. Nobody
    /// else takes it back.
    Own(Incarnation),
    /// The node goes away for good; survives restart and fence.
    Removal,
}

impl Drain {
    /// The node goes away and comes back, whoever asked for that.
    pub fn is_restart(self) -> bool {
        match self {
            Self::Restart(_) | Self::Own(_) => true,
            Self::None | Self::Removal => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub info: NodeInfo,
    /// Nonce of the data directory that joined: makes Join idempotent.
    pub directory: u128,
    /// The latest incarnation that registered; default before the first.
    pub incarnation: Incarnation,
    /// Lock of the latest incarnation, where it could be read.
    pub lock: Option<LockId>,
    pub life: Life,
    pub drain: Drain,
    /// A forced removal: refused from the mark on, its shards follow at its close or expiry.
    pub marked: bool,
    /// Index of its last accepted renewal (or Register).
    pub renewed: LogIndex,
    /// Index at which this row last changed; renewals do not count.
    pub changed: LogIndex,
}

impl Node {
    /// As it is from the entry that admits it until it registers.
    pub(super) fn joining(info: &NodeInfo, directory: u128, changed: LogIndex) -> Self {
        Self {
            info: info.clone(),
            directory,
            incarnation: Incarnation::default(),
            lock: None,
            life: Life::Joining,
            drain: Drain::None,
            marked: false,
            renewed: LogIndex::default(),
            changed,
        }
    }

    /// May take shards, as far as the registry alone can tell; the proposer also judges how
    /// far its table lags and how often it was fenced.
    pub fn is_target(&self) -> bool {
        self.life == Life::Up && self.drain == Drain::None && !self.marked
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    Owned {
        node: NodeId,
        incarnation: Incarnation,
        /// The move that brought it here: only then does received state count.
        via: Option<MoveId>,
    },
    Moving {
        node: NodeId,
        incarnation: Incarnation,
        /// As in Owned, kept for an owner that has not opened yet and for an abort.
        via: Option<MoveId>,
        target: NodeId,
        target_incarnation: Incarnation,
        id: MoveId,
    },
    Unassigned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardRow {
    pub epoch: Epoch,
    pub holding: Holding,
    /// Index at which this row last changed.
    pub changed: LogIndex,
}

impl ShardRow {
    /// The node and incarnation that may serve it, also while it moves away.
    pub fn owner(&self) -> Option<(NodeId, Incarnation)> {
        match self.holding {
            Holding::Owned { node, incarnation, .. }
            | Holding::Moving { node, incarnation, .. } => Some((node, incarnation)),
            Holding::Unassigned => None,
        }
    }

    /// The node and incarnation it moves to.
    pub fn target(&self) -> Option<(NodeId, Incarnation)> {
        match self.holding {
            Holding::Moving { target, target_incarnation, .. } => {
                Some((target, target_incarnation))
            }
            Holding::Owned { .. } | Holding::Unassigned => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    Automatic,
    /// No balancing move; drains and failover go on.
    Paused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub shard_count: u32,
    pub lease_ms: u32,
    /// Largest lease not yet settled, and the index of the change that replaced it.
    pub previous_lease: Option<(u32, LogIndex)>,
    /// Commands of this level and below may be proposed.
    pub feature_level: u32,
    pub operator_epoch: u64,
    pub rebalance: Rebalance,
    /// Moves in flight in the whole cluster, and per node as source or target.
    pub max_moves: u32,
    pub max_moves_per_node: u32,
    /// Pause between two balancing rounds.
    pub cooldown_ms: u32,
    /// 1, 3, 5 or 7.
    pub max_voters: u32,
    /// Nodes beyond the voters that hold a copy of the log; the others watch.
    pub max_learners: u32,
}

impl Settings {
    /// The lease that every expiry must assume: the larger of the one in force and the unsettled one.
    pub fn longest_lease_ms(&self) -> u32 {
        self.lease_ms.max(self.previous_lease.map_or(0, |(lease, _)| lease))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shard_count: 1_024,
            lease_ms: 3_000,
            previous_lease: None,
            feature_level: 1,
            operator_epoch: 0,
            rebalance: Rebalance::Automatic,
            max_moves: 64,
            max_moves_per_node: 16,
            cooldown_ms: 1_000,
            max_voters: 5,
            max_learners: 16,
        }
    }
}

/// Identity of a founded cluster as every message carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClusterState {
    pub id: ClusterId,
    /// Index of the Form entry, once applied.
    pub formed: Option<LogIndex>,
    /// Epoch that a shard gets when the cluster forms.
    pub first_epoch: Epoch,
    /// The cluster that lost its quorum and goes on as this one.
    pub recovered_from: Option<ClusterId>,
}
