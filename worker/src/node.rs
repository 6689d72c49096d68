//! One node: binds its ports, founds or joins, runs all parts, and leaves when told to.
//!
//! Wires components and decides nothing. Founding says when Raft runs and as whom
//! (`effects`); what depends on that is built then (`member`) and found by the services of
//! the ports through `late`.

mod effects;
mod late;
mod member;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_core::{
    found as core_found,
    id::NodeId,
    registry::{Addresses, FEATURE_LEVEL, NodeInfo},
};
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    effects::Raft,
    late::{Late, LateOwner},
};
use crate::{
    admin::{http, pages::NodePages, ready},
    config::{Config, HostPort, Start},
    discovery::{Discovery, fixed::Fixed},
    env::net,
    forward::{self, Ingress, server::DataPort},
    found,
    host::right::Right,
    identity::Identity,
    peer::{self, AddressBook, Channels},
    raft,
    table::Table,
    telemetry::Telemetry,
};

/// Exit code of a setting that cannot be used on this machine.
const EXIT_SETTING: u8 = 64;
/// Raft or the disk failed.
const EXIT_RAFT: u8 = 70;
/// Kept back of the shutdown budget for the connections of clients.
const CONNECTIONS: Duration = Duration::from_secs(5);

/// Why the process ends, as its exit code and one line.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    pub code: u8,
    pub message: String,
}

impl Exit {
    fn new(code: u8, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }
}

/// What every part of a node shares.
pub(crate) struct Shared {
    pub config: Config,
    pub info: NodeInfo,
    pub identity: Arc<Mutex<Identity>>,
    pub table: Table,
    pub channels: Channels,
    pub right: Right,
    pub forward: Arc<forward::Node>,
    pub late: Late,
    pub owner: LateOwner,
    pub waiting: watch::Sender<String>,
    pub telemetry: Telemetry,
    /// Carries clients' calls and runs the hosts. The rest keeps to the runtime it is polled on:
    /// a flood of calls must not cost the session, nor a handler that blocks.
    pub executor: Handle,
    pub shutdown: CancellationToken,
    pub exit: watch::Sender<Option<(u8, String)>>,
    /// This node's id, once it has one.
    pub me: std::sync::OnceLock<NodeId>,
}

/// Runs a node until `stop` resolves or it must end; calls and hosts run on `executor`.
pub async fn run(
    config: Config,
    executor: Handle,
    stop: impl Future<Output = ()>,
) -> Result<(), Exit> {
    let identity = Identity::open(&config.raft_dir, &config.raft_id)
        .map_err(|error| Exit::new(error.exit_code(), error))?;
    let ports = Ports::bind(&config).await?;
    let table = Table::default();
    let channels = Channels::new(AddressBook::default());
    let owner = LateOwner::default();
    let telemetry = Telemetry::default();
    let metrics = telemetry.forward.clone();
    let node =
        forward::Node::new(Arc::new(owner.clone()), table.clone(), metrics, config.max_payload);
    let forward = Arc::new(node);
    let ingress = Ingress::new(forward.clone());
    let bound = executor.enter();
    let data = DataPort::bind(
        forward::server::Config {
            listen: ports.data.clone(),
            raft_address: config.raft_address.to_string(),
            in_pod: false,
        },
        forward.clone(),
        ingress.clone(),
    )
    .map_err(|error| Exit::new(EXIT_SETTING, format!("NODE_ADDRESS: {error}")))?;
    drop(bound);
    let shared = Arc::new(Shared {
        info: node_info(&config),
        identity: Arc::new(Mutex::new(identity)),
        table,
        channels,
        right: Right::new().map_err(|error| Exit::new(EXIT_RAFT, error))?,
        forward,
        late: Late::default(),
        owner,
        waiting: watch::Sender::new("starting".to_owned()),
        telemetry,
        executor,
        shutdown: CancellationToken::new(),
        exit: watch::Sender::new(None),
        me: std::sync::OnceLock::new(),
        config,
    });
    let node = Running { shared, ports, data, ingress };
    node.run(stop).await
}

