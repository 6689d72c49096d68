//! What is written is read back equal, and nothing else is taken for it.

use std::fmt::Debug;

use proptest::{collection::vec, option, prelude::*};
use shoal_core::{
    id::{ClusterId, Epoch, Incarnation, LogIndex, MapVersion, MoveId, NodeId, ShardId},
    registry::{
        Addresses, Assign, BeginMove, ClusterState, Configure, Drain, Holding, Life, LockId,
        MoveRef, Node, NodeInfo, Rebalance, Register, Settings, ShardRow,
    },
};

use super::*;

fn incarnation() -> impl Strategy<Value = Incarnation> {
    any::<(u64, u64)>().prop_map(|(counter, nonce)| Incarnation { counter, nonce })
}

fn session() -> impl Strategy<Value = (NodeId, Incarnation)> {
    (any::<u64>().prop_map(NodeId), incarnation())
}

fn index() -> impl Strategy<Value = LogIndex> {
    any::<u64>().prop_map(LogIndex)
}

fn info() -> impl Strategy<Value = NodeInfo> {
    let text = || "[a-z0-9.:]{0,12}";
    let addresses = (text(), text(), text(), text());
    let addresses =
        addresses.prop_map(|(data, raft, admin, http)| Addresses { data, raft, admin, http });
    (text(), option::of(text()), addresses, text(), any::<(u32, u32)>(), text()).prop_map(
        |(name, pod_uid, addresses, zone, (weight, feature_level), revision)| NodeInfo {
            name,
            pod_uid,
            addresses,
            zone,
            weight,
            feature_level,
            revision,
        },
    )
}

fn lock() -> impl Strategy<Value = Option<LockId>> {
    let lock = ("[a-f0-9-]{0,8}", any::<(u64, u64)>());
    option::of(lock.prop_map(|(boot_id, (device, inode))| LockId { boot_id, device, inode }))
}

fn rebalance() -> impl Strategy<Value = Rebalance> {
    prop_oneof![Just(Rebalance::Automatic), Just(Rebalance::Paused)]
}

fn place() -> impl Strategy<Value = (ShardId, Epoch)> {
    any::<(u32, u64)>().prop_map(|(shard, epoch)| (ShardId(shard), Epoch(epoch)))
}

fn moves() -> impl Strategy<Value = Vec<MoveRef>> {
    let item = (place(), any::<u64>());
    let item = item.prop_map(|((shard, epoch), id)| MoveRef { shard, epoch, id: MoveId(id) });
    vec(item, 0..4)
}

fn targets() -> impl Strategy<Value = Vec<((ShardId, Epoch), (NodeId, Incarnation))>> {
    vec((place(), session()), 0..4)
}

fn configure() -> impl Strategy<Value = Configure> {
    let numbers = any::<[Option<u32>; 7]>();
    (numbers, option::of(rebalance())).prop_map(|(numbers, rebalance)| {
        let [
            lease_ms,
            max_moves,
            max_moves_per_node,
            cooldown_ms,
            max_voters,
            max_learners,
            shard_count,
        ] = numbers;
        Configure {
            lease_ms,
            rebalance,
            max_moves,
            max_moves_per_node,
            cooldown_ms,
            max_voters,
            max_learners,
            shard_count,
        }
    })
}

fn register() -> impl Strategy<Value = Register> {
    let claims = any::<(u64, bool, bool)>();
    (session(), incarnation(), info(), lock(), claims).prop_map(
        |((node, replaces), incarnation, info, lock, (renewed, proof, reown))| Register {
            node,
            replaces,
            incarnation,
            info,
            lock,
            renewed: LogIndex(renewed),
            proof,
            reown,
        },
    )
}

fn of_session(make: fn(NodeId, Incarnation) -> Command) -> BoxedStrategy<Command> {
    session().prop_map(move |(node, incarnation)| make(node, incarnation)).boxed()
}

