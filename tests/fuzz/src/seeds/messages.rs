//! Messages between nodes, of clients and of those who administer.

use bytes::Bytes;
use prost::Message as _;
use shoal_core::{
    admit::Nack,
    found::{Answer, Content, Formed, JoinedState, Member, Peer, PeerState, Question, Renounced},
    handoff::{GiveUp, News, Process, Refusal, Report, Whole},
    id::{Epoch, Incarnation, LogIndex, MapVersion, MoveId, NodeId, ShardId},
    registry::MoveRef,
};
use shoal_proto::shoal::{admin::v1 as admin, kv::v1 as kv, peer::v1 as pb, v1 as data};
use shoal_worker::{
    call::AppError,
    forward::frame::{Batch, Frame, Head, Hello, Welcome},
    raft::Heard,
    watch::{self, Event},
    wire::{found, handover, map, registry::encode_snapshot, session},
};

use super::{
    Seed, numbered,
    registry::{CLUSTER, formed, incarnation, info, lock},
};
use crate::targets::parts::GRPC;

pub fn of(target: &str) -> Option<Vec<Seed>> {
    let seeds = match target {
        "pipe-frames" => batches(),
        "call-request" => calls(),
        "kv-call" => kv_calls(),
        "founding-question" => questions(),
        "founding-answer" => answers(),
        "map-event" => events(),
        "handover-frame" => frames(),
        "handover-reply" => replies(),
        "session-report" => reports(),
        "session-answer" => session_answers(),
        _ => return sessions(target).or_else(|| administration(target)),
    };
    Some(numbered("real", seeds))
}

fn hop() -> Option<pb::Hop> {
    Some(session::hop(CLUSTER, NodeId(2)))
}

fn sessions(target: &str) -> Option<Vec<Seed>> {
    let of = Some(session::incarnation(incarnation(2)));
    let node_info = Some(session::node_info(&info("node-2")));
    let bytes = match target {
        "session-join" => {
            let directory = Bytes::copy_from_slice(&[7; 16]);
            pb::JoinRequest { hop: hop(), info: node_info, directory }.encode_to_vec()
        }
        "session-register" => pb::RegisterRequest {
            hop: hop(),
            node: 2,
            incarnation: of,
            info: node_info,
            lock: Some(session::lock(&lock())),
        }
        .encode_to_vec(),
        "session-renew" => pb::RenewRequest {
            hop: hop(),
            node: 2,
            incarnation: of,
            table_index: 77,
            leaves_within_ms: Some(20_000),
        }
        .encode_to_vec(),
        "session-leave" => {
            pb::LeaveRequest { hop: hop(), node: 2, incarnation: of }.encode_to_vec()
        }
        _ => return None,
    };
    Some(numbered("real", [bytes]))
}

fn administration(target: &str) -> Option<Vec<Seed>> {
    let operator = Some(admin::Operator { epoch: 3 });
    let text = incarnation(2).to_text();
    let all = match target {
        "admin-configure" => vec![
            admin::ConfigureRequest {
                lease_ms: Some(5_000),
                rebalance: Some("paused".to_owned()),
                max_moves: Some(8),
                max_moves_per_node: Some(2),
                cooldown_ms: Some(500),
                max_voters: Some(3),
                max_learners: Some(4),
                shard_count: Some(16),
                operator,
            }
            .encode_to_vec(),
        ],
        "admin-drain" => [admin::DrainKind::Restart, admin::DrainKind::Removal]
            .map(|kind| {
                let (node, kind) = (2, kind.into());
                admin::DrainRequest { node, kind, incarnation: text.clone(), operator }
                    .encode_to_vec()
            })
            .into(),
        "admin-close" => {
            vec![admin::CloseRequest { node: 2, incarnation: text, operator }.encode_to_vec()]
        }
        "admin-report-death" => {
            vec![admin::ReportDeathRequest { node: 2, incarnation: text, operator }.encode_to_vec()]
        }
        "admin-confirm-founding" => {
            let cluster_id = CLUSTER.to_string();
            vec![admin::ConfirmFoundingRequest { cluster_id }.encode_to_vec()]
        }
        _ => return None,
    };
    Some(numbered("real", all))
}

