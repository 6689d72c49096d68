//! Raft's messages, over the network.

use prost::Message as _;
use shoal_proto::shoal::peer::v1 as pb;
use shoal_worker::{
    fuzzing,
    wire::raft::{self as wire, Error},
};

use super::{
    Shape::Message,
    Target,
    parts::{SEVERAL, split},
    told,
};

pub fn targets() -> Vec<Target> {
    const HERE: &str = "wire::raft";
    vec![
        Target::again("raft-append", HERE, Message("shoal.peer.v1.AppendRequest"), append)
            .memory(ENTRIES, 0),
        Target::again("raft-appended", HERE, Message("shoal.peer.v1.AppendResponse"), appended),
        Target::again("raft-vote", HERE, Message("shoal.peer.v1.VoteRequest"), vote),
        Target::again("raft-voted", HERE, Message("shoal.peer.v1.VoteResponse"), voted),
        Target::again("raft-transfer", HERE, Message("shoal.peer.v1.TransferRequest"), transfer),
        Target::again(
            "raft-transferred",
            HERE,
            Message("shoal.peer.v1.TransferResponse"),
            transferred,
        ),
        Target::again("raft-snapshot-meta", HERE, Message("shoal.peer.v1.SnapshotMeta"), meta)
            .memory(ENTRIES, 0),
        Target::judged(
            "raft-snapshot-stream",
            "raft::server",
            Message("shoal.peer.v1.SnapshotFrame"),
            stream,
        )
        .parts(SEVERAL)
        .memory(ENTRIES, 0),
    ]
}

/// Two bytes of a list can stand for one element, whose parts are all absent.
const ENTRIES: usize = 160;

/// Reads a message into `T` and writes it again.
fn again<M: prost::Message + Default, T>(
    bytes: &[u8],
    read: impl FnOnce(M) -> Result<T, Error>,
    write: impl FnOnce(&T) -> M,
) -> Result<Vec<u8>, String> {
    let read = read(M::decode(bytes).map_err(told)?).map_err(told)?;
    Ok(write(&read).encode_to_vec())
}

fn append(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let header = pb::RaftHeader::default();
    again(bytes, wire::read_append_request, |read| wire::append_request(header, read))
}

fn appended(bytes: &[u8]) -> Result<Vec<u8>, String> {
    again(bytes, wire::read_append_response, wire::append_response)
}

fn vote(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let header = pb::RaftHeader::default();
    again(bytes, wire::read_vote_request, |read| wire::vote_request(header, read))
}

fn voted(bytes: &[u8]) -> Result<Vec<u8>, String> {
    again(bytes, wire::read_vote_response, wire::vote_response)
}

fn transfer(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let header = pb::RaftHeader::default();
    again(bytes, wire::read_transfer_request, |read| wire::transfer_request(header, read))
}

fn transferred(bytes: &[u8]) -> Result<Vec<u8>, String> {
    again(bytes, wire::read_transfer_response, wire::transfer_response)
}

fn meta(bytes: &[u8]) -> Result<Vec<u8>, String> {
    again(bytes, |meta: pb::SnapshotMeta| wire::read_snapshot_meta(Some(meta)), wire::snapshot_meta)
}

/// What was announced, then the chunks, each a frame.
fn stream(bytes: &[u8]) -> Result<(), String> {
    use pb::snapshot_frame::Frame;
    let mut frames = split(bytes).ok_or("no sequence of frames")?.into_iter();
    let mut next = || {
        let frame = frames.next().map(|frame| pb::SnapshotFrame::decode(&*frame).map_err(told));
        frame.transpose().map(|frame| frame.and_then(|frame| frame.frame))
    };
    let Some(Frame::Start(start)) = next()? else { return Err("no start".to_owned()) };
    wire::read_vote(start.vote).map_err(told)?;
    wire::read_snapshot_meta(start.meta.clone()).map_err(told)?;
    let mut chunks = Vec::new();
    while let Some(Frame::Chunk(chunk)) = next()? {
        chunks.push(chunk);
    }
    fuzzing::snapshot_stream(&start, &chunks).map(|_| ())
}
