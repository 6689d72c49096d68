//! Whole nodes in this process, on loopback ports that nobody else has, and what is asked of
//! them over these ports.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use shoal_proto::shoal::admin::v1::{self as pb, admin_client::AdminClient};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{Status, transport::Channel};

use crate::{
    config::{Config, RunArgs},
    env::{net, random},
    host::kv::Kv,
    node::{self, Exit, Work},
};

/// A generous bound on any one wait.
pub const PATIENCE: Duration = Duration::from_secs(60);
const SHARDS: u32 = 16;

pub struct Node {
    pub name: String,
    pub admin: AdminClient<Channel>,
    http: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), Exit>>,
    _dir: TempDir,
}

/// Addresses of one node: data, Raft, admin, HTTP.
type Ports = [String; 4];

/// Ports that nobody listens on, below those that the kernel gives to connections: one that
/// is free now is not taken by chance before its node listens. None is given twice.
fn ports() -> Ports {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    const LOWEST: u64 = 15_000;
    const HIGHEST: u64 = 32_000;
    let mut bound = Vec::new();
    while bound.len() < 4 {
        let port = (LOWEST + random::u64() % (HIGHEST - LOWEST)) as u16;
        if GIVEN.lock().insert(port) {
            bound.extend(net::listen(SocketAddr::from(([127, 0, 0, 1], port))));
        }
    }
    let ports: Vec<_> =
        bound.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    ports.try_into().unwrap()
}

impl Node {
    async fn start(name: &str, ports: Ports, peers: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [data, raft, admin, http] = ports;
        let args = RunArgs {
            node_address: Some(data),
            raft_address: Some(raft),
            admin_address: Some(admin.clone()),
            http_address: Some(http.clone()),
            raft_id: Some(name.to_owned()),
            raft_dir: Some(dir.path().to_owned()),
            peer_addresses: Some(peers.to_owned()),
            shards: Some(SHARDS.to_string()),
            shutdown_budget: Some("10".to_owned()),
            ..RunArgs::default()
        };
        let config = Config::resolve(&args, "host").unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let executor = tokio::runtime::Handle::current();
        let work = Work { host: Arc::new(Kv::default()), executor };
        let running = tokio::spawn(node::run(config, work, async move {
            // Dropped: the test is over.
            let _ = stopped.await;
        }));
        let channel = Channel::from_shared(format!("http://{admin}")).unwrap().connect_lazy();
        let (name, admin) = (name.to_owned(), AdminClient::new(channel));
        Self { name, admin, http, stop: Some(stop), running, _dir: dir }
    }

    pub async fn status(&mut self) -> Result<pb::StatusResponse, Status> {
        let request = pb::StatusRequest { linearizable: false };
        self.admin.status(request).await.map(tonic::Response::into_inner)
    }

    /// The status once it shows what is wanted.
    pub async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&pb::StatusResponse) -> bool,
    ) -> pb::StatusResponse {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if let Ok(status) = &status
                && wanted(status)
            {
                return status.clone();
            }
            assert!(!self.running.is_finished(), "{} has ended", self.name);
            assert!(tokio::time::Instant::now() < deadline, "in vain: {what}; last {status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Code and body of a page.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let mut socket = net::connect(&self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.http);
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = socket.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Told to stop, it ends by itself.
    pub async fn stopped(mut self) {
        drop(self.stop.take());
        let ended = tokio::time::timeout(PATIENCE, &mut self.running).await.unwrap();
        ended.unwrap().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Three founding nodes, formed, each shard owned. The leader comes first.
pub async fn three() -> Vec<Node> {
    let ports: Vec<Ports> = (0..3).map(|_| ports()).collect();
    let peers: Vec<_> = ports.iter().map(|ports| ports[0].clone()).collect();
    let peers = peers.join(",");
    let mut nodes = Vec::new();
    for (ports, name) in ports.into_iter().zip(["node-a", "node-b", "node-c"]) {
        nodes.push(Node::start(name, ports, &peers).await);
    }
    for node in &mut nodes {
        node.until("every shard has an owner", settled).await;
    }
    let status = nodes[0].until("there is a leader", |status| status.leader_id != 0).await;
    let leader = status.nodes.iter().find(|node| node.id == status.leader_id).unwrap();
    let at = nodes.iter().position(|node| node.name == leader.name).unwrap();
    nodes.swap(0, at);
    nodes
}

/// Formed with every node up, nothing moves, nothing lacks an owner.
pub fn settled(status: &pb::StatusResponse) -> bool {
    let shards = status.shards.unwrap_or_default();
    let up = status.nodes.iter().filter(|node| node.life == "up").count();
    up == 3 && shards.assigned == SHARDS && shards.moving == 0 && status.voters.len() == 3
}

/// The row of a node by its name.
pub fn row(status: &pb::StatusResponse, name: &str) -> pb::Node {
    status.nodes.iter().find(|node| node.name == name).unwrap().clone()
}

/// One of three founding nodes; the others never start.
pub async fn alone_of_three() -> Node {
    let all: Vec<Ports> = (0..3).map(|_| ports()).collect();
    let peers: Vec<_> = all.iter().map(|ports| ports[0].clone()).collect();
    Node::start("node-a", all[0].clone(), &peers.join(",")).await
}