fn head(length: u32) -> Head {
    Head {
        request: 7,
        call: 0x1234_5678,
        shard: ShardId(3),
        epoch: Epoch::new(1_700_000_000, 4),
        map_version: MapVersion(12),
        budget_ms: 1_500,
        attempt: 1,
        idempotent: true,
        length,
        key: Bytes::from_static(b"user-42"),
        method: "put".to_owned(),
        metadata: Bytes::from_static(b"trace"),
    }
}

fn every_frame() -> Vec<Frame> {
    let (request, epoch, bytes) = (7, Epoch(9), Bytes::from_static(b"a value"));
    let nack = |nack| Frame::Nack { request, nack };
    vec![
        Frame::Hello(Hello {
            version: 1,
            node: true,
            cluster: CLUSTER,
            from: NodeId(1),
            incarnation: incarnation(1),
            to: NodeId(2),
            thread: 0,
            generation: 5,
        }),
        Frame::Welcome(Welcome { version: 1, requests: 1_024, bytes: 1 << 20 }),
        Frame::Refuse { reason: "another node".to_owned() },
        Frame::Call { head: head(7), bytes: bytes.clone() },
        Frame::Call { head: head(14), bytes: bytes.clone() },
        Frame::Data { request, bytes: bytes.clone() },
        Frame::Cancel { request },
        Frame::Drain,
        Frame::Result { request, epoch, payload: bytes.clone() },
        Frame::Begin { request, epoch, length: 70_000, bytes },
        Frame::Failed {
            request,
            epoch,
            error: AppError { code: 5, message: "no such key".to_owned() },
        },
        nack(Nack::NotOwner { owner: Some(NodeId(3)), epoch, row: LogIndex(10) }),
        nack(Nack::NotOwner { owner: None, epoch, row: LogIndex(10) }),
        nack(Nack::Moving { row: LogIndex(11) }),
        nack(Nack::Busy { after: std::time::Duration::from_millis(20) }),
        nack(Nack::StaleReceiver),
        nack(Nack::Expired),
        Frame::Unknown { request, reason: "the host broke".to_owned() },
    ]
}

fn batch(frames: &[Frame]) -> Vec<u8> {
    let (mut batch, mut bytes) = (Batch::default(), Vec::<Bytes>::new());
    frames.iter().for_each(|frame| batch.push(frame));
    batch.take(&mut bytes);
    bytes.concat()
}

fn batches() -> Vec<Vec<u8>> {
    let all = every_frame();
    let single = all.iter().map(|frame| batch(std::slice::from_ref(frame)));
    let two = [batch(&all[..6]), batch(&all[6..])].concat();
    let large = Frame::Data { request: 7, bytes: vec![b'x'; 20_000].into() };
    single.chain([batch(&all), two, batch(&[large])]).collect()
}

fn calls() -> Vec<Vec<u8>> {
    let call = data::CallRequest {
        key: Bytes::from_static(b"user-42"),
        method: "incr".to_owned(),
        payload: Bytes::from_static(b"1"),
    };
    let empty = data::CallRequest::default();
    [call, empty].map(|call| (GRPC.close)(&[call.encode_to_vec()])).into()
}

fn kv_calls() -> Vec<Vec<u8>> {
    let wish = kv::CompareAndSet {
        expected: Some(Bytes::from_static(b"41")),
        value: Bytes::from_static(b"42"),
    };
    vec![wish.encode_to_vec(), b"incr".to_vec(), b"-42".to_vec(), i64::MAX.to_string().into()]
}

fn peer(name: &str) -> Peer {
    Peer { name: name.to_owned(), address: format!("{name}.peers:12000") }
}

fn member(name: &str) -> Member {
    Member { name: name.to_owned(), nonce: 0xfeed_0000_0000_0000_0000_0000_0000_0001 }
}

fn questions() -> Vec<Vec<u8>> {
    let question = Question {
        number: 3,
        nonce: 1 << 100,
        from: peer("node-0"),
        founding_set: Some(0xabcd),
        to: Some("node-1".to_owned()),
        formed: Some(CLUSTER),
        renounced: Some(Renounced { dead: 5, by: 6 }),
    };
    let first = Question {
        founding_set: None,
        to: None,
        formed: None,
        renounced: None,
        ..question.clone()
    };
    [question, first].map(|question| found::question_out(&question).encode_to_vec()).into()
}

