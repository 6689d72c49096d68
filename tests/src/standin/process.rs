//! One pod with its worker, and what outlives it on its volume.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use shoal_core::{
    id::{ClusterId, Incarnation, NodeId},
    registry::NodeInfo,
};
use shoal_operator::build::identity::Identity;
use tokio::time::Instant;

/// A founder is the first node of its cluster.
pub(super) const FOUNDER: NodeId = NodeId(1);

/// What a volume keeps.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    pub nonce: u128,
    pub counter: u64,
    pub cluster: Option<ClusterId>,
    pub node: Option<NodeId>,
}

impl Directory {
    /// Its cluster was founded on it.
    pub fn founded(&self) -> bool {
        self.cluster.is_some() && self.node == Some(FOUNDER)
    }
}

/// The latest process of a pod.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub pod: String,
    pub uid: String,
    /// Key of its [`Directory`].
    pub volume: String,
    pub address: String,
    pub version: String,
    /// Shards of a cluster that it founds.
    pub shards: u32,
    pub info: NodeInfo,
    pub runs: bool,
    /// Its start, or its end where it does not run.
    pub since: Instant,
    pub ended_at: Option<Timestamp>,
    pub restarts: u32,
    pub incarnation: Incarnation,
    /// It has sent a Register: its last words are its incarnation.
    pub registered: bool,
    /// Its pod was deleted.
    pub stopping: bool,
    /// The pod may go.
    pub ended: bool,
    /// How long it does not see its peers.
    pub blind: Duration,
    /// The mounted file.
    pub identity: Option<Identity>,
    pub confirmed: bool,
}

impl Process {
    pub fn end(&mut self, now: Instant) {
        self.runs = false;
        self.since = now;
        self.ended_at = Some(Timestamp::now());
    }

    /// Whether it has found `peer` in its list of pods by now.
    pub fn sees(&self, peer: &Self, now: Instant) -> bool {
        peer.runs && now >= self.since.max(peer.since) + self.blind
    }
}
