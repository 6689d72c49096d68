//! One log, tables that it feeds, sources and watchers of them.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, NodeId, ShardId},
    registry::{
        self, Addresses, Assign, BeginMove, Command, FEATURE_LEVEL, MAX_BATCH, NodeInfo, Register,
        Registry,
    },
};
use shoal_proto::shoal::peer::v1::{
    self as pb,
    map_server::{Map, MapServer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

use crate::{
    discovery::PeerSet,
    env::net,
    peer::{self, AddressBook, Channels},
    raft::Heard,
    session,
    table::Table,
    watch::{Client, Config, Event, Metrics, News, Server},
    wire,
};

pub const CLUSTER: ClusterId = ClusterId(7);
pub const LEASE: Duration = Duration::from_secs(2);
pub const FIRST: NodeId = NodeId(1);
pub const SECOND: NodeId = NodeId(4);
pub const THIRD: NodeId = NodeId(5);
/// Of the node whose table is watched into being.
pub const WATCHER: NodeId = NodeId(6);

/// An idle log moves as often as a few nodes renew.
const BEAT: Duration = Duration::from_millis(50);
const RUN: Incarnation = Incarnation { counter: 1, nonce: 1 };

/// Waits for a condition, level-triggered.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(30);
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "in vain: {what}");
}

/// A log that moves by itself until it is dropped.
pub struct World {
    log: Arc<Mutex<Log>>,
    _stop: DropGuard,
}

struct Log {
    index: u64,
    /// Has every entry.
    whole: Table,
    members: Vec<Table>,
    /// A watcher that is a member at times.
    guest: Option<Table>,
}

impl Log {
    fn apply(&mut self, command: &Command) {
        self.index += 1;
        for table in self.members.iter().chain(&self.guest).chain([&self.whole]) {
            let result = table.apply(LogIndex(self.index), command);
            assert!(result.is_ok(), "{command:?}: {result:?}");
        }
    }
}

impl World {
    /// Four nodes with a session in a formed cluster.
    pub fn new() -> Self {
        Self::of(CLUSTER)
    }

    pub fn of(cluster: ClusterId) -> Self {
        let world = Self::founded(cluster);
        world.apply(Command::Form { unix_seconds: 9, highest_epoch_found: Epoch::default() });
        for name in ["b", "c", "d"] {
            let directory = world.applied().into();
            let join = Command::Join { info: info(name), directory, replaces: Vec::new() };
            world.apply(join);
        }
        for node in [FIRST, SECOND, THIRD, WATCHER] {
            let row = world.log.lock().whole.registry().node(node).unwrap().clone();
            world.apply(Command::Register(Register {
                node,
                replaces: row.incarnation,
                incarnation: RUN,
                info: row.info,
                lock: None,
                renewed: row.renewed,
                proof: false,
                reown: false,
            }));
        }
        world
    }

    pub fn unformed() -> Self {
        Self::founded(CLUSTER)
    }

    fn founded(cluster: ClusterId) -> Self {
        let whole = Table::default();
        whole.adopt(Registry::new());
        let log = Log { index: 1, whole, members: Vec::new(), guest: None };
        let log = Arc::new(Mutex::new(log));
        let (beating, stop) = (Arc::clone(&log), CancellationToken::new());
        let world = Self { log, _stop: stop.clone().drop_guard() };
        world.apply(Command::Found {
            cluster,
            founder: info("a"),
            directory: 1,
            shard_count: 16,
            lease_ms: LEASE.as_millis() as u32,
        });
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                beating.lock().apply(&Command::Blank);
            }
        }));
        world
    }

    pub fn apply(&self, command: Command) {
        self.log.lock().apply(&command);
    }

    pub fn applied(&self) -> u64 {
        self.log.lock().index
    }

    pub fn renew_all(&self) {
        let sessions = [FIRST, SECOND, THIRD, WATCHER].map(|node| (node, RUN)).into();
        self.apply(Command::Renew { sessions });
    }

    pub fn assign_all(&self, target: NodeId) {
        let mut log = self.log.lock();
        let rows: Vec<_> = log.whole.registry().shards().map(|(id, row)| (id, row.epoch)).collect();
        let items = rows.into_iter();
        let items = items.map(|(shard, epoch)| Assign { shard, epoch, target, incarnation: RUN });
        log.apply(&Command::Assign { items: items.collect() });
    }

    pub fn close(&self, node: NodeId) {
        self.apply(Command::Close { node, incarnation: RUN });
    }

    pub fn remove(&self, node: NodeId) {
        self.apply(Command::Remove { node, incarnation: RUN });
    }

    /// The whole table as a source would tell it.
    pub fn snapshot(&self) -> Event {
        event(&self.log.lock().whole)
    }

    /// The log feeds this table as well.
    pub fn feed(&self, table: &Table) {
        let mut log = self.log.lock();
        table.adopt(log.whole.of_log());
        log.guest = Some(table.clone());
    }

    pub fn starve(&self) {
        self.log.lock().guest = None;
    }

    /// Both tables hold the same rows between two entries.
    pub fn agree(&self, one: &Table, other: &Table) {
        let _log = self.log.lock();
        assert_eq!(*one.registry(), *other.registry());
    }

    /// A node that follows the log and may be watched.
    pub fn source(&self, node: NodeId) -> Source {
        let table = Table::default();
        let mut log = self.log.lock();
        table.adopt(log.whole.of_log());
        // A source counts from its first entry on.
        log.members.push(table.clone());
        log.apply(&Command::Blank);
        Source::start(node, table)
    }
}

