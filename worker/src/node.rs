//! One node: binds its ports, founds or joins, runs all parts, and leaves when told to.
//!
//! Wires components and decides nothing. A process lives once for each identity that its
//! directory has in turn: what belongs to one is built anew for the next and shares nothing
//! with it but the directory. Founding says when Raft runs and as whom (`effects`); what
//! depends on that is built then (`member`) and found by the services of the ports through
//! `late`. `standing` asks the members what has become of a known directory first.

mod effects;
mod founding;
mod late;
mod member;
mod neighbours;
mod ports;
mod standing;
mod unformed;

use std::{error::Error, future::Future, pin::Pin, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_core::{
    id::NodeId,
    registry::{Addresses, Node, NodeInfo},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    effects::Raft,
    late::{Late, LateOwner},
    ports::Ports,
    standing::Verdict,
    unformed::Unformed,
};
use crate::{
    admin::ready,
    config::{self, Config, memory},
    discovery::{Discovery, PeerSet},
    env::clock,
    forward::{self, DataPort, Ingress},
    found,
    host::{Host, right::Right},
    identity::{EXIT_IDENTITY, Identity},
    peer::{AddressBook, Channels},
    pod::{
        client,
        own::{self, Own},
        termination,
    },
    raft, session,
    table::Table,
    telemetry::Telemetry,
    tls::Tls,
    wire,
};

/// Exit code of a setting that cannot be used on this machine, or in this cluster.
const EXIT_SETTING: u8 = 64;
/// Raft or the disk failed.
const EXIT_RAFT: u8 = 70;
/// Kept back of the shutdown budget for the connections of clients.
const CONNECTIONS: Duration = Duration::from_secs(5);
/// Until peers have seen that their connections end with a life; then they are cut.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why the process ends, as its exit code and one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    pub code: u8,
    pub message: String,
}

impl Exit {
    fn new(code: u8, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }

    /// The error and what it came from, in one line.
    fn of(code: u8, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            message = format!("{message} ({source})");
            cause = source.source();
        }
        Self { code, message }
    }
}

impl From<crate::identity::Error> for Exit {
    fn from(error: crate::identity::Error) -> Self {
        Self::of(error.exit_code(), &error)
    }
}

/// Why a life ends by itself.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Exit(Exit),
    /// The cluster knows this node no more: it joins again under a new id.
    Retire(NodeId),
}

/// How a life ended without an error.
enum Ended {
    Stopped,
    /// Another begins from what is on disk.
    Anew,
}

/// What every part of a node shares, for one life.
pub(crate) struct Shared {
    pub config: Config,
    pub info: NodeInfo,
    pub identity: Arc<Mutex<Identity>>,
    pub table: Table,
    pub channels: Channels,
    pub tls: Tls,
    /// What discovery found.
    pub peers: watch::Receiver<PeerSet>,
    pub last_words: termination::Message,
    pub right: Right,
    pub forward: Arc<forward::Node>,
    pub late: Late,
    pub owner: LateOwner,
    pub waiting: watch::Sender<String>,
    pub telemetry: Telemetry,
    pub work: Work,
    pub shutdown: CancellationToken,
    pub end: watch::Sender<Option<End>>,
    /// Removed from the cluster: stays as an entry node.
    pub parked: watch::Sender<bool>,
    /// This node's id, once it has one.
    pub me: std::sync::OnceLock<NodeId>,
}

impl Shared {
    /// Ends this life; the first reason counts.
    pub fn end(&self, end: End) {
        self.end.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(end);
            first
        });
    }

    /// What concerns the whole directory, as a line for a person.
    fn directory_line(&self, problem: impl std::fmt::Display) -> String {
        format!("data directory {}: {problem}", self.config.raft_dir.display())
    }

    /// The pod of a removed node is not to bring it back by itself.
    fn is_same_pod(&self, row: &Node) -> bool {
        self.config.pod_uid.is_some() && self.config.pod_uid == row.info.pod_uid
    }
}

/// What a node is there for.
#[derive(Clone)]
pub struct Work {
    pub host: Host,
    /// Carries clients' calls and runs the host. The rest keeps to the runtime it is polled on: a
    /// flood of calls must not cost the session, nor a handler that blocks.
    pub executor: Handle,
}

