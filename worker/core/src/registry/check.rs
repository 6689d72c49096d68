//! What must hold of every registry and of every step from one to the next.
//!
//! Written apart from `apply` and sharing no line with it: counts everything again, infers
//! nothing. For the simulator, debug builds and snapshots from elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, Incarnation, LogIndex, MapVersion, NodeId, ShardId};

use super::{
    Drain, Held, Holding, LEASES_MS, LEFT_KEPT, Life, Node, Registry, SHARD_COUNTS, ShardRow,
    WEIGHTS,
};

/// A promise of the registry that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("shard {shard} rests on {node} at {incarnation}, which is not up")]
    OwnerNotUp { shard: ShardId, node: NodeId, incarnation: Incarnation },
    #[error("shard {shard} moves to {node} at {incarnation}, which may take none")]
    NotATarget { shard: ShardId, node: NodeId, incarnation: Incarnation },
    #[error("{found} rows of shards instead of {expected}")]
    ShardRows { expected: u32, found: usize },
    #[error("shard {shard} is at {epoch:?}, below the first epoch {first:?}")]
    EpochBelowFirst { shard: ShardId, epoch: Epoch, first: Epoch },
    #[error("the move of shard {0} is not the entry that began it")]
    MoveId(ShardId),
    #[error("node {node} is said to hold {said:?} but holds {counted:?}")]
    Count { node: NodeId, said: Held, counted: Held },
    #[error("map version {said} is not the index of the last change, {last}")]
    MapVersion { said: MapVersion, last: LogIndex },
    #[error("index {0} is beyond the last entry applied")]
    BeyondApplied(LogIndex),
    #[error("nodes {0} and {1} go by one name")]
    SharedName(NodeId, NodeId),
    #[error("nodes {0} and {1} come from one directory")]
    SharedDirectory(NodeId, NodeId),
    #[error("node {node} contradicts itself: {what}")]
    Node { node: NodeId, what: &'static str },
    #[error("settings out of bounds: {0}")]
    Settings(&'static str),
    #[error("node {0} changed in a way that no entry may cause: {1}")]
    NodeStep(NodeId, &'static str),
    #[error("shard {0} changed in a way that no entry may cause: {1}")]
    ShardStep(ShardId, &'static str),
    #[error("the cluster changed in a way that no entry may cause: {0}")]
    ClusterStep(&'static str),
}

impl Registry {
    /// Everything that is wrong with the registry as it stands; empty on a sound one.
    pub fn check(&self) -> Vec<Violation> {
        let mut violations = Vec::new();
        self.check_shards(&mut violations);
        self.check_counts(&mut violations);
        self.check_nodes(&mut violations);
        self.check_indices(&mut violations);
        self.check_settings(&mut violations);
        violations
    }

    fn check_shards(&self, violations: &mut Vec<Violation>) {
        let expected = if self.formed() { self.settings().shard_count } else { 0 };
        let found = self.shards().count();
        if found != expected as usize {
            violations.push(Violation::ShardRows { expected, found });
        }
        let first = self.cluster().first_epoch;
        for (shard, row) in self.shards() {
            let epoch = row.epoch;
            if epoch < first {
                violations.push(Violation::EpochBelowFirst { shard, epoch, first });
            }
            self.check_holders(shard, row, violations);
        }
    }

    fn check_holders(&self, shard: ShardId, row: &ShardRow, violations: &mut Vec<Violation>) {
        let is_up = |node: NodeId, incarnation: Incarnation| {
            self.node(node).filter(|n| n.life == Life::Up && n.incarnation == incarnation)
        };
        match row.holding {
            Holding::Unassigned => {}
            Holding::Owned { node, incarnation, .. } => {
                if is_up(node, incarnation).is_none() {
                    violations.push(Violation::OwnerNotUp { shard, node, incarnation });
                }
            }
            Holding::Moving { node, incarnation, target, target_incarnation, id, .. } => {
                if is_up(node, incarnation).is_none() {
                    violations.push(Violation::OwnerNotUp { shard, node, incarnation });
                }
                let open = |n: &Node| n.drain == Drain::None && !n.marked;
                if target == node || !is_up(target, target_incarnation).is_some_and(open) {
                    violations.push(Violation::NotATarget {
                        shard,
                        node: target,
                        incarnation: target_incarnation,
                    });
                }
                if id.0 != row.changed.0 {
                    violations.push(Violation::MoveId(shard));
                }
            }
        }
    }

    fn check_counts(&self, violations: &mut Vec<Violation>) {
        let mut counted: BTreeMap<NodeId, Held> = BTreeMap::new();
        for (_, row) in self.shards() {
            match row.holding {
                Holding::Unassigned => {}
                Holding::Owned { node, .. } => counted.entry(node).or_default().owned += 1,
                Holding::Moving { node, target, .. } => {
                    counted.entry(node).or_default().owned += 1;
                    counted.entry(target).or_default().receiving += 1;
                }
            }
        }
        for (node, _) in self.nodes() {
            let counted = counted.get(&node).copied().unwrap_or_default();
            let said = self.held(node);
            if said != counted {
                violations.push(Violation::Count { node, said, counted });
            }
        }
    }

    fn check_nodes(&self, violations: &mut Vec<Violation>) {
        let mut names: BTreeMap<&str, NodeId> = BTreeMap::new();
        let mut directories: BTreeMap<u128, NodeId> = BTreeMap::new();
        for (id, node) in self.nodes() {
            if let Some(what) = contradiction(id, node) {
                violations.push(Violation::Node { node: id, what });
            }
            let named = node.life != Life::Left && !node.marked;
            if let Some(other) = named.then(|| names.insert(&node.info.name, id)).flatten() {
                violations.push(Violation::SharedName(other, id));
            }
            if let Some(other) = directories.insert(node.directory, id) {
                violations.push(Violation::SharedDirectory(other, id));
            }
            let level = self.settings().feature_level;
            if node.life == Life::Up && node.info.feature_level < level {
                let what = "up below the cluster's feature level";
                violations.push(Violation::Node { node: id, what });
            }
        }
    }

    fn check_indices(&self, violations: &mut Vec<Violation>) {
        let nodes = self.nodes().map(|(_, node)| node.changed);
        let rows = self.shards().map(|(_, row)| row.changed);
        let last = nodes.chain(rows).max().unwrap_or_default();
        let said = self.map_version();
        if said.0 != last.0 {
            violations.push(Violation::MapVersion { said, last });
        }
        let previous = self.settings().previous_lease.map(|(_, since)| since);
        let renewed = self.nodes().map(|(_, node)| node.renewed);
        let mentioned: BTreeSet<LogIndex> = renewed
            .chain([last])
            .chain(previous)
            .chain(self.cluster().formed)
            .chain(self.nodes().map(|(id, _)| LogIndex(id.0)))
            .collect();
        if let Some(index) = mentioned.last().filter(|index| **index > self.applied()) {
            violations.push(Violation::BeyondApplied(*index));
        }
    }

    fn check_settings(&self, violations: &mut Vec<Violation>) {
        let settings = self.settings();
        let count = settings.shard_count;
        if !SHARD_COUNTS.contains(&count) || !count.is_power_of_two() {
            violations.push(Violation::Settings("shard count"));
        }
        let previous = settings.previous_lease.map(|(lease, _)| lease);
        let mut leases = previous.into_iter().chain([settings.lease_ms]);
        if !leases.all(|lease| LEASES_MS.contains(&lease)) {
            violations.push(Violation::Settings("lease"));
        }
        if settings.max_voters.is_multiple_of(2) {
            violations.push(Violation::Settings("an even number of voters"));
        }
    }
}

fn contradiction(id: NodeId, node: &Node) -> Option<&'static str> {
    let registered = node.incarnation != Incarnation::default();
    if (node.life == Life::Joining) == registered && node.life != Life::Left {
        return Some("joining means that no incarnation has registered");
    }
    if (node.renewed == LogIndex::default()) == registered {
        return Some("a registered incarnation has renewed, another has not");
    }
    match node.drain {
        Drain::Restart(incarnation) | Drain::Own(incarnation)
            if incarnation != node.incarnation =>
        {
            return Some("the restart of another incarnation");
        }
        Drain::Restart(_) | Drain::Own(_) | Drain::Removal | Drain::None => {}
    }
    if !WEIGHTS.contains(&node.info.weight) {
        return Some("weight out of bounds");
    }
    if id.0 > node.changed.0 {
        return Some("changed before it joined");
    }
    None
}

/// What one applied entry may not have done, from the registry before to the one after it.
/// Not for deltas: they skip entries, and with them the reasons.
pub fn check_step(before: &Registry, after: &Registry) -> Vec<Violation> {
    let mut violations = Vec::new();
    check_cluster_step(before, after, &mut violations);
    for (id, node) in after.nodes() {
        let wrong = match before.node(id) {
            Some(old) => node_step(old, node),
            None if id.0 > 1 && id.0 <= before.applied().0 => Some("an id from the past"),
            None => None,
        };
        violations.extend(wrong.map(|what| Violation::NodeStep(id, what)));
    }
    let is_left = |node: &Node| node.life == Life::Left;
    let oldest_left = after.nodes().filter(|(_, node)| is_left(node)).map(|(_, node)| node.changed);
    let oldest_left = oldest_left.min();
    let full = after.nodes().filter(|(_, node)| is_left(node)).count() >= LEFT_KEPT;
    for (id, node) in before.nodes().filter(|(id, _)| after.node(*id).is_none()) {
        if !(is_left(node) && full && Some(node.changed) <= oldest_left) {
            violations.push(Violation::NodeStep(id, "forgotten"));
        }
    }
    for (id, old) in before.shards() {
        if let Some(new) = after.shard(id) {
            let wrong = shard_step(after, old, new);
            violations.extend(wrong.map(|what| Violation::ShardStep(id, what)));
        }
    }
    violations
}

fn check_cluster_step(before: &Registry, after: &Registry, violations: &mut Vec<Violation>) {
    let (old, new) = (before.cluster(), after.cluster());
    let (was, is) = (before.settings(), after.settings());
    let lease_kept = was.lease_ms == is.lease_ms;
    let granted = was.lease_ms.max(was.previous_lease.map_or(0, |(l, _)| l));
    let remembered = is.previous_lease.map_or(0, |(lease, _)| lease);
    let settled = is.previous_lease.is_none() || is.previous_lease == was.previous_lease;
    let rows_changed = before.nodes().ne(after.nodes());
    let founded = before.founded();
    let wrong = [
        (founded && old.id != new.id, "another cluster id"),
        (old.recovered_from != new.recovered_from, "another past"),
        (
            old.formed.is_some() && (old.formed, old.first_epoch) != (new.formed, new.first_epoch),
            "formed twice",
        ),
        (before.applied() >= after.applied(), "applied goes back"),
        (before.map_version() > after.map_version(), "the map version goes back"),
        (
            before.map_version() != after.map_version()
                && !rows_changed
                && before.shards().eq(after.shards()),
            "a map version without a change",
        ),
        (founded && was.shard_count != is.shard_count, "another shard count"),
        (
            founded && !lease_kept && remembered < granted,
            "a lease that may still be held is forgotten",
        ),
        (founded && lease_kept && !settled, "a previous lease out of nothing"),
        (was.operator_epoch > is.operator_epoch, "the operator epoch falls"),
        (was.feature_level > is.feature_level, "the feature level falls"),
    ];
    let wrong = wrong.into_iter().filter(|(wrong, _)| *wrong);
    violations.extend(wrong.map(|(_, what)| Violation::ClusterStep(what)));
}

fn node_step(old: &Node, new: &Node) -> Option<&'static str> {
    let registered = old.incarnation != new.incarnation;
    let renewed = old.renewed != new.renewed;
    let still = Node { renewed: old.renewed, changed: old.changed, ..new.clone() };
    let wrong = [
        (old.life == Life::Left && old != new, "left is for ever"),
        (old.marked && !new.marked, "a mark is for ever"),
        (old.directory != new.directory, "another directory"),
        (registered && old.incarnation.counter >= new.incarnation.counter, "an older incarnation"),
        (registered && old.marked, "a marked node registered"),
        (registered && new.life != Life::Up, "registered without a session"),
        (!registered && old.life != Life::Up && new.life == Life::Up, "up without registering"),
        (old.renewed > new.renewed || old.changed > new.changed, "an index goes back"),
        (
            renewed && !registered && (old.life != Life::Up || old.marked),
            "a renewal without a session",
        ),
        (
            (*old != still) != (old.changed != new.changed),
            "changed without its index, or the index alone",
        ),
    ];
    let wrong = wrong.into_iter().find(|(wrong, _)| *wrong);
    wrong.map(|(_, what)| what)
}

fn shard_step(after: &Registry, old: &ShardRow, new: &ShardRow) -> Option<&'static str> {
    if new.epoch < old.epoch {
        return Some("its epoch falls");
    }
    let rows_differ = (old.epoch, old.holding) != (new.epoch, new.holding);
    if rows_differ != (old.changed < new.changed) {
        return Some("changed without its index, or the index alone");
    }
    let (owner, incarnation) = old.owner()?;
    if new.owner() == Some((owner, incarnation)) {
        return (new.epoch != old.epoch).then_some("a new epoch under the same owner");
    }
    if new.epoch == old.epoch {
        return Some("another owner under the same epoch");
    }
    let session_ended = after
        .node(owner)
        .is_none_or(|node| node.life != Life::Up || node.incarnation != incarnation);
    let handed_over = match (old.holding, new.holding) {
        (
            Holding::Moving { target, target_incarnation, id, .. },
            Holding::Owned { node, incarnation, via },
        ) => (target, target_incarnation, Some(id)) == (node, incarnation, via),
        (
            Holding::Owned { .. } | Holding::Moving { .. } | Holding::Unassigned,
            Holding::Owned { .. } | Holding::Moving { .. } | Holding::Unassigned,
        ) => false,
    };
    (!session_ended && !handed_over).then_some("taken from a live incarnation")
}
