//! Reads the registry into the plain facts that the core's machines judge.

use std::{collections::BTreeMap, time::Duration};

use shoal_core::{
    id::{NodeId, ShardId, Timestamp},
    planner::{self, HeldBack, Hold, Plan, PlanInput, Standing},
    registry::{Registry, ShardRow},
    session::{
        expiry::Expiry,
        fencing::{NodeFact, View},
        freshness::Freshness,
        lease::Lease,
    },
};

use super::{Control, Memory, lease};
use crate::{raft, table::Table};

/// What fencing looks at, read at one index.
pub(super) struct Facts {
    lease: Lease,
    nodes: Vec<NodeFact>,
}

pub(super) fn facts(table: &Table, raft: &raft::Handle) -> Facts {
    let membership = raft.membership();
    let registry = table.registry();
    let nodes = registry.nodes().map(|(id, node)| NodeFact {
        id,
        incarnation: node.incarnation,
        life: node.life,
        drain: node.drain,
        voter: membership.voters.contains(&id),
        renewed: node.renewed,
    });
    Facts { lease: lease(registry.settings().lease_ms), nodes: nodes.collect() }
}

impl Facts {
    pub fn view<'a>(&'a self, expiry: &'a Expiry, me: NodeId) -> View<'a> {
        let mine = self.nodes.iter().find(|node| node.id == me);
        View {
            lease: self.lease,
            nodes: &self.nodes,
            expiry,
            has_session: mine.is_some_and(|node| node.life.is_up()),
        }
    }
}

impl Control {
    /// What should be done now, and whether time alone may change that.
    pub(super) fn plan(&self, now: Timestamp) -> (Plan, bool) {
        self.with_plan_input(now, |input| {
            let waits = !input.cooldown_left.is_zero()
                || !input.assigns_held.is_zero()
                || !input.backing_off.is_empty()
                || input.nodes.iter().any(|node| matches!(node.standing, Standing::HeldBack(_)));
            (planner::plan(input), waits)
        })
    }

    pub(super) fn with_plan_input<R>(
        &self,
        now: Timestamp,
        read: impl FnOnce(&PlanInput<'_>) -> R,
    ) -> R {
        let registry = self.table.registry();
        let judge = |id| planner::Judgement {
            held_back: held_back(&self.memory, &self.tables, id, now),
            deadline: self.deadlines.get(&id).map(|by| by.at_least_since(now)),
        };
        let cooldown = Duration::from_millis(registry.settings().cooldown_ms.into());
        let input = PlanInput {
            backing_off: self.backing_off(&registry, now),
            cooldown_left: (self.term.as_ref())
                .map_or(Duration::ZERO, |term| term.pace.cooldown_left(cooldown, now)),
            at_once: self.term.as_ref().map_or(0, |term| term.pace.at_once()),
            assigns_held: self.assigns_held(&registry, now),
            ..PlanInput::of(&registry, judge)
        };
        read(&input)
    }

    /// Nodes that have told how far their tables are since they registered, and lag no lease.
    pub(super) fn current_tables(&self, now: Timestamp) -> Vec<NodeId> {
        let Memory { history, lease, .. } = &self.memory;
        let told = self.tables.iter();
        told.filter(|(_, table)| history.judge(**table, *lease, now) == Freshness::Fresh)
            .map(|(node, _)| *node)
            .collect()
    }

    /// An owner that must leave by a deadline does not wait as long as others would.
    fn backing_off(
        &self,
        registry: &Registry,
        now: Timestamp,
    ) -> BTreeMap<(ShardId, NodeId), Duration> {
        let Some(term) = &self.term else { return BTreeMap::new() };
        let until = |shard, target| {
            let owner = registry.shard(shard).and_then(ShardRow::owner);
            let leave_by = owner.and_then(|(owner, _)| self.deadlines.get(&owner).copied());
            term.moves.held_back(shard, target, leave_by, now)
        };
        let back_offs = term.moves.back_offs(now);
        back_offs
            .filter_map(|one| Some(((one.shard, one.target), until(one.shard, one.target)?)))
            .map(|(pair, until)| (pair, until.at_least_since(now)))
            .collect()
    }

    fn assigns_held(&self, registry: &Registry, now: Timestamp) -> Duration {
        let owners_return =
            self.term.as_ref().is_some_and(|term| !term.fencing.may_assign_orphans());
        let (formed_at, began) = (self.formed_at, self.began);
        Hold { owners_return, formed_at, began }.left(registry, now)
    }
}

fn held_back(
    memory: &Memory,
    tables: &BTreeMap<NodeId, shoal_core::id::LogIndex>,
    node: NodeId,
    now: Timestamp,
) -> Option<HeldBack> {
    // First what no lack of other targets makes up for.
    let fresh = tables.get(&node).map(|table| memory.history.judge(*table, memory.lease, now));
    match fresh {
        Some(Freshness::Behind | Freshness::Stale) => Some(HeldBack::TableBehind),
        Some(Freshness::Fresh) | None => memory
            .repeats
            .holds_back(node, memory.lease, now)
            .then(|| HeldBack::Flapping { left: memory.lease.length() }),
    }
}
