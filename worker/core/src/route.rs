//! Where a key belongs, as the data path asks it: a read-only view of the registry.
//!
//! Shares the registry's chunks of rows, so that a new table after each entry costs a few
//! hundred pointers and a lookup touches one row. Decides nothing: whether this node may
//! serve what its table says is `admit`'s question.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    id::{Epoch, Incarnation, LogIndex, MapVersion, MoveId, NodeId, ShardId},
    registry::{Addresses, Changes, ClusterState, Holding, Life, Node, Registry, ShardRow, Shards},
};

/// One state of the map. Cloning shares everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTable {
    cluster: ClusterState,
    version: MapVersion,
    applied: LogIndex,
    shard_count: u32,
    shards: Shards,
    peers: Arc<BTreeMap<NodeId, Peer>>,
}

/// A node as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    pub addresses: Addresses,
    pub zone: String,
    pub incarnation: Incarnation,
    pub life: Life,
}

/// Who serves a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Owned {
        node: NodeId,
        incarnation: Incarnation,
        epoch: Epoch,
        /// Still served by `node`, which will hand it over.
        moving: Option<MovingTo>,
        /// The move that brought it here: only then does received state count.
        via: Option<MoveId>,
        /// Index at which the row last changed.
        changed: LogIndex,
    },
    Unassigned {
        epoch: Epoch,
        changed: LogIndex,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovingTo {
    pub target: NodeId,
    pub incarnation: Incarnation,
    pub id: MoveId,
}

impl Route {
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Owned { epoch, .. } | Self::Unassigned { epoch, .. } => *epoch,
        }
    }

    /// Index at which the row last changed: a parked call leaves when it exceeds its NACK's.
    pub fn changed(&self) -> LogIndex {
        match self {
            Self::Owned { changed, .. } | Self::Unassigned { changed, .. } => *changed,
        }
    }

    /// The node that requests go to.
    pub fn owner(&self) -> Option<NodeId> {
        match self {
            Self::Owned { node, .. } => Some(*node),
            Self::Unassigned { .. } => None,
        }
    }
}

impl From<&ShardRow> for Route {
    fn from(row: &ShardRow) -> Self {
        let (epoch, changed) = (row.epoch, row.changed);
        match row.holding {
            Holding::Unassigned => Self::Unassigned { epoch, changed },
            Holding::Owned { node, incarnation, via } => {
                Self::Owned { node, incarnation, epoch, moving: None, via, changed }
            }
            Holding::Moving { node, incarnation, via, target, target_incarnation, id } => {
                Self::Owned {
                    node,
                    incarnation,
                    epoch,
                    moving: Some(MovingTo { target, incarnation: target_incarnation, id }),
                    via,
                    changed,
                }
            }
        }
    }
}

impl RouteTable {
    pub fn from_registry(registry: &Registry) -> Self {
        Self {
            cluster: *registry.cluster(),
            version: registry.map_version(),
            applied: registry.applied(),
            shard_count: registry.settings().shard_count,
            shards: registry.shard_rows().clone(),
            peers: Arc::new(registry.nodes().map(peer).collect()),
        }
    }

    /// Follows the registry by one entry or delta, whose changes these are.
    pub fn update(&mut self, registry: &Registry, changes: &Changes) {
        self.cluster = *registry.cluster();
        self.version = registry.map_version();
        self.applied = registry.applied();
        self.shard_count = registry.settings().shard_count;
        if !changes.shards.is_empty() {
            self.shards = registry.shard_rows().clone();
        }
        if !changes.nodes.is_empty() {
            let peers = Arc::make_mut(&mut self.peers);
            for id in &changes.nodes {
                match registry.node(*id) {
                    Some(node) => peers.extend([peer((*id, node))]),
                    None => drop(peers.remove(id)),
                }
            }
        }
    }

    pub fn cluster(&self) -> &ClusterState {
        &self.cluster
    }

    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// Index of the last entry applied, renewals included.
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    pub fn shard_count(&self) -> u32 {
        self.shard_count
    }

    /// `None` before the cluster is formed, and beyond its shard count.
    pub fn lookup(&self, shard: ShardId) -> Option<Route> {
        self.shards.get(shard).map(Route::from)
    }

    /// The row behind [`RouteTable::lookup`], as admission and hand-over read it.
    pub fn row(&self, shard: ShardId) -> Option<ShardRow> {
        self.shards.get(shard).copied()
    }

    /// The rows that changed after an index; passes over what stood still.
    pub fn rows_since(&self, index: LogIndex) -> impl Iterator<Item = (ShardId, ShardRow)> {
        self.shards.since(index).map(|(id, row)| (id, *row))
    }

    /// All shards by id; none before the cluster is formed.
    pub fn routes(&self) -> impl Iterator<Item = (ShardId, Route)> {
        self.shards.iter().map(|(id, row)| (id, Route::from(row)))
    }

    /// The shard of a key's hash: its top bits, as many as the shard count has.
    pub fn shard_of_hash(&self, hash: u64) -> ShardId {
        let bits = self.shard_count.trailing_zeros();
        ShardId(hash.checked_shr(u64::BITS - bits).unwrap_or(0) as u32)
    }

    pub fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.get(&id)
    }

    /// All nodes that belong to the cluster and the latest that left, by id.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer))
    }
}

impl Default for RouteTable {
    /// Of no cluster yet.
    fn default() -> Self {
        Self::from_registry(&Registry::default())
    }
}

fn peer((id, node): (NodeId, &Node)) -> (NodeId, Peer) {
    let peer = Peer {
        name: node.info.name.clone(),
        addresses: node.info.addresses.clone(),
        zone: node.info.zone.clone(),
        incarnation: node.incarnation,
        life: node.life,
    };
    (id, peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_falls_to_the_shard_of_its_top_bits() {
        let table = RouteTable::default();
        assert_eq!(table.shard_count(), 1_024);
        assert_eq!(table.shard_of_hash(0), ShardId(0));
        assert_eq!(table.shard_of_hash(u64::MAX), ShardId(1_023));
        assert_eq!(table.shard_of_hash(1 << 54), ShardId(1));
        assert_eq!(table.shard_of_hash((1 << 54) - 1), ShardId(0));
    }
}
