//! What a node does about those around it: greets the silent, remembers where all are, and
//! ends where what it was told of the cluster proves wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use shoal_core::{
    found::Peer,
    id::{LogIndex, NodeId, Timestamp},
    registry::Life,
};
use tokio::sync::watch;

use super::{EXIT_SETTING, End, Exit, Shared, standing};
use crate::{config::Start, discovery::PeerSet, env::clock, found, raft};

/// Members remembered for the next start, and silent nodes greeted at once: any few answer.
const MOST: usize = 64;
/// A session that was not renewed for so many leases is silent, whoever judges it.
const SILENT_LEASES: u32 = 2;
/// Of a table without settings.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// JOIN_ADDRESS may lead here by another spelling: it would be waited for without end.
pub(super) async fn refuse_own_address(shared: Arc<Shared>, mut peers: watch::Receiver<PeerSet>) {
    let Start::Join(address) = &shared.config.start else { return };
    let (own, joined) = (
        shared.config.raft_address.to_string(),
        shared.identity.lock().directory().joined.is_some(),
    );
    // Settings of founding are ignored once the directory has an identity.
    if joined || peers.wait_for(|peers| peers.raft_addresses.contains(&own)).await.is_err() {
        return;
    }
    let line = format!(
        "JOIN_ADDRESS is \"{address}\": it answers with the RAFT_ADDRESS of this node itself, \
         {own}; name another member, or leave it empty to found a cluster of one"
    );
    shared.end(End::Exit(Exit::new(EXIT_SETTING, line)));
}

/// Holds what was set for founding against the cluster, as soon as its table is there.
pub(super) async fn check_settings(shared: Arc<Shared>) {
    let newcomer = shared.identity.lock().counter() == 0;
    let mut applied = shared.table.watch_applied();
    while !shared.table.registry().founded() {
        if applied.changed().await.is_err() {
            return;
        }
    }
    let settings = shared.table.registry().settings().clone();
    if let Err(error) = shared.config.fits(settings.shard_count, settings.lease_ms, newcomer) {
        shared.end(End::Exit(Exit::of(EXIT_SETTING, &error)));
    }
}

/// Keeps where the members are, for the next start of this directory.
pub(super) async fn remember(shared: Arc<Shared>, me: NodeId) {
    let mut map = shared.table.watch_map();
    let mut kept = shared.identity.lock().members();
    loop {
        map.borrow_and_update();
        let members: BTreeSet<String> = {
            let registry = shared.table.registry();
            let others = registry
                .nodes()
                .filter(|(id, node)| registry.formed() && *id != me && node.life != Life::Left);
            others.map(|(_, node)| node.info.addresses.raft.clone()).take(MOST).collect()
        };
        // A table that shows nobody yet, or nobody any more, is no reason to forget.
        if members != kept && !members.is_empty() {
            kept.clone_from(&members);
            let identity = shared.identity.clone();
            // Cancelled only with the runtime.
            let _ = crate::env::thread::blocking(move || identity.lock().remember(&members)).await;
        }
        if map.changed().await.is_err() {
            return;
        }
    }
}

/// Discovery knows where a node is before the node can say so itself: after a restart of all,
/// with new addresses, nobody else does [L9].
pub(super) async fn follow_names(shared: Arc<Shared>, mut peers: watch::Receiver<PeerSet>) {
    let mut map = shared.table.watch_map();
    let mut told: BTreeMap<NodeId, String> = BTreeMap::new();
    loop {
        map.borrow_and_update();
        let named = peers.borrow_and_update().named.clone();
        for (id, node) in shared.table.registry().nodes() {
            if let Some(address) = named.get(&node.info.name).filter(|_| node.life != Life::Left)
                && told.get(&id) != Some(address)
            {
                shared.channels.book().learn(id, address);
                told.insert(id, address.clone());
            }
        }
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            changed = peers.changed() => if changed.is_err() { return },
        }
    }
}

/// Greets whoever is silent until it is Left: it may have lost its directory and founded
/// alone, and must hear of this cluster [S5].
pub(super) async fn greet(shared: Arc<Shared>, raft: raft::Handle, founding: found::Handle) {
    let mut sessions = Sessions::default();
    let mut told = Vec::new();
    loop {
        tokio::time::sleep(lease(&shared) / 2).await;
        let silent = sessions.silent(&shared, &raft);
        if silent != told {
            told.clone_from(&silent);
            founding.silent(silent).await;
        }
    }
}

/// A marked node that may not register waits until it has left, and joins anew then.
pub(super) async fn retire_once_left(shared: &Shared, node: NodeId) -> End {
    while !standing::has_left(shared, node).await {
        tokio::time::sleep(lease(shared)).await;
    }
    End::Retire(node)
}

/// A process that was paused or cut off while its cluster lost its quorum and was recovered as
/// another holds no right any more, and nobody renews it: it ends, and says what to do.
pub(super) async fn end_if_recovered(shared: Arc<Shared>, node: NodeId) {
    loop {
        tokio::time::sleep(2 * lease(&shared)).await;
        let idle = !shared.right.holds(clock::now()) && !*shared.parked.borrow();
        if idle
            && shared.table.registry().formed()
            && let Some(exit) = standing::ended_by_recovery(&shared, node).await
        {
            return shared.end(End::Exit(exit));
        }
    }
}

fn lease(shared: &Shared) -> Duration {
    let millis = shared.table.registry().settings().lease_ms;
    Duration::from_millis(millis.into()).max(LEAST_PAUSE)
}

/// The last renewal of each node, and when this node first saw it.
#[derive(Default)]
struct Sessions(BTreeMap<NodeId, (LogIndex, Timestamp)>);

impl Sessions {
    fn silent(&mut self, shared: &Shared, raft: &raft::Handle) -> Vec<Peer> {
        let members = raft.membership();
        // A watcher is told of no renewals and cannot judge by them.
        let follows = members.votes(raft.id()) || members.learners.contains(&raft.id());
        let (now, patience) = (clock::now(), SILENT_LEASES * lease(shared));
        let registry = shared.table.registry();
        let mut silent = Vec::new();
        for (id, node) in registry.nodes().filter(|(id, _)| *id != raft.id()) {
            let seen = self.0.entry(id).or_insert((node.renewed, now));
            if seen.0 != node.renewed {
                *seen = (node.renewed, now);
            }
            let gone = match node.life {
                Life::Joining | Life::Closed | Life::Fenced => true,
                Life::Up => follows && now.at_least_since(seen.1) > patience,
                Life::Left => false,
            };
            if gone && registry.formed() && silent.len() < MOST {
                let address = node.info.addresses.raft.clone();
                silent.push(Peer { name: node.info.name.clone(), address });
            }
        }
        silent
    }
}
