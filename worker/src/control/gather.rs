//! Reads the registry into the plain facts that the core's machines judge.

use std::{collections::BTreeMap, time::Duration};

use shoal_core::{
    id::{NodeId, Timestamp},
    planner::{self, HeldBack, Plan, PlanInput, Standing},
    registry::Life,
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
            deadline: None,
        };
        let cooldown = Duration::from_millis(registry.settings().cooldown_ms.into());
        let input = PlanInput {
            backing_off: self.backing_off(now),
            cooldown_left: (self.term.as_ref())
                .map_or(Duration::ZERO, |term| term.pace.cooldown_left(cooldown, now)),
            assigns_held: self.assigns_held(now),
            ..PlanInput::of(&registry, judge)
        };
        read(&input)
    }

    fn backing_off(&self, now: Timestamp) -> BTreeMap<(shoal_core::id::ShardId, NodeId), Duration> {
        let Some(term) = &self.term else { return BTreeMap::new() };
        let back_offs = term.moves.back_offs(now);
        back_offs.map(|one| ((one.shard, one.target), one.until.at_least_since(now))).collect()
    }

    /// Owners may come back after a whole cluster restarted, and founders are about to
    /// register. A right of before the cluster was founded anew is waited out before Formed.
    fn assigns_held(&self, now: Timestamp) -> Duration {
        /// Looked at again by the next tick that plans.
        const LOOK_AGAIN: Duration = Duration::from_millis(200);
        let comes_back = self.term.as_ref().is_some_and(|term| !term.fencing.may_assign_orphans());
        if comes_back || self.founders_are_registering(now) { LOOK_AGAIN } else { Duration::ZERO }
    }

    /// Right after Formed every founder is about to register: shards given to the first one
    /// alone would all be moved again.
    fn founders_are_registering(&self, now: Timestamp) -> bool {
        /// Within it every living founder has registered, and one second is promised.
        const PATIENCE: Duration = Duration::from_millis(500);
        let fresh = self.formed_at.is_some_and(|at| now.at_most_since(at) < PATIENCE);
        fresh && self.table.registry().nodes().any(|(_, node)| node.life == Life::Joining)
    }
}

fn held_back(
    memory: &Memory,
    tables: &BTreeMap<NodeId, shoal_core::id::LogIndex>,
    node: NodeId,
    now: Timestamp,
) -> Option<HeldBack> {
    if memory.repeats.holds_back(node, memory.lease, now) {
        return Some(HeldBack::Flapping { left: memory.lease.length() });
    }
    let table = tables.get(&node)?;
    match memory.history.judge(*table, memory.lease, now) {
        Freshness::Fresh => None,
        Freshness::Behind | Freshness::Stale => Some(HeldBack::TableBehind),
    }
}