/// As large as a registry gets.
pub fn largest() -> Registry {
    const NODES: u64 = 1_000;
    const SHARDS: u32 = 65_536;
    let mut registry = Registry::new();
    let mut index = 1;
    let mut apply = |command: Command| {
        index += 1;
        let (result, _) = registry.apply(LogIndex(index), &command);
        assert!(result.is_ok(), "{index}: {result:?}");
        index
    };
    let info = |number: u64| {
        let name = format!("shoal-worker-of-some-team-{number}");
        let address = format!("{name}.shoal-worker-of-some-team.namespace.svc.cluster.local:11000");
        let addresses = Addresses {
            data: address.clone(),
            raft: address.clone(),
            admin: address.clone(),
            http: address,
        };
        NodeInfo { addresses, zone: "europe-west4-a".into(), ..self::info(&name) }
    };
    let incarnation = Incarnation { counter: u64::MAX, nonce: u64::MAX };
    apply(Command::Found {
        cluster: CLUSTER,
        founder: info(1),
        directory: 1,
        shard_count: SHARDS,
        lease_ms: 3_000,
    });
    apply(Command::Form { unix_seconds: u32::MAX >> 1, highest_epoch_found: Epoch::default() });
    let mut nodes = vec![FIRST];
    for number in 2..=NODES {
        let directory = u128::MAX - u128::from(number);
        let join = Command::Join { info: info(number), directory, replaces: Vec::new() };
        nodes.push(NodeId(apply(join)));
    }
    for (&node, number) in nodes.iter().zip(1..) {
        let register = Register {
            node,
            replaces: Incarnation::default(),
            incarnation,
            info: info(number),
            lock: None,
            renewed: LogIndex(node.0),
            proof: false,
            reown: false,
        };
        apply(Command::Register(register));
    }
    let node_of = |shard: u32| nodes[shard as usize % nodes.len()];
    let epoch = Epoch(u64::from(u32::MAX >> 1) << 32);
    let shards: Vec<_> = (0..SHARDS).map(ShardId).collect();
    for batch in shards.chunks(MAX_BATCH) {
        let owned = batch.iter().map(|&shard| {
            let target = node_of(shard.0);
            Assign { shard, epoch, target, incarnation }
        });
        apply(Command::Assign { items: owned.collect() });
        let moving = batch.iter().map(|&shard| {
            let target = node_of(shard.0 + 1);
            BeginMove { shard, epoch, target, incarnation }
        });
        apply(Command::BeginMove { items: moving.collect() });
    }
    registry
}

fn info(name: &str) -> NodeInfo {
    let level = FEATURE_LEVEL;
    NodeInfo { name: name.into(), weight: 1, feature_level: level, ..NodeInfo::default() }
}

fn event(table: &Table) -> Event {
    let registry: registry::Registry = table.registry().clone();
    Event {
        cluster: registry.cluster().id,
        from: SECOND,
        index: registry.applied(),
        news: News::Snapshot(wire::registry::encode_snapshot(&registry)),
        members: None,
    }
}

pub struct Source {
    pub table: Table,
    pub server: Server,
    pub metrics: Metrics,
    pub address: String,
    pub node: NodeId,
    /// What it tells of the members, without addresses: watchers know those that they are told.
    pub heard: Arc<Mutex<Heard>>,
    _stop: DropGuard,
}

impl Source {
    /// Over any table, also one that no log feeds.
    pub fn start(node: NodeId, table: Table) -> Self {
        let voters = [SECOND, THIRD].map(|id| (id, String::new())).into();
        let heard = Heard { leader: Some(FIRST), voters, learners: BTreeMap::new() };
        let heard = Arc::new(Mutex::new(heard));
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let members = Arc::clone(&heard);
        let server = Server::new(
            node,
            table.clone(),
            Arc::new(move || members.lock().clone()),
            metrics.clone(),
            stop.clone(),
        );
        let address = serve(server.clone().service(), &stop);
        Self { table, server, metrics, address, node, heard, _stop: stop.drop_guard() }
    }

    pub fn leads(&self) {
        self.heard.lock().leader = Some(self.node);
    }

