//! What goes on beside Raft: who leads is told, the log is kept short, the address book
//! follows the registry, a node that may campaign is let, elections too slow for the lease are
//! reported, and the first fatal error is kept.

use std::{path::PathBuf, time::Duration};

use openraft::{async_runtime::WatchReceiver as _, errors::Fatal};
use shoal_core::{
    id::NodeId,
    registry::{Life, Registry},
    session::lease::{Elections, Lease},
};
use tokio::sync::{broadcast::error::RecvError, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    handle::Leadership,
    log_store::LogStore,
    membership::Heard,
    retention::{self, Action, Seen},
    state_machine::Blank,
    types::Raft,
};
use crate::{env, peer::AddressBook, table::Table};

/// Pause between two looks at the size of the log and the volume.
const RETENTION_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Tending {
    pub id: NodeId,
    pub dir: PathBuf,
    pub raft: Raft,
    pub log: LogStore,
    pub table: Table,
    pub book: AddressBook,
    pub elections: Elections,
    pub stop: CancellationToken,
}

impl Tending {
    pub fn spawn(
        self,
        tasks: &TaskTracker,
        (blank, heard): (watch::Receiver<Option<Blank>>, watch::Receiver<Option<Heard>>),
        lead: watch::Sender<Leadership>,
        failing: watch::Sender<Option<String>>,
    ) {
        let Self { id, dir, raft, log, table, book, elections, stop } = self;
        let until = |stop: &CancellationToken| stop.clone().cancelled_owned();
        let lead = tell_leader(id, raft.clone(), blank, heard, lead);
        let keep = keep_log_short(dir, raft.clone(), log.clone(), table.clone());
        let fail = keep_failure(raft.clone(), log.clone(), failing);
        let campaign = let_campaign(raft, log, table.clone());
        let judge = judge_elections(elections, table.clone());
        let follow = follow_addresses(id, table, book);
        tasks.spawn(either(until(&stop), lead));
        tasks.spawn(either(until(&stop), keep));
        tasks.spawn(either(until(&stop), fail));
        tasks.spawn(either(until(&stop), campaign));
        tasks.spawn(either(until(&stop), judge));
        tasks.spawn(either(until(&stop), follow));
    }
}

async fn either(stop: impl Future<Output = ()>, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop => {}
        () = work => {}
    }
}

async fn tell_leader(
    id: NodeId,
    raft: Raft,
    mut blank: watch::Receiver<Option<Blank>>,
    mut heard: watch::Receiver<Option<Heard>>,
    lead: watch::Sender<Leadership>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let seen = metrics.borrow_watched().clone();
        let first = *blank.borrow_and_update();
        let (term, is_leader) = (seen.vote.leader_id.term, seen.state.is_leader());
        let ready = first
            .filter(|first| is_leader && first.leader == id && first.term == term)
            .map(|first| (first.index, first.at));
        // Raft remembers the last leader for ever on a node that it was taken from.
        let told = heard.borrow_and_update().as_ref().and_then(|heard| heard.leader);
        let leader = told.filter(|_| !is_leader).or(seen.current_leader.map(NodeId));
        let now = Leadership { leader, term, is_leader, ready };
        lead.send_if_modified(|known| std::mem::replace(known, now) != now);
        let more = tokio::select! {
            changed = metrics.changed() => changed.is_ok(),
            changed = blank.changed() => changed.is_ok(),
            changed = heard.changed() => changed.is_ok(),
        };
        if !more {
            return;
        }
    }
}

