//! Everything that runs once this node is a member: control, session, shards, admin.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::FutureExt as _;
use shoal_core::{
    autopilot::may_take_vote_along,
    handoff::{Process, Report},
    id::{ClusterId, NodeId, Timestamp},
    registry::{Command, Drain},
    session::{holder::Why, leave::LOOK_AGAIN},
};
use shoal_proto::shoal::{
    admin::v1::admin_server::AdminServer, peer::v1::session_server::SessionServer,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{error, info, warn};

use super::{EXIT_RAFT, End, Exit, Shared, end_of_session, neighbours};
use crate::{
    admin,
    control::{self, Control},
    discovery::PeerSet,
    env::clock,
    found::{self, Cause},
    host::{self, shards::Shards},
    peer::Purpose,
    raft,
    session::{self, Client, Probe, Session},
    table::Table,
    watch::Client as Watcher,
};

pub(super) struct Member {
    raft: raft::Handle,
    control: control::Handle,
    client: Client,
    session: session::Handle,
    shards: Shards,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Member {
    pub fn start(
        shared: &Arc<Shared>,
        cluster: ClusterId,
        raft: raft::Handle,
        founding: found::Handle,
        first: Option<Command>,
        names: Vec<String>,
        peers: watch::Receiver<PeerSet>,
    ) -> Result<Self, Cause> {
        let node = raft.id();
        let stop = shared.shutdown.child_token();
        let config = control::Config {
            node,
            founding_size: names.len().max(1),
            founding: names,
            found: first,
            metrics: shared.telemetry.control.clone(),
        };
        let (control, asks) = Control::new(config, raft.clone(), shared.table.clone());
        let lock = shared.identity.lock().lock_id();
        let client = Client::new(
            node,
            shared.info.clone(),
            lock,
            shared.table.clone(),
            shared.channels.clone(),
        );
        let shards = shards(shared, node, &client);
        let lease = super::lease(&shared.config);
        let probe = Probe::start(shared.config.raft_dir.clone(), lease.length() / 4, stop.clone())?;
        let (session, handle) = Session::new(
            session::Config {
                node,
                lease,
                metrics: shared.telemetry.session.clone(),
                last_words: shared.last_words.clone(),
            },
            shared.identity.clone(),
            shared.table.clone(),
            shards.clone(),
            shared.right.clone(),
            client.clone(),
            probe,
        );
        shared.channels.book().learn(node, &shared.config.raft_address.to_string());
        let server =
            session::Server::new(shared.table.clone(), asks.clone(), shared.channels.clone());
        shared.late.session.fill(Routes::new(SessionServer::new(server)));
        shared.late.handover.fill(Routes::new(shards.handover_server()));
        let admin = admin::Server::new(
            admin::Own { node, pod_uid: shared.config.pod_uid.clone() },
            shared.table.clone(),
            raft.clone(),
            asks.clone(),
            founding.clone(),
            shared.channels.clone(),
            shared.waiting.subscribe(),
        );
        shared.late.admin.fill(Routes::new(AdminServer::new(admin)));
        shared.telemetry.join(raft.clone(), shards.clone());
        let watcher = watch_map(shared, cluster, &raft, &handle, peers.clone(), &stop);
        let mut tasks = JoinSet::new();
        tasks.spawn(watcher.run(stop.clone()));
        tasks.spawn(control.run(stop.clone()));
        tasks.spawn(run_session(shared.clone(), node, session));
        tasks.spawn(neighbours::check_settings(shared.clone()));
        tasks.spawn(neighbours::remember(shared.clone(), node));
        tasks.spawn(neighbours::end_if_recovered(shared.clone(), node));
        tasks.spawn(neighbours::follow_names(shared.clone(), peers));
        tasks.spawn(neighbours::greet(shared.clone(), raft.clone(), founding.clone()));
        tasks.spawn({
            let (shards, stop) = (shards.clone(), stop.clone());
            async move { shards.run(stop).await }
        });
        tasks.spawn(name_process(shared.clone(), node, handle.clone()));
        tasks.spawn(watch_raft(shared.clone(), raft.clone()));
        tasks.spawn(tell_founding(shared.clone(), raft.clone(), founding));
        Ok(Self { raft, control: asks, client, session: handle, shards, tasks, stop })
    }

    pub fn raft(&self) -> &raft::Handle {
        &self.raft
    }

    pub fn control(&self) -> control::Handle {
        self.control.clone()
    }

    pub async fn leave(&self, shared: &Shared, budget: Duration) {
        let by = session::hand_over_by(budget);
        self.shards.leave_by(by);
        let node = self.raft.id();
        let left = session::leave(node, &shared.table, &self.client, &self.session, by).await;
        info!(%node, ?left, "left");
        if shared.config.ephemeral {
            vote_spared(&self.raft, &shared.table, by).await;
        }
    }

    pub async fn end(mut self, shared: &Shared) {
        self.stop.cancel();
        shared.right.revoke();
        shared.telemetry.leave();
        shared.late.session.clear();
        shared.late.handover.clear();
        shared.late.map.clear();
        shared.late.admin.clear();
        self.tasks.shutdown().await;
        self.raft.shutdown().await;
    }
}

/// A directory that ends with its node takes its vote along. Until the log goes on without it, or
/// nobody is left who needs it, the node stays and votes.
async fn vote_spared(raft: &raft::Handle, table: &Table, by: Timestamp) {
    let mut map = table.watch_map();
    while !clock::now().until_maybe_past(by).is_zero() {
        map.borrow_and_update();
        if is_vote_spared(raft, table) {
            return;
        }
        // A closed channel only means that nothing changes any more.
        drop(tokio::time::timeout(LOOK_AGAIN, map.changed()).await);
    }
    warn!(node = %raft.id(), "its vote is needed, and goes with its directory");
}

fn is_vote_spared(raft: &raft::Handle, table: &Table) -> bool {
    let (members, registry) = (raft.membership(), table.registry());
    let stays = |id: NodeId| {
        let row = registry.node(id);
        row.is_some_and(|row| row.life.is_up() && row.drain == Drain::None && !row.marked)
    };
    let retiring = members.joint.then_some(&members.retiring);
    may_take_vote_along(&members.voters, retiring, raft.id(), stays)
}

fn shards(shared: &Arc<Shared>, node: NodeId, client: &Client) -> Shards {
    let channels = shared.channels.clone();
    let reporter = client.clone();
    let shards = Shards::new(host::shards::Parts {
        node,
        host: shared.work.host.clone(),
        table: shared.table.clone(),
        right: shared.right.clone(),
        executor: shared.work.executor.clone(),
        channels: Arc::new(move |node| channels.channel(node, Purpose::Handover).ok()),
        report: Arc::new(move |report: Report| {
            let client = reporter.clone();
            // Said again until the row changes.
            async move { drop(client.report(report).await) }.boxed()
        }),
        transfer_rate: None,
        metrics: shared.telemetry.host.clone(),
    });
    shared.owner.fill(shards.clone());
    shards
}

/// Serves watchers of the registry here, and makes the watcher that this node is at times.
fn watch_map(
    shared: &Arc<Shared>,
    cluster: ClusterId,
    raft: &raft::Handle,
    session: &session::Handle,
    peers: watch::Receiver<PeerSet>,
    stop: &CancellationToken,
) -> Watcher {
    let metrics = shared.telemetry.map.clone();
    let node = raft.id();
    let members = raft.clone();
    let server = crate::watch::Server::new(
        node,
        shared.table.clone(),
        Arc::new(move || members.members()),
        metrics.clone(),
        stop.clone(),
    );
    shared.late.map.fill(Routes::new(server.service()));
    Watcher::new(
        crate::watch::Config { node, cluster, address: shared.config.raft_address.to_string() },
        shared.table.clone(),
        shared.channels.clone(),
        peers,
        session.state(),
        raft.hearsay(),
        metrics,
    )
}

async fn run_session(shared: Arc<Shared>, node: NodeId, session: Session) {
    let ended = match session.run().await {
        Ok(ended) => ended,
        Err(error) => {
            return shared.end(End::Exit(Exit::of(EXIT_RAFT, &error)));
        }
    };
    match end_of_session(&shared, node, &ended) {
        Some(end) => shared.end(end),
        None if ended.why == Why::Marked && !*shared.parked.borrow() => {
            shared.end(neighbours::retire_once_left(&shared, node).await);
        }
        None => {}
    }
}

/// The data path's frames name the incarnation that serves.
async fn name_process(shared: Arc<Shared>, node: NodeId, session: session::Handle) {
    let mut state = session.state();
    loop {
        let incarnation = state.borrow_and_update().incarnation;
        shared.forward.set_me(Process::new(node, incarnation));
        if state.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_raft(shared: Arc<Shared>, raft: raft::Handle) {
    let why = raft.fatal().await;
    error!(%why, "raft has stopped");
    shared.end(End::Exit(Exit::new(EXIT_RAFT, format!("raft has stopped: {why}"))));
}

/// Founding learns what became of the membership and of Formed.
async fn tell_founding(shared: Arc<Shared>, raft: raft::Handle, founding: found::Handle) {
    /// Membership has no channel of its own; founding is over within seconds.
    const LOOK: Duration = Duration::from_millis(100);
    let (mut in_log, mut told) = (false, Vec::new());
    loop {
        if !in_log && raft.formed_in_log() {
            in_log = true;
            founding.formed_in_log().await;
        }
        if shared.table.registry().formed() {
            founding.formed_committed().await;
            return;
        }
        let members = raft.membership();
        let directories: BTreeMap<NodeId, u128> =
            shared.table.registry().nodes().map(|(id, node)| (id, node.directory)).collect();
        let voters: Vec<u128> =
            members.voters.iter().filter_map(|id| directories.get(id).copied()).collect();
        let whole = members.committed && !members.joint && voters.len() == members.voters.len();
        if whole && voters != told {
            told.clone_from(&voters);
            founding.membership_committed(voters).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}
