//! Whole nodes in one process, over loopback.

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use shoal_core::{
    id::{Incarnation, LogIndex, NodeId},
    registry::{Command, Configure, Event, Life, Refused, Register},
};
use shoal_proto::shoal::peer::v1::{self as proto, raft_client::RaftClient};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use self::cluster::{CLUSTER, Cluster, ELECTION, Node, until};
use super::{types::Payload, *};
use crate::{env::clock, table::Table};

#[tokio::test(flavor = "multi_thread")]
async fn a_pristine_node_waits_and_a_founder_leads_alone() {
    let node = Node::start(NodeId(1)).await;
    let mut leadership = node.handle.leadership();
    let led = leadership.wait_for(|l| l.leader.is_some());
    assert!(tokio::time::timeout(3 * ELECTION, led).await.is_err(), "a pristine node campaigned");
    let refused = node.handle.propose(&Command::Blank).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));

    node.handle.initialize_alone().await.unwrap();
    let ready = node.ready().await;
    assert_eq!((ready.leader, ready.is_leader), (Some(NodeId(1)), true));
    let entry = node.handle.membership().entry;
    node.handle.initialize_alone().await.unwrap();
    assert_eq!(node.handle.membership().entry, entry, "an initialised log stays as it is");
    let applied = node.handle.propose(&Command::Blank).await.unwrap();
    assert_eq!(applied.result, Ok(Event::Done));
    assert!(node.handle.barrier().await.unwrap() >= applied.index);
    let refused = node.handle.propose(&Command::StopAll).await.unwrap();
    assert_eq!(refused.result, Err(Refused::NotFounded));
    let huge = Command::Renew { sessions: vec![(NodeId(1), Incarnation::default()); 60_000] };
    assert!(matches!(node.handle.propose(&huge).await, Err(ProposeError::TooLarge(_))));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_learners_are_promoted_in_one_joint_change() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let members = leader.handle.membership();
    assert_eq!(members.voters, cluster.ids());
    assert!(!members.joint && members.learners.is_empty());
    // Learners came one by one, then both votes in two entries: joint and uniform.
    let log = &leader.handle.0.log;
    let entries = openraft::RaftLogReader::try_get_log_entries(&mut log.clone(), ..).await.unwrap();
    let configs: Vec<usize> = entries
        .iter()
        .filter_map(|entry| match &entry.payload {
            openraft::EntryPayload::Membership(m) => Some(m.get_joint_config().len()),
            openraft::EntryPayload::Blank | openraft::EntryPayload::Normal(_) => None,
        })
        .collect();
    assert_eq!(configs, [1, 1, 1, 2, 1]);
    for follower in leader.handle.followers() {
        assert!(follower.silent.is_some_and(|silent| silent < 4 * ELECTION), "{follower:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_expectation_changes_no_members() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let now = leader.handle.membership();
    let stale = now.entry.map(|e| EntryId { index: LogIndex(e.index.0 - 1), ..e });
    let alone = BTreeSet::from([leader.id]);
    let refused = leader.handle.change_membership(alone.clone(), BTreeMap::new(), stale).await;
    assert_eq!(refused, Err(ChangeError::Conflict));
    assert_eq!(leader.handle.membership(), now);

    let changed = leader.handle.change_membership(alone.clone(), BTreeMap::new(), now.entry).await;
    let members = leader.handle.membership();
    assert_eq!((&members.voters, members.entry), (&alone, Some(changed.unwrap())));
    assert!(members.learners.is_empty());
    let same =
        leader.handle.change_membership(members.voters, BTreeMap::new(), members.entry).await;
    assert_eq!((same.ok(), leader.handle.membership().entry), (members.entry, members.entry));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joint_membership_left_behind_is_finished() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let alone = BTreeSet::from([leader.id]);
    // What a leader leaves that dies between the two steps.
    let raft = &leader.handle.0.raft;
    let stored = leader.handle.metrics().membership_config;
    let mut configs = stored.get_joint_config().clone();
    configs.push(BTreeSet::from([leader.id.0]));
    let nodes: BTreeMap<_, _> = stored.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let joint = openraft::Membership::new(configs, nodes).unwrap();
    raft.append_membership(joint, openraft::EntryPayload::Blank, []).await.unwrap();
    let left = leader.handle.membership();
    assert!(left.joint && left.voters == alone);

    let done = leader.handle.change_membership(alone.clone(), BTreeMap::new(), left.entry).await;
    let members = leader.handle.membership();
    assert_eq!((members.voters, members.entry), (alone, Some(done.unwrap())));
    assert!(!members.joint && members.learners.is_empty());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_and_comes_back_from_its_disk() {
    let mut cluster = Cluster::of_three().await;
    let old = cluster.leader().await.id;
    let dead = cluster.kill(old).await;
    let leader = cluster.leader().await;
    assert_ne!(leader.id, old);
    let done = leader.handle.propose(&configure(100)).await.unwrap();
    assert_eq!(done.result, Ok(Event::Done));
    let follower = cluster.nodes().find(|node| node.id != leader.id).unwrap();
    let refused = follower.handle.propose(&Command::Blank).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(leader.id) }));

    cluster.restart(dead).await;
    cluster.all_applied(done.index).await;
    cluster.agree();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_beyond_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let victim = cluster.ids().into_iter().find(|id| *id != leader.id).unwrap();
    let dead = cluster.kill(victim).await;
    let leader = cluster.leader().await;
    for moves in 1..=200 {
        leader.handle.propose(&configure(moves)).await.unwrap();
    }
    let last = leader.table.applied();
    for node in cluster.nodes() {
        until("the entry is everywhere", || node.table.applied() >= last).await;
        node.handle.0.raft.trigger().snapshot().await.unwrap();
        let built = || node.snapshot().is_some_and(|index| index >= last.0);
        until("a snapshot", built).await;
        node.handle.0.raft.trigger().purge_log(last.0).await.unwrap();
        until("a purge", || node.handle.0.log.extent().first == last.0 + 1).await;
    }
    cluster.restart(dead).await;
    cluster.all_applied(last).await;
    cluster.agree();
    let back = cluster.node(victim);
    until("it came by snapshot", || back.snapshot() >= Some(last.0)).await;

    // And what it got lasts: a restart begins at the snapshot.
    let dead = cluster.kill(victim).await;
    cluster.restart(dead).await;
    cluster.all_applied(last).await;
    cluster.agree();
    cluster.stop().await;
}

