//! Whole nodes on loopback, with owners that only pretend and tables made by hand.

mod broken;
mod calls;
mod leave;
mod memory;
mod moves;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use shoal_core::{
    admit::Nack,
    id::{ClusterId, Epoch, Incarnation, LogIndex, NodeId, ShardId},
    registry::{Addresses, Assign, BeginMove, Command, MoveRef, NodeInfo, Register, Registry},
};
use shoal_proto::shoal::v1::{CallRequest, CallResponse, shoal_client::ShoalClient};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::{Response, Status, transport::Channel};

use super::*;
use crate::{call::Reply, env};

const CLUSTER: ClusterId = ClusterId(7);
const SHARDS: u32 = 16;
const MAX_PAYLOAD: usize = 4 << 20;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a pretended owner does with a call.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// Answers with the payload.
    Echo,
    Nack(Nack),
    /// Runs it and never ends.
    Hang,
    /// Runs it and answers with so many bytes once the gate is open.
    Large(usize),
}

/// An owner that counts what it ran, by key.
struct Fake {
    mood: Mutex<Mood>,
    ran: Mutex<BTreeMap<Bytes, u64>>,
    cancelled: Arc<AtomicU64>,
    gate: watch::Sender<bool>,
}

impl Fake {
    fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
    }

    fn ran(&self, key: &str) -> u64 {
        self.ran.lock().get(key.as_bytes()).copied().unwrap_or(0)
    }
}

/// Counts when a call that hangs is dropped.
struct Dropped(Arc<AtomicU64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Owner for Fake {
    fn call(&self, call: Call) -> BoxFuture<'static, Outcome> {
        let mood = *self.mood.lock();
        if !matches!(mood, Mood::Nack(_)) {
            *self.ran.lock().entry(call.key.clone()).or_default() += 1;
        }
        let (cancelled, mut gate) = (self.cancelled.clone(), self.gate.subscribe());
        Box::pin(async move {
            match mood {
                Mood::Echo => {
                    if call.method == "slow" {
                        tokio::task::yield_now().await;
                    }
                    Outcome::Reply(Reply { result: Ok(call.payload), epoch: call.epoch })
                }
                Mood::Nack(nack) => Outcome::Nack(nack),
                Mood::Hang => {
                    let _dropped = Dropped(cancelled);
                    std::future::pending().await
                }
                Mood::Large(bytes) => {
                    gate.wait_for(|open| *open).await.unwrap();
                    let result = Ok(vec![7; bytes].into());
                    Outcome::Reply(Reply { result, epoch: call.epoch })
                }
            }
        })
    }

    fn idempotent(&self, method: &str) -> bool {
        method == "put"
    }
}

/// One node: its table, its owner, its open port.
struct Peer {
    id: NodeId,
    table: Table,
    owner: Arc<Fake>,
    node: Arc<Node>,
    ingress: Arc<Ingress>,
    address: SocketAddr,
    leave: drain::Leave,
    running: JoinHandle<()>,
}

fn port(listen: SocketAddr, node: &Arc<Node>, ingress: &Arc<Ingress>) -> DataPort {
    let config = server::Config {
        listen: vec![listen],
        raft_address: "127.0.0.1:1".to_owned(),
        in_pod: true,
    };
    DataPort::bind(config, node.clone(), ingress.clone()).unwrap()
}

impl Peer {
    fn start(call_memory: usize) -> Self {
        let owner = Arc::new(Fake {
            mood: Mutex::new(Mood::Echo),
            ran: Mutex::default(),
            cancelled: Arc::default(),
            gate: watch::Sender::new(false),
        });
        let table = Table::default();
        let metrics = Arc::default();
        let node = Node::new(owner.clone(), table.clone(), metrics, MAX_PAYLOAD);
        let node = Arc::new(node.limited(call_memory));
        let ingress = Ingress::new(node.clone());
        let port = port("127.0.0.1:0".parse().unwrap(), &node, &ingress);
        let (address, leave) = (port.addresses().unwrap()[0], port.leave());
        let running = tokio::spawn(port.run());
        Self { id: NodeId(0), table, owner, node, ingress, address, leave, running }
    }

    /// Cuts every connection, as a crash does.
    async fn crash(&mut self) {
        self.running.abort();
        let _ = (&mut self.running).await;
    }

    /// The sockets of an earlier run close in the background.
    async fn closed(&self) {
        until("the address is free", || env::net::listen(self.address).is_ok()).await;
    }

    /// Listens again where it did before.
    async fn restart(&mut self) {
        self.closed().await;
        let port = port(self.address, &self.node, &self.ingress);
        self.leave = port.leave();
        self.running = tokio::spawn(port.run());
    }

    /// Listens where it never did.
    fn move_elsewhere(&mut self) {
        let port = port("127.0.0.1:0".parse().unwrap(), &self.node, &self.ingress);
        (self.address, self.leave) = (port.addresses().unwrap()[0], port.leave());
        self.running = tokio::spawn(port.run());
    }

    async fn client(&self) -> ShoalClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.address)).unwrap();
        ShoalClient::new(channel.connect().await.unwrap()).max_decoding_message_size(16 << 20)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Some nodes and the log that their tables follow, each as far as it is told.
struct World {
    registry: Registry,
    index: u64,
    peers: Vec<Peer>,
}

impl World {
    /// Nodes that know each other; no shard has an owner yet.
    fn formed(count: usize) -> Self {
        Self::of(vec![DEFAULT_CALL_MEMORY; count])
    }