/// Runs a node until `stop` resolves, its pod is deleted, or it must end.
pub async fn run(
    mut config: Config,
    work: Work,
    stop: impl Future<Output = ()>,
) -> Result<(), Exit> {
    let tls = Tls::of_node(config.tls.as_ref(), &config.raft_id)
        .map_err(|error| Exit::of(EXIT_SETTING, &error))?;
    let identity = Identity::open(&config.raft_dir, &config.raft_id)?;
    let identity = Arc::new(Mutex::new(identity));
    let client = api_server(&config).await?;
    let own = own_pod(&config, client.as_ref());
    let stop = own::told_to_stop(stop, own.as_ref(), config.shutdown_budget);
    config.bind_host = ports::usable_host(config.bind_host);
    let lives = async {
        let mut stop = std::pin::pin!(stop);
        loop {
            let (config, tls) = (config.clone(), tls.clone());
            let begun =
                Running::begin(config, work.clone(), identity.clone(), tls, client.as_ref());
            match begun.await?.run(stop.as_mut()).await? {
                Ended::Stopped => return Ok(()),
                Ended::Anew => info!(name = identity.lock().name(), "begins anew"),
            }
        }
    };
    tokio::select! {
        ended = lives => ended,
        never = tls.follow() => match never {},
    }
}

/// Needed to find pods; where they are found otherwise, it only tells when the own one is to go.
async fn api_server(config: &Config) -> Result<Option<kube::Client>, Exit> {
    let in_pod = config.pod.as_ref().is_some_and(|pod| pod.namespace.is_some());
    let finds = matches!(config.discovery, config::Discovery::Kubernetes(_));
    if !in_pod && !finds {
        return Ok(None);
    }
    match client::new(config.kube_config.as_deref()).await {
        Ok(client) => Ok(Some(client)),
        Err(error) if finds => Err(Exit::of(EXIT_SETTING, &error)),
        Err(error) => {
            let why = client::line(&error);
            info!(why, "the API server is not asked: only SIGTERM will stop this");
            Ok(None)
        }
    }
}

fn own_pod(config: &Config, client: Option<&kube::Client>) -> Option<Own> {
    let pod = config.pod.as_ref()?;
    let namespace = pod.namespace.as_ref()?;
    Some(Own::new(client?.clone(), namespace, pod.name.clone(), pod.uid.clone()))
}

/// What other nodes learn of this one when it joins and registers.
fn node_info(config: &Config) -> NodeInfo {
    NodeInfo {
        name: config.raft_id.clone(),
        pod_uid: config.pod_uid.clone(),
        addresses: Addresses {
            data: config.node_address.to_string(),
            raft: config.raft_address.to_string(),
            admin: config.admin_address.to_string(),
            http: config.http_address.to_string(),
        },
        zone: config.zone.clone(),
        weight: config.weight,
        feature_level: wire::registry::feature_level(),
        revision: config.revision.clone(),
    }
}

/// One life.
struct Running {
    shared: Arc<Shared>,
    ports: Ports,
    data: DataPort,
    ingress: Arc<Ingress>,
    discovery: Discovery,
    unformed: Unformed,
}

