//! What becomes of a registry whose cluster has lost its quorum for good.
//!
//! The outcome reads as if one more entry had followed the last: its index is the id of the only
//! node, so that no id of the old cluster means anybody in the new one.

use std::collections::BTreeMap;

use crate::id::{ClusterId, Epoch, LogIndex, MapVersion, NodeId};

use super::{ClusterState, Node, NodeInfo, Registry, Shards, WEIGHTS, apply::first_epoch};

/// What the registry cannot say of the cluster that is to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// Drawn anew.
    pub cluster: ClusterId,
    /// The one node that goes on, under a directory nonce drawn anew.
    pub info: NodeInfo,
    pub directory: u128,
    pub unix_seconds: u32,
    /// Of all tokens known to be issued, by whatever directory was looked into.
    pub highest_epoch_found: Epoch,
}

/// Why a registry cannot be recovered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unrecoverable {
    #[error(
        "cluster {0} was never formed and never served: give its nodes empty directories, and \
         they found another"
    )]
    NeverFormed(ClusterId),
    #[error("it belongs to no cluster: start the node, and it founds or joins one")]
    NeverFounded,
    #[error("a recovered cluster needs an id of its own, not {0}")]
    SameCluster(ClusterId),
    #[error("era {0} leaves no room for tokens above it")]
    NoEraLeft(u32),
    #[error(
        "the cluster is at feature level {required}, this build knows {known}: take the version \
         of shoal that its nodes ran"
    )]
    LevelTooLow { known: u32, required: u32 },
    #[error("node {name} has weight {weight}, allowed: 1 to 1000")]
    Weight { name: String, weight: u32 },
}

impl Registry {
    /// The registry of the cluster that follows this one, and the id of its only node. Every
    /// token of it is above all that were ever issued, and no shard has an owner.
    pub fn recover(&self, recovery: &Recovery) -> Result<(NodeId, Self), Unrecoverable> {
        self.recoverable()?;
        let Recovery { cluster, info, directory, unix_seconds, highest_epoch_found } = recovery;
        if [self.cluster.id, ClusterId::default()].contains(cluster) {
            return Err(Unrecoverable::SameCluster(*cluster));
        }
        let required = self.settings.feature_level;
        if info.feature_level < required {
            return Err(Unrecoverable::LevelTooLow { known: info.feature_level, required });
        }
        if !WEIGHTS.contains(&info.weight) {
            let (name, weight) = (info.name.clone(), info.weight);
            return Err(Unrecoverable::Weight { name, weight });
        }
        let highest = self.highest_epoch().max(*highest_epoch_found);
        let first_epoch = first_epoch(*unix_seconds, highest)
            .ok_or_else(|| Unrecoverable::NoEraLeft(highest.era()))?;
        let index = LogIndex(self.applied.0 + 1);
        let mut recovered = Self {
            cluster: ClusterState {
                id: *cluster,
                formed: Some(index),
                first_epoch,
                recovered_from: Some(self.cluster.id),
            },
            // A lease not yet settled stays so: somebody may still hold a right under it.
            settings: self.settings.clone(),
            settings_changed: self.settings_changed,
            applied: index,
            map_version: MapVersion(index.0),
            nodes: BTreeMap::new(),
            shards: Shards::unassigned(self.settings.shard_count, first_epoch, index),
        };
        let node = NodeId(index.0);
        recovered.put_node(node, Node::joining(info, *directory, index));
        Ok((node, recovered))
    }

    /// Whether there is a cluster to recover at all.
    pub fn recoverable(&self) -> Result<(), Unrecoverable> {
        if !self.founded() {
            return Err(Unrecoverable::NeverFounded);
        }
        if !self.formed() {
            return Err(Unrecoverable::NeverFormed(self.cluster.id));
        }
        Ok(())
    }

    /// As a recovery left it: no shard was given to anybody yet.
    pub fn is_untouched_since_recovery(&self) -> bool {
        self.cluster.recovered_from.is_some()
            && self.shards().all(|(_, row)| Some(row.changed) == self.cluster.formed)
    }
}