/// What other nodes learn of this one when it joins and registers.
fn node_info(config: &Config) -> NodeInfo {
    NodeInfo {
        name: config.raft_id.clone(),
        pod_uid: None,
        addresses: Addresses {
            data: config.node_address.to_string(),
            raft: config.raft_address.to_string(),
            admin: config.admin_address.to_string(),
            http: config.http_address.to_string(),
        },
        zone: config.zone.clone(),
        weight: config.weight,
        feature_level: FEATURE_LEVEL,
        revision: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Listeners, bound before anything is asked of anybody.
struct Ports {
    data: Vec<SocketAddr>,
    raft: Vec<net::TcpListener>,
    admin: Vec<net::TcpListener>,
    http: Vec<net::TcpListener>,
}

impl Ports {
    async fn bind(config: &Config) -> Result<Self, Exit> {
        let at = |setting, port| listen_addresses(&config.bind_host, setting, port);
        let data = at("NODE_ADDRESS", config.node_address.port).await?;
        let listen = |setting: &'static str, addresses: Vec<SocketAddr>| {
            addresses.into_iter().map(move |address| {
                net::listen(address).map_err(|error| {
                    let text = format!("{setting}: cannot listen on {address}: {error}");
                    Exit::new(EXIT_SETTING, text)
                })
            })
        };
        let raft = at("RAFT_ADDRESS", config.raft_address.port).await?;
        let admin = at("ADMIN_ADDRESS", config.admin_address.port).await?;
        let http = at("HTTP_ADDRESS", config.http_address.port).await?;
        Ok(Self {
            data,
            raft: listen("RAFT_ADDRESS", raft).collect::<Result<_, _>>()?,
            admin: listen("ADMIN_ADDRESS", admin).collect::<Result<_, _>>()?,
            http: listen("HTTP_ADDRESS", http).collect::<Result<_, _>>()?,
        })
    }
}

async fn listen_addresses(
    host: &str,
    setting: &'static str,
    port: u16,
) -> Result<Vec<SocketAddr>, Exit> {
    let address = HostPort { host: host.to_owned(), port };
    let mut found = net::resolve(&address.to_string())
        .await
        .map_err(|error| Exit::new(EXIT_SETTING, format!("{setting}: {address}: {error}")))?;
    found.sort();
    found.dedup();
    // A name of this machine may stand for a family that its kernel lacks.
    if found.len() > 1 {
        found.retain(|address| net::listen(SocketAddr::new(address.ip(), 0)).is_ok());
    }
    Ok(found)
}

struct Running {
    shared: Arc<Shared>,
    ports: Ports,
    data: DataPort,
    ingress: Arc<Ingress>,
}

impl Running {
    async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Exit> {
        let Self { shared, ports, data, ingress } = self;
        let slot = raft::Slot::default();
        let discovery = match &shared.config.start {
            Start::FoundAlone => Discovery::nobody(),
            Start::Join(address) => {
                Discovery::Fixed(Fixed::new(vec![address.to_string()], shared.channels.clone()))
            }
            Start::Peers(peers) => {
                let names = peers.iter().map(ToString::to_string).collect();
                Discovery::Fixed(Fixed::new(names, shared.channels.clone()))
            }
        };
        let raft = Arc::new(Raft::new(shared.clone(), slot.clone(), discovery.peers()));
        let (founding, handle) = found::Found::new(
            founding_config(&shared.config)?,
            shared.identity.clone(),
            raft.clone(),
            discovery.peers(),
            shared.channels.clone(),
        );
        raft.bind(handle.clone());
        let mut tasks = JoinSet::new();
        serve_peers(&shared, ports.raft, &slot, &handle, &mut tasks);
        serve_admin(&shared, ports.admin, ports.http, &mut tasks);
        tasks.spawn(readiness(shared.clone(), handle.state()));
        tasks.spawn(discovery.run(shared.shutdown.clone()));
        let leave = data.leave();
        let port = shared.executor.spawn(data.run());
        let formed_in_log = shared.identity.lock().directory().formed;
        let mut founding = tokio::spawn(founding.run(formed_in_log, shared.shutdown.clone()));
        let mut exit = shared.exit.subscribe();
        let ended = tokio::select! {
            () = stop => Ok(()),
            result = &mut founding => match result {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Exit::new(error.exit_code(), error)),
                Err(error) => Err(Exit::new(EXIT_RAFT, error)),
            },
            Ok(now) = exit.wait_for(Option::is_some) => {
                let (code, message) = now.clone().unwrap_or((EXIT_RAFT, String::new()));
                Err(Exit::new(code, message))
            }
        };
        if ended.is_ok() {
            info!(name = %shared.config.raft_id, "told to stop");
            let budget = shared.config.shutdown_budget;
            raft.leave(budget.saturating_sub(CONNECTIONS)).await;
            shared.waiting.send_replace(ready::LEAVING.to_owned());
            leave.leave(CONNECTIONS).await;
            ingress.close().await;
        }
        shared.shutdown.cancel();
        raft.end().await;
        port.abort();
        tasks.shutdown().await;
        ended
    }
}