fn of_node(make: fn(NodeId) -> Command) -> BoxedStrategy<Command> {
    any::<u64>().prop_map(move |node| make(NodeId(node))).boxed()
}

/// One strategy per kind of command, guarded ones apart.
fn plain_commands() -> Vec<BoxedStrategy<Command>> {
    vec![
        (any::<(u128, u128, u32, u32)>(), info())
            .prop_map(|((cluster, directory, shard_count, lease_ms), founder)| Command::Found {
                cluster: ClusterId(cluster),
                founder,
                directory,
                shard_count,
                lease_ms,
            })
            .boxed(),
        (info(), any::<u128>(), vec((any::<u64>().prop_map(NodeId), index()), 0..3))
            .prop_map(|(info, directory, replaces)| Command::Join { info, directory, replaces })
            .boxed(),
        any::<(u32, u64)>()
            .prop_map(|(unix_seconds, epoch)| Command::Form {
                unix_seconds,
                highest_epoch_found: Epoch(epoch),
            })
            .boxed(),
        register().prop_map(Command::Register).boxed(),
        vec(session(), 0..4).prop_map(|sessions| Command::Renew { sessions }).boxed(),
        (session(), index())
            .prop_map(|((node, incarnation), renewed)| Command::Fence {
                node,
                incarnation,
                renewed,
            })
            .boxed(),
        of_session(|node, incarnation| Command::ReportDeath { node, incarnation }),
        of_session(|node, incarnation| Command::CloseInPlace { node, incarnation }),
        of_session(|node, incarnation| Command::Close { node, incarnation }),
        of_session(|node, incarnation| Command::DrainRestart { node, incarnation }),
        of_session(|node, incarnation| Command::Remove { node, incarnation }),
        of_node(|node| Command::DrainRemoval { node }),
        of_node(|node| Command::CancelDrain { node }),
        of_session(|node, incarnation| Command::Leave { node, incarnation }),
        of_session(|node, incarnation| Command::Stay { node, incarnation }),
        of_node(|node| Command::Mark { node }),
        Just(Command::StopAll).boxed(),
        targets().prop_map(assign).boxed(),
        targets().prop_map(begin_move).boxed(),
        moves().prop_map(|items| Command::CommitMove { items }).boxed(),
        moves().prop_map(|items| Command::AbortMove { items }).boxed(),
        configure().prop_map(Command::Configure).boxed(),
        index().prop_map(|previous_since| Command::SettleLease { previous_since }).boxed(),
        (0..=FEATURE_LEVEL).prop_map(|level| Command::RaiseLevel { level }).boxed(),
        Just(Command::AcquireOperatorEpoch).boxed(),
        Just(Command::Blank).boxed(),
    ]
}

fn assign(targets: Vec<((ShardId, Epoch), (NodeId, Incarnation))>) -> Command {
    let items = targets.into_iter().map(|((shard, epoch), (target, incarnation))| Assign {
        shard,
        epoch,
        target,
        incarnation,
    });
    Command::Assign { items: items.collect() }
}

fn begin_move(targets: Vec<((ShardId, Epoch), (NodeId, Incarnation))>) -> Command {
    let items = targets.into_iter().map(|((shard, epoch), (target, incarnation))| BeginMove {
        shard,
        epoch,
        target,
        incarnation,
    });
    Command::BeginMove { items: items.collect() }
}

fn plain_command() -> impl Strategy<Value = Command> {
    proptest::strategy::Union::new(plain_commands())
}

fn command() -> impl Strategy<Value = Command> {
    let guarded = (any::<u64>(), plain_command()).prop_map(|(operator_epoch, command)| {
        Command::Guarded { operator_epoch, command: Box::new(command) }
    });
    prop_oneof![4 => plain_command(), 1 => guarded]
}

