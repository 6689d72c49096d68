//! What the members say of a known directory before Raft runs on it, and after it was refused.
//!
//! Raft trusts its disk: a restored copy that votes may undo what was committed, and so may
//! two processes of one node. Any member's table tells, however old it is: an incarnation
//! that it knows was registered, a node that it saw leave has left [S18].

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use shoal_core::{
    id::{ClusterId, LogIndex, NodeId},
    registry::{Delta, Life, Node},
};
use shoal_proto::shoal::peer::v1::{self as pb, session_client::SessionClient};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::info;

use super::{Exit, Shared};
use crate::{
    config::{Discovery, HostPort, Start},
    discovery::fixed::where_is,
    found::Cause,
    identity::EXIT_IDENTITY,
    peer::Channels,
    wire,
};

/// For a member that accepted the connection. Where nobody listens, or nobody is a member yet,
/// that is known at once: a cluster that starts as a whole waits for nobody.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the others, once one has answered.
const COMPANY: Duration = Duration::from_millis(500);
/// Where the settings lead to another cluster, members of the own one may still be starting.
const FOREIGN_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at a session that may be alive.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Nodes asked at once, of those that discovery knows.
const MOST_ASKED: usize = 64;
/// Renewals seen that prove a living process: one may still have been on its way.
const SIGNS_OF_LIFE: u32 = 2;

/// What this directory is to do.
pub(super) enum Verdict {
    /// Run as the node it is, or found, or join.
    Enter,
    Retire(NodeId),
    Exit(Exit),
}

/// What one address had to say.
enum Heard {
    Rows {
        address: String,
        rows: Box<Delta>,
    },
    /// A node of another cluster, which has formed.
    Foreign {
        address: String,
        cluster: String,
    },
    /// A node of the cluster that the own one goes on as: it had lost its quorum.
    Recovered {
        address: String,
        cluster: ClusterId,
    },
    Nothing,
}

impl Heard {
    fn rows(&self) -> Option<(&str, &Delta)> {
        match self {
            Self::Rows { address, rows } => Some((address, rows.as_ref())),
            Self::Foreign { .. } | Self::Recovered { .. } | Self::Nothing => None,
        }
    }

    /// Why this directory may be of no use, if nobody of its cluster says otherwise.
    fn stray(&self, shared: &Shared, own: &Own) -> Option<Exit> {
        match self {
            Self::Foreign { address, cluster } => Some(stray(shared, own, address, cluster)),
            Self::Recovered { address, cluster } => Some(recovered(shared, own, address, *cluster)),
            Self::Rows { .. } | Self::Nothing => None,
        }
    }

    fn is_recovered(&self) -> bool {
        matches!(self, Self::Recovered { .. })
    }
}

/// Who this directory says it is.
struct Own {
    cluster: ClusterId,
    node: NodeId,
    counter: u64,
}

