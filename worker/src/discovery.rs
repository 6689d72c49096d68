//! Where other nodes may be reached: one `PeerSet` behind whichever way finds them.
//!
//! It only ever adds: an empty, failed or shrunken answer removes nobody. It knows
//! nothing of who is a member.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod fixed;

/// RAFT_ADDRESSes found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet {
    pub raft_addresses: BTreeSet<String>,
    /// NODE_ADDRESSes that do not say where they are, and why.
    pub silent: BTreeMap<String, String>,
}

impl PeerSet {
    /// Where members were before: a start for whoever was one.
    pub fn of(raft_addresses: BTreeSet<String>) -> Self {
        Self { raft_addresses, ..Self::default() }
    }
}

#[derive(Debug)]
pub enum Discovery {
    /// PEER_ADDRESSES, or the one of JOIN_ADDRESS.
    Fixed(fixed::Fixed),
    /// Nobody to find: a node that founds alone.
    Nobody(watch::Sender<PeerSet>),
}

impl Discovery {
    pub fn nobody(known: PeerSet) -> Self {
        Self::Nobody(watch::Sender::new(known))
    }

    pub fn peers(&self) -> watch::Receiver<PeerSet> {
        match self {
            Self::Fixed(fixed) => fixed.peers(),
            Self::Nobody(peers) => peers.subscribe(),
        }
    }

    /// Looks again and again, until it is told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        match self {
            Self::Fixed(fixed) => fixed.run(shutdown).await,
            Self::Nobody(_peers) => shutdown.cancelled().await,
        }
    }
}
