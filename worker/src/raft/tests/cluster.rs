//! A few nodes on loopback and what tests do to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::async_runtime::WatchReceiver as _;
use shoal_core::{
    id::{ClusterId, Epoch, LogIndex, NodeId},
    registry::{Addresses, Command, Event, NodeInfo},
    session::lease::Lease,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{
    env,
    peer::{self, AddressBook, Channels},
    raft::{ClusterCell, Config, Handle, Leadership, Member, Slot, metrics::Metrics},
    table::Table,
};

pub const CLUSTER: ClusterId = ClusterId(0x5ea);
/// A generous bound on any one wait.
pub const PATIENCE: Duration = Duration::from_secs(30);
const LEASE_MS: u32 = 2_000;
/// Longest election time-out under that lease.
pub const ELECTION: Duration = Duration::from_millis(400);

/// Waits for a condition, level-triggered.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let met = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(met.is_ok(), "in vain: {what}");
}

pub fn info(id: NodeId) -> NodeInfo {
    NodeInfo {
        name: format!("node-{}", id.0),
        addresses: Addresses::default(),
        weight: 100,
        feature_level: 1,
        ..NodeInfo::default()
    }
}

pub struct Node {
    pub id: NodeId,
    pub address: String,
    pub handle: Handle,
    pub table: Table,
    pub book: AddressBook,
    dir: TempDir,
    stop: CancellationToken,
}

/// What is left of a stopped node.
pub struct Dead {
    id: NodeId,
    dir: TempDir,
}

impl Dead {
    async fn revive(self) -> Node {
        Node::run(self.id, Table::default(), self.dir).await
    }
}

impl Node {
    pub async fn start(id: NodeId) -> Self {
        Self::start_with(id, Table::default()).await
    }

    pub async fn start_with(id: NodeId, table: Table) -> Self {
        Self::run(id, table, tempfile::tempdir().unwrap()).await
    }

    async fn run(id: NodeId, table: Table, dir: TempDir) -> Self {
        Port::open().run(id, table, dir).await
    }

    pub async fn stop(self) -> Dead {
        self.handle.shutdown().await;
        self.stop.cancel();
        Dead { id: self.id, dir: self.dir }
    }

    /// Leadership once this node may propose.
    pub async fn ready(&self) -> Leadership {
        let mut leadership = self.handle.leadership();
        let ready = leadership.wait_for(|now| now.is_leader && now.ready.is_some());
        *tokio::time::timeout(PATIENCE, ready).await.unwrap().unwrap()
    }

    pub fn snapshot(&self) -> Option<u64> {
        self.handle.0.raft.metrics().borrow_watched().snapshot.map(|id| id.index)
    }

    pub async fn join(&self, number: u64) -> NodeId {
        let join = Command::Join {
            info: info(NodeId(number)),
            directory: number.into(),
            replaces: Vec::new(),
        };
        match self.handle.propose(&join).await.unwrap().result {
            Ok(Event::Joined { node }) => node,
            other => panic!("{other:?}"),
        }
    }

    pub async fn form(&self) {
        let form =
            Command::Form { unix_seconds: 1_800_000_000, highest_epoch_found: Epoch::default() };
        self.handle.propose(&form).await.unwrap().result.unwrap();
    }

    fn member(&self) -> Member {
        Member { name: info(self.id).name, raft_address: self.address.clone() }
    }
}

/// A node's server, before its Raft runs.
struct Port {
    address: String,
    slot: Slot,
    stop: CancellationToken,
    book: AddressBook,
}

impl Port {
    fn open() -> Self {
        let listener = env::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (slot, stop, book) =
            (Slot::default(), CancellationToken::new(), AddressBook::default());
        let server = peer::server().add_service(slot.service()).serve_with_incoming_shutdown(
            peer::incoming(listener, crate::tls::Tls::default()),
            stop.clone().cancelled_owned(),
        );
        tokio::spawn(server);
        Self { address, slot, stop, book }
    }

    async fn run(self, id: NodeId, table: Table, dir: TempDir) -> Node {
        let Self { address, slot, stop, book } = self;
        let cluster = ClusterCell::default();
        cluster.set(Some(CLUSTER));
        let handle = Handle::start(Config {
            dir: dir.path().to_owned(),
            cluster,
            id,
            name: info(id).name,
            address: address.clone(),
            lease: Lease::from_millis(LEASE_MS).unwrap(),
            table: table.clone(),
            channels: Channels::new(book.clone()),
            slot,
            metrics: Metrics::default(),
        })
        .await
        .unwrap();
        Node { id, address, handle, table, book, dir, stop }
    }
}

