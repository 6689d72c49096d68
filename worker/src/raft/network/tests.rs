//! Peers that fall silent in the middle of a call.

use std::pin::Pin;

use openraft::vote::RaftLeaderId as _;
use shoal_core::id::ClusterId;
use shoal_proto::shoal::peer::v1::raft_server::{Raft, RaftServer};
use tonic::{Request, Response, Streaming};

use super::*;
use crate::{env, peer};

const IDLE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes calls, answers as many appends of a stream as told, then nothing more.
struct Silent {
    answers: usize,
}

type Appended = Pin<Box<dyn Stream<Item = Result<proto::AppendResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Raft for Silent {
    type StreamAppendStream = Appended;

    async fn stream_append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<Appended>, Status> {
        let answers = request.into_inner().take(self.answers).map(|request| {
            let last = request?.entries.last().and_then(|entry| entry.id);
            Ok(wire::raft::append_response(&Ok(last.map(wire::raft::read_log_id))))
        });
        Ok(Response::new(Box::pin(answers.chain(futures::stream::pending()))))
    }

    async fn append(
        &self,
        _: Request<proto::AppendRequest>,
    ) -> Result<Response<proto::AppendResponse>, Status> {
        std::future::pending().await
    }

    async fn request_vote(
        &self,
        _: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        std::future::pending().await
    }

    async fn pre_vote(
        &self,
        _: Request<proto::VoteRequest>,
    ) -> Result<Response<proto::VoteResponse>, Status> {
        std::future::pending().await
    }

    async fn transfer_leader(
        &self,
        _: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::TransferResponse>, Status> {
        std::future::pending().await
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<proto::SnapshotFrame>>,
    ) -> Result<Response<proto::SnapshotResponse>, Status> {
        std::future::pending().await
    }
}

async fn link_to(answers: usize, purpose: Purpose) -> Link {
    let listener = env::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = peer::server().add_service(RaftServer::new(Silent { answers }));
    tokio::spawn(server.serve_with_incoming(peer::incoming(listener, crate::tls::Tls::default())));
    let cluster = ClusterCell::default();
    cluster.set(Some(ClusterId(1)));
    let network = Network {
        id: NodeId(1),
        cluster,
        address: "127.0.0.1:1".into(),
        channels: Channels::new(peer::AddressBook::default()),
        idle: IDLE,
    };
    network.link(2, &Member { name: "b".to_owned(), raft_address: address }, purpose)
}

fn leader(term: u64) -> openraft::type_config::alias::LeaderIdOf<Types> {
    openraft::vote::RaftLeaderId::new(term, 1)
}

fn append(index: u64) -> AppendEntriesRequest<Types> {
    let log_id = crate::raft::types::LogId::new(leader(1).to_committed(), index);
    AppendEntriesRequest {
        vote: Vote { leader_id: leader(1), committed: true },
        prev_log_id: None,
        entries: vec![openraft::Entry { log_id, payload: openraft::EntryPayload::Blank }],
        leader_commit: None,
    }
}

fn option() -> RPCOption {
    RPCOption::new(IDLE)
}

#[tokio::test]
async fn a_follower_that_stops_answering_is_given_up() {
    let mut link = link_to(2, Purpose::Raft).await;
    let requests = futures::stream::iter((0..3).map(append)).chain(futures::stream::pending());
    let mut answers = link.stream_append(Box::pin(requests), option()).await.unwrap();
    for index in 0..2 {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap();
        assert_eq!(answer.unwrap().unwrap().unwrap().map(|id| id.index), Some(index));
    }
    let third = tokio::time::timeout(PATIENCE, answers.next()).await.unwrap();
    assert!(matches!(third, Some(Err(RPCError::Timeout(_)))), "{third:?}");
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_follower_that_is_asked_nothing_may_be_silent() {
    let mut link = link_to(1, Purpose::Raft).await;
    let requests = futures::stream::iter([append(0)]).chain(futures::stream::pending());
    let mut answers = link.stream_append(Box::pin(requests), option()).await.unwrap();
    assert!(answers.next().await.unwrap().is_ok());
    let silence = tokio::time::timeout(5 * IDLE, answers.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn a_wait_before_the_first_request_is_not_the_followers() {
    let mut link = link_to(1, Purpose::Raft).await;
    let late = futures::stream::once(async {
        tokio::time::sleep(5 * IDLE).await;
        append(0)
    });
    let requests = Box::pin(late.chain(futures::stream::pending()));
    let opened = tokio::time::timeout(PATIENCE, link.stream_append(requests, option()));
    let mut answers = opened.await.unwrap().unwrap();
    assert!(answers.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn each_question_has_its_time_out() {
    let mut link = link_to(0, Purpose::Heartbeat).await;
    let asked = async {
        let input = futures::stream::iter([append(0)]);
        let beat = link.stream_append(input, option()).await.err();
        assert!(matches!(beat, Some(RPCError::Timeout(_))), "{beat:?}");
        let vote = Vote { leader_id: leader(2), committed: false };
        let request = VoteRequest::<Types>::new(vote, None);
        let answer = link.vote(request.clone(), option()).await;
        assert!(matches!(answer, Err(RPCError::Timeout(_))), "{answer:?}");
        let answer = link.pre_vote(request, option()).await;
        assert!(matches!(answer, Err(RPCError::Timeout(_))), "{answer:?}");
        let request = TransferLeaderRequest::new(vote, 2, None);
        let answer = link.transfer_leader(request, option()).await;
        assert!(matches!(answer, Err(RPCError::Timeout(_))), "{answer:?}");
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_is_cancelled_when_nobody_wants_it_any_more() {
    let mut link = link_to(0, Purpose::Snapshot).await;
    let vote = Vote { leader_id: leader(2), committed: true };
    let snapshot = Snapshot { meta: Default::default(), snapshot: Bytes::from(vec![1; 3 * CHUNK]) };
    let cancel = async { ReplicationClosed::new("not the leader any more") };
    let sent = link.full_snapshot(vote, snapshot, cancel, option()).await;
    assert!(matches!(sent, Err(StreamingError::Closed(_))), "{sent:?}");
}

#[tokio::test]
async fn nobody_there_is_unreachable() {
    let mut link = link_to(0, Purpose::Heartbeat).await;
    let nobody = env::net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    link.network.channels.book().learn(link.to, &address);
    let vote = Vote { leader_id: leader(2), committed: false };
    let answer = link.vote(VoteRequest::new(vote, None), RPCOption::new(PATIENCE)).await;
    assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
    // Its process may be starting again: another address has no turn yet.
    assert_eq!(link.network.channels.book().address(link.to), Some(address));
}

#[test]
fn retries_slow_down_to_a_limit() {
    let waits: Vec<_> = waits().take(5).map(|wait| wait.as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 400, 400]);
}
