//! What changed after an index, to be installed elsewhere: watchers follow by deltas, and
//! the delta since index 0 is the snapshot.
//!
//! A registry never goes back and never takes rows of another cluster. Renewals travel in a
//! snapshot only: a watcher fences nobody.

use std::collections::BTreeSet;

use crate::id::{ClusterId, LogIndex, MapVersion, NodeId, ShardId};

use super::{
    Changes, ClusterState, LEFT_KEPT, Node, Registry, SHARD_COUNTS, Settings, ShardRow, Shards,
    Violation,
};

/// Rows changed after `since`, as they are at `applied`. Empty, it still says how far the
/// sender is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    pub cluster: ClusterState,
    pub since: LogIndex,
    pub applied: LogIndex,
    pub map_version: MapVersion,
    /// With the index at which they last changed.
    pub settings: Option<(Settings, LogIndex)>,
    pub nodes: Vec<(NodeId, Node)>,
    pub shards: Vec<(ShardId, ShardRow)>,
}

impl Delta {
    /// It says how far the sender is, and no more.
    pub fn is_empty(&self) -> bool {
        self.settings.is_none() && self.nodes.is_empty() && self.shards.is_empty()
    }
}

/// Why a delta or a snapshot was not installed; nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("rows of cluster {theirs} offered to a table of cluster {ours}")]
    Foreign { ours: ClusterId, theirs: ClusterId },
    #[error("the source is behind: it is at {offered}, this table at {have}")]
    Behind { have: LogIndex, offered: LogIndex },
    #[error("a delta since {since} leaves a gap after {have}")]
    Gap { have: LogIndex, since: LogIndex },
    #[error("a snapshot begins at index 0, this one at {0}")]
    NotASnapshot(LogIndex),
    #[error("malformed rows: {0}")]
    Malformed(&'static str),
    #[error("the snapshot contradicts itself: {0}")]
    Invalid(Violation),
}

impl Registry {
    /// Everything, as `from_parts` takes it.
    pub fn parts(&self) -> Delta {
        self.rows_since(LogIndex(0))
    }

    /// The registry that `parts` was taken from; one that contradicts itself is refused.
    pub fn from_parts(parts: Delta) -> Result<Self, Error> {
        if parts.since != LogIndex(0) {
            return Err(Error::NotASnapshot(parts.since));
        }
        let mut registry = Self::default();
        registry.install_delta(parts)?;
        match registry.check().into_iter().next() {
            None => Ok(registry),
            Some(violation) => Err(Error::Invalid(violation)),
        }
    }

    /// All rows that changed after `since`; everything, where a node that left after it was
    /// forgotten already and no row could say so.
    pub fn rows_since(&self, since: LogIndex) -> Delta {
        let left = self.left();
        let forgotten = if left.len() < LEFT_KEPT { LogIndex(0) } else { left[0].0 };
        let since = if since < forgotten { LogIndex(0) } else { since };
        let settings_changed = self.settings_changed > since;
        let nodes = self.nodes().filter(|(_, node)| node.changed > since);
        let shards = self.shards.since(since);
        Delta {
            cluster: self.cluster,
            since,
            applied: self.applied,
            map_version: self.map_version,
            settings: settings_changed.then(|| (self.settings.clone(), self.settings_changed)),
            nodes: nodes.map(|(id, node)| (id, node.clone())).collect(),
            shards: shards.map(|(id, row)| (id, *row)).collect(),
        }
    }

    /// What entries after `since` touched, as if they were one; renewals are left out.
    pub fn changes_since(&self, since: LogIndex) -> Changes {
        let nodes = self.nodes().filter(|(_, node)| node.changed > since);
        Changes {
            nodes: nodes.map(|(id, _)| id).collect(),
            shards: self.shards.since(since).map(|(id, _)| id).collect(),
            cluster: self.cluster.formed > Some(since),
            settings: self.settings_changed > since,
            renewed: Vec::new(),
            map_version_changed: self.map_version.0 > since.0,
        }
    }

    /// What follows `since` may be noted only where everything up to it is known.
    pub fn check_gap(&self, since: LogIndex) -> Result<(), Error> {
        if since > self.applied {
            return Err(Error::Gap { have: self.applied, since });
        }
        Ok(())
    }

    /// Cluster, settings and one node's row: to be read, not to be installed.
    pub fn rows_of(&self, node: NodeId) -> Delta {
        Delta {
            settings: Some((self.settings.clone(), self.settings_changed)),
            nodes: self.node(node).map(|row| (node, row.clone())).into_iter().collect(),
            ..self.rows_since(self.applied)
        }
    }

