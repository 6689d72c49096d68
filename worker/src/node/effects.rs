//! What founding asks of Raft: run as whom, stop, admit this directory, propose Formed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use shoal_core::{
    id::{ClusterId, Epoch, NodeId},
    registry::Command,
};
use shoal_proto::shoal::peer::v1::{
    self as pb, session_client::SessionClient, session_response::Result as Answer,
};
use tokio::sync::watch;
use tracing::info;

use super::{EXIT_SETTING, End, Exit, Shared, member::Member, standing};
use crate::{
    config::Config,
    control::Request,
    discovery::PeerSet,
    env::clock,
    found::{self, Cause, Effects, Refusal, Stopped},
    identity::EXIT_IDENTITY,
    raft::{self, ClusterCell, Slot},
    wire,
};

/// So often must the session of a rival be seen to be renewed before it counts as alive: the
/// last renewal of a dead one may still have been on its way.
const SIGNS_OF_LIFE: u32 = 2;

/// Another node of our name, as the leader told of it.
#[derive(Default)]
struct Rival {
    renewed: u64,
    signs: u32,
}

pub(super) struct Raft {
    shared: Arc<Shared>,
    slot: Slot,
    peers: watch::Receiver<PeerSet>,
    cluster: ClusterCell,
    founding: Mutex<Option<found::Handle>>,
    /// Held while it starts: whoever leaves then leaves with it.
    member: tokio::sync::Mutex<Option<Member>>,
    /// Told to stop: what does not run yet is not started any more.
    leaving: AtomicBool,
    rival: Mutex<Rival>,
}

impl Raft {
    pub fn new(shared: Arc<Shared>, slot: Slot, peers: watch::Receiver<PeerSet>) -> Self {
        Self {
            shared,
            slot,
            peers,
            cluster: ClusterCell::default(),
            founding: Mutex::default(),
            member: tokio::sync::Mutex::default(),
            leaving: AtomicBool::new(false),
            rival: Mutex::default(),
        }
    }

    /// Founding and Raft know each other.
    pub fn bind(&self, founding: found::Handle) {
        *self.founding.lock() = Some(founding);
    }

    /// Hands everything over, or closes it in place.
    pub async fn leave(&self, budget: Duration) {
        self.leaving.store(true, Ordering::SeqCst);
        // One that cannot be started in this time serves nothing either.
        let Ok(running) = tokio::time::timeout(budget, self.member.lock()).await else { return };
        if let Some(member) = &*running {
            member.leave(&self.shared, budget).await;
        }
    }

    pub async fn end(&self) {
        if let Some(member) = self.member.lock().await.take() {
            member.end(&self.shared).await;
        }
    }

    async fn run(&self, cluster: ClusterId, node: NodeId, found: bool) -> Result<(), Cause> {
        let mut running = self.member.lock().await;
        if self.leaving.load(Ordering::SeqCst) {
            // The process is on its way out: it would be given shards, and take them along.
            return std::future::pending().await;
        }
        self.cluster.set(Some(cluster));
        self.shared.me.set(node).map_err(|_| "raft runs once in a life")?;
        let config = &self.shared.config;
        if self.shared.identity.lock().directory().formed {
            raft::expect_log(&config.raft_dir)?;
        }
        let raft = raft::Handle::start(raft::Config {
            dir: config.raft_dir.clone(),
            cluster: self.cluster.clone(),
            id: node,
            name: config.raft_id.clone(),
            address: config.raft_address.to_string(),
            lease: super::lease(config),
            table: self.shared.table.clone(),
            channels: self.shared.channels.clone(),
            slot: self.slot.clone(),
            metrics: self.shared.telemetry.raft.clone(),
        })
        .await?;
        if found {
            raft.initialize_alone().await?;
        }
        let founding = self.founding.lock().clone().ok_or("founding is not bound")?;
        let first = found.then(|| Command::Found {
            cluster,
            founder: self.shared.info.clone(),
            directory: self.shared.identity.lock().directory().nonce,
            shard_count: config.shards.unwrap_or(Config::DEFAULT_SHARDS),
            lease_ms: super::lease(config).length().as_millis() as u32,
        });
        info!(%cluster, %node, "runs");
        let names = self.founding_names();
        let peers = self.peers.clone();
        let member = Member::start(&self.shared, cluster, raft, founding, first, names, peers)?;
        *running = Some(member);
        Ok(())
    }
}

