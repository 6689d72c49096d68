//! A small cluster to apply commands to; every step is judged by `check` and `check_step`.

mod deltas;
mod membership;
mod moves;
mod random;
mod recover;
mod sessions;
mod settings;

use super::*;
use crate::id::{ClusterId, Incarnation, MoveId};

const CLUSTER: ClusterId = ClusterId(7);
const SHARDS: u32 = 16;
const S0: ShardId = ShardId(0);

/// A registry and the index of its last entry.
#[derive(Clone, Default)]
struct Bed {
    registry: Registry,
    index: u64,
    changes: Changes,
}

impl Bed {
    fn founded() -> Self {
        let mut bed = Self::default();
        bed.ok(found(info("a")));
        bed
    }

    /// Nodes a, b, c … up and formed, the shards unassigned. Their ids are not consecutive.
    fn formed(nodes: usize) -> (Self, Vec<NodeId>) {
        let mut bed = Self::founded();
        let names = ["a", "b", "c", "d", "e"];
        let mut ids = vec![NodeId(1)];
        ids.extend(names[1..nodes].iter().map(|name| bed.join(name)));
        for id in &ids {
            bed.register_anew(*id);
        }
        bed.ok(Command::Form { unix_seconds: 1_000, highest_epoch_found: Epoch(0) });
        (bed, ids)
    }

    /// As `formed`, with every shard given to the nodes in turn.
    fn serving(nodes: usize) -> (Self, Vec<NodeId>) {
        let (mut bed, ids) = Self::formed(nodes);
        let items = bed.registry.shards().map(|(shard, row)| {
            let target = ids[shard.0 as usize % nodes];
            Assign { shard, epoch: row.epoch, target, incarnation: bed.incarnation(target) }
        });
        let items = items.collect();
        bed.ok(Command::Assign { items });
        (bed, ids)
    }

    fn apply(&mut self, command: Command) -> Result<Event, Refused> {
        let before = self.registry.clone();
        self.index += 1;
        let (outcome, changes) = self.registry.apply(LogIndex(self.index), &command);
        assert_eq!(self.registry.check(), [], "after {command:?}");
        assert_eq!(check_step(&before, &self.registry), [], "by {command:?}");
        assert_eq!(self.registry.applied(), LogIndex(self.index));
        if outcome.is_err() {
            assert_eq!(changes, Changes::default(), "refused {command:?}");
        }
        self.changes = changes;
        outcome
    }

    #[track_caller]
    fn ok(&mut self, command: Command) -> Event {
        let text = format!("{command:?}");
        match self.apply(command) {
            Ok(event) => event,
            Err(refused) => panic!("{text} refused: {refused}"),
        }
    }

    /// The outcome of a command of one item.
    #[track_caller]
    fn item(&mut self, command: Command) -> Option<Refused> {
        match self.ok(command) {
            Event::Items { refused } if refused.len() == 1 => refused[0].clone(),
            other => panic!("not one item: {other:?}"),
        }
    }

    fn join(&mut self, name: &str) -> NodeId {
        let directory = u128::from(self.index) + 100;
        match self.ok(join(name, directory, &[])) {
            Event::Joined { node } => node,
            other => panic!("join answered {other:?}"),
        }
    }

    /// The next process of a node, without proof, at its present last renewal.
    fn register(&self, node: NodeId) -> Register {
        let row = self.node(node);
        let counter = row.incarnation.counter + 1;
        Register {
            node,
            replaces: row.incarnation,
            incarnation: Incarnation { counter, nonce: node.0 * 1_000 + counter },
            info: row.info.clone(),
            lock: Some(lock(node)),
            renewed: row.renewed,
            proof: false,
            reown: false,
        }
    }

    fn register_anew(&mut self, node: NodeId) {
        let register = self.register(node);
        self.ok(Command::Register(register));
    }

    fn node(&self, id: NodeId) -> &Node {
        self.registry.node(id).expect("a known node")
    }

    fn row(&self, id: ShardId) -> ShardRow {
        *self.registry.shard(id).expect("a known shard")
    }

    fn incarnation(&self, id: NodeId) -> Incarnation {
        self.node(id).incarnation
    }

    fn fence(&mut self, node: NodeId) -> Event {
        let command = self.fence_command(node);
        self.ok(command)
    }

    fn fence_command(&self, node: NodeId) -> Command {
        Command::Fence {
            node,
            incarnation: self.incarnation(node),
            renewed: self.node(node).renewed,
        }
    }

    fn renew(&mut self, nodes: &[NodeId]) -> Vec<NodeId> {
        let sessions = nodes.iter().map(|id| (*id, self.incarnation(*id)));
        let sessions = sessions.collect();
        match self.ok(Command::Renew { sessions }) {
            Event::Renewed { refused, .. } => refused,
            other => panic!("renew answered {other:?}"),
        }
    }

    fn drain_restart(&mut self, node: NodeId) {
        let incarnation = self.incarnation(node);
        self.ok(Command::DrainRestart { node, incarnation });
    }

    /// Begins a move and answers the reference that commits or aborts it.
    fn begin(&mut self, shard: ShardId, target: NodeId) -> MoveRef {
        let epoch = self.row(shard).epoch;
        let item = BeginMove { shard, epoch, target, incarnation: self.incarnation(target) };
        assert_eq!(self.item(Command::BeginMove { items: vec![item] }), None);
        MoveRef { shard, epoch, id: MoveId(self.index) }
    }

    fn commit(&mut self, item: MoveRef) -> Option<Refused> {
        self.item(Command::CommitMove { items: vec![item] })
    }

    fn abort(&mut self, item: MoveRef) -> Option<Refused> {
        self.item(Command::AbortMove { items: vec![item] })
    }
}

fn info(name: &str) -> NodeInfo {
    NodeInfo {
        name: name.into(),
        addresses: Addresses {
            data: format!("{name}:11000"),
            raft: format!("{name}:12000"),
            ..Addresses::default()
        },
        weight: 100,
        feature_level: FEATURE_LEVEL,
        ..NodeInfo::default()
    }
}

fn lock(node: NodeId) -> LockId {
    LockId { boot_id: "boot".into(), device: 1, inode: node.0 }
}

fn found(founder: NodeInfo) -> Command {
    Command::Found { cluster: CLUSTER, founder, directory: 1, shard_count: SHARDS, lease_ms: 3_000 }
}

fn join(name: &str, directory: u128, replaces: &[(NodeId, LogIndex)]) -> Command {
    Command::Join { info: info(name), directory, replaces: replaces.to_vec() }
}

fn owned_by(node: NodeId, incarnation: Incarnation, via: Option<MoveId>) -> Holding {
    Holding::Owned { node, incarnation, via }
}