impl Running {
    async fn begin(
        config: Config,
        work: Work,
        identity: Arc<Mutex<Identity>>,
        tls: Tls,
        client: Option<&kube::Client>,
    ) -> Result<Self, Exit> {
        let ports = Ports::bind(&config).await?;
        let table = Table::default();
        let owner = LateOwner::default();
        let telemetry = Telemetry::default().secured(tls.clone()).restarted(config.restarts);
        let metrics = telemetry.forward.clone();
        let node =
            forward::Node::new(Arc::new(owner.clone()), table.clone(), metrics, config.max_payload);
        let memory = config.call_memory.unwrap_or_else(|| memory::for_calls(config.max_payload));
        let forward = Arc::new(node.secured(tls.clone()).limited(memory));
        let ingress = Ingress::new(forward.clone());
        let bound = work.executor.enter();
        let data = DataPort::bind(
            forward::server::Config {
                listen: ports.data.clone(),
                raft_address: config.raft_address.to_string(),
                in_pod: config.pod.is_some(),
            },
            forward.clone(),
            ingress.clone(),
        )
        .map_err(|error| Exit::new(EXIT_SETTING, format!("NODE_ADDRESS: {error}")))?;
        drop(bound);
        let waiting = watch::Sender::new("starting".to_owned());
        let mut late = Late::default();
        let unformed = Unformed::new(waiting.subscribe(), config.pod_uid.clone());
        late.admin.until_then(unformed.clone());
        let channels = Channels::new(AddressBook::default()).secured(tls.clone(), table.clone());
        let discovery = founding::discovery(&config, &identity.lock(), &channels, client);
        let shared = Arc::new(Shared {
            info: node_info(&config),
            identity,
            tls,
            table,
            channels,
            peers: discovery.peers(),
            last_words: termination::Message::at(config.termination_log.clone()),
            right: Right::new().map_err(|error| Exit::new(EXIT_RAFT, error))?,
            forward,
            late,
            owner,
            waiting,
            telemetry,
            work,
            shutdown: CancellationToken::new(),
            end: watch::Sender::new(None),
            parked: watch::Sender::new(false),
            me: std::sync::OnceLock::new(),
            config,
        });
        Ok(Self { shared, ports, data, ingress, discovery, unformed })
    }

    async fn run(self, mut stop: Pin<&mut impl Future<Output = Duration>>) -> Result<Ended, Exit> {
        let Self { shared, ports, data, ingress, discovery, unformed } = self;
        let slot = raft::Slot::default();
        let peers = shared.peers.clone();
        let raft = Arc::new(Raft::new(shared.clone(), slot.clone(), peers.clone()));
        let (founding, handle) = found::Found::new(
            founding::config(&shared)?,
            shared.identity.clone(),
            raft.clone(),
            peers.clone(),
            shared.channels.clone(),
        );
        raft.bind(handle.clone());
        unformed.bind(handle.state());
        let mut servers = JoinSet::new();
        ports.serve(&shared, &slot, &handle, &mut servers);
        let mut tasks = JoinSet::new();
        tasks.spawn(readiness(shared.clone(), handle.state()));
        tasks.spawn(discovery.run(shared.shutdown.clone()));
        tasks.spawn(neighbours::refuse_own_address(shared.clone(), peers));
        tasks.spawn(founding::follow_identity_file(shared.clone(), handle));
        let leave = data.leave();
        let port = shared.work.executor.spawn(data.run());
        let mut founding = tokio::spawn(found_or_join(shared.clone(), founding));
        let mut budget = shared.config.shutdown_budget;
        let mut ended = tokio::select! {
            told = stop.as_mut() => {
                budget = told;
                Ok(Ended::Stopped)
            }
            ended = &mut founding => match ended {
                Ok(ended) => ended,
                Err(error) => Err(Exit::of(EXIT_RAFT, &error)),
            },
        };
        if let Ok(Ended::Stopped) = ended {
            info!(name = %shared.config.raft_id, budget = budget.as_secs(), "told to stop");
            let told_at = clock::now();
            raft.leave(budget.saturating_sub(CONNECTIONS)).await;
            shared.waiting.send_replace(ready::LEAVING.to_owned());
            leave.leave(budget.saturating_sub(clock::now().at_least_since(told_at))).await;
            ingress.close().await;
        }
        shared.shutdown.cancel();
        founding.abort();
        raft.end().await;
        end_servers(servers, port).await;
        tasks.shutdown().await;
        let retire = match &*shared.end.borrow() {
            Some(End::Retire(node)) => Some(*node),
            Some(End::Exit(_)) | None => None,
        };
        if let (Ok(Ended::Anew), Some(node)) = (&ended, retire) {
            ended = retire_directory(&shared, node).map(|()| Ended::Anew);
        }
        ended
    }
}

/// Asks what has become of a known directory, then founds, joins or enters, until this life
/// ends by itself.
async fn found_or_join(shared: Arc<Shared>, founding: found::Found<Raft>) -> Result<Ended, Exit> {
    match standing::inquire(&shared).await {
        Verdict::Enter => {}
        Verdict::Retire(node) => shared.end(End::Retire(node)),
        Verdict::Exit(exit) => return Err(exit),
    }
    let mut end = shared.end.subscribe();
    let formed_in_log = formed_in_log(&shared).await?;
    tokio::select! {
        biased;
        Ok(now) = end.wait_for(Option::is_some) => match now.clone() {
            Some(End::Exit(exit)) => Err(exit),
            Some(End::Retire(_)) | None => Ok(Ended::Anew),
        },
        ended = founding.run(formed_in_log, shared.shutdown.clone()) => match ended {
            Ok(found::Ended::Told) => Ok(Ended::Stopped),
            Ok(found::Ended::Anew) => Ok(Ended::Anew),
            Err(error) => Err(founding_failed(error)),
        },
    }
}