async fn keep_log_short(dir: PathBuf, raft: Raft, log: LogStore, table: Table) {
    loop {
        tokio::time::sleep(RETENTION_EVERY).await;
        let snapshot = raft.data_metrics().borrow_watched().snapshot.map(|id| id.index);
        let volume_percent = env::disk::volume_percent(&dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "the volume's fill is unknown");
            0
        });
        let log = log.extent();
        let seen = Seen { log, snapshot, applied: table.applied().0, volume_percent };
        let done = match retention::decide(seen) {
            Action::Keep => Ok(()),
            Action::Snapshot => raft.trigger().snapshot().await,
            Action::Purge(upto) => {
                tracing::warn!(upto, log.bytes, volume_percent, "the log is cut to its limit");
                raft.trigger().purge_log(upto).await
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// The first reason why Raft cannot go on: of its core, its log, or its state machine.
async fn keep_failure(raft: Raft, log: LogStore, failing: watch::Sender<Option<String>>) {
    let mut log = log.failure();
    let mut metrics = raft.metrics();
    let core = async {
        loop {
            let state = metrics.borrow_watched().running_state.clone();
            match state {
                Ok(()) => {}
                Err(Fatal::Stopped) => std::future::pending().await,
                Err(fatal @ (Fatal::StorageError(_) | Fatal::Panicked)) => {
                    return fatal.to_string();
                }
            }
            if metrics.changed().await.is_err() {
                return "its core is gone".to_owned();
            }
        }
    };
    let disk = async {
        let reason = log.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The log was closed in order.
            None => std::future::pending().await,
        }
    };
    // The disk first: what Raft says of it is only the echo.
    let reason = tokio::select! {
        biased;
        reason = disk => reason,
        reason = core => reason,
    };
    failing.send_if_modified(|known| {
        let first = known.is_none();
        known.get_or_insert(reason);
        first
    });
}

/// Until the cluster's forming is in its log, nobody but the founder campaigns.
async fn let_campaign(raft: Raft, log: LogStore, table: Table) {
    let mut formed = log.formed();
    let mut map = table.watch_map();
    loop {
        let may = *formed.borrow_and_update() || table.registry().formed();
        if *raft.node_id() != super::handle::FOUNDER.0 {
            raft.runtime_config().elect(may);
        }
        let more = tokio::select! {
            changed = formed.changed() => changed.is_ok(),
            changed = map.changed() => changed.is_ok(),
        };
        if !more {
            return;
        }
    }
}

/// The lease is the registry's, the times of elections are the process's own: they are fixed
/// when Raft starts. A node that joined with another LEASE than the cluster's may not fit.
async fn judge_elections(elections: Elections, table: Table) {
    let mut applied = table.watch_applied();
    let mut judged = None;
    loop {
        applied.borrow_and_update();
        let lease_ms = {
            let registry = table.registry();
            registry.founded().then(|| registry.settings().lease_ms)
        };
        if lease_ms.is_some() && lease_ms != judged {
            judged = lease_ms;
            let fits = lease_ms.map(Lease::from_millis).transpose();
            if let Err(why) = fits.and_then(|lease| lease.map_or(Ok(()), |l| l.fits(elections))) {
                tracing::warn!(%why, "the lease in force is too short for this process");
            }
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_addresses(id: NodeId, table: Table, book: AddressBook) {
    let mut feed = table.feed();
    guess_all(id, &table.registry(), &book);
    loop {
        match feed.recv().await {
            Ok(applied) if applied.install => guess_all(id, &table.registry(), &book),
            Ok(applied) => {
                let registry = table.registry();
                for node in applied.changes.nodes.iter().filter(|node| **node != id) {
                    match registry.node(*node) {
                        Some(row) if row.life == Life::Left => book.forget(*node),
                        Some(row) => book.learn(*node, &row.info.addresses.raft),
                        None => {}
                    }
                }
            }
            Err(RecvError::Lagged(_)) => guess_all(id, &table.registry(), &book),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Rows of unknown age: what is known first-hand stays ahead of them.
fn guess_all(id: NodeId, registry: &Registry, book: &AddressBook) {
    for (node, row) in registry.nodes().filter(|(node, _)| *node != id) {
        match row.life {
            Life::Left => book.forget(node),
            Life::Joining | Life::Up | Life::Closed | Life::Fenced => {
                book.guess(node, &row.info.addresses.raft);
            }
        }
    }
}
