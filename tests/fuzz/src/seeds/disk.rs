//! Raft's messages, and what a node keeps on its disk.

use bytes::Bytes;
use futures::FutureExt as _;
use prost::Message as _;
use redb::{Database, StorageBackend as _, TableDefinition, backends::InMemoryBackend};
use shoal_core::id::ShardId;
use shoal_proto::shoal::peer::v1 as pb;
use shoal_worker::{
    fuzzing::{seal_record, seal_registry_file, seal_snapshot},
    host::{api::ShardHost as _, kv::Kv},
    wire::registry::{encode_command, encode_snapshot},
};

use super::{
    Seed, numbered,
    registry::{CLUSTER, formed},
};
use crate::targets::parts;

pub fn of(target: &str) -> Option<Vec<Seed>> {
    let seeds = match target {
        "raft-append" => vec![
            append(entries()).encode_to_vec(),
            append(Vec::new()).encode_to_vec(),
            pb::AppendRequest { vote: Some(vote()), ..Default::default() }.encode_to_vec(),
        ],
        "raft-appended" => appended(),
        "raft-vote" => vec![
            pb::VoteRequest {
                header: header(),
                vote: Some(vote()),
                last: Some(place(9)),
                leadership_transfer: true,
            }
            .encode_to_vec(),
        ],
        "raft-voted" => vec![
            pb::VoteResponse { vote: Some(vote()), granted: true, last: Some(place(9)) }
                .encode_to_vec(),
        ],
        "raft-transfer" => vec![
            pb::TransferRequest {
                header: header(),
                from_leader: Some(vote()),
                last: Some(place(9)),
                heir: 2,
            }
            .encode_to_vec(),
        ],
        "raft-transferred" => transferred(),
        "raft-snapshot-meta" => vec![meta().encode_to_vec()],
        "raft-snapshot-stream" => vec![stream()],
        "log-entry" => entries().iter().map(seal_record).collect(),
        "log-vote" => vec![seal_record(&vote())],
        "log-place" => vec![seal_record(&place(9)), seal_record(&pb::LogId::default())],
        "log-file" => log_files(),
        "snapshot-file" => [encode_snapshot(&formed()), Bytes::from_static(b"rows")]
            .map(|data| seal_snapshot(meta(), &data).expect("a sound membership"))
            .into(),
        "registry-file" => vec![seal_registry_file(&encode_snapshot(&formed()))],
        "kv-state" => states(),
        _ => return None,
    };
    Some(numbered("real", seeds))
}

fn header() -> Option<pb::RaftHeader> {
    let (cluster_id, from_address) = (CLUSTER.to_string(), "node-1:12000".to_owned());
    Some(pb::RaftHeader { cluster_id, from: 1, to: 2, from_address })
}

fn vote() -> pb::Vote {
    pb::Vote { term: 4, node: 1, committed: true }
}

fn place(index: u64) -> pb::LogId {
    pb::LogId { term: 4, node: 1, index }
}

fn membership(configs: &[&[u64]]) -> pb::Membership {
    let member = |id: u64| pb::membership::Member {
        id,
        name: format!("node-{id}"),
        raft_address: format!("node-{id}:12000"),
    };
    let config = |voters: &&[u64]| pb::membership::Config { voters: voters.to_vec() };
    pb::Membership {
        configs: configs.iter().map(config).collect(),
        members: (1..=4).map(member).collect(),
    }
}

fn entries() -> Vec<pb::LogEntry> {
    use pb::log_entry::{Blank, Payload};
    let command = encode_command(&shoal_core::registry::Command::AcquireOperatorEpoch);
    [
        Payload::Blank(Blank {}),
        Payload::Command(command),
        Payload::Membership(membership(&[&[1, 2, 3]])),
        Payload::Membership(membership(&[&[1, 2, 3], &[2, 3, 4]])),
    ]
    .into_iter()
    .zip(6..)
    .map(|(payload, index)| pb::LogEntry { id: Some(place(index)), payload: Some(payload) })
    .collect()
}

fn append(entries: Vec<pb::LogEntry>) -> pb::AppendRequest {
    pb::AppendRequest {
        header: header(),
        vote: Some(vote()),
        previous: Some(place(5)),
        entries,
        committed: Some(place(4)),
    }
}

fn appended() -> Vec<Vec<u8>> {
    use pb::append_response::{Matched, Result as Answer};
    [
        Answer::Matched(Matched { last: Some(place(9)) }),
        Answer::Matched(Matched { last: None }),
        Answer::Conflict(place(3)),
        Answer::HigherVote(vote()),
    ]
    .map(|result| pb::AppendResponse { result: Some(result) }.encode_to_vec())
    .into()
}