fn node() -> impl Strategy<Value = (NodeId, Node)> {
    let lives = [Life::Joining, Life::Up, Life::Closed, Life::Fenced, Life::Left];
    let drain = prop_oneof![
        Just(Drain::None),
        incarnation().prop_map(Drain::Restart),
        incarnation().prop_map(Drain::Own),
        Just(Drain::Removal)
    ];
    let flags = any::<(u128, bool, u64, u64)>();
    let life = proptest::sample::select(lives.to_vec());
    (session(), info(), lock(), (life, drain), flags).prop_map(
        |((id, incarnation), info, lock, (life, drain), (directory, marked, renewed, changed))| {
            let (renewed, changed) = (LogIndex(renewed), LogIndex(changed));
            (id, Node { info, directory, incarnation, lock, life, drain, marked, renewed, changed })
        },
    )
}

fn shard() -> impl Strategy<Value = (ShardId, ShardRow)> {
    let via = || option::of(any::<u64>().prop_map(MoveId));
    let owned = (session(), via()).prop_map(|((node, incarnation), via)| Holding::Owned {
        node,
        incarnation,
        via,
    });
    let moving = (session(), via(), session(), any::<u64>()).prop_map(
        |((node, incarnation), via, (target, target_incarnation), id)| Holding::Moving {
            node,
            incarnation,
            via,
            target,
            target_incarnation,
            id: MoveId(id),
        },
    );
    let holding = prop_oneof![Just(Holding::Unassigned), owned, moving];
    (place(), holding, index()).prop_map(|((shard, epoch), holding, changed)| {
        (shard, ShardRow { epoch, holding, changed })
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let numbers = any::<[u32; 7]>();
    let previous = option::of((any::<u32>(), index()));
    (numbers, previous, 0..=FEATURE_LEVEL, any::<u64>(), rebalance()).prop_map(
        |(numbers, previous_lease, feature_level, operator_epoch, rebalance)| {
            let [
                shard_count,
                lease_ms,
                max_moves,
                max_moves_per_node,
                cooldown_ms,
                max_voters,
                max_learners,
            ] = numbers;
            Settings {
                shard_count,
                lease_ms,
                previous_lease,
                feature_level,
                operator_epoch,
                rebalance,
                max_moves,
                max_moves_per_node,
                cooldown_ms,
                max_voters,
                max_learners,
            }
        },
    )
}

fn delta() -> impl Strategy<Value = Delta> {
    let cluster = (any::<u128>(), option::of(index()), any::<u64>(), option::of(any::<u128>()));
    let cluster = cluster.prop_map(|(id, formed, first_epoch, former)| ClusterState {
        id: ClusterId(id),
        formed,
        first_epoch: Epoch(first_epoch),
        recovered_from: former.map(ClusterId),
    });
    let indices = any::<(u64, u64, u64)>();
    let settings = option::of((settings(), index()));
    (cluster, indices, settings, vec(node(), 0..4), vec(shard(), 0..8)).prop_map(
        |(cluster, (since, applied, map_version), settings, nodes, shards)| Delta {
            cluster,
            since: LogIndex(since),
            applied: LogIndex(applied),
            map_version: MapVersion(map_version),
            settings,
            nodes,
            shards,
        },
    )
}

/// Bytes cut short, with one byte replaced, or made up.
fn damaged(whole: Bytes, place: prop::sample::Index, with: Option<u8>) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let place = place.index(bytes.len().max(1));
    match with {
        Some(byte) => bytes.get_mut(place).into_iter().for_each(|at| *at = byte),
        None => bytes.truncate(place),
    }
    bytes
}

/// What was read, whatever it was, is written and read back equal.
fn reads_its_own_writing<T: PartialEq + Debug>(
    bytes: &[u8],
    read: fn(&[u8]) -> Result<T, Error>,
    write: fn(&T) -> Bytes,
) {
    if let Ok(first) = read(bytes) {
        assert_eq!(read(&write(&first)), Ok(first));
    }
}

proptest! {
    #[test]
    fn a_command_is_read_back_equal(command in command()) {
        prop_assert_eq!(decode_command(&encode_command(&command)), Ok(command));
    }

    #[test]
    fn a_delta_is_read_back_equal(delta in delta()) {
        prop_assert_eq!(decode_delta(&encode_delta(&delta)), Ok(delta));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..256)) {
        reads_its_own_writing(&bytes, decode_command, encode_command);
        reads_its_own_writing(&bytes, decode_delta, encode_delta);
        reads_its_own_writing(&bytes, decode_snapshot, encode_snapshot);
    }

    #[test]
    fn damaged_bytes_never_panic(
        command in command(),
        delta in delta(),
        place: prop::sample::Index,
        with: Option<u8>,
    ) {
        let bytes = damaged(encode_command(&command), place, with);
        reads_its_own_writing(&bytes, decode_command, encode_command);
        let bytes = damaged(encode_delta(&delta), place, with);
        reads_its_own_writing(&bytes, decode_delta, encode_delta);
        reads_its_own_writing(&bytes, decode_snapshot, encode_snapshot);
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_a_sound_registry(
        place: prop::sample::Index,
        with: Option<u8>,
    ) {
        let bytes = damaged(encode_snapshot(&formed(16)), place, with);
        if let Ok(registry) = decode_snapshot(&bytes) {
            prop_assert_eq!(registry.check(), []);
        }
    }
}

/// Every kind of command is in `plain_commands`, so that none escapes the round trip.
#[test]
fn every_kind_of_command_is_tried() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let commands = plain_commands().into_iter().map(|kind| {
        let command = kind.new_tree(&mut runner).expect("a command").current();
        std::mem::discriminant(&command)
    });
    let mut kinds = Vec::new();
    for kind in commands {
        assert!(!kinds.contains(&kind), "a kind tried twice");
        kinds.push(kind);
    }
    assert_eq!(kinds.len(), 26);
}

