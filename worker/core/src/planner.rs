//! Decides where every shard should be, and says why and why not.
//!
//! `plan` turns plain facts into assignments and moves: counts follow weights, every
//! unassigned shard gets a target, leavers are emptied, and no shard moves that need not.
//! It keeps no memory: moves in flight count as done, so `plan(apply(plan(x)))` is empty.
//! It does not judge health, time or proof (the control loop does, in [`Standing`]), nor
//! carry a move out (`handoff`).

mod hold;
mod pace;
mod place;
mod problem;
mod report;
mod request;
mod solve;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{Epoch, Incarnation, NodeId, ShardId},
    registry::{Assign, BeginMove, Drain, Holding, Life, Node, Registry, Settings, ShardRow},
};

pub use hold::Hold;
pub use pace::Pace;
pub use report::{Refusal, Report, Share, Why};
pub use request::{Error, request};

/// What the leader knows when it plans. Spans of time count from now.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    pub settings: &'a Settings,
    /// The epoch every shard got when the cluster formed: a shard still at it never had an owner.
    pub first_epoch: Epoch,
    /// Every node that is Up, once.
    pub nodes: Vec<PlanNode<'a>>,
    /// See [`newest_revision`].
    pub newest_revision: &'a str,
    /// The row of shard `i` at place `i`.
    pub shards: Vec<&'a ShardRow>,
    /// Moves of this shard to this node failed lately: no new one for that long.
    pub backing_off: BTreeMap<(ShardId, NodeId), Duration>,
    /// No balancing round for that long.
    pub cooldown_left: Duration,
    /// Moves in flight up to which balancing may begin more; see [`Pace`].
    pub at_once: u32,
    /// No assignment for that long: owners may still come back or hold a right.
    pub assigns_held: Duration,
}

#[derive(Clone, Copy, Debug)]
pub struct PlanNode<'a> {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub weight: u32,
    pub revision: &'a str,
    pub standing: Standing,
}

/// What may be done with a node that is Up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Target,
    /// Keeps what it has and receives nothing.
    HeldBack(HeldBack),
    /// Is emptied and receives nothing; `deadline` is when its process must be gone.
    Leaving {
        leave: Leave,
        deadline: Option<Duration>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// Fenced several times lately.
    Flapping { left: Duration },
    /// Its table is more than a lease behind.
    TableBehind,
    /// Marked for removal: it closes in place, so moving its shards would race with that.
    Marked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Restart,
    Removal,
}

/// What the row of a node does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Judgement {
    pub held_back: Option<HeldBack>,
    /// When the process of a leaver must be gone.
    pub deadline: Option<Duration>,
}

impl<'a> PlanInput<'a> {
    /// The facts of a registry, with nothing to wait for.
    pub fn of(registry: &'a Registry, judge: impl Fn(NodeId) -> Judgement) -> Self {
        let node = |(id, node): (NodeId, &'a Node)| {
            Some(PlanNode {
                id,
                incarnation: node.incarnation,
                weight: node.info.weight,
                revision: &node.info.revision,
                standing: Standing::of(node, judge(id))?,
            })
        };
        let input = Self {
            settings: registry.settings(),
            first_epoch: registry.cluster().first_epoch,
            nodes: registry.nodes().filter_map(node).collect(),
            newest_revision: newest_revision(registry.nodes().map(|(_, node)| node)),
            shards: registry.shards().map(|(_, row)| row).collect(),
            backing_off: BTreeMap::new(),
            cooldown_left: Duration::ZERO,
            at_once: u32::MAX,
            assigns_held: Duration::ZERO,
        };
        input.sparing_nobody()
    }

    /// Where shards have no owner and nobody else may have them, whoever was fenced lately may: the
    /// worst of owners is better than none.
    pub(super) fn sparing_nobody(mut self) -> Self {
        let targets = self.nodes.iter().any(|node| node.standing == Standing::Target);
        let orphaned = || self.shards.iter().any(|row| row.holding == Holding::Unassigned);
        // Nearly always there is a target, and no shard needs to be looked at.
        if !targets && orphaned() {
            for node in &mut self.nodes {
                if matches!(node.standing, Standing::HeldBack(HeldBack::Flapping { .. })) {
                    node.standing = Standing::Target;
                }
            }
        }
        self
    }
}

impl Standing {
    /// `None` for a node that is not Up and so owns and receives nothing.
    pub fn of(node: &Node, judgement: Judgement) -> Option<Self> {
        let Judgement { held_back, deadline } = judgement;
        let leaving = |leave| Self::Leaving { leave, deadline };
        match node.life {
            Life::Up => {}
            Life::Joining | Life::Closed | Life::Fenced | Life::Left => return None,
        }
        if node.marked {
            return Some(Self::HeldBack(HeldBack::Marked));
        }
        Some(match node.drain {
            Drain::Restart(_) | Drain::Own(_) => leaving(Leave::Restart),
            Drain::Removal => leaving(Leave::Removal),
            Drain::None => held_back.map_or(Self::Target, Self::HeldBack),
        })
    }
}

/// The revision that a roll goes towards: the one that appeared last among the nodes that
/// are Up and stay.
///
/// A revision appeared when the least recently changed of its nodes last changed, so that
/// an old node that crashes and registers again in mid-roll does not make its revision new.
pub fn newest_revision<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> &'a str {
    let mut appeared: BTreeMap<&str, _> = BTreeMap::new();
    for node in nodes {
        if node.life == Life::Up && node.drain == Drain::None {
            let index = appeared.entry(&node.info.revision).or_insert(node.changed);
            *index = node.changed.min(*index);
        }
    }
    let newest = appeared.into_iter().max_by_key(|(_, index)| *index);
    newest.map_or("", |(revision, _)| revision)
}

/// What to propose, in the order in which to propose it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    pub assigns: Vec<PlannedAssign>,
    pub moves: Vec<PlannedMove>,
    pub report: Report,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedAssign {
    pub assign: Assign,
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    pub begin: BeginMove,
    pub from: NodeId,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It never had an owner.
    FirstOwner,
    /// Its owner was fenced or closed in place.
    Failover,
    Drain(Leave),
    /// The source holds more than its share.
    Balance {
        have: u32,
        share: u32,
    },
    /// Somebody asked for it.
    Requested,
}

impl Plan {
    /// True when the cluster is as it should be, or nothing more may be done now.
    pub fn is_empty(&self) -> bool {
        self.assigns.is_empty() && self.moves.is_empty()
    }
}

/// Plans the next round: drains choose first, having the fewest choices where moves failed
/// lately, then assignments, which are never refused room, then what balances the rest.
pub fn plan(input: &PlanInput<'_>) -> Plan {
    let (problem, stock) = problem::read(input);
    let mut draft = place::Draft::new(input, problem, stock);
    draft.drain();
    draft.assign();
    draft.balance();
    draft.finish()
}