fn transferred() -> Vec<Vec<u8>> {
    use pb::transfer_response::{Done, LogBehind, Result as Answer, VoteChanged};
    [
        Answer::Done(Done {}),
        Answer::VoteChanged(VoteChanged { expected: Some(vote()), actual: Some(vote()) }),
        Answer::LogBehind(LogBehind { expected: Some(place(9)), actual: None }),
    ]
    .map(|result| pb::TransferResponse { result: Some(result) }.encode_to_vec())
    .into()
}

fn meta() -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last: Some(place(10)),
        membership_id: Some(place(8)),
        membership: Some(membership(&[&[1, 2, 3]])),
    }
}

/// As a leader sends it: the start, then chunks.
fn stream() -> Vec<u8> {
    use pb::snapshot_frame::Frame;
    let data = encode_snapshot(&formed());
    let start = pb::SnapshotStart {
        header: header(),
        vote: Some(vote()),
        meta: Some(meta()),
        length: data.len() as u64,
        crc32: crc32fast::hash(&data),
    };
    let chunks = data.chunks(300).map(|chunk| {
        let data = Bytes::copy_from_slice(chunk);
        Frame::Chunk(pb::SnapshotChunk { crc32: crc32fast::hash(chunk), data })
    });
    let frames = [Frame::Start(start)].into_iter().chain(chunks);
    let frames = frames.map(|frame| pb::SnapshotFrame { frame: Some(frame) }.encode_to_vec());
    parts::join(&frames.collect::<Vec<_>>())
}

/// The log of a node with a few entries, and one that was purged.
fn log_files() -> Vec<Vec<u8>> {
    [false, true].map(log_file).into()
}

fn log_file(purged: bool) -> Vec<u8> {
    let memory = Shared::default();
    let database = Database::builder()
        .set_cache_size(1 << 20)
        .create_with_backend(memory.clone())
        .expect("memory takes it");
    let txn = database.begin_write().expect("a first transaction");
    let write = || -> Result<(), redb::Error> {
        txn.open_table(TableDefinition::<&str, u64>::new("format"))?.insert("log", 1)?;
        let mut meta = txn.open_table(TableDefinition::<&str, &[u8]>::new("meta"))?;
        meta.insert("vote", seal_record(&vote()).as_slice())?;
        meta.insert("committed", seal_record(&place(7)).as_slice())?;
        if purged {
            meta.insert("purged", seal_record(&place(6)).as_slice())?;
        }
        let mut table = txn.open_table(TableDefinition::<u64, &[u8]>::new("entries"))?;
        for (entry, index) in entries().iter().zip(6..) {
            let id = Some(place(index - if purged { 0 } else { 6 }));
            let entry = pb::LogEntry { id, ..entry.clone() };
            table.insert(id.map_or(0, |id| id.index), seal_record(&entry).as_slice())?;
        }
        Ok(())
    };
    write().expect("memory takes it");
    txn.commit().expect("memory takes it");
    drop(database);
    memory.bytes()
}

/// Memory that outlives the database in it.
#[derive(Clone, Debug, Default)]
struct Shared(std::sync::Arc<InMemoryBackend>);

impl Shared {
    fn bytes(&self) -> Vec<u8> {
        let length = self.0.len().expect("memory");
        let mut bytes = vec![0; usize::try_from(length).expect("it fits memory")];
        self.0.read(0, &mut bytes).expect("memory");
        bytes
    }
}

impl redb::StorageBackend for Shared {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.0.set_len(length)
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

/// Shards as the built-in host writes them: an empty one, and records written by hand.
fn states() -> Vec<Vec<u8>> {
    const SHARD: ShardId = ShardId(3);
    let kv = Kv::default();
    let opened = kv.open(SHARD, shoal_core::id::Epoch(1), shoal_worker::host::api::Start::Empty);
    opened.now_or_never().expect("kv never waits").expect("an empty shard opens");
    let frozen = kv.freeze(SHARD).now_or_never().expect("kv never waits");
    let empty = frozen.expect("an open shard freezes").concat();
    let (put, delete, end) = (1, 2, 3);
    let mut full = vec![1];
    for (key, value) in [("a", "1"), ("empty", ""), ("user-42", "a value"), ("a", "2")] {
        full.push(put);
        full.extend((key.len() as u32).to_le_bytes());
        full.extend((value.len() as u32).to_le_bytes());
        full.extend(key.bytes().chain(value.bytes()));
    }
    full.push(delete);
    full.extend(5_u32.to_le_bytes());
    full.extend(b"empty");
    full.push(end);
    full.extend(5_u64.to_le_bytes());
    vec![empty, full]
}
