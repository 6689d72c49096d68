//! Raft's calls to other nodes.
//!
//! Moves bytes and gives up in time: a peer that does not answer is unreachable, never an
//! error of the protocol. Entries, heartbeats and snapshots travel on connections apart.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory,
    base::{BoxFuture, BoxStream},
    errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{
        Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    },
    raft::{
        AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use parking_lot::Mutex;
use shoal_core::id::NodeId;
use shoal_proto::shoal::peer::v1::{self as proto, raft_client::RaftClient};
use tonic::{Code, Status, transport::Channel};

use super::{
    ClusterCell,
    types::{Member, Snapshot, Types, Vote},
};
use crate::{
    peer::{Channels, MAX_MESSAGE, Purpose},
    wire,
};

/// Waits between two attempts to send entries to a peer: the first, and the longest. One that
/// comes back may be all that a quorum lacks, so the longest stays within an election.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));
/// Bytes of one chunk of a snapshot.
const CHUNK: usize = 256 << 10;
/// A snapshot's receiver that takes no chunk and gives no answer for so long is gone.
const SNAPSHOT_IDLE: Duration = Duration::from_secs(10);

type Responses<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

/// What every call says of its sender, and how long it waits.
#[derive(Clone)]
pub struct Network {
    pub id: NodeId,
    pub cluster: ClusterCell,
    /// Where this node is reached on RAFT_ADDRESS.
    pub address: Arc<str>,
    pub channels: Channels,
    /// A follower that leaves a request unanswered for so long is given up on.
    pub idle: Duration,
}

/// The way to one peer for one purpose.
pub struct Link {
    network: Network,
    to: NodeId,
    purpose: Purpose,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Purpose::Raft)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Purpose::Snapshot)
    }
}

impl Network {
    fn link(&self, target: u64, node: &Member, purpose: Purpose) -> Link {
        let to = NodeId(target);
        self.channels.book().guess(to, &node.raft_address);
        Link { network: self.clone(), to, purpose }
    }
}

impl Link {
    fn client(&self, purpose: Purpose) -> Result<RaftClient<Channel>, Unreachable<Types>> {
        let channel = self.network.channels.channel(self.to, purpose);
        let channel = channel.map_err(|error| Unreachable::from_string(error.to_string()))?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }

    fn header(&self) -> Result<proto::RaftHeader, Unreachable<Types>> {
        let cluster = self.network.cluster.get();
        let cluster = cluster.ok_or_else(|| Unreachable::from_string("in no cluster yet"))?;
        Ok(proto::RaftHeader {
            cluster_id: cluster.to_string(),
            from: self.network.id.0,
            to: self.to.0,
            from_address: self.network.address.to_string(),
        })
    }

    /// Reads a refusal: where another node answered, its address loses its turn.
    fn refused(&self, purpose: Purpose, status: &Status) -> Unreachable<Types> {
        if status.code() == Code::FailedPrecondition {
            self.network.channels.wrong_node(self.to, purpose);
        }
        Unreachable::from_string(format!("{}: {}", status.code(), status.message()))
    }

    /// One call with one answer on the connection for urgent things.
    async fn call<T, F>(
        &self,
        action: RPCTypes,
        option: &RPCOption,
        ask: impl FnOnce(RaftClient<Channel>) -> F,
    ) -> Result<T, RPCError<Types>>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let timeout = option.soft_ttl();
        match tokio::time::timeout(timeout, ask(self.client(Purpose::Heartbeat)?)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.refused(Purpose::Heartbeat, &status).into()),
            Err(_) => Err(self.timed_out(action, timeout).into()),
        }
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<Types> {
        Timeout { action, id: self.network.id.0, target: self.to.0, timeout }
    }

    /// Heartbeats come one by one: a stream for each would cost more than the heartbeat.
    async fn heartbeat(
        &self,
        mut input: impl Stream<Item = AppendEntriesRequest<Types>> + Unpin,
        option: RPCOption,
    ) -> Result<Responses<'static>, RPCError<Types>> {
        let Some(request) = input.next().await else {
            return Ok(Box::pin(futures::stream::empty()));
        };
        let request = wire::raft::append_request(self.header()?, &request);
        let response = self
            .call(RPCTypes::AppendEntries, &option, async |mut c| c.append(request).await)
            .await?;
        let result = wire::raft::read_append_response(response).map_err(garbled)?;
        Ok(Box::pin(futures::stream::iter([Ok(result)])))
    }

    async fn replicate<S>(
        &self,
        input: S,
        option: RPCOption,
    ) -> Result<Responses<'_>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let pace = Arc::new(Pace::new());
        let sent = pace.clone();
        let header = self.header()?;
        let requests = input.map(move |request| {
            sent.sent();
            wire::raft::append_request(header.clone(), &request)
        });
        let mut client = self.client(Purpose::Raft)?;
        // Raft waits after a failure before it gives out the next request, inside this call:
        // only what was sent may wait too long, or no request would ever be sent again.
        let responses = tokio::select! {
            opened = client.stream_append(requests) => opened,
            () = pace.stalled(self.network.idle) => {
                return Err(self.timed_out(RPCTypes::AppendEntries, option.soft_ttl()).into());
            }
        };
        let responses = responses.map_err(|status| self.refused(Purpose::Raft, &status))?;
        let responses = responses.into_inner();
        let stream = futures::stream::unfold(Some(responses), move |state| {
            let pace = pace.clone();
            async move {
                let mut responses = state?;
                let next = tokio::select! {
                    next = responses.message() => next,
                    () = pace.stalled(self.network.idle) => {
                        let idle = self.network.idle;
                        let error = self.timed_out(RPCTypes::AppendEntries, idle).into();
                        return Some((Err(error), None));
                    }
                };
                match next {
                    Ok(Some(response)) => {
                        pace.answered();
                        match wire::raft::read_append_response(response) {
                            Ok(result) => Some((Ok(result), Some(responses))),
                            Err(error) => Some((Err(garbled(error).into()), None)),
                        }
                    }
                    Ok(None) => None,
                    Err(status) => Some((Err(self.refused(Purpose::Raft, &status).into()), None)),
                }
            }
        });
        Ok(Box::pin(stream))
    }
}