/// Its port answers long before its Raft does: the leader must not lose patience for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_starts_slowly_is_taken_back() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await.id;
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let dead = cluster.kill(others[0]).await;
    cluster.node(leader).handle.propose(&configure(3)).await.unwrap();
    cluster.restart_slowly(dead, 8 * ELECTION).await;
    cluster.kill(others[1]).await;
    // It is the only one left to make a quorum with.
    let done = tokio::time::timeout(cluster::PATIENCE, async {
        loop {
            match cluster.leader().await.handle.propose(&configure(4)).await {
                Ok(done) => return done,
                Err(ProposeError::Unavailable | ProposeError::NotLeader { .. }) => {}
                Err(why) => panic!("{why}"),
            }
        }
    });
    let done = done.await.expect("the slow one is taken back");
    cluster.all_applied(done.index).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let heir = cluster.nodes().find(|node| node.id != leader.id).unwrap();
    let wrong = leader.handle.transfer_leader(NodeId(999)).await;
    assert_eq!(wrong, Err(TransferError::NotVoter(NodeId(999))));
    let wrong = heir.handle.transfer_leader(leader.id).await;
    assert_eq!(wrong, Err(TransferError::NotLeader { leader: Some(leader.id) }));
    let is_ready = || {
        let followers = leader.handle.followers();
        followers.iter().any(|f| f.node == heir.id && f.behind == 0 && f.silent.is_some())
    };
    until("the heir has everything", is_ready).await;
    leader.handle.transfer_leader(heir.id).await.unwrap();
    assert!(heir.ready().await.is_leader);
    assert_eq!(heir.handle.propose(&configure(7)).await.unwrap().result, Ok(Event::Done));
    cluster.stop().await;
}

