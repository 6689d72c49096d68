//! Raft's calls from other nodes, answered on RAFT_ADDRESS.
//!
//! Every call is checked to come from this cluster and to mean this node before Raft hears of
//! it; what the sender says of its own address goes into the book.

use std::{pin::Pin, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use futures::{Stream, StreamExt as _};
use openraft::errors::{Fatal, RaftError};
use shoal_core::id::{ClusterId, NodeId};
use shoal_proto::shoal::peer::v1::{
    self as proto,
    raft_server::{Raft as RaftService, RaftServer},
};
use tonic::{Request, Response, Status, Streaming};

use super::{
    ClusterCell,
    types::{Raft, Snapshot, Types},
    vigil::Vigil,
};
use crate::{
    peer::{AddressBook, MAX_MESSAGE},
    table::Table,
    tls::Caller,
    wire,
};

/// Largest snapshot that is taken in; a registry of 1,000 nodes and 65,536 shards needs 4 MiB.
const MAX_SNAPSHOT: u64 = 64 << 20;
/// A sender of a snapshot that is silent for so long is gone.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(10);

/// Where the server finds this node's Raft: empty before it starts and after it stopped.
#[derive(Clone, Default)]
pub struct Slot(Arc<ArcSwapOption<Served>>);

pub(super) struct Served {
    pub id: NodeId,
    pub cluster: ClusterCell,
    pub raft: Raft,
    pub book: AddressBook,
    pub table: Table,
    /// How often a leader lets itself be heard.
    pub heartbeat: Duration,
}

impl Slot {
    pub(super) fn fill(&self, served: Served) {
        self.0.store(Some(Arc::new(served)));
    }

    pub(super) fn clear(&self) {
        self.0.store(None);
    }

    /// The service of `shoal.peer.v1.Raft`, with its limits.
    pub fn service(&self) -> RaftServer<Service> {
        RaftServer::new(Service { slot: self.clone() })
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The Raft that the call means, once it is shown to mean this one.
    fn admit(
        &self,
        caller: &Caller,
        header: Option<&proto::RaftHeader>,
    ) -> Result<Arc<Served>, Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("the call lacks its header"))?;
        let served = self.0.load_full();
        let served = served.ok_or_else(|| Status::unavailable("this node runs no raft now"))?;
        let theirs: ClusterId = header
            .cluster_id
            .parse()
            .map_err(|_| Status::invalid_argument("the cluster id is garbled"))?;
        let ours = served.cluster.get();
        if ours != Some(theirs) {
            let ours = ours.map_or_else(|| "no cluster".to_owned(), |id| format!("cluster {id}"));
            return Err(Status::failed_precondition(format!(
                "this node is in {ours}, the call is from cluster {theirs}"
            )));
        }
        if header.to != served.id.0 {
            return Err(Status::failed_precondition(format!(
                "this is node {}, the call is for node {}",
                served.id,
                NodeId(header.to)
            )));
        }
        if header.from == served.id.0 {
            return Err(Status::failed_precondition("the caller has the id of this node"));
        }
        let from = NodeId(header.from);
        caller.must_be(served.table.name_of(from).as_deref())?;
        served.book.learn(from, &header.from_address);
        Ok(served)
    }
}

/// Answers the calls of other nodes' Raft.
pub struct Service {
    slot: Slot,
}

