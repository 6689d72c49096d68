//! Where other nodes may be reached: one `PeerSet` behind whichever way finds them.
//!
//! It only ever adds: an empty, failed or shrunken answer removes nobody, and a name that moves
//! takes its address along. It knows nothing of who is a member.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod dns;
pub mod fixed;
pub mod kubernetes;

/// What was found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet {
    /// RAFT_ADDRESSes of nodes whose names are not known.
    pub raft_addresses: BTreeSet<String>,
    /// The RAFT_ADDRESS of each node that is known by its name.
    pub named: BTreeMap<String, String>,
    /// NODE_ADDRESSes that do not say where they are, and why.
    pub silent: BTreeMap<String, String>,
    /// Names were listed once, as far as there are any.
    pub listed: bool,
    /// Why names cannot be listed now.
    pub trouble: Option<String>,
}

impl PeerSet {
    /// Where members were before: a start for whoever was one.
    pub fn of(raft_addresses: BTreeSet<String>) -> Self {
        Self { raft_addresses, ..Self::default() }
    }

    /// Every RAFT_ADDRESS.
    pub fn addresses(&self) -> BTreeSet<String> {
        self.raft_addresses.iter().chain(self.named.values()).cloned().collect()
    }
}

/// What finds peers, together.
#[derive(Debug)]
pub struct Discovery {
    peers: watch::Sender<PeerSet>,
    sources: Vec<Source>,
}

#[derive(Debug)]
pub enum Source {
    /// PEER_ADDRESSES, or the one of JOIN_ADDRESS.
    Fixed(fixed::Fixed),
    Dns(dns::Dns),
    Kubernetes(kubernetes::Kubernetes),
}

impl Discovery {
    /// Without a source it finds nobody beyond `known`.
    pub fn new(known: PeerSet, sources: Vec<Source>) -> Self {
        Self { peers: watch::Sender::new(known), sources }
    }

    pub fn peers(&self) -> watch::Receiver<PeerSet> {
        self.peers.subscribe()
    }

    /// Looks again and again, until it is told to stop.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { peers, sources } = self;
        let all = sources.into_iter().map(async |source| match source {
            Source::Fixed(fixed) => fixed.run(&peers).await,
            Source::Dns(dns) => dns.run(&peers).await,
            Source::Kubernetes(pods) => pods.run(&peers).await,
        });
        shutdown.run_until_cancelled(join_all(all)).await;
        shutdown.cancelled().await;
    }
}