/// The directory may not know yet what its log does: a crash came between the two.
async fn formed_in_log(shared: &Shared) -> Result<bool, Exit> {
    let directory = shared.identity.lock().directory().clone();
    if directory.formed || directory.joined.is_none() {
        return Ok(directory.formed);
    }
    let found = raft::formed_in_log(&shared.config.raft_dir).await;
    found.map_err(|error| Exit::of(error.exit_code(), &error))
}

/// Peers must not keep a connection to what this node was.
async fn end_servers(mut servers: JoinSet<()>, port: JoinHandle<()>) {
    let all = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, all).await.is_err() {
        servers.shutdown().await;
    }
    port.abort();
    // Cancelled on purpose, or it had ended before.
    let _ = port.await;
}

fn retire_directory(shared: &Shared, node: NodeId) -> Result<(), Exit> {
    let highest_epoch = shared.table.registry().highest_epoch();
    warn!(%node, "this cluster counts the node no more: its directory is set aside, and it joins anew");
    Ok(shared.identity.lock().retire(node, highest_epoch)?)
}

/// A failure of founding; where Raft's files are the cause, what is wrong with them.
fn founding_failed(error: found::Error) -> Exit {
    if let found::Error::Raft { source, .. } = &error
        && let Some(raft) = source.downcast_ref::<raft::Error>()
    {
        return Exit::of(raft.exit_code(), raft);
    }
    Exit::of(error.exit_code(), &error)
}

/// Keeps what readiness waits for: a formed cluster's table, and a node that has not left.
async fn readiness(shared: Arc<Shared>, mut founding: watch::Receiver<found::State>) {
    let mut map = shared.table.watch_map();
    let mut parked = shared.parked.subscribe();
    loop {
        map.borrow_and_update();
        let missing = founding.borrow_and_update().waiting.clone();
        let me = shared.me.get().copied();
        let waiting = if *parked.borrow_and_update() {
            ready::removed()
        } else {
            let missing = ready::missing(&shared.table.registry(), me, missing.as_deref());
            missing.unwrap_or_default()
        };
        shared.waiting.send_if_modified(|now| {
            let changed = *now != waiting && now != ready::LEAVING;
            if changed {
                *now = waiting;
            }
            changed
        });
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            changed = founding.changed() => if changed.is_err() { return },
            changed = parked.changed() => if changed.is_err() { return },
        }
    }
}

/// What the end of a session means for this life.
pub(crate) fn end_of_session(shared: &Shared, node: NodeId, ended: &session::Ended) -> Option<End> {
    use shoal_core::session::holder::Why;
    let same_pod = shared.table.registry().node(node).is_some_and(|row| shared.is_same_pod(row));
    match ended.why {
        Why::Stopped => None,
        // Removed in this very run, or in this pod: it stays as an entry node.
        Why::Marked | Why::Left if ended.registered || same_pod => {
            shared.parked.send_replace(true);
            None
        }
        // Marked only: it may still vote. `neighbours` looks when it has left.
        Why::Marked => None,
        Why::Left => Some(End::Retire(node)),
        Why::StillRunning => Some(End::Exit(Exit::new(
            EXIT_RAFT,
            "handlers of a lost session could not be ended in time",
        ))),
        Why::Identity => {
            Some(End::Exit(Exit::new(EXIT_IDENTITY, shared.directory_line(&ended.refusal))))
        }
    }
}

/// What `member` needs of the session's settings.
pub(crate) fn lease(config: &Config) -> shoal_core::session::lease::Lease {
    let given = config.lease.unwrap_or(Config::DEFAULT_LEASE);
    shoal_core::session::lease::Lease::from_millis(given.as_millis() as u32).unwrap_or_default()
}