    /// Nodes whose calls may take so much memory each.
    fn of(call_memory: Vec<usize>) -> Self {
        let count = call_memory.len();
        let peers = call_memory.into_iter().map(Peer::start).collect();
        let mut world = Self { registry: Registry::new(), index: 0, peers };
        world.apply(Command::Found {
            cluster: CLUSTER,
            founder: world.info(0),
            directory: 0,
            shard_count: SHARDS,
            lease_ms: 3_000,
        });
        world.peers[0].id = NodeId(1);
        for at in 1..count {
            let info = world.info(at);
            let command = Command::Join { info, directory: at as u128, replaces: Vec::new() };
            world.peers[at].id = NodeId(world.apply(command));
        }
        for at in 0..count {
            world.register(at, world.incarnation(at));
        }
        world.apply(Command::Form { unix_seconds: 9, highest_epoch_found: Epoch::default() });
        world
    }

    /// A process of a node, in place of the one before; shards of that one have no owner then.
    fn register(&mut self, at: usize, incarnation: Incarnation) {
        let (node, info) = (self.peers[at].id, self.info(at));
        let before = self.registry.node(node).unwrap();
        let (replaces, renewed) = (before.incarnation, before.renewed);
        self.apply(Command::Register(Register {
            node,
            replaces,
            incarnation,
            info,
            lock: None,
            renewed,
            proof: false,
            reown: false,
        }));
        self.peers[at].node.set_me(Process { node, incarnation });
    }

    /// Every shard at node `owner`, every table complete.
    fn owned_by(count: usize, owner: usize) -> Self {
        Self::formed(count).given_to(owner)
    }

    fn given_to(self, owner: usize) -> Self {
        let mut world = self;
        let target = world.peers[owner].id;
        let incarnation = world.registry.node(target).unwrap().incarnation;
        let items = world.registry.shards().map(|(shard, row)| Assign {
            shard,
            epoch: row.epoch,
            target,
            incarnation,
        });
        let items = items.collect();
        world.apply(Command::Assign { items });
        world.tell_all();
        world
    }

    fn info(&self, at: usize) -> NodeInfo {
        let data = self.peers[at].address.to_string();
        NodeInfo {
            name: format!("node-{at}"),
            addresses: Addresses { data, ..Addresses::default() },
            weight: 100,
            feature_level: 1,
            ..NodeInfo::default()
        }
    }

    fn incarnation(&self, at: usize) -> Incarnation {
        Incarnation { counter: 1, nonce: at as u64 + 1 }
    }

    /// Appends an entry that no table knows yet.
    fn apply(&mut self, command: Command) -> u64 {
        self.index += 1;
        let (outcome, _) = self.registry.apply(LogIndex(self.index), &command);
        let event = outcome.unwrap();
        if let shoal_core::registry::Event::Items { refused } = event {
            assert!(refused.iter().all(Option::is_none), "{refused:?}");
        }
        self.index
    }

    fn tell(&self, at: usize) {
        let table = &self.peers[at].table;
        let delta = self.registry.rows_since(table.applied());
        table.apply_delta(delta).unwrap();
    }

    fn tell_all(&self) {
        (0..self.peers.len()).for_each(|at| self.tell(at));
    }

    fn row(&self, shard: ShardId) -> shoal_core::registry::ShardRow {
        *self.registry.shard(shard).unwrap()
    }

    fn begin_moves(&mut self, shards: impl Iterator<Item = ShardId>, to: usize) -> Vec<MoveRef> {
        let (target, incarnation) = (self.peers[to].id, self.incarnation(to));
        let items: Vec<BeginMove> = shards
            .map(|shard| BeginMove { shard, epoch: self.row(shard).epoch, target, incarnation })
            .collect();
        let index = self.apply(Command::BeginMove { items: items.clone() });
        let id = shoal_core::id::MoveId(index);
        items.iter().map(|item| MoveRef { shard: item.shard, epoch: item.epoch, id }).collect()
    }

    /// Moves every shard, in two entries.
    fn move_all(&mut self, to: usize) {
        let items = self.begin_moves((0..SHARDS).map(ShardId), to);
        self.apply(Command::CommitMove { items });
    }
}

async fn call(
    client: &mut ShoalClient<Channel>,
    key: &str,
    method: &str,
    payload: impl Into<Bytes>,
) -> Result<Response<CallResponse>, Status> {
    let (key, method) = (Bytes::copy_from_slice(key.as_bytes()), method.to_owned());
    let request = CallRequest { key, method, payload: payload.into() };
    timeout(PATIENCE, client.call(request)).await.expect("an answer in time")
}

/// The error of one call by a client without timers of its own.
async fn error_of(address: SocketAddr, key: &str, method: &str, budget: &str) -> Status {
    let socket = env::net::connect(&address.to_string()).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    tokio::spawn(connection);
    let (key, method) = (Bytes::copy_from_slice(key.as_bytes()), method.to_owned());
    let message = grpc::encode(&CallRequest { key, method, payload: Bytes::new() });
    let request = http::Request::post("http://shoal/shoal.v1.Shoal/Call")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", budget)
        .body(Full::new(message))
        .unwrap();
    let response = timeout(PATIENCE, send.send_request(request)).await.unwrap().unwrap();
    Status::from_header_map(response.headers()).expect("an error at once")
}

/// Waits until it is true.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