impl Raft {
    /// What was set for founding must fit, before anything is asked of the cluster.
    async fn check_settings(&self, cluster: ClusterId, address: &str) -> Result<(), Cause> {
        let rows = standing::ask(&self.shared.channels, address, cluster, NodeId(0)).await?;
        // Before its first entry a cluster has none but the defaults.
        let founded = rows.cluster.id == cluster;
        let Some((settings, _)) = rows.settings.filter(|_| founded) else { return Ok(()) };
        let fits = self.shared.config.fits(settings.shard_count, settings.lease_ms, true);
        fits.map_err(|error| {
            self.shared.end(End::Exit(Exit::of(EXIT_SETTING, &error)));
            error.into()
        })
    }

    /// A refusal that no patience lifts ends this life.
    fn refused_join(&self, rejected: &pb::Rejected) {
        use pb::rejected::Why;
        let exit = |line| self.shared.end(End::Exit(Exit::new(EXIT_IDENTITY, line)));
        let message = &rejected.message;
        match rejected.why() {
            Why::NameInUse if self.lives(rejected.renewed) => {
                exit(format!("RAFT_ID: {message}; stop that process or choose another name"));
            }
            Why::Identity => exit(format!("RAFT_ID: {message}")),
            // Admitted and removed before it heard of either.
            Why::Left => self.shared.end(End::Retire(NodeId(0))),
            Why::Unspecified
            | Why::Retry
            | Why::Stale
            | Why::Marked
            | Why::Refused
            | Why::TableBehind
            | Why::AlreadyRegistered
            | Why::Closed
            | Why::NameInUse => {}
        }
    }

    /// Who may join before the cluster is formed; empty: nobody else.
    fn founding_names(&self) -> Vec<String> {
        let identity = self.shared.identity.lock();
        let joined = identity.directory().joined.iter();
        joined.flat_map(|joined| &joined.on).map(|member| member.name.clone()).collect()
    }

    fn lives(&self, renewed: u64) -> bool {
        let mut rival = self.rival.lock();
        if rival.renewed != 0 && renewed > rival.renewed {
            rival.signs += 1;
        }
        rival.renewed = renewed;
        rival.signs >= SIGNS_OF_LIFE
    }
}

impl Effects for Raft {
    async fn initialize(&self, cluster: ClusterId) -> Result<(), Cause> {
        self.run(cluster, NodeId(1), true).await
    }

    async fn start(&self, cluster: ClusterId, node: NodeId) -> Result<(), Cause> {
        self.run(cluster, node, node == NodeId(1)).await
    }

    async fn stop(&self) -> Result<Stopped, Cause> {
        let Some(member) = self.member.lock().await.take() else { return Ok(Stopped::NeverRan) };
        let raft = member.raft().clone();
        member.end(&self.shared).await;
        self.cluster.set(None);
        // Asked only now: an append may have been under way.
        Ok(Stopped::Ran { formed_in_log: raft.formed_in_log() })
    }

    async fn request_join(
        &self,
        cluster: ClusterId,
        address: &str,
        directory: u128,
    ) -> Result<NodeId, Cause> {
        self.check_settings(cluster, address).await?;
        let channel = self.shared.channels.dial(address)?;
        let request = pb::JoinRequest {
            hop: Some(wire::session::hop(cluster, NodeId(0))),
            info: Some(wire::session::node_info(&self.shared.info)),
            directory: directory.to_be_bytes().to_vec().into(),
        };
        let response = SessionClient::new(channel).join(request).await?.into_inner();
        match response.result {
            Some(Answer::Accepted(accepted)) => Ok(NodeId(accepted.node)),
            Some(Answer::Rejected(rejected)) => {
                self.refused_join(&rejected);
                Err(Refusal(rejected.message).into())
            }
            Some(Answer::NotLeader(_)) | None => Err("no leader yet".into()),
        }
    }

    async fn propose_formed(
        &self,
        _cluster: ClusterId,
        highest_epoch_found: Epoch,
    ) -> Result<(), Cause> {
        let control = match &*self.member.lock().await {
            Some(member) => member.control(),
            None => return Err("raft does not run".into()),
        };
        let command =
            Command::Form { unix_seconds: (clock::unix_ms() / 1_000) as u32, highest_epoch_found };
        control.ask(Request::Propose(command)).await?;
        Ok(())
    }
}
