//! Why a plan is as it is, in plain words. Decides nothing.

use std::{fmt, time::Duration};

use crate::id::NodeId;

use super::{HeldBack, Leave, Plan, PlannedAssign, PlannedMove, Reason, Standing};

/// What the plan rests on, and what it leaves undone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    pub shares: Vec<Share>,
    pub refusals: Vec<Refusal>,
}

/// What a node has, moves in flight counted at their target, and what it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub node: NodeId,
    pub weight: u32,
    pub have: u32,
    pub share: u32,
    pub standing: Standing,
}

/// Shards that stay where they are for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where they are; `None` for unassigned ones.
    pub node: Option<NodeId>,
    pub shards: u32,
    pub why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Balancing was paused by a setting.
    Paused,
    TwoRevisions,
    Cooldown {
        left: Duration,
    },
    /// As many moves as the cluster allows are in flight.
    ClusterBudget {
        limit: u32,
    },
    /// The source takes part in as many moves as a node may.
    NodeBudget {
        limit: u32,
    },
    /// Every node with room takes part in as many moves as a node may.
    TargetsBusy {
        limit: u32,
    },
    /// Moves take so long that balancing runs few at once.
    Paced {
        at_once: u32,
    },
    /// Moves of these shards to every node with room failed lately.
    BackingOff,
    /// No node may receive anything.
    NoTarget,
    AssignsHeld {
        left: Duration,
    },
}

impl Report {
    /// Shards are over a share and wait for nothing but the end of other moves.
    pub(super) fn balancing_waits(&self) -> bool {
        let stays = |node| {
            let share = self.shares.iter().find(|share| share.node == node);
            share.is_some_and(|share| share.standing == Standing::Target)
        };
        self.refusals.iter().any(|refusal| match refusal.why {
            Why::ClusterBudget { .. }
            | Why::NodeBudget { .. }
            | Why::TargetsBusy { .. }
            | Why::Paced { .. } => refusal.node.is_some_and(stays),
            Why::Paused
            | Why::TwoRevisions
            | Why::Cooldown { .. }
            | Why::BackingOff
            | Why::NoTarget
            | Why::AssignsHeld { .. } => false,
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => write!(f, "balancing is paused"),
            Self::TwoRevisions => {
                write!(f, "two revisions are running, no balancing until one is left")
            }
            Self::Cooldown { left } => write!(f, "the next balancing round is due in {left:?}"),
            Self::ClusterBudget { limit } => {
                write!(f, "{limit} moves are in flight, the most allowed")
            }
            Self::NodeBudget { limit } => {
                write!(f, "it takes part in {limit} moves, the most allowed per node")
            }
            Self::TargetsBusy { limit } => {
                write!(f, "every node with room takes part in {limit} moves, the most allowed")
            }
            Self::Paced { at_once } => {
                write!(f, "balancing runs {at_once} moves at once, by how long they take")
            }
            Self::BackingOff => write!(f, "moves to every node with room failed lately"),
            Self::NoTarget => write!(f, "no node may receive shards"),
            Self::AssignsHeld { left } => {
                write!(f, "earlier owners may come back or still serve, waiting {left:?}")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = Shards(self.shards);
        match self.node {
            Some(node) => write!(f, "{node} keeps {shards} for now: {}", self.why),
            None => write!(f, "{shards} stay unassigned for now: {}", self.why),
        }
    }
}

struct Shards(u32);

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => write!(f, "1 shard"),
            n => write!(f, "{n} shards"),
        }
    }
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flapping { left } => write!(f, "it was fenced lately, held back for {left:?}"),
            Self::TableBehind => write!(f, "its table is behind"),
            Self::Marked => write!(f, "it is marked for removal"),
        }
    }
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart => write!(f, "restart"),
            Self::Removal => write!(f, "removal"),
        }
    }
}

impl fmt::Display for PlannedAssign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = Because { node: self.assign.target, reason: self.reason };
        write!(f, "{} → {}: {why}", self.assign.shard, self.assign.target)
    }
}

impl fmt::Display for PlannedMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = Because { node: self.from, reason: self.reason };
        write!(f, "{} {} → {}: {why}", self.begin.shard, self.from, self.begin.target)
    }
}

/// A reason told of the node it speaks about.
struct Because {
    node: NodeId,
    reason: Reason,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node;
        match self.reason {
            Reason::FirstOwner => write!(f, "assign (it never had an owner)"),
            Reason::Failover => write!(f, "failover (its owner is gone)"),
            Reason::Drain(leave) => write!(f, "drain ({node} leaves for {leave})"),
            Reason::Balance { have, share } => {
                write!(f, "balance ({node} has {have}, its share is {share})")
            }
            Reason::Requested => write!(f, "requested"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for share in &self.shares {
            match share.standing {
                Standing::HeldBack(why) => writeln!(f, "{} receives nothing: {why}", share.node)?,
                Standing::Target | Standing::Leaving { .. } => {}
            }
        }
        self.refusals.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.assigns.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.moves.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        write!(f, "{}", self.report)
    }
}