pub struct Cluster(BTreeMap<NodeId, Node>);

impl Cluster {
    pub async fn of_three() -> Self {
        let cluster = Self::of_three_unformed().await;
        let founder = cluster.node(NodeId(1));
        founder.form().await;
        cluster.all_applied(founder.table.applied()).await;
        cluster
    }

    pub async fn of_three_unformed() -> Self {
        let founder = Node::start(NodeId(1)).await;
        founder.handle.initialize_alone().await.unwrap();
        founder.ready().await;
        let found = Command::Found {
            cluster: CLUSTER,
            founder: info(NodeId(1)),
            directory: 1,
            shard_count: 16,
            lease_ms: LEASE_MS,
        };
        founder.handle.propose(&found).await.unwrap().result.unwrap();
        let (second, third) = (founder.join(2).await, founder.join(3).await);
        let mut cluster = Self(BTreeMap::from([(founder.id, founder)]));
        cluster.add_learner(Node::start(second).await).await;
        cluster.add_learner(Node::start(third).await).await;
        let founder = cluster.node(NodeId(1));
        cluster.all_applied(founder.table.applied()).await;
        let expected = founder.handle.membership().entry;
        let changed =
            founder.handle.change_membership(cluster.ids(), BTreeMap::new(), expected).await;
        changed.unwrap();
        cluster
    }

    pub async fn add_learner(&mut self, node: Node) {
        let leader = self.leader().await;
        let now = leader.handle.membership();
        let mut learners: BTreeMap<_, _> =
            now.learners.iter().map(|id| (*id, self.node(*id).member())).collect();
        learners.insert(node.id, node.member());
        let changed = leader.handle.change_membership(now.voters, learners, now.entry).await;
        changed.unwrap();
        self.0.insert(node.id, node);
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.0[&id]
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.0.values()
    }

    pub fn ids(&self) -> BTreeSet<NodeId> {
        self.0.keys().copied().collect()
    }

    /// The node that leads and may propose, once there is one.
    pub async fn leader(&self) -> &Node {
        let leads = |node: &&Node| {
            let now = *node.handle.leadership().borrow();
            now.is_leader && now.ready.is_some()
        };
        until("a leader", || self.nodes().any(|node| leads(&node))).await;
        self.nodes().find(leads).expect("it just led")
    }

    pub async fn kill(&mut self, id: NodeId) -> Dead {
        self.0.remove(&id).unwrap().stop().await
    }

    /// Starts it again from its disk, at another address that discovery tells the others.
    pub async fn restart(&mut self, dead: Dead) {
        let node = dead.revive().await;
        for other in self.nodes() {
            other.book.learn(node.id, &node.address);
        }
        self.0.insert(node.id, node);
    }

    /// As `restart`, but for so long its port is open before Raft runs.
    pub async fn restart_slowly(&mut self, dead: Dead, pause: Duration) {
        let port = Port::open();
        for other in self.nodes() {
            other.book.learn(dead.id, &port.address);
        }
        tokio::time::sleep(pause).await;
        let node = port.run(dead.id, Table::default(), dead.dir).await;
        self.0.insert(node.id, node);
    }

    /// Starts all again, each at an address that nobody knows.
    pub async fn restart_all_untold(&mut self, dead: Vec<Dead>) {
        for dead in dead {
            let node = dead.revive().await;
            self.0.insert(node.id, node);
        }
    }

    pub async fn all_applied(&self, index: LogIndex) {
        for node in self.nodes() {
            let what = format!("{} applies {index}", node.id);
            until(&what, || node.table.applied() >= index).await;
        }
    }

    /// All nodes hold the same rows, and routes that show them.
    pub fn agree(&self) {
        let mut nodes = self.nodes();
        let first = nodes.next().unwrap();
        let expected = first.table.registry().parts();
        for node in nodes {
            let mut parts = node.table.registry().parts();
            // One may be an entry without a command further.
            parts.applied = expected.applied;
            assert_eq!(parts, expected, "{} and {}", first.id, node.id);
        }
        for node in self.nodes() {
            let registry = node.table.registry();
            assert_eq!(registry.check(), []);
            let routes = shoal_core::route::RouteTable::from_registry(&registry);
            assert_eq!(*node.table.routes(), routes);
        }
    }

    pub async fn stop(self) {
        for (_, node) in self.0 {
            node.stop().await;
        }
    }
}