    pub fn event(&self) -> Event {
        event(&self.table)
    }
}

fn serve<M: Map>(service: MapServer<M>, stop: &CancellationToken) -> String {
    let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = peer::server().add_service(service).serve_with_incoming_shutdown(
        peer::incoming(listener, crate::tls::Tls::default()),
        stop.clone().cancelled_owned(),
    );
    tokio::spawn(serving);
    address
}

/// A node that watches.
pub struct Follower {
    pub table: Table,
    pub session: watch::Sender<session::State>,
    pub heard: watch::Sender<Option<Heard>>,
    pub metrics: Metrics,
    book: AddressBook,
    _peers: watch::Sender<PeerSet>,
    _stop: DropGuard,
}

impl Follower {
    pub fn start(sources: &[&Source]) -> Self {
        let at: Vec<_> =
            sources.iter().map(|source| (source.node, source.address.as_str())).collect();
        Self::at(&at)
    }

    pub fn at(sources: &[(NodeId, &str)]) -> Self {
        let (table, metrics, book) = (Table::default(), Metrics::default(), AddressBook::default());
        let session = watch::Sender::new(session::State {
            incarnation: RUN,
            registered: true,
            exit: None,
            change_source: 0,
        });
        let (heard, peers) = (watch::Sender::new(None), watch::Sender::default());
        let stop = CancellationToken::new();
        let client = Client::new(
            Config { node: WATCHER, cluster: CLUSTER, address: String::new() },
            table.clone(),
            Channels::new(book.clone()),
            peers.subscribe(),
            session.subscribe(),
            heard.clone(),
            metrics.clone(),
        );
        let follower = Self {
            table,
            session,
            heard,
            metrics,
            book,
            _peers: peers,
            _stop: stop.clone().drop_guard(),
        };
        follower.knows(sources);
        tokio::spawn(client.run(stop));
        follower
    }

    /// Who can be watched, as a source would tell it.
    pub fn knows(&self, sources: &[(NodeId, &str)]) {
        for (id, address) in sources {
            self.book.learn(*id, address);
        }
        let voters = sources.iter().map(|(id, _)| (*id, String::new())).collect();
        self.heard.send_replace(Some(Heard { voters, ..Heard::default() }));
    }

    /// Until it has what this source has now.
    pub async fn follows(&self, source: &Source) {
        let index = source.table.applied();
        until("it follows its source", || self.table.applied() >= index).await;
        until("it is counted", || source.metrics.watchers.get() >= 1).await;
    }
}

/// A source that misbehaves after it has told its table.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    Silent,
    StandsStill,
}

struct Scripted {
    script: Script,
    first: pb::WatchMapEvent,
}

impl Script {
    pub fn serve(self, first: &Event) -> (String, DropGuard) {
        let stop = CancellationToken::new();
        let scripted = Scripted { script: self, first: wire::map::event(first.clone()) };
        (serve(MapServer::new(scripted), &stop), stop.drop_guard())
    }
}

#[tonic::async_trait]
impl Map for Scripted {
    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<pb::WatchMapEvent, Status>> + Send>>;

    async fn watch_map(
        &self,
        _: Request<pb::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let mut quiet = self.first.clone();
        quiet.event = Some(pb::watch_map_event::Event::Progress(pb::Progress {}));
        let first = futures::stream::iter([Ok(self.first.clone())]);
        let rest: Self::WatchMapStream = match self.script {
            Script::Silent => Box::pin(futures::stream::pending()),
            Script::StandsStill => Box::pin(futures::stream::unfold(quiet, async |quiet| {
                tokio::time::sleep(LEASE / 10).await;
                Some((Ok(quiet.clone()), quiet))
            })),
        };
        Ok(Response::new(Box::pin(first.chain(rest))))
    }
}

/// A network that can lose everything without a word.
pub struct Proxy {
    pub address: String,
    frozen: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Proxy {
    pub async fn before(source: &Source) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (frozen, stop) = (watch::Sender::new(false), CancellationToken::new());
        let (target, state) = (source.address.clone(), frozen.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let ((from, to), (back, out)) = (client.into_split(), server.into_split());
                tokio::spawn(carry(from, out, state.subscribe()));
                tokio::spawn(carry(back, to, state.subscribe()));
            }
        }));
        Self { address, frozen, _stop: stop.drop_guard() }
    }

    /// From now on nothing passes, on connections old and new, and none is closed.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// New connections pass again.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frozen: watch::Receiver<bool>,
) {
    let mut buffer = [0; 4_096];
    loop {
        let read = tokio::select! {
            biased;
            _ = frozen.wait_for(|frozen| *frozen) => break,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(length @ 1..) if to.write_all(&buffer[..length]).await.is_ok() => {}
            Ok(_) | Err(_) => return,
        }
    }
    std::future::pending().await
}