pub(super) async fn inquire(shared: &Shared) -> Verdict {
    let own = {
        let identity = shared.identity.lock();
        let joined = identity.directory().joined.as_ref();
        joined.and_then(|joined| {
            let counter = identity.counter();
            Some(Own { cluster: joined.cluster, node: joined.node?, counter })
        })
    };
    let Some(own) = own else { return Verdict::Enter };
    let give_up = Instant::now() + FOREIGN_PATIENCE;
    loop {
        let heard = hear(shared, &own).await;
        if let Some(verdict) = judge_all(shared, &own, &heard).await {
            return verdict;
        }
        let strays = heard.iter().filter(|heard| heard.is_recovered()).chain(&heard);
        let Some(exit) = strays.into_iter().find_map(|heard| heard.stray(shared, &own)) else {
            return Verdict::Enter;
        };
        if Instant::now() >= give_up {
            return Verdict::Exit(exit);
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// What the members of the own cluster say together; `None`: none of them has spoken.
async fn judge_all(shared: &Shared, own: &Own, heard: &[Heard]) -> Option<Verdict> {
    let mut together = None;
    for (_, rows) in heard.iter().filter_map(Heard::rows) {
        match judge(shared, own, rows) {
            Verdict::Enter => together = Some(Verdict::Enter),
            verdict @ (Verdict::Retire(_) | Verdict::Exit(_)) => return Some(verdict),
        }
    }
    // All at once: after a reboot each look lasts most of a lease.
    let looks = heard.iter().filter_map(Heard::rows);
    let looks = looks.map(|(address, rows)| runs_elsewhere(shared, own, address, rows));
    let mut looks: FuturesUnordered<_> = looks.collect();
    while let Some(found) = looks.next().await {
        if let Some(exit) = found {
            return Some(Verdict::Exit(exit));
        }
    }
    together
}

/// The settings lead to another cluster, and nobody of the own one is to be found.
fn stray(shared: &Shared, own: &Own, address: &str, theirs: &str) -> Exit {
    let (cluster, setting) = (own.cluster, setting(&shared.config.start));
    let line = format!(
        "it belongs to cluster {cluster}, and {address} to cluster {theirs}; name members of \
         {cluster} in {setting}, or move the directory away to join {theirs}"
    );
    Exit::new(EXIT_IDENTITY, shared.directory_line(line))
}

/// The own cluster lost its quorum while this directory was not there, and goes on elsewhere.
fn recovered(shared: &Shared, own: &Own, address: &str, cluster: ClusterId) -> Exit {
    let line = format!(
        "its cluster {} lost its quorum and was recovered as {cluster}, of which {address} is a \
         member; move the directory away, and the node joins {cluster} with an empty one",
        own.cluster
    );
    Exit::new(EXIT_IDENTITY, shared.directory_line(line))
}

/// The same question while Raft runs and this node holds no right: why this process must end.
/// Asked of all, for in a cluster without a quorum others answer that can tell nothing.
pub(super) async fn ended_by_recovery(shared: &Shared, node: NodeId) -> Option<Exit> {
    let cluster = shared.table.registry().cluster().id;
    let own = Own { cluster, node, counter: u64::MAX };
    let heard = hear(shared, &own).await;
    heard.iter().find(|heard| heard.is_recovered())?.stray(shared, &own)
}

/// The same question after Raft runs: true once a member has seen the node leave.
pub(super) async fn has_left(shared: &Shared, node: NodeId) -> bool {
    let cluster = shared.table.registry().cluster().id;
    let own = Own { cluster, node, counter: u64::MAX };
    let heard = hear(shared, &own).await;
    heard
        .iter()
        .filter_map(Heard::rows)
        .any(|(_, rows)| row(rows).is_some_and(|row| row.life == Life::Left))
}

/// The rows of `node` in the table of the member at this RAFT_ADDRESS.
pub(super) async fn ask(
    channels: &Channels,
    address: &str,
    cluster: ClusterId,
    node: NodeId,
) -> Result<Delta, Cause> {
    let request =
        pb::StandingRequest { hop: Some(wire::session::hop(cluster, node)), node: node.0 };
    let answer = SessionClient::new(channels.dial(address)?).standing(request).await?;
    Ok(wire::registry::decode_delta(&answer.into_inner().rows)?)
}

fn judge(shared: &Shared, own: &Own, rows: &Delta) -> Verdict {
    let Some(row) = row(rows) else {
        // The id is the index of its Join: a table that has read so far would show it.
        let certain = rows.applied >= LogIndex(own.node.0);
        return if certain { Verdict::Retire(own.node) } else { Verdict::Enter };
    };
    let registered = row.incarnation.counter;
    if row.life == Life::Left {
        return if shared.is_same_pod(row) {
            info!(node = %own.node, "was removed in this pod, and stays so");
            Verdict::Enter
        } else {
            Verdict::Retire(own.node)
        };
    }
    if registered > own.counter {
        return Verdict::Exit(Exit::new(
            EXIT_IDENTITY,
            shared.directory_line(format!(
                "it is a restored copy, at incarnation {} where {} has registered {registered}; \
                 wipe it, and the node joins anew",
                own.counter, own.node
            )),
        ));
    }
    Verdict::Enter
}

/// Another process renews the session of this node: one of the two directories is a copy.
/// Not asked where the lock proves that the process before this one is dead.
async fn runs_elsewhere(shared: &Shared, own: &Own, address: &str, rows: &Delta) -> Option<Exit> {
    let mut row = row(rows)?.clone();
    let lock = shared.identity.lock().lock_id();
    if row.life != Life::Up || (lock.is_some() && lock == row.lock) {
        return None;
    }
    let lease_ms = rows.settings.as_ref().map_or(0, |(settings, _)| settings.lease_ms);
    let give_up = Instant::now() + Duration::from_millis(lease_ms.into()) * 2 / 3;
    let mut signs = 0;
    while signs < SIGNS_OF_LIFE && Instant::now() < give_up {
        sleep(LOOK_AGAIN).await;
        let asked = timeout(PATIENCE, ask(&shared.channels, address, own.cluster, own.node));
        let Ok(Ok(rows)) = asked.await else { return None };
        let now = self::row(&rows)?.clone();
        signs += u32::from(now.renewed > row.renewed);
        row = now;
    }
    (signs >= SIGNS_OF_LIFE).then(|| {
        let line = format!(
            "another process, at {}, runs as {} from another copy of it; stop that process, or \
             wipe this directory and join anew under another RAFT_ID",
            row.info.addresses.data, own.node
        );
        Exit::new(EXIT_IDENTITY, shared.directory_line(line))
    })
}

/// Asks all members of before, and whoever the settings name; where none of them answers, those
/// that discovery knows by name, for all addresses may have changed [L9].
async fn hear(shared: &Shared, own: &Own) -> Vec<Heard> {
    let members = shared.identity.lock().members();
    let named = match &shared.config.start {
        Start::FoundAlone | Start::Found | Start::Pods(_) | Start::Identity(_) => Vec::new(),
        Start::Join(address) => vec![address.clone()],
        Start::Peers(peers) => peers.clone(),
    };
    let mut heard = hear_of(shared, own, members, named).await;
    if matches!(shared.config.discovery, Discovery::Kubernetes(_))
        && heard.iter().all(|one| one.rows().is_none())
    {
        let mut peers = shared.peers.clone();
        // Without a list there is nobody to ask.
        let _ = timeout(PATIENCE, peers.wait_for(|peers| peers.listed)).await;
        // Under TLS also those of before: only where a name is known who answers is believed.
        let others = peers.borrow().named.values().take(MOST_ASKED).cloned().collect();
        heard.extend(hear_of(shared, own, others, Vec::new()).await);
    }
    heard
}

async fn hear_of(
    shared: &Shared,
    own: &Own,
    mut members: BTreeSet<String>,
    named: Vec<HostPort>,
) -> Vec<Heard> {
    members.remove(&shared.config.raft_address.to_string());
    let mut asked: FuturesUnordered<BoxFuture<'_, Heard>> = FuturesUnordered::new();
    for address in members {
        asked.push(Box::pin(rows_of(shared, own, address)));
    }
    for address in named.into_iter().filter(|address| *address != shared.config.node_address) {
        asked.push(Box::pin(rows_of_named(shared, own, address.to_string())));
    }
    let (mut deadline, mut heard) = (Instant::now() + PATIENCE, Vec::new());
    while let Ok(Some(one)) = timeout_at(deadline, asked.next()).await {
        if one.rows().is_some() {
            deadline = deadline.min(Instant::now() + COMPANY);
        }
        heard.push(one);
    }
    heard
}

async fn rows_of(shared: &Shared, own: &Own, address: String) -> Heard {
    match ask(&shared.channels, &address, own.cluster, own.node).await {
        // A member that has no table yet knows nothing.
        Ok(rows) if rows.cluster.id == own.cluster => Heard::Rows { address, rows: Box::new(rows) },
        Ok(rows) if rows.cluster.recovered_from == Some(own.cluster) => {
            Heard::Recovered { address, cluster: rows.cluster.id }
        }
        Ok(_) | Err(_) => Heard::Nothing,
    }
}

async fn rows_of_named(shared: &Shared, own: &Own, address: String) -> Heard {
    let Ok(answer) = where_is(&shared.channels, &address).await else { return Heard::Nothing };
    if answer.raft_address == shared.config.raft_address.to_string() {
        return Heard::Nothing;
    }
    let former = shared.identity.lock().recovered_from();
    if former.is_some_and(|former| answer.cluster_id == former.to_string()) {
        // A process that was away while its cluster was recovered has nothing to say to this one.
        return Heard::Nothing;
    }
    let foreign = answer.formed && answer.cluster_id != own.cluster.to_string();
    match rows_of(shared, own, answer.raft_address).await {
        Heard::Rows { .. } | Heard::Nothing if foreign => {
            Heard::Foreign { address, cluster: answer.cluster_id }
        }
        heard => heard,
    }
}

fn row(rows: &Delta) -> Option<&Node> {
    rows.nodes.first().map(|(_, row)| row)
}

fn setting(start: &Start) -> &'static str {
    match start {
        Start::FoundAlone | Start::Join(_) => "JOIN_ADDRESS",
        Start::Peers(_) => "PEER_ADDRESSES",
        Start::Found | Start::Pods(_) | Start::Identity(_) => "DISCOVERY",
    }
}