type Appended = Pin<Box<dyn Stream<Item = Result<proto::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl RaftService for Service {
    type StreamAppendStream = Appended;

    async fn stream_append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Appended>, Status> {
        let (caller, mut requests) = (Caller::of(&request), request.into_inner());
        let first = requests.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let served = self.slot.admit(&caller, first.header.as_ref())?;
        let from = NodeId(first.header.as_ref().map_or(0, |header| header.from));
        let first = wire::raft::read_append_request(first).map_err(garbled)?;
        let vigil = Vigil::over(&served.raft, from, served.heartbeat);
        let rest = futures::stream::unfold((requests, vigil), async |(mut requests, vigil)| {
            let request = requests.message().await.ok()??;
            match wire::raft::read_append_request(request) {
                Ok(request) => Some((request, (requests, vigil))),
                Err(error) => {
                    tracing::warn!(%error, "an append request was garbled; its stream ends");
                    None
                }
            }
        });
        let requests = futures::stream::iter([first]).chain(rest);
        let responses = served.raft.stream_append(requests).map(|result| match result {
            Ok(result) => Ok(wire::raft::append_response(&result)),
            Err(fatal) => Err(stopped(&fatal)),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn append(
        &self,
        request: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let served = self.slot.admit(&caller, request.header.as_ref())?;
        let request = wire::raft::read_append_request(request).map_err(garbled)?;
        let (previous, last) = (
            request.prev_log_id,
            request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id),
        );
        let response = served.raft.append_entries(request).await.map_err(failed)?;
        let result = response.into_stream_result(previous, last);
        Ok(Response::new(wire::raft::append_response(&result)))
    }

    async fn request_vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let served = self.slot.admit(&caller, request.header.as_ref())?;
        let request = wire::raft::read_vote_request(request).map_err(garbled)?;
        let response = served.raft.vote(request).await.map_err(failed)?;
        Ok(Response::new(wire::raft::vote_response(&response)))
    }

    async fn pre_vote(
        &self,
        request: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let served = self.slot.admit(&caller, request.header.as_ref())?;
        let request = wire::raft::read_vote_request(request).map_err(garbled)?;
        let response = served.raft.pre_vote(request).await.map_err(failed)?;
        Ok(Response::new(wire::raft::vote_response(&response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        let (caller, request) = (Caller::of(&request), request.into_inner());
        let served = self.slot.admit(&caller, request.header.as_ref())?;
        let request = wire::raft::read_transfer_request(request).map_err(garbled)?;
        let response =
            served.raft.handle_transfer_leader(request).await.map_err(|f| stopped(&f))?;
        Ok(Response::new(wire::raft::transfer_response(&response)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::SnapshotFrame>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        use proto::snapshot_frame::Frame;
        let (caller, mut frames) = (Caller::of(&request), request.into_inner());
        let Some(Frame::Start(start)) = next_frame(&mut frames).await? else {
            return Err(Status::invalid_argument("a snapshot begins with its start"));
        };
        let served = self.slot.admit(&caller, start.header.as_ref())?;
        let vote = wire::raft::read_vote(start.vote).map_err(garbled)?;
        let meta = wire::raft::read_snapshot_meta(start.meta.clone()).map_err(garbled)?;
        if meta.last_log_id.is_some_and(|last| last.leader_id > vote.leader_id) {
            return Err(Status::invalid_argument("the snapshot is newer than its sender's term"));
        }
        let snapshot = receive(&mut frames, start.length, start.crc32).await?;
        let snapshot = Snapshot { meta, snapshot };
        let installed = served.raft.install_full_snapshot(vote, snapshot).await;
        let vote = installed.map_err(|fatal| stopped(&fatal))?.vote;
        Ok(Response::new(proto::SnapshotResponse { vote: Some(wire::raft::vote(&vote)) }))
    }
}

async fn next_frame(
    frames: &mut Streaming<proto::SnapshotFrame>,
) -> Result<Option<proto::snapshot_frame::Frame>, Status> {
    match tokio::time::timeout(SNAPSHOT_IDLE, frames.message()).await {
        Ok(frame) => Ok(frame?.and_then(|frame| frame.frame)),
        Err(_) => Err(Status::deadline_exceeded("the sender of the snapshot fell silent")),
    }
}

/// The whole snapshot, once every chunk and the sum of them are as they were sent.
async fn receive(
    frames: &mut Streaming<proto::SnapshotFrame>,
    length: u64,
    crc32: u32,
) -> Result<bytes::Bytes, Status> {
    use proto::snapshot_frame::Frame;
    let mut incoming = Incoming::begin(length, crc32)?;
    while !incoming.is_whole() {
        let Some(Frame::Chunk(chunk)) = next_frame(frames).await? else {
            return Err(Status::data_loss("the snapshot ends early"));
        };
        incoming.take(&chunk)?;
    }
    incoming.finish()
}

/// A snapshot on its way in. It takes memory as chunks come, not as its sender announces.
#[derive(Debug)]
pub(crate) struct Incoming {
    length: u64,
    crc32: u32,
    data: BytesMut,
}

impl Incoming {
    pub fn begin(length: u64, crc32: u32) -> Result<Self, Status> {
        if length > MAX_SNAPSHOT {
            return Err(Status::resource_exhausted(format!(
                "a snapshot of {length} bytes is over the limit of {MAX_SNAPSHOT}"
            )));
        }
        Ok(Self { length, crc32, data: BytesMut::new() })
    }

    pub fn is_whole(&self) -> bool {
        self.data.len() as u64 == self.length
    }

    pub fn take(&mut self, chunk: &proto::SnapshotChunk) -> Result<(), Status> {
        let fits = (self.data.len() + chunk.data.len()) as u64 <= self.length;
        if !fits || crc32fast::hash(&chunk.data) != chunk.crc32 {
            return Err(Status::data_loss("a chunk of the snapshot is damaged"));
        }
        self.data.extend_from_slice(&chunk.data);
        Ok(())
    }

    pub fn finish(self) -> Result<bytes::Bytes, Status> {
        if !self.is_whole() || crc32fast::hash(&self.data) != self.crc32 {
            return Err(Status::data_loss("the snapshot is damaged"));
        }
        Ok(self.data.freeze())
    }
}

#[allow(clippy::needless_pass_by_value)] // a function for map_err
fn garbled(error: wire::raft::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(fatal: &Fatal<Types>) -> Status {
    Status::unavailable(format!("raft has stopped on this node: {fatal}"))
}

#[allow(clippy::needless_pass_by_value)] // a function for map_err
fn failed(error: RaftError<Types>) -> Status {
    Status::unavailable(format!("raft has stopped on this node: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(data: &'static [u8]) -> proto::SnapshotChunk {
        proto::SnapshotChunk { data: data.into(), crc32: crc32fast::hash(data) }
    }

    #[test]
    fn a_snapshot_takes_no_memory_for_what_was_only_announced() {
        let mut incoming = Incoming::begin(MAX_SNAPSHOT, 0).unwrap();
        assert_eq!(incoming.data.capacity(), 0);
        incoming.take(&chunk(b"first")).unwrap();
        assert!(incoming.data.capacity() < 1_024, "{}", incoming.data.capacity());
        assert!(Incoming::begin(MAX_SNAPSHOT + 1, 0).is_err());
    }

    #[test]
    fn chunks_become_the_whole_and_nothing_else_does() {
        let whole = crc32fast::hash(b"one two");
        let two = |crc32| {
            let mut incoming = Incoming::begin(7, crc32).unwrap();
            incoming.take(&chunk(b"one ")).unwrap();
            assert!(!incoming.is_whole());
            incoming.take(&chunk(b"two")).unwrap();
            incoming
        };
        assert_eq!(two(whole).finish().unwrap(), "one two");
        assert!(two(whole + 1).finish().is_err());
        assert!(two(whole).take(&chunk(b"!")).is_err(), "more than was announced");
        assert!(Incoming::begin(7, whole).unwrap().finish().is_err(), "less than was announced");
        let damaged = proto::SnapshotChunk { crc32: 1, ..chunk(b"one ") };
        assert!(Incoming::begin(7, whole).unwrap().take(&damaged).is_err());
    }
}
