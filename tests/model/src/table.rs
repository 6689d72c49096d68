//! The registry after one entry of the log, as everybody who applied that entry knows it.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, NodeId, ShardId},
    registry::{
        Addresses, Assign, Changes, Command, FEATURE_LEVEL, LockId, Node, NodeInfo, Register,
        Registry, ShardRow,
    },
};

use crate::setup::Setup;

/// The one shard that a model looks at. A cluster has sixteen at least; the others stay unassigned.
pub const SHARD: ShardId = ShardId(0);
/// Entries whose index nobody remembers for long get those in between, so that states that
/// differ only by the number of such entries meet again.
const STRIDE: u64 = 10;
const FOUNDER: NodeId = NodeId(1);
const SHARD_COUNT: u32 = 16;

#[derive(Debug)]
pub struct Table {
    pub registry: Registry,
    /// Sessions whose right grew by this entry.
    pub renewed: Vec<NodeId>,
    pub settings_changed: bool,
    digest: u64,
}

impl Table {
    pub fn new(registry: Registry, changes: &Changes) -> Arc<Self> {
        let digest = digest(&registry);
        let renewed = changes.renewed.clone();
        Arc::new(Self { registry, renewed, settings_changed: changes.settings, digest })
    }

    /// Of all that any rule reads of it.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn row(&self) -> ShardRow {
        *self.registry.shard(SHARD).expect("a formed cluster has the shard")
    }

    pub fn node(&self, id: NodeId) -> &Node {
        self.registry.node(id).expect("nobody of a model is forgotten")
    }

    /// Index of the entry that follows.
    pub fn next_index(&self, is_remembered: bool) -> LogIndex {
        let applied = self.registry.applied().0;
        LogIndex(if is_remembered { (applied / STRIDE + 1) * STRIDE } else { applied + 1 })
    }
}

fn digest(registry: &Registry) -> u64 {
    let mut state = DefaultHasher::new();
    registry.shard(SHARD).hash(&mut state);
    for (id, node) in registry.nodes() {
        (id, node.incarnation, node.life, node.drain, node.marked).hash(&mut state);
        (node.renewed, &node.lock).hash(&mut state);
    }
    let settings = registry.settings();
    (settings.lease_ms, settings.previous_lease).hash(&mut state);
    // What the next index that is remembered will be.
    (registry.applied().0 / STRIDE).hash(&mut state);
    state.finish()
}

pub fn info(node: NodeId) -> NodeInfo {
    NodeInfo {
        name: node.to_string(),
        pod_uid: None,
        addresses: Addresses::default(),
        zone: String::new(),
        weight: 1,
        feature_level: FEATURE_LEVEL,
        revision: String::new(),
    }
}

/// What a process reports of the lock that it holds.
pub fn lock(machine: u8, boot: u8) -> LockId {
    LockId { boot_id: format!("machine {machine} boot {boot}"), device: 1, inode: 1 }
}

/// The incarnation that a seat begins with.
pub fn first_incarnation(seat: usize) -> Incarnation {
    Incarnation { counter: 1, nonce: seat as u64 }
}

/// A formed cluster: the nodes of all seats joined, those that are up registered, the shard
/// given to the first seat. The founder only leads.
pub fn found(setup: &Setup) -> Arc<Table> {
    let mut log = Founding { registry: Registry::new(), index: 0 };
    let founder = info(FOUNDER);
    let (cluster, lease_ms) = (ClusterId(7), setup.lease_ms);
    log.apply(Command::Found {
        cluster,
        founder,
        directory: 1,
        shard_count: SHARD_COUNT,
        lease_ms,
    });
    let mut nodes: Vec<NodeId> = setup.seats.iter().map(|seat| seat.node).collect();
    nodes.dedup();
    for node in nodes {
        log.apply(Command::Join {
            info: info(node),
            directory: u128::from(node.0),
            replaces: vec![],
        });
    }
    log.apply(Command::Form { unix_seconds: 1, highest_epoch_found: Epoch(0) });
    for (number, seat) in setup.seats.iter().enumerate().filter(|(_, seat)| seat.up) {
        log.apply(Command::Register(Register {
            node: seat.node,
            replaces: Incarnation::default(),
            incarnation: first_incarnation(number),
            info: info(seat.node),
            lock: Some(lock(seat.machine, 0)),
            renewed: LogIndex(0),
            proof: false,
            reown: false,
        }));
    }
    let epoch = log.registry.highest_epoch();
    let (target, incarnation) = (setup.seats[0].node, first_incarnation(0));
    let item = Assign { shard: SHARD, epoch, target, incarnation };
    log.apply(Command::Assign { items: vec![item] });
    Table::new(log.registry, &Changes::default())
}

struct Founding {
    registry: Registry,
    index: u64,
}

impl Founding {
    fn apply(&mut self, command: Command) {
        self.index += 1;
        let (outcome, _) = self.registry.apply(LogIndex(self.index), &command);
        assert!(outcome.is_ok(), "{command:?}: {outcome:?}");
    }
}
