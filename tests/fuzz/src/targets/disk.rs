//! What a node finds on its disk, and the state of a shard that another node hands over.

use bytes::Bytes;
use futures::FutureExt as _;
use shoal_core::id::{Epoch, ShardId};
use shoal_worker::{
    fuzzing,
    host::{
        api::{ShardHost as _, Start},
        kv::Kv,
    },
};

use super::{
    Shape::{Bytes as Blind, Json, Message},
    Target,
    parts::{IDENTITY, RECORD, REGISTRY_FILE, SNAPSHOT},
    told,
};

pub fn targets() -> Vec<Target> {
    const RECORDS: &str = "raft::record, wire::raft";
    vec![
        Target::again("log-entry", RECORDS, Message("shoal.peer.v1.LogEntry"), fuzzing::log_entry)
            .parts(RECORD)
            .memory(MEMBERS, 0),
        Target::again("log-vote", RECORDS, Message("shoal.peer.v1.Vote"), fuzzing::log_vote)
            .parts(RECORD),
        Target::again("log-place", RECORDS, Message("shoal.peer.v1.LogId"), fuzzing::log_place)
            .parts(RECORD),
        Target::judged("log-file", "raft::log_store::disk", Blind, fuzzing::log_file)
            .memory(8, 1 << 20)
            .at_least(100),
        Target::again(
            "snapshot-file",
            "raft::snapshot",
            Message("shoal.peer.v1.SnapshotFile"),
            fuzzing::snapshot_file,
        )
        .parts(SNAPSHOT)
        .memory(MEMBERS, 0),
        Target::again(
            "registry-file",
            "cli::snapshot",
            Message("shoal.registry.v1.Delta"),
            fuzzing::registry_file,
        )
        .parts(REGISTRY_FILE)
        .memory(ROWS, 0),
        Target::again("identity", "identity::format", Json, fuzzing::identity).parts(IDENTITY),
        Target::again("members", "identity::members", Blind, fuzzing::members).lenient(),
        Target::judged("operator-identity", "pod::identity_file", Json, fuzzing::operator_identity),
        Target::again("kv-state", "host::kv::codec", Blind, kv_state),
    ]
}

/// As for the rows of a watch.
const ROWS: usize = 48;
/// Two bytes of a list can stand for one element, whose parts are all absent.
const MEMBERS: usize = 96;

/// The state of a shard as a hand-over brings it, in two pieces, and as the next one takes it.
fn kv_state(bytes: &[u8]) -> Result<Vec<u8>, String> {
    const SHARD: ShardId = ShardId(3);
    let kv = Kv::default();
    let now = |step: Option<Result<(), _>>| step.expect("kv never waits").map_err(told);
    now(kv.prepare(SHARD).now_or_never())?;
    let middle = bytes.len() / 2;
    for piece in [&bytes[..middle], &bytes[middle..]] {
        now(kv.import(SHARD, Bytes::copy_from_slice(piece)).now_or_never())?;
    }
    now(kv.imported(SHARD).now_or_never())?;
    now(kv.open(SHARD, Epoch(1), Start::Imported).now_or_never())?;
    let pieces = kv.freeze(SHARD).now_or_never().expect("kv never waits").map_err(told)?;
    Ok(pieces.concat())
}