fn garbled(error: wire::raft::Error) -> Unreachable<Types> {
    Unreachable::from_string(error.to_string())
}

/// Requests and answers of one stream: tells when a request has waited too long.
struct Pace(Mutex<(usize, tokio::time::Instant)>);

impl Pace {
    fn new() -> Self {
        Self(Mutex::new((0, tokio::time::Instant::now())))
    }

    fn sent(&self) {
        let mut pace = self.0.lock();
        if pace.0 == 0 {
            pace.1 = tokio::time::Instant::now();
        }
        pace.0 += 1;
    }

    fn answered(&self) {
        let mut pace = self.0.lock();
        pace.0 = pace.0.saturating_sub(1);
        pace.1 = tokio::time::Instant::now();
    }

    /// Progress short of an answer.
    fn moved(&self) {
        self.0.lock().1 = tokio::time::Instant::now();
    }

    /// Resolves once a request waits and no answer came for `idle`.
    async fn stalled(&self, idle: Duration) {
        loop {
            let (waiting, since) = *self.0.lock();
            let deadline =
                if waiting == 0 { tokio::time::Instant::now() + idle } else { since + idle };
            if deadline <= tokio::time::Instant::now() {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

impl NetStreamAppend<Types> for Link {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Responses<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.purpose == Purpose::Heartbeat {
                self.heartbeat(input, option).await
            } else {
                let opened = self.replicate(input, option).await;
                if opened.is_err() {
                    // openraft waits only between requests, and none is asked for while
                    // no stream opens: without this a dead peer costs a core.
                    tokio::time::sleep(RETRY.0).await;
                }
                opened
            }
        })
    }
}

impl NetVote<Types> for Link {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = wire::raft::vote_request(self.header()?, &rpc);
        let response =
            self.call(RPCTypes::Vote, &option, async |mut c| c.request_vote(request).await).await?;
        Ok(wire::raft::read_vote_response(response).map_err(garbled)?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let request = wire::raft::vote_request(self.header()?, &rpc);
        let response =
            self.call(RPCTypes::Vote, &option, async |mut c| c.pre_vote(request).await).await?;
        Ok(wire::raft::read_vote_response(response).map_err(garbled)?)
    }
}

impl NetTransferLeader<Types> for Link {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = wire::raft::transfer_request(self.header()?, &req);
        let response = self
            .call(RPCTypes::TransferLeader, &option, async |mut c| c.transfer_leader(request).await)
            .await?;
        Ok(wire::raft::read_transfer_response(response).map_err(garbled)?)
    }
}

impl NetSnapshot<Types> for Link {
    type SnapshotData = Bytes;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let pace = Arc::new(Pace::new());
        // The whole transfer is one request that is unanswered from the start.
        pace.sent();
        let frames = frames(self.header()?, &vote, snapshot, pace.clone());
        let mut client = self.client(Purpose::Snapshot)?;
        let response = tokio::select! {
            response = client.install_snapshot(frames) => response,
            closed = cancel => return Err(closed.into()),
            () = pace.stalled(SNAPSHOT_IDLE) => {
                return Err(self.timed_out(RPCTypes::InstallSnapshot, SNAPSHOT_IDLE).into());
            }
        };
        let response = response.map_err(|status| self.refused(Purpose::Snapshot, &status))?;
        let vote = wire::raft::read_vote(response.into_inner().vote).map_err(garbled)?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// Start, then the chunks; each one taken shows that the receiver lives.
fn frames(
    header: proto::RaftHeader,
    vote: &Vote,
    snapshot: Snapshot,
    pace: Arc<Pace>,
) -> impl Stream<Item = proto::SnapshotFrame> + Send + 'static {
    use proto::snapshot_frame::Frame;
    let data = snapshot.snapshot;
    let start = proto::SnapshotStart {
        header: Some(header),
        vote: Some(wire::raft::vote(vote)),
        meta: Some(wire::raft::snapshot_meta(&snapshot.meta)),
        length: data.len() as u64,
        crc32: crc32fast::hash(&data),
    };
    let chunks = (0..data.len()).step_by(CHUNK).map(move |from| {
        let chunk = data.slice(from..data.len().min(from + CHUNK));
        Frame::Chunk(proto::SnapshotChunk { crc32: crc32fast::hash(&chunk), data: chunk })
    });
    let frames = std::iter::once(Frame::Start(start)).chain(chunks);
    futures::stream::iter(frames.map(move |frame| {
        pace.moved();
        proto::SnapshotFrame { frame: Some(frame) }
    }))
}

impl NetBackoff<Types> for Link {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(waits()))
    }
}

fn waits() -> impl Iterator<Item = Duration> + Send {
    let (first, longest) = RETRY;
    std::iter::successors(Some(first), move |wait| Some((*wait * 2).min(longest)))
}

#[cfg(test)]
mod tests;