/// Each proposer has one entry under way, so that every follower lacks some at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn leadership_passes_while_entries_pour_in() {
    const PROPOSERS: usize = 8;
    const ROUNDS: usize = 10;
    let cluster = Cluster::of_three().await;
    let stop = CancellationToken::new();
    let load: Vec<_> = (0..PROPOSERS)
        .map(|i| {
            let handles: Vec<_> = cluster.nodes().map(|node| node.handle.clone()).collect();
            let stop = stop.clone();
            tokio::spawn(async move {
                for handle in handles.iter().cycle().skip(i) {
                    while handle.propose(&Command::Blank).await.is_ok() && !stop.is_cancelled() {}
                    if stop.is_cancelled() {
                        return;
                    }
                }
            })
        })
        .collect();
    let mut took = Vec::new();
    let rounds = async {
        while took.len() < ROUNDS {
            let leader = cluster.leader().await;
            let heir = cluster.nodes().find(|node| node.id != leader.id).unwrap();
            let began = clock::now();
            match leader.handle.transfer_leader(heir.id).await {
                Ok(()) => {
                    heir.ready().await;
                    took.push(clock::now().at_most_since(began));
                }
                // A machine too busy for heartbeats; said again, as the leader's loop does.
                Err(TransferError::Fatal(why)) => panic!("{why}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let done = tokio::time::timeout(cluster::PATIENCE, rounds).await;
    assert!(done.is_ok(), "the named heir takes over each time: {took:?}");
    stop.cancel();
    futures::future::join_all(load).await;
    took.sort();
    println!("from wanted to ready: {took:.0?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l9_all_addresses_change_at_once() {
    let mut cluster = Cluster::of_three().await;
    let ids = cluster.ids();
    let mut dead = Vec::new();
    for id in &ids {
        dead.push(cluster.kill(*id).await);
    }
    cluster.restart_all_untold(dead).await;
    // One node hears of the others again; they follow it by what it says of itself.
    let told = cluster.node(NodeId(1));
    for node in cluster.nodes().filter(|node| node.id != told.id) {
        told.book.learn(node.id, &node.address);
    }
    // On a busy machine another one may win: it hears of the third by a registration.
    let leader = cluster.leader().await;
    for node in cluster.nodes().filter(|node| node.id != leader.id) {
        leader.book.learn(node.id, &node.address);
    }
    let done = leader.handle.propose(&configure(9)).await.unwrap();
    cluster.all_applied(done.index).await;
    cluster.agree();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_address_is_followed() {
    let cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let other = cluster.nodes().find(|node| node.id != leader.id).unwrap();
    let mut moved = leader.table.registry().node(other.id).unwrap().info.clone();
    moved.addresses.raft = "127.0.0.1:9".to_owned();
    let register = Command::Register(Register {
        node: other.id,
        replaces: Incarnation::default(),
        incarnation: Incarnation { counter: 1, nonce: 1 },
        info: moved,
        lock: None,
        renewed: LogIndex(0),
        proof: false,
        reown: false,
    });
    let third = cluster.nodes().find(|n| n.id != leader.id && n.id != other.id).unwrap();
    let done = leader.handle.propose(&register).await.unwrap();
    assert!(matches!(done.result, Ok(Event::Registered { .. })), "{:?}", done.result);
    let known = || third.book.address(other.id).as_deref() == Some("127.0.0.1:9");
    until("the new address is known", known).await;
    assert_eq!(leader.table.registry().node(other.id).unwrap().life, Life::Up);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_is_formed_only_the_founder_campaigns() {
    let mut cluster = Cluster::of_three_unformed().await;
    assert!(!cluster.node(NodeId(1)).handle.formed_in_log());
    let dead = cluster.kill(NodeId(1)).await;
    let survivor = cluster.nodes().next().unwrap();
    let mut leadership = survivor.handle.leadership();
    let elected = leadership.wait_for(|l| l.leader.is_some_and(|leader| leader != NodeId(1)));
    assert!(tokio::time::timeout(5 * ELECTION, elected).await.is_err(), "an election was held");

    cluster.restart(dead).await;
    let founder = cluster.leader().await;
    assert_eq!(founder.id, NodeId(1));
    founder.form().await;
    for node in cluster.nodes() {
        until("the forming is in its log", || node.handle.formed_in_log()).await;
    }
    cluster.kill(NodeId(1)).await;
    assert_ne!(cluster.leader().await.id, NodeId(1));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s10_a_command_from_the_future_stops_the_node() {
    let node = Node::start(NodeId(1)).await;
    node.handle.initialize_alone().await.unwrap();
    node.ready().await;
    let garbled = Payload(Bytes::from_static(&[0xff; 9]));
    assert!(node.handle.0.raft.client_write(garbled).await.is_err());
    let reason = tokio::time::timeout(cluster::PATIENCE, node.handle.fatal()).await.unwrap();
    assert!(reason.contains("cannot be applied"), "{reason}");
    let refused = node.handle.propose(&Command::Blank).await;
    assert_eq!(refused, Err(ProposeError::Fatal(reason)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_table_ahead_of_the_log_waits_for_it() {
    let mut cluster = Cluster::of_three().await;
    let leader = cluster.leader().await;
    let done = leader.handle.propose(&configure(3)).await.unwrap();
    let table = Table::default();
    table.install_snapshot(leader.table.registry().parts()).unwrap();
    assert_eq!(table.applied(), done.index);
    let mut feed = table.feed();

    let fourth = leader.join(4).await;
    let joined = leader.table.applied();
    let node = Node::start_with(fourth, table.clone()).await;
    cluster.add_learner(node).await;
    cluster.all_applied(joined).await;
    cluster.agree();
    // It went straight from what the watch brought to what the log brought.
    let first = feed.recv().await.unwrap();
    assert!(first.install && first.index >= done.index, "{first:?}");
    assert_eq!(table.of_log(), *table.registry());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let node = Node::start(NodeId(1)).await;
    node.handle.initialize_alone().await.unwrap();
    let term = node.ready().await.term;
    let channels = crate::peer::Channels::new(crate::peer::AddressBook::default());
    let mut client = RaftClient::new(channels.dial(&node.address).unwrap());
    let header = |cluster: String, from: u64, to: u64| {
        Some(proto::RaftHeader { cluster_id: cluster, from, to, from_address: "10.0.0.9:1".into() })
    };
    let ours = CLUSTER.to_string();
    let cases = [
        (header(shoal_core::id::ClusterId(5).to_string(), 2, 1), Code::FailedPrecondition),
        (header(ours.clone(), 2, 3), Code::FailedPrecondition),
        (header(ours.clone(), 1, 1), Code::FailedPrecondition),
        (header("nonsense".to_owned(), 2, 1), Code::InvalidArgument),
        (None, Code::InvalidArgument),
    ];
    let vote = Some(proto::Vote { term: term + 9, node: 2, committed: false });
    for (header, code) in cases {
        let named = format!("{header:?}");
        let request = proto::VoteRequest { header: header.clone(), vote, ..Default::default() };
        assert_eq!(client.request_vote(request.clone()).await.unwrap_err().code(), code, "{named}");
        assert_eq!(client.pre_vote(request).await.unwrap_err().code(), code, "{named}");
        let request = proto::AppendRequest { header: header.clone(), vote, ..Default::default() };
        assert_eq!(client.append(request.clone()).await.unwrap_err().code(), code, "{named}");
        let stream = futures::stream::iter([request]);
        assert_eq!(client.stream_append(stream).await.unwrap_err().code(), code, "{named}");
        let request = proto::TransferRequest {
            header: header.clone(),
            from_leader: vote,
            ..Default::default()
        };
        assert_eq!(client.transfer_leader(request).await.unwrap_err().code(), code, "{named}");
        let start = proto::SnapshotStart { header, vote, ..Default::default() };
        let frames = futures::stream::iter(snapshot_frames(start, &[]));
        assert_eq!(client.install_snapshot(frames).await.unwrap_err().code(), code, "{named}");
    }
    assert_eq!(node.book.address(NodeId(2)), None, "a stranger's address was learned");
    assert_eq!(node.handle.leadership().borrow().term, term);
    let unheaded = proto::VoteRequest { header: header(ours, 2, 1), ..Default::default() };
    assert_eq!(client.pre_vote(unheaded).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(node.book.address(NodeId(2)).as_deref(), Some("10.0.0.9:1"));
    node.stop().await;
}

fn snapshot_frames(
    start: proto::SnapshotStart,
    chunks: &[proto::SnapshotChunk],
) -> Vec<proto::SnapshotFrame> {
    use proto::snapshot_frame::Frame;
    let chunks = chunks.iter().cloned().map(Frame::Chunk);
    std::iter::once(Frame::Start(start))
        .chain(chunks)
        .map(|frame| proto::SnapshotFrame { frame: Some(frame) })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_never_installed() {
    let node = Node::start(NodeId(7)).await;
    let channels = crate::peer::Channels::new(crate::peer::AddressBook::default());
    let mut client = RaftClient::new(channels.dial(&node.address).unwrap());
    let data = Bytes::from(vec![3; 1_000]);
    let chunk = |bytes: Bytes| proto::SnapshotChunk { crc32: crc32fast::hash(&bytes), data: bytes };
    let start = proto::SnapshotStart {
        header: Some(proto::RaftHeader {
            cluster_id: CLUSTER.to_string(),
            from: 1,
            to: 7,
            from_address: String::new(),
        }),
        vote: Some(proto::Vote { term: 2, node: 1, committed: true }),
        meta: Some(proto::SnapshotMeta {
            last: Some(proto::LogId { term: 2, node: 1, index: 50 }),
            membership_id: None,
            membership: Some(proto::Membership::default()),
        }),
        length: 1_000,
        crc32: crc32fast::hash(&data),
    };
    let mut flipped = chunk(data.slice(500..));
    flipped.crc32 ^= 1;
    let halves = [chunk(data.slice(..500)), chunk(data.slice(500..))];
    let swapped = [chunk(data.slice(..500)), chunk(Bytes::from(vec![4; 500]))];
    let newer = proto::SnapshotStart {
        meta: Some(proto::SnapshotMeta {
            last: Some(proto::LogId { term: 3, node: 1, index: 50 }),
            ..start.meta.clone().unwrap()
        }),
        ..start.clone()
    };
    let large = proto::SnapshotStart { length: 1 << 40, ..start.clone() };
    let cases = [
        (snapshot_frames(start.clone(), &[halves[0].clone(), flipped]), Code::DataLoss),
        (snapshot_frames(start.clone(), &halves[..1]), Code::DataLoss),
        (snapshot_frames(start.clone(), &swapped), Code::DataLoss),
        (snapshot_frames(start, &[chunk(Bytes::from(vec![3; 1_001]))]), Code::DataLoss),
        (snapshot_frames(newer, &halves), Code::InvalidArgument),
        (snapshot_frames(large, &halves), Code::ResourceExhausted),
    ];
    for (frames, code) in cases {
        let answer = client.install_snapshot(futures::stream::iter(frames)).await;
        assert_eq!(answer.unwrap_err().code(), code);
    }
    assert_eq!((node.snapshot(), node.table.applied()), (None, LogIndex(0)));
    node.stop().await;
}

fn configure(max_moves: u32) -> Command {
    Command::Configure(Configure { max_moves: Some(max_moves), ..Configure::default() })
}
