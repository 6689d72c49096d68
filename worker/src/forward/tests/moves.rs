//! Shards that change hands under calls: parked at the entry, released by the row alone.

use tonic::Code;
use tonic_types::StatusExt as _;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p1_a_moving_shard_parks_until_its_row_is_newer() {
    let mut world = World::owned_by(3, 1);
    let items = world.begin_moves((0..SHARDS).map(ShardId), 2);
    world.tell_all();
    let row = LogIndex(world.index);
    world.peers[1].owner.set(Mood::Nack(Nack::Moving { row }));
    let client = world.peers[0].client().await;
    let calls: Vec<_> = (0..20)
        .map(|at| {
            let mut client = client.clone();
            tokio::spawn(async move { call(&mut client, &format!("k{at}"), "incr", "x").await })
        })
        .collect();
    let metrics = world.peers[0].node.metrics.clone();
    until("all are parked", || metrics.parked_now.get() == 20).await;
    assert!(metrics.parked_bytes.get() > 0);

    // Renewals and entries that touch no shard wake nobody.
    let sessions = (0..3).map(|at| (world.peers[at].id, world.incarnation(at))).collect();
    world.apply(Command::Renew { sessions });
    world.tell_all();
    let node = world.peers[2].id;
    world.apply(Command::DrainRemoval { node });
    world.apply(Command::CancelDrain { node });
    // The drain aborted the moves; begun anew, the rows are newer and the owner is asked again.
    let _ = items;
    world.tell(1);
    assert_eq!(metrics.parked_now.get(), 20);

    let items = world.begin_moves((0..SHARDS).map(ShardId), 2);
    let row = LogIndex(world.index);
    world.peers[1].owner.set(Mood::Nack(Nack::Moving { row }));
    world.tell_all();
    until("they asked and are parked again", || metrics.parked.get() == 40).await;
    assert_eq!(metrics.parked_now.get(), 20);
    world.apply(Command::CommitMove { items });
    world.tell(2);
    world.tell(1);
    assert_eq!(metrics.parked_now.get(), 20, "only the entry's own row counts");
    world.tell(0);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().into_inner().owner, "node-2");
    }
    assert_eq!(metrics.parked_now.get(), 0);
    assert_eq!(metrics.parked_bytes.get(), 0);
    assert!((0..20).all(|at| world.peers[2].owner.ran(&format!("k{at}")) == 1));
    assert!((0..20).all(|at| world.peers[1].owner.ran(&format!("k{at}")) == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_behind_waits_for_the_row_that_the_old_owner_named() {
    let mut world = World::owned_by(3, 1);
    world.move_all(2);
    let nack = Nack::NotOwner {
        owner: Some(world.peers[2].id),
        epoch: world.row(ShardId(0)).epoch,
        row: LogIndex(world.index),
    };
    world.tell(1);
    world.tell(2);
    world.peers[1].owner.set(Mood::Nack(nack));
    let mut client = world.peers[0].client().await;
    let calling = tokio::spawn(async move { call(&mut client, "k", "incr", "x").await });
    let metrics = world.peers[0].node.metrics.clone();
    until("it is parked", || metrics.parked_now.get() == 1).await;
    world.tell(0);
    assert_eq!(calling.await.unwrap().unwrap().into_inner().owner, "node-2");
    assert_eq!(world.peers[2].owner.ran("k"), 1);
}

#[tokio::test]
async fn a_shard_without_owner_parks_and_a_call_without_time_is_not_executed() {
    let world = World::formed(1);
    world.tell_all();
    let status = error_of(world.peers[0].address, "k", "incr", "150m").await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let reason = status.get_details_error_info().unwrap().reason;
    assert_eq!(reason, crate::wire::status::NOT_EXECUTED);
    assert_eq!(world.peers[0].node.metrics.parked.get(), 1);
    assert_eq!(world.peers[0].node.metrics.parked_bytes.get(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_park_refuses_at_once() {
    let mut world = World::owned_by(2, 1);
    world.begin_moves((0..SHARDS).map(ShardId), 0);
    world.tell_all();
    let row = LogIndex(world.index);
    world.peers[1].owner.set(Mood::Nack(Nack::Moving { row }));
    let client = world.peers[0].client().await;
    // Four of these and their keys are more than one shard may hold.
    let payload = Bytes::from(vec![0; MAX_PAYLOAD]);
    let metrics = world.peers[0].node.metrics.clone();
    let mut parked = Vec::new();
    for at in 0..3 {
        let (mut client, payload) = (client.clone(), payload.clone());
        parked.push(tokio::spawn(async move { call(&mut client, "k", "incr", payload).await }));
        until("parked", || metrics.parked_now.get() == at + 1).await;
    }
    let status = call(&mut client.clone(), "k", "incr", payload).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.get_details_retry_info().is_some());
    // Those parked were promised a lease and 2 s, no more.
    for call in parked {
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    assert_eq!(metrics.parked_bytes.get(), 0);
}

#[tokio::test]
async fn a_busy_owner_is_asked_four_times() {
    let world = World::owned_by(2, 1);
    world.peers[1].owner.set(Mood::Nack(Nack::Busy { after: Duration::from_millis(1) }));
    let mut client = world.peers[0].client().await;
    let status = call(&mut client, "k", "incr", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(world.peers[0].node.metrics.forwarded.get(), 1);
    assert_eq!(world.peers[0].node.metrics.resends.get(), 3);
}
