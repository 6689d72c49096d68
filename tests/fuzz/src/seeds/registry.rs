//! Every command, and registries with a history.

use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, MoveId, NodeId, ShardId},
    registry::{
        Addresses, Assign, BeginMove, Command, Configure, LockId, MoveRef, NodeInfo, Rebalance,
        Register, Registry,
    },
};
use shoal_worker::wire::registry::{encode_command, encode_delta, encode_snapshot};

use super::{Seed, numbered};
use crate::targets::parts;

pub const CLUSTER: ClusterId = ClusterId(0x5ea1);
/// The fewest that a cluster can have.
const SHARDS: u32 = 16;

pub fn of(target: &str) -> Option<Vec<Seed>> {
    Some(match target {
        "registry-command" => numbered("command", every_command().iter().map(bytes)),
        "registry-entries" => {
            let before: Vec<_> = history().iter().map(bytes).collect();
            let all = [before.clone(), later().iter().map(bytes).collect()].concat();
            let mut seeds = numbered("later", [parts::join(&all)]);
            let each = every_command().into_iter().skip(before.len());
            let each = each.map(|last| parts::join(&[&before[..], &[bytes(&last)]].concat()));
            seeds.extend(numbered("then", each));
            seeds
        }
        "registry-delta" => numbered("delta", deltas()),
        "registry-snapshot" => numbered("snapshot", snapshots()),
        "registry-watch" => {
            let mut seeds = numbered("from-first", [parts::join(&deltas())]);
            let whole = snapshots();
            seeds.extend(numbered("whole", [parts::join(&whole)]));
            let again = [whole[2].clone(), whole[2].clone(), deltas()[3].clone()];
            seeds.extend(numbered("again", [parts::join(&again)]));
            seeds.extend(numbered("forgets", [forgets()]));
            seeds
        }
        _ => return None,
    })
}

fn bytes(command: &Command) -> Vec<u8> {
    encode_command(command).into()
}

pub fn incarnation(counter: u64) -> Incarnation {
    Incarnation { counter, nonce: 0x0123_4567_89ab_cdef ^ counter }
}

pub fn info(name: &str) -> NodeInfo {
    let at = |port: u16| format!("{name}.peers:{port}");
    NodeInfo {
        name: name.to_owned(),
        pod_uid: Some(format!("uid-of-{name}")),
        addresses: Addresses {
            data: at(11_000),
            raft: at(12_000),
            admin: at(13_000),
            http: at(14_000),
        },
        zone: "zone-a".to_owned(),
        weight: 100,
        feature_level: 1,
        revision: "0.1.0".to_owned(),
    }
}

pub fn lock() -> LockId {
    LockId { boot_id: "0a1b-2c3d".to_owned(), device: 66_306, inode: 1_234_567 }
}

fn register(node: u64) -> Command {
    Command::Register(Register {
        node: NodeId(node),
        replaces: Incarnation::default(),
        incarnation: incarnation(node),
        info: info(&format!("node-{node}")),
        lock: Some(lock()),
        renewed: LogIndex(0),
        proof: false,
        reown: false,
    })
}

/// From the first entry to a move under way: the founder is node 1, the ids of the others are
/// the indices of their joins.
fn history() -> Vec<Command> {
    let join = |node: u64| Command::Join {
        info: info(&format!("node-{node}")),
        directory: u128::from(node) << 64 | 7,
        replaces: Vec::new(),
    };
    let assign = |shard| Assign {
        shard: ShardId(shard),
        epoch: Epoch::new(1_700_000_000, 1),
        target: NodeId(1 + u64::from(shard % 3)),
        incarnation: incarnation(1 + u64::from(shard % 3)),
    };
    let begin = BeginMove {
        shard: ShardId(0),
        epoch: Epoch::new(1_700_000_000, 2),
        target: NodeId(2),
        incarnation: incarnation(2),
    };
    vec![
        Command::Found {
            cluster: CLUSTER,
            founder: info("node-1"),
            directory: 1 << 64 | 7,
            shard_count: SHARDS,
            lease_ms: 3_000,
        },
        join(2),
        join(3),
        Command::Form { unix_seconds: 1_700_000_000, highest_epoch_found: Epoch(0) },
        register(1),
        register(2),
        register(3),
        Command::Renew { sessions: (1..=3).map(|n| (NodeId(n), incarnation(n))).collect() },
        Command::Assign { items: (0..SHARDS - 1).map(assign).collect() },
        Command::BeginMove { items: vec![begin] },
    ]
}