fn founding_config(config: &Config) -> Result<core_found::Config, Exit> {
    // With PEER_ADDRESSES a node's name in the founding set is its NODE_ADDRESS.
    let name = match config.start {
        Start::Peers(_) => config.node_address.to_string(),
        Start::FoundAlone | Start::Join(_) => config.raft_id.clone(),
    };
    let plan = found::plan(&config.start, &name)
        .map_err(|error| Exit::new(EXIT_SETTING, format!("PEER_ADDRESSES: {error}")))?;
    Ok(core_found::Config {
        name,
        address: config.raft_address.to_string(),
        plan,
        lease: config.lease.unwrap_or(Config::DEFAULT_LEASE),
        confirm_required: false,
    })
}

fn serve_peers(
    shared: &Arc<Shared>,
    listeners: Vec<net::TcpListener>,
    slot: &raft::Slot,
    founding: &found::Handle,
    tasks: &mut JoinSet<()>,
) {
    for listener in listeners {
        let router = peer::server()
            .add_service(slot.service())
            .add_service(founding.service())
            .add_service(shared.late.session.clone())
            .add_service(shared.late.handover.clone())
            .add_service(shared.late.map.clone());
        let shutdown = shared.shutdown.clone();
        tasks.spawn(async move {
            let incoming = peer::incoming(listener);
            let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled()).await;
            if let Err(error) = served {
                warn!(%error, "the peer port ended");
            }
        });
    }
}

fn serve_admin(
    shared: &Arc<Shared>,
    admin: Vec<net::TcpListener>,
    http: Vec<net::TcpListener>,
    tasks: &mut JoinSet<()>,
) {
    for listener in admin {
        let router = peer::server().add_service(shared.late.admin.clone());
        let shutdown = shared.shutdown.clone();
        tasks.spawn(async move {
            let incoming = peer::incoming(listener);
            let served = router.serve_with_incoming_shutdown(incoming, shutdown.cancelled()).await;
            if let Err(error) = served {
                warn!(%error, "the admin port ended");
            }
        });
    }
    let pages = Arc::new(NodePages::new(shared.clone()));
    for listener in http {
        let (pages, shutdown) = (pages.clone(), shared.shutdown.clone());
        tasks.spawn(http::serve(listener, pages, http::Limits::default(), shutdown));
    }
}

/// Keeps what readiness waits for: a formed cluster's table, and a node that has not left.
async fn readiness(shared: Arc<Shared>, mut founding: watch::Receiver<found::State>) {
    let mut map = shared.table.watch_map();
    loop {
        map.borrow_and_update();
        let missing = founding.borrow_and_update().waiting.clone();
        let me = shared.me.get().copied();
        let missing = ready::missing(&shared.table.registry(), me, missing.as_deref());
        let waiting = missing.unwrap_or_default();
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
        }
    }
}

/// The session of this process ended for a reason that ends the process.
pub(crate) fn exit_of(why: shoal_core::session::holder::Why) -> Option<(u8, String)> {
    use shoal_core::session::holder::Why;
    match why {
        // A removed node stays as an entry node, parked.
        Why::Stopped | Why::Marked | Why::Left => None,
        Why::StillRunning => {
            Some((EXIT_RAFT, "handlers of a lost session could not be ended in time".to_owned()))
        }
        Why::Identity => Some((
            crate::identity::EXIT_IDENTITY,
            "this directory may not register in this cluster: wipe it to join anew".to_owned(),
        )),
    }
}

/// What `member` needs of the session's settings.
pub(crate) fn lease(config: &Config) -> shoal_core::session::lease::Lease {
    let given = config.lease.unwrap_or(Config::DEFAULT_LEASE);
    shoal_core::session::lease::Lease::from_millis(given.as_millis() as u32).unwrap_or_default()
}