    /// Takes a delta that begins no later than this registry ends. On an error nothing
    /// changed: ask another source, or for a snapshot.
    pub fn install_delta(&mut self, delta: Delta) -> Result<Changes, Error> {
        self.fits(&delta)?;
        self.well_formed(&delta)?;
        let forgotten = self.missing_in(&delta);
        let mut changes = Changes {
            nodes: delta.nodes.iter().map(|(id, _)| *id).chain(forgotten.iter().copied()).collect(),
            shards: delta.shards.iter().map(|(id, _)| *id).collect(),
            cluster: delta.cluster != self.cluster,
            settings: delta.settings.is_some(),
            renewed: Vec::new(),
            map_version_changed: delta.map_version != self.map_version,
        };
        self.cluster = delta.cluster;
        self.applied = delta.applied;
        self.map_version = delta.map_version;
        if let Some((settings, changed)) = delta.settings {
            self.settings = settings;
            self.settings_changed = changed;
        }
        for (id, node) in delta.nodes {
            self.put_node(id, node);
        }
        if self.shards.len() == 0 {
            let (epoch, count) = (self.cluster.first_epoch, delta.shards.len() as u32);
            self.shards = Shards::unassigned(count, epoch, LogIndex(0));
        }
        for (id, row) in delta.shards {
            self.put_shard(id, row);
        }
        self.nodes.retain(|id, _| !forgotten.contains(id));
        changes.nodes.extend(self.forget_left());
        Ok(changes)
    }

    /// Nodes that a delta with every row has none for: they left and were forgotten.
    fn missing_in(&self, delta: &Delta) -> BTreeSet<NodeId> {
        if delta.since > LogIndex(0) {
            return BTreeSet::new();
        }
        let present: BTreeSet<NodeId> = delta.nodes.iter().map(|(id, _)| *id).collect();
        self.nodes.keys().copied().filter(|id| !present.contains(id)).collect()
    }

    fn fits(&self, delta: &Delta) -> Result<(), Error> {
        if self.founded() && delta.cluster.id != self.cluster.id {
            return Err(Error::Foreign { ours: self.cluster.id, theirs: delta.cluster.id });
        }
        if delta.applied < self.applied {
            return Err(Error::Behind { have: self.applied, offered: delta.applied });
        }
        self.check_gap(delta.since)
    }

    /// What the types leave open and `put_node` and `put_shard` rely upon.
    fn well_formed(&self, delta: &Delta) -> Result<(), Error> {
        let forgets_forming = self.formed() && delta.cluster.formed != self.cluster.formed;
        if forgets_forming || delta.map_version < self.map_version {
            return Err(Error::Malformed("the cluster's state goes back"));
        }
        let founds = delta.cluster.id != ClusterId::default() && !self.founded();
        if founds && delta.settings.is_none() {
            return Err(Error::Malformed("a first table without settings"));
        }
        let settings = delta.settings.as_ref().map(|(settings, _)| settings);
        let count = settings.unwrap_or(&self.settings).shard_count;
        if !SHARD_COUNTS.contains(&count) || !count.is_power_of_two() {
            return Err(Error::Malformed("an impossible shard count"));
        }
        let (have, count) = (self.shards.len(), count as usize);
        if have > 0 && count != have {
            return Err(Error::Malformed("another shard count"));
        }
        let whole = delta.shards.len() == count && ids_are_dense(&delta.shards);
        if delta.cluster.formed.is_some() && have == 0 && !whole {
            return Err(Error::Malformed("a first table without all shards"));
        }
        // Nodes that a whole table lacks are forgotten, and no shard may stay with one.
        if delta.since == LogIndex(0) && have > 0 && !whole {
            return Err(Error::Malformed("a whole table without all shards"));
        }
        if written(delta).any(|changed| changed == LogIndex(0)) {
            return Err(Error::Malformed("a row that no entry wrote"));
        }
        if delta.cluster.formed.is_none() && !delta.shards.is_empty() {
            return Err(Error::Malformed("shards of a cluster that is not formed"));
        }
        if delta.shards.iter().any(|(id, _)| id.0 as usize >= count) {
            return Err(Error::Malformed("a shard beyond the shard count"));
        }
        let new: BTreeSet<NodeId> = delta.nodes.iter().map(|(id, _)| *id).collect();
        let known = |id: NodeId| new.contains(&id) || self.nodes.contains_key(&id);
        let named = |(_, row): &(ShardId, ShardRow)| {
            let holders = row.owner().into_iter().chain(row.target());
            holders.into_iter().all(|(id, _)| known(id))
        };
        if !delta.shards.iter().all(named) {
            return Err(Error::Malformed("a shard of a node that nobody admitted"));
        }
        Ok(())
    }
}

/// When each row changed.
fn written(delta: &Delta) -> impl Iterator<Item = LogIndex> {
    let settings = delta.settings.iter().map(|(_, changed)| *changed);
    let nodes = delta.nodes.iter().map(|(_, node)| node.changed);
    settings.chain(nodes).chain(delta.shards.iter().map(|(_, row)| row.changed))
}

fn ids_are_dense(shards: &[(ShardId, ShardRow)]) -> bool {
    shards.iter().zip(0..).all(|((id, _), place)| id.0 == place)
}