/// What may come after it.
fn later() -> Vec<Command> {
    let moved = MoveRef { shard: ShardId(0), epoch: Epoch::new(1_700_000_000, 2), id: MoveId(10) };
    vec![
        Command::CommitMove { items: vec![moved] },
        Command::Configure(Configure { lease_ms: Some(5_000), ..Configure::default() }),
        Command::SettleLease { previous_since: LogIndex(12) },
        Command::DrainRemoval { node: NodeId(3) },
        Command::Fence { node: NodeId(3), incarnation: incarnation(3), renewed: LogIndex(8) },
        Command::Remove { node: NodeId(3), incarnation: incarnation(3) },
    ]
}

/// A registry after the first entries of a history.
fn after(entries: usize) -> Registry {
    let mut registry = Registry::new();
    for (index, command) in (1..).zip(history().into_iter().chain(later()).take(entries)) {
        let (result, _) = registry.apply(LogIndex(index), &command);
        result.unwrap_or_else(|refused| panic!("entry {index}: {refused}"));
    }
    assert_eq!(registry.check(), []);
    registry
}

/// Formed, with nodes, owners and a move under way.
pub fn formed() -> Registry {
    after(history().len())
}

fn snapshots() -> Vec<Vec<u8>> {
    let whole = history().len() + later().len();
    [1, 4, history().len(), whole].map(|entries| encode_snapshot(&after(entries)).into()).into()
}

/// What a watcher is told: the first table, then what changed.
fn deltas() -> Vec<Vec<u8>> {
    let whole = history().len() + later().len();
    let told = [0, 1, 4, 7, 9, 10, 11, 14, whole];
    let pairs = told.windows(2).map(|pair| (pair[0] as u64, pair[1]));
    pairs
        .map(|(since, until)| encode_delta(&after(until).rows_since(LogIndex(since))).into())
        .collect()
}

/// A whole table that lacks a node and all shards, and then the node again.
fn forgets() -> Vec<u8> {
    let whole = formed().parts();
    let mut partial = whole.clone();
    partial.nodes.truncate(1);
    partial.shards.clear();
    parts::join(&[&whole, &partial, &whole].map(|rows| encode_delta(rows).into()))
}

fn every_command() -> Vec<Command> {
    let of = incarnation(2);
    let mut all: Vec<Command> = history().into_iter().chain(later()).collect();
    let node = NodeId(2);
    all.extend([
        Command::Join {
            info: info("node-2"),
            directory: 9,
            replaces: vec![(NodeId(2), LogIndex(8))],
        },
        Command::ReportDeath { node, incarnation: of },
        Command::CloseInPlace { node, incarnation: of },
        Command::Close { node, incarnation: of },
        Command::DrainRestart { node, incarnation: of },
        Command::Leave { node, incarnation: of },
        Command::Stay { node, incarnation: of },
        Command::CancelDrain { node },
        Command::StopAll,
        Command::Mark { node },
        Command::AbortMove {
            items: vec![MoveRef { shard: ShardId(0), epoch: Epoch(2), id: MoveId(10) }],
        },
        Command::RaiseLevel { level: 1 },
        Command::AcquireOperatorEpoch,
        Command::Blank,
    ]);
    all.push(Command::Configure(Configure {
        lease_ms: Some(4_000),
        rebalance: Some(Rebalance::Paused),
        max_moves: Some(8),
        max_moves_per_node: Some(2),
        cooldown_ms: Some(500),
        max_voters: Some(3),
        max_learners: Some(4),
        shard_count: Some(SHARDS),
    }));
    let guarded = Command::Mark { node };
    all.push(Command::Guarded { operator_epoch: 1, command: Box::new(guarded) });
    all
}
