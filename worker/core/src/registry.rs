//! The replicated truth: who is a node, who owns which shard, under which epoch.
//!
//! `apply` is the only way to change it on a member of the log, `install_delta` the only
//! way on a watcher; `recover` makes a new one of what is left of a cluster. `check` and
//! `check_step` judge the outcome without sharing a line with any of them. Nothing here knows
//! time or chance: what depends on them was judged by the proposer and stands in the command.

mod apply;
mod check;
mod command;
mod delta;
mod recover;
mod row;
mod shards;

use std::{collections::BTreeMap, sync::Arc};

pub use check::{Violation, check_step};
pub use command::*;
pub use delta::{Delta, Error};
pub use recover::{Recovery, Unrecoverable};
pub use row::*;
pub(crate) use shards::Shards;

use crate::id::{ClusterId, Epoch, LogIndex, MapVersion, NodeId, ShardId};

/// Nodes, shards and settings as of one entry of the log. Cloning shares every row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    cluster: ClusterState,
    settings: Settings,
    settings_changed: LogIndex,
    applied: LogIndex,
    map_version: MapVersion,
    nodes: BTreeMap<NodeId, Entry>,
    shards: Shards,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    node: Arc<Node>,
    held: Held,
}

/// How many shards rest on a node and how many move to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Owned, those that move away included.
    pub owned: u32,
    pub receiving: u32,
}

/// What one entry or delta touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Rows that changed, each once; a bare renewal is not among them.
    pub nodes: Vec<NodeId>,
    pub shards: Vec<ShardId>,
    /// Founded or formed.
    pub cluster: bool,
    pub settings: bool,
    /// Sessions whose right grew.
    pub renewed: Vec<NodeId>,
    pub map_version_changed: bool,
}

impl Registry {
    /// Of no cluster yet: refuses everything but `Found` and `Blank`.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn cluster(&self) -> &ClusterState {
        &self.cluster
    }

    pub fn founded(&self) -> bool {
        self.cluster.id != ClusterId::default()
    }

    pub fn formed(&self) -> bool {
        self.cluster.formed.is_some()
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Index of the last entry applied, renewals included.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Index of the last entry that changed a row of a node or a shard.
    pub fn map_version(&self) -> MapVersion {
        self.map_version
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).map(|entry| &*entry.node)
    }

    /// All nodes that belong to the cluster and the latest that left, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, entry)| (*id, &*entry.node))
    }

    /// The node was here and is gone for ever. Ids are indices of entries: one in the past
    /// without a row was forgotten since it left.
    pub fn has_left(&self, id: NodeId) -> bool {
        match self.node(id) {
            Some(node) => node.life == Life::Left,
            None => self.founded() && (1..=self.applied.0).contains(&id.0),
        }
    }

    /// Why a command about a node without a row is refused.
    pub fn no_row(&self, id: NodeId) -> Refused {
        if self.has_left(id) { Refused::NodeLeft(id) } else { Refused::UnknownNode(id) }
    }

    /// The node that goes by a name: the newest that has not left. An older one of the same
    /// name is marked.
    pub fn node_by_name(&self, name: &str) -> Option<(NodeId, &Node)> {
        self.nodes
            .iter()
            .rev()
            .map(|(id, entry)| (*id, &*entry.node))
            .find(|(_, node)| node.life != Life::Left && node.info.name == name)
    }

    /// Shards that rest on a node and move to it; none for an unknown node.
    pub fn held(&self, id: NodeId) -> Held {
        self.nodes.get(&id).map_or_else(Held::default, |entry| entry.held)
    }

    /// May take shards, as far as the registry alone can tell.
    pub fn is_target(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(Node::is_target)
    }

    /// `None` before the cluster is formed, and beyond its shard count.
    pub fn shard(&self, id: ShardId) -> Option<&ShardRow> {
        self.shards.get(id)
    }

    /// All shards by id; none before the cluster is formed.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, &ShardRow)> {
        self.shards.iter()
    }

    pub(crate) fn shard_rows(&self) -> &Shards {
        &self.shards
    }

    /// The highest token ever issued: what a recovery must start above.
    pub fn highest_epoch(&self) -> Epoch {
        self.shards().map(|(_, row)| row.epoch).fold(self.cluster.first_epoch, Epoch::max)
    }

    /// The highest feature level that every node which has not left knows.
    pub fn common_level(&self) -> u32 {
        self.nodes()
            .filter(|(_, node)| node.life != Life::Left)
            .map(|(_, node)| node.info.feature_level)
            .min()
            .unwrap_or(self.settings.feature_level)
    }

    /// Notes an entry that carries no command, such as a change of the voters.
    pub fn advance(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index);
    }

    /// Nodes that left, the one that left first at the front.
    fn left(&self) -> Vec<(LogIndex, NodeId)> {
        let left = self.nodes().filter(|(_, node)| node.life == Life::Left);
        let mut left: Vec<_> = left.map(|(id, node)| (node.changed, id)).collect();
        left.sort_unstable();
        left
    }

    /// Rows beyond the limit go, the same on every member and watcher.
    fn forget_left(&mut self) -> Vec<NodeId> {
        let left = self.left();
        let beyond = left.len().saturating_sub(LEFT_KEPT);
        let forgotten: Vec<NodeId> = left[..beyond].iter().map(|(_, id)| *id).collect();
        self.nodes.retain(|id, _| !forgotten.contains(id));
        forgotten
    }

    fn put_node(&mut self, id: NodeId, node: Node) {
        let held = self.held(id);
        let node = Arc::new(node);
        self.nodes.insert(id, Entry { node, held });
    }

    fn put_shard(&mut self, id: ShardId, row: ShardRow) {
        if let Some(old) = self.shards.replace(id, row) {
            self.count(&old, |number| *number -= 1);
            self.count(&row, |number| *number += 1);
        }
    }

    fn count(&mut self, row: &ShardRow, change: impl Fn(&mut u32)) {
        if let Some(entry) = row.owner().and_then(|(id, _)| self.nodes.get_mut(&id)) {
            change(&mut entry.held.owned);
        }
        if let Some(entry) = row.target().and_then(|(id, _)| self.nodes.get_mut(&id)) {
            change(&mut entry.held.receiving);
        }
    }
}

#[cfg(test)]
mod tests;