fn answers() -> Vec<Vec<u8>> {
    let joined = JoinedState { cluster: CLUSTER, founder: member("node-0") };
    let state = |joined: Option<JoinedState>, formed| PeerState {
        member: member("node-1"),
        boot_ms: 1_700_000_000_123,
        known: vec![peer("node-0"), peer("node-2")],
        oldest: Some("node-0".to_owned()),
        joined,
        formed,
        ever_left: false,
        highest_epoch: Epoch::new(1_700_000_000, 9),
    };
    let contents = [
        Content::State(state(None, Formed::No)),
        Content::State(state(Some(joined.clone()), Formed::InLog)),
        Content::State(state(Some(joined), Formed::Committed)),
        Content::SetsDiffer { names: vec!["node-0".to_owned(), "node-1".to_owned()] },
        Content::NameInUse { address: "node-1.peers:12000".to_owned() },
    ];
    let answer = |content| Answer { nonce: 1 << 100, number: 3, content };
    contents.map(|content| found::answer_out(&answer(content)).encode_to_vec()).into()
}

fn events() -> Vec<Vec<u8>> {
    let rows = encode_snapshot(&formed());
    let sources = |nodes: &[u64]| {
        nodes.iter().map(|node| (NodeId(*node), format!("node-{node}:12000"))).collect()
    };
    let heard =
        Heard { leader: Some(NodeId(1)), voters: sources(&[1, 2, 3]), learners: sources(&[4]) };
    [
        watch::News::Snapshot(rows.clone()),
        watch::News::Delta(rows),
        watch::News::Nothing,
        watch::News::Elsewhere(watch::Why::Behind),
        watch::News::Elsewhere(watch::Why::NotFormed),
    ]
    .map(|news| {
        let members = Some(heard.clone());
        let event = Event { cluster: CLUSTER, from: NodeId(1), index: LogIndex(12), news, members };
        map::event(event).encode_to_vec()
    })
    .into()
}

fn process(node: u64) -> Process {
    Process::new(NodeId(node), Incarnation { counter: node, nonce: 9 })
}

fn key() -> MoveRef {
    MoveRef { shard: ShardId(3), epoch: Epoch(8), id: MoveId(10) }
}

fn frames() -> Vec<Vec<u8>> {
    let begin =
        handover::Begin { cluster: CLUSTER, key: key(), source: process(1), target: process(2) };
    [
        handover::Said::Begin(begin),
        handover::Said::Chunk(Bytes::from_static(b"some state")),
        handover::Said::Seal(Whole { length: 10, digest: 77 }),
    ]
    .map(|said| handover::frame(said).encode_to_vec())
    .into()
}

fn replies() -> Vec<Vec<u8>> {
    use shoal_core::handoff::Body;
    let whole = Whole { length: 10, digest: 77 };
    [
        Body::Prepared,
        Body::Holds(whole),
        Body::Refused(Refusal::Over),
        Body::Refused(Refusal::Differs(whole)),
    ]
    .map(|body| handover::reply(body).expect("a target says it").encode_to_vec())
    .into()
}

fn reports() -> Vec<Vec<u8>> {
    [
        News::Working,
        News::Released,
        News::GaveUp(GiveUp::TooLarge(1 << 30)),
        News::GaveUp(GiveUp::Refused(Refusal::Differs(Whole { length: 1, digest: 2 }))),
    ]
    .map(|news| {
        let report = Report { key: key(), source: process(1), target: process(2), news };
        session::report(&report).encode_to_vec()
    })
    .into()
}

fn session_answers() -> Vec<Vec<u8>> {
    use pb::session_response::Result as Answer;
    let rejected = |why: pb::rejected::Why| {
        let message = "the table of this node is too far behind".to_owned();
        Answer::Rejected(pb::Rejected { why: why.into(), message, renewed: 4 })
    };
    let leader_raft_address = "node-1:12000".to_owned();
    [
        Answer::Accepted(pb::Accepted {
            index: 9,
            lease_ms: 3_000,
            node: 4,
            cluster_id: CLUSTER.to_string(),
        }),
        Answer::NotLeader(pb::NotLeader { leader: 1, leader_raft_address }),
        rejected(pb::rejected::Why::TableBehind),
        rejected(pb::rejected::Why::NameInUse),
    ]
    .map(|result| pb::SessionResponse { result: Some(result) }.encode_to_vec())
    .into()
}