fn formed(shard_count: u32) -> Registry {
    let mut registry = Registry::default();
    let founder = NodeInfo { weight: 100, feature_level: FEATURE_LEVEL, ..NodeInfo::default() };
    let incarnation = Incarnation { counter: 1, nonce: u64::MAX };
    let found = Command::Found {
        cluster: ClusterId(9),
        founder: founder.clone(),
        directory: 3,
        shard_count,
        lease_ms: 3_000,
    };
    let register = Register {
        node: NodeId(1),
        replaces: Incarnation::default(),
        incarnation,
        info: founder,
        lock: None,
        renewed: LogIndex(0),
        proof: false,
        reown: false,
    };
    let form = Command::Form { unix_seconds: 1_800_000_000, highest_epoch_found: Epoch(0) };
    let commands = [found, Command::Register(register), form];
    for (command, index) in commands.into_iter().zip(1..) {
        registry.apply(LogIndex(index), &command).0.expect("applied");
    }
    let items = registry.shards().map(|(shard, row)| Assign {
        shard,
        epoch: row.epoch,
        target: NodeId(1),
        incarnation,
    });
    let items: Vec<_> = items.collect();
    for (batch, index) in items.chunks(4_096).zip(1_000_000..) {
        let assign = Command::Assign { items: batch.to_vec() };
        registry.apply(LogIndex(index), &assign).0.expect("assigned");
    }
    registry
}

#[test]
fn a_snapshot_of_the_largest_map_fits_its_limit_and_is_the_registry() {
    const LIMIT: usize = 4 << 20;
    let registry = formed(65_536);
    let bytes = encode_snapshot(&registry);
    assert!(bytes.len() < LIMIT, "{} bytes", bytes.len());
    assert_eq!(decode_snapshot(&bytes), Ok(registry));
}

#[test]
fn s10_a_command_above_this_builds_level_is_refused_with_both_named() {
    let mut newer = command::write(&Command::Blank);
    newer.level = Some(FEATURE_LEVEL + 1);
    let refused = Error::Level { level: FEATURE_LEVEL + 1, known: FEATURE_LEVEL };
    assert_eq!(decode_command(&newer.encode_to_vec()), Err(refused.clone()));
    newer.body = None;
    assert_eq!(decode_command(&newer.encode_to_vec()), Err(refused.clone()));
    let raise = Command::RaiseLevel { level: FEATURE_LEVEL + 1 };
    assert_eq!(decode_command(&encode_command(&raise)), Err(refused.clone()));
    let mut registry = formed(16).parts();
    if let Some((settings, _)) = &mut registry.settings {
        settings.feature_level = FEATURE_LEVEL + 1;
    }
    assert_eq!(decode_snapshot(&encode_delta(&registry)), Err(refused));
}

#[test]
fn s10_a_command_this_build_does_not_know_is_refused() {
    // Field 99 of the envelope holds a body of the future; prost skips what it does not know.
    let level = command::write(&Command::Blank).level;
    let mut bytes = proto::Command { level, body: None }.encode_to_vec();
    bytes.extend([0x9a, 0x06, 0x00]);
    assert_eq!(decode_command(&bytes), Err(Error::Missing("command")));
    assert_eq!(decode_command(&[]), Err(Error::Missing("level")));
}

/// The shortest node and the shortest shard that can be written.
fn shortest() -> (Node, ShardRow) {
    let node = Node {
        info: NodeInfo::default(),
        directory: 0,
        incarnation: Incarnation::default(),
        lock: None,
        life: Life::Joining,
        drain: Drain::None,
        marked: false,
        renewed: LogIndex(0),
        changed: LogIndex(0),
    };
    let holding = Holding::Unassigned;
    (node, ShardRow { epoch: Epoch(0), holding, changed: LogIndex(0) })
}

#[test]
fn rows_that_are_too_short_to_be_any_are_refused_before_they_are_read() {
    for (field, what) in [(7, "node"), (8, "shard")] {
        let rows = [field << 3 | 2, 0].repeat(1 << 20);
        let refused = decode_delta(&rows);
        assert!(
            matches!(refused, Err(Error::Short { what: named, found: 0, .. }) if named == what)
        );
    }
    let (node, shard) = shortest();
    let mut delta = formed(16).parts();
    delta.nodes = vec![(NodeId(0), node)];
    delta.shards = vec![(ShardId(0), shard)];
    assert_eq!(decode_delta(&encode_delta(&delta)), Ok(delta.clone()), "the shortest are read");
    // One byte less than the shortest, and the last one of the row is gone.
    let whole = encode_delta(&delta);
    let tag = whole.iter().rposition(|byte| *byte == 8 << 3 | 2).expect("the shard");
    let mut short = whole[..whole.len() - 1].to_vec();
    short[tag + 1] -= 1;
    let Err(Error::Short { found, least, .. }) = decode_delta(&short) else {
        panic!("{:?}", decode_delta(&short))
    };
    assert_eq!(found + 1, least);
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let level = Some(1);
    let body = |body| decode_command(&proto::Command { level, body: Some(body) }.encode_to_vec());
    use proto::command::Body;
    let cancel = Body::CancelDrain(proto::NodeRef { node: None });
    assert_eq!(body(cancel), Err(Error::Missing("node id")));
    for value in [0, 3] {
        let configure = proto::Configure { rebalance: Some(value), ..Default::default() };
        let refused = Error::Unknown { what: "rebalance mode", value };
        assert_eq!(body(Body::Configure(configure)), Err(refused));
    }
    let found = proto::Found { cluster: Some(Bytes::from_static(b"short")), ..Default::default() };
    let refused = Error::Length { what: "cluster id", found: 5 };
    assert_eq!(body(Body::Found(found)), Err(refused));
    let guarded = |command| Command::Guarded { operator_epoch: 1, command: Box::new(command) };
    let nested = guarded(guarded(Command::Blank));
    assert_eq!(decode_command(&encode_command(&nested)), Err(Error::Nested));
}
